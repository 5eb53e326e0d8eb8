//! An order's life on the page: paid in time or too late, given back, served from the waiting list.

use reqwest::Method;
use serde_json::json;
use support::Sale;
use thirtyfour::Key;

use crate::browser::with_browser;
use crate::harness::{card, sign_in, start_demo, storefront_of, until_note, until_open};

#[tokio::test]
async fn a_reserved_unit_is_paid_in_time_or_given_back_or_lost() {
    let sale = start_demo().await;
    for (coupon, seconds) in [("mug", 900), ("plate", 900), ("cup", 2)] {
        sale.create_with(coupon, json!({"total": 3, "reserve_seconds": seconds})).await;
    }
    with_browser(async |browser| {
        let page = browser.open(&sale.url).await;
        sign_in(&page).await;
        page.click(&card("cup", ".grab")).await;
        for coupon in ["mug", "plate"] {
            page.click(&card(coupon, ".grab")).await;
            until_note(&page, coupon, "Reserved until").await;
            page.until_text(&card(coupon, ".figure"), "left to pay").await;
        }
        page.click(&card("mug", ".pay")).await;
        until_note(&page, "mug", "Confirmed. It is yours.").await;

        // The question can be left with Escape, and then nothing has happened.
        page.focus(&card("plate", ".link")).await;
        page.press(Key::Enter).await;
        page.until_text("dialog h2", "Give back plate?").await;
        page.assert_accessible("the question before a unit is given back").await;
        page.press(Key::Escape).await;
        page.until("the question is gone", "!document.querySelector('dialog')").await;
        assert!(page.has_focus(&card("plate", ".link")).await);
        page.press(Key::Enter).await;
        page.until_text("dialog h2", "Give back plate?").await;
        page.press(Key::Tab + Key::Enter).await;
        until_note(&page, "plate", "You gave it back.").await;
        until_open(&page, "plate", "Grab").await;
        assert!(page.has_focus(&card("plate", ".grab")).await);

        until_note(&page, "cup", "The time to pay ran out").await;
        until_open(&page, "cup", "Grab").await;
        page.until_text("#mine [data-status=expired]", "cup").await;
        page.until_text("#mine [data-status=confirmed]", "mug").await;
        page.until_text("#mine [data-status=cancelled]", "plate").await;
        page.assert_steady().await;
    })
    .await;
    for (coupon, status) in [("mug", "confirmed"), ("plate", "cancelled")] {
        let stored = sale.psql(&format!("select status from orders where coupon_id = '{coupon}'"));
        assert_eq!(stored, status, "{coupon}");
    }
    sale.assert_in_agreement("cup").await;
}

#[tokio::test]
async fn the_focus_stays_in_a_card_whose_buttons_go_at_the_end_of_the_time_to_pay() {
    let sale = start_demo().await;
    sale.create_with("cup", json!({"total": 3, "reserve_seconds": 4})).await;
    with_browser(async |browser| {
        let page = browser.open(&sale.url).await;
        page.until_text("#signin", "This is a demo").await;
        page.focus("#signin [data-kind=go]").await;
        page.press(Key::Enter).await;
        page.until_text("#user", "alice").await;
        page.until("the focus follows to the coupons", "document.activeElement.id === 'coupons'").await;

        page.click(&card("cup", ".grab")).await;
        until_note(&page, "cup", "Reserved until").await;
        page.focus(&card("cup", ".pay")).await;
        until_note(&page, "cup", "The time to pay ran out").await;
        assert!(page.has_focus(&card("cup", ".grab")).await);

        // A question that is open then.
        page.press(Key::Enter).await;
        until_note(&page, "cup", "Reserved until").await;
        page.focus(&card("cup", ".link")).await;
        page.press(Key::Enter).await;
        page.until_text("dialog h2", "Give back cup?").await;
        until_note(&page, "cup", "The time to pay ran out").await;
        page.press(Key::Escape).await;
        page.until("the question is gone", "!document.querySelector('dialog')").await;
        assert!(page.has_focus(&card("cup", ".grab")).await);
    })
    .await;
}

#[tokio::test]
async fn the_first_in_line_gets_the_unit_that_comes_back_without_a_press() {
    let sale = Sale::start().await;
    sale.create_with("seat", json!({"total": 1, "waitlist": true})).await;
    let order = sale.claim_with("seat", "alice", &[("prefer", "wait=10")]).await.body["order"].clone();
    with_browser(async |browser| {
        let bob = storefront_of(&browser, &sale.url, &sale, "bob").await;
        let carol = storefront_of(&browser, &sale.url, &sale, "carol").await;
        for (page, place) in [(&bob, "1"), (&carol, "2")] {
            until_open(page, "seat", "Join the waiting list").await;
            page.click(&card("seat", ".grab")).await;
            page.until_text(&card("seat", ".grab"), "In line").await;
            assert_eq!(page.text(&card("seat", ".figure b")).await, place);
        }
        carol.click(&card("seat", ".link")).await;
        carol.until_text("dialog", "You lose place 2.").await;
        carol.click("dialog [data-kind=bad]").await;
        until_open(&carol, "seat", "Join the waiting list").await;

        let body = json!({"reason": "sent back", "return_unit": true});
        let path = format!("/v1/admin/orders/{}/revoke", order.as_str().unwrap());
        assert_eq!(sale.admin(Method::POST, &path, Some(body)).await.status, 200);
        until_note(&bob, "seat", "Confirmed. It is yours.").await;
        bob.until_text("#say", "Your turn came").await;
        bob.assert_steady().await;
    })
    .await;
    assert_eq!(sale.psql("select user_id from orders where status = 'confirmed'"), "bob");
}

#[tokio::test]
async fn long_lists_are_shown_in_pages() {
    let sale = Sale::start().await;
    for coupon in ["many", "more"] {
        sale.create_with(coupon, json!({"total": 99, "per_user_limit": 16})).await;
        for key in 0..12 {
            sale.claim_with(coupon, "alice", &[("idempotency-key", &key.to_string())]).await;
        }
    }
    for number in 0..49 {
        sale.create(&format!("c{number:02}"), 1).await;
    }
    sale.until_quiet().await;
    with_browser(async |browser| {
        let page = storefront_of(&browser, &sale.url, &sale, "alice").await;
        page.until_text("#more", "Show 3 more").await;
        page.click("#more").await;
        page.until("all coupons are shown", "document.querySelectorAll('[data-coupon]').length === 51").await;
        page.until("a page of orders is shown", "document.querySelectorAll('#mine > li').length === 20")
            .await;
        page.click("#mine-more").await;
        page.until("all orders are shown", "document.querySelectorAll('#mine > li').length === 24").await;
        page.until("there are no more", "document.querySelector('#mine-more').hidden").await;

        // The address of one coupon shows it alone, also if no list has it.
        sale.create_with("secret", json!({"total": 7, "unlisted": true})).await;
        page.go(&format!("{}/?coupon=secret", sale.url)).await;
        page.until_text(&card("secret", ".figure b"), "7").await;
        assert_eq!(page.value("document.querySelectorAll('[data-coupon]').length").await, 1);
        page.go(&format!("{}/?coupon=nothing", sale.url)).await;
        page.until_text("#coupons", "There is no coupon nothing").await;
    })
    .await;
}
