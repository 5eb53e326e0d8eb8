//! Grabbing a unit: a click, the keyboard, retries and refusals.

use reqwest::Method;
use serde_json::json;
use support::{Sale, until};
use thirtyfour::Key;
use time::{Duration, OffsetDateTime};

use crate::browser::with_browser;
use crate::front::Front;
use crate::harness::{card, storefront_of, until_note, until_open};

fn soon(seconds: i64) -> String {
    let at = OffsetDateTime::now_utc() + Duration::seconds(seconds);
    at.format(&time::format_description::well_known::Rfc3339).unwrap()
}

#[tokio::test]
async fn a_click_grabs_one_unit_and_the_page_shows_its_recorded_order() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let page = storefront_of(&browser, &sale.url, &sale, "alice").await;
        assert_eq!(page.value("location.href").await, format!("{}/", sale.url), "the token is not kept");
        assert_eq!(page.text(&card("coffee", ".figure")).await.replace('\n', " "), "5 of 5 left");
        page.click(&card("coffee", ".grab")).await;
        until_note(&page, "coffee", "Confirmed. It is yours.").await;
        let order = page.text(&card("coffee", ".slip code")).await;
        sale.assert_recorded(std::slice::from_ref(&order));
        page.until_text("#mine", &order).await;
        page.until_text(&card("coffee", ".figure b"), "4").await;
        page.assert_steady().await;
        // A selection outlives the refreshes of a list.
        page.value("getSelection().selectAllChildren(document.querySelector('#mine code'))").await;
        let clock = page.text("#clock").await;
        page.until(
            "the clock goes on",
            &format!("document.querySelector('#clock').textContent !== '{clock}'"),
        )
        .await;
        assert_eq!(page.value("getSelection().toString()").await, order);

        page.reload().await;
        page.until("the page has forgotten the token", "document.querySelector('#who').hidden").await;
        let page = storefront_of(&browser, &sale.url, &sale, "alice").await;
        page.until_text(&card("coffee", ".grab"), "Yours").await;
        assert_eq!(page.text(&card("coffee", ".slip code")).await, order);
    })
    .await;
}

#[tokio::test]
async fn a_countdown_opens_under_the_focus_and_enter_makes_one_order() {
    let sale = Sale::start().await;
    let fields = json!({"total": 9, "per_user_limit": 3, "starts_at": soon(600)});
    sale.create_with("tea", fields).await;
    let front = Front::before(&sale.url).await;
    with_browser(async |browser| {
        let page = storefront_of(&browser, &front.url, &sale, "alice").await;
        let button = card("tea", ".grab");
        page.focus(&button).await;
        assert!(page.text(&button).await.starts_with("Opens at "));
        page.press(Key::Enter).await;
        let change = Some(json!({"starts_at": soon(3)}));
        assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/tea", change).await.status, 200);
        until_open(&page, "tea", "Grab").await;
        assert!(page.has_focus(&button).await);
        page.until_text("#say", "tea is open.").await;
        front.hold("/claims");
        page.press(Key::Enter + Key::Enter + Key::Enter).await;
        until_note(&page, "tea", "Once is enough.").await;
        until_note(&page, "tea", "No answer yet.").await;
        front.release();
        until_note(&page, "tea", "Confirmed").await;
        assert!(page.has_focus(&button).await);
        assert_eq!(front.claims("tea").len(), 1);
        page.assert_steady().await;

        // The limit is three: a further unit is a further press with a further key.
        until_open(&page, "tea", "Grab another").await;
        page.press(Key::Enter).await;
        page.until_text(&card("tea", ".facts"), "you hold 2 of 3").await;
        let keys = front.claims("tea");
        assert!(keys.len() == 2 && keys[0] != keys[1], "{keys:?}");
    })
    .await;
    sale.assert_in_agreement("tea").await;
}

#[tokio::test]
async fn a_busy_sale_is_asked_again_with_the_same_key_and_gives_one_unit() {
    let sale = Sale::start().await;
    sale.create_with("tea", json!({"total": 5, "per_user_limit": 3})).await;
    sale.create("mug", 5).await;
    let front = Front::before(&sale.url).await;
    with_browser(async |browser| {
        let page = storefront_of(&browser, &front.url, &sale, "alice").await;
        for _ in 0..2 {
            front.answer_next("/tea/claims", "503 Busy", "unavailable", "retry-after: 0\r\n");
        }
        page.click(&card("tea", ".grab")).await;
        until_note(&page, "tea", "The sale is busy. Trying again in").await;
        until_note(&page, "tea", "Confirmed").await;
        let keys = front.claims("tea");
        assert!(
            keys.len() == 3 && keys[0] == keys[1] && keys[1] == keys[2] && !keys[0].is_empty(),
            "{keys:?}"
        );
        assert_eq!(sale.psql_number("select count(*) from orders"), 1);

        front.answer_next("/mug/claims", "429 Too Many Requests", "rate-limited", "retry-after: 1\r\n");
        page.click(&card("mug", ".grab")).await;
        page.until_text(&card("mug", ".grab"), "Wait 1 s").await;
        until_open(&page, "mug", "Grab").await;
    })
    .await;
}

/// A browser opens six connections to a server, and a stream takes one for as long as it is open.
#[tokio::test]
async fn a_claim_gets_through_beside_seven_open_tabs() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let page = browser.open(&sale.url).await;
        for _ in 0..6 {
            until_open(&page, "coffee", "Sign in to grab").await;
            page.go_in_new_tab(&sale.url).await;
        }
        page.go_in_new_tab(&format!("{}/#token={}", sale.url, sale.token("alice"))).await;
        until_open(&page, "coffee", "Grab").await;
        page.click(&card("coffee", ".grab")).await;
        until_note(&page, "coffee", "Confirmed").await;
    })
    .await;
}

#[tokio::test]
async fn every_refusal_is_said_in_plain_words() {
    let sale = Sale::start().await;
    for coupon in ["paused", "ended", "early", "gone", "fresh"] {
        sale.create(coupon, 5).await;
    }
    sale.create("last", 1).await;
    sale.create_with("two", json!({"total": 9, "per_user_limit": 2})).await;
    let front = Front::before(&sale.url).await;
    with_browser(async |browser| {
        let page = storefront_of(&browser, &front.url, &sale, "alice").await;
        page.until("all coupons are shown", "document.querySelectorAll('[data-coupon]').length === 7").await;
        front.hold("/events");
        let edit = async |coupon: &str, change| {
            let answer =
                sale.admin(Method::PATCH, &format!("/v1/admin/coupons/{coupon}"), Some(change)).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        };
        edit("paused", json!({"paused": true})).await;
        edit("ended", json!({"ends_at": soon(-1)})).await;
        edit("early", json!({"starts_at": soon(600)})).await;
        sale.claim("last", "bob").await;
        front.answer_next("/two/claims", "409 Conflict", "limit-reached", "");
        front.answer_next("/gone/claims", "404 Not Found", "unknown-coupon", "");
        for (coupon, label, words) in [
            ("paused", "Paused", "The seller has paused the sale."),
            ("ended", "Ended", "The sale ended at"),
            ("early", "Opens at", "The countdown has been corrected."),
            ("last", "Sold out", "Sold out a moment before your claim arrived."),
            ("gone", "Not on sale", "This coupon is no longer on sale here."),
            ("two", "Limit reached", "You hold 2 of 2 per person."),
        ] {
            page.click(&card(coupon, ".grab")).await;
            until_note(&page, coupon, words).await;
            page.until_text(&card(coupon, ".grab"), label).await;
            assert!(front.claims(coupon).len() == 1, "{coupon}");
        }
        front.release();
        front.answer_next("/fresh/claims", "401 Unauthorized", "unauthorized", "");
        page.click(&card("fresh", ".grab")).await;
        page.until_text("#signin", "Your sign-in has run out.").await;
        until_open(&page, "fresh", "Sign in to grab").await;
        until_note(&page, "fresh", "Your sign-in has run out.").await;
        page.until_text("#say", "Your sign-in has run out.").await;
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_not_accepted_asks_to_sign_in_again() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let token = support::mint_token(
            "another secret of thirty-two bytes",
            "alice",
            std::time::Duration::from_mins(1),
        );
        let page = browser.open(&format!("{}/#token={token}", sale.url)).await;
        page.until_text("#signin", "Your sign-in has run out.").await;
        until_open(&page, "coffee", "Sign in to grab").await;
        // The shop signs the user in again, in the same tab.
        page.value(&format!("location.hash = 'token={}'", sale.token("alice"))).await;
        until_open(&page, "coffee", "Grab").await;
        page.click(&card("coffee", ".grab")).await;
        until_note(&page, "coffee", "Confirmed").await;
    })
    .await;
    until("one order is recorded", async || {
        (sale.psql_number("select count(*) from orders") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_order_that_redis_has_lost_is_named_as_lost_and_the_button_is_there_again() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let page = storefront_of(&browser, &sale.url, &sale, "alice").await;
        page.click(&card("coffee", ".grab")).await;
        until_note(&page, "coffee", "A unit is yours").await;
        let lost = page.text(&card("coffee", ".slip code")).await;
        sale.redis_cli(&["FLUSHALL"]);
        until_note(&page, "coffee", "Your order was lost with a server before it was recorded.").await;
        page.until_text("#mine", "Lost with a server").await;
        page.until_text("#say", "Lost with a server").await;
        until_open(&page, "coffee", "Grab").await;
        page.click(&card("coffee", ".grab")).await;
        until_note(&page, "coffee", "A unit is yours").await;
        assert_ne!(page.text(&card("coffee", ".slip code")).await, lost);
        assert_eq!(sale.redis_stock("coffee"), 4);
    })
    .await;
}
