//! The page for each reader: two languages, every width, light and dark, a keyboard alone, a screen reader.

use reqwest::Method;
use serde_json::json;
use support::Sale;
use thirtyfour::Key;

use crate::browser::with_browser;
use crate::harness::{card, start_demo, until_note, until_open};
use crate::page::Page;

/// Moves the focus with the Tab key until it is on the element.
async fn tab_to(page: &Page, css: &str) {
    for _ in 0..40 {
        if page.has_focus(css).await {
            return;
        }
        page.press(Key::Tab).await;
    }
    panic!("the Tab key does not reach {css}");
}

/// The ids of orders that are not shown whole beside the button that copies them.
const CUT_IDS: &str = "[...document.querySelectorAll('.slip:not([hidden])')].filter((slip) =>
    slip.querySelector('code').getBoundingClientRect().right > slip.querySelector('svg').getBoundingClientRect().left)
    .map((slip) => slip.innerText)";

#[tokio::test]
async fn only_the_last_words_are_said_together() {
    let sale = Sale::start().await;
    with_browser(async |browser| {
        let page = browser.open(&sale.url).await;
        page.until_text("#coupons", "Nothing is on sale").await;
        let said = page
            .value(
                "import('/assets/announce.js').then(({ tell }) => {
                   ['', 'one.', 'two.', 'three.', 'four.', 'four.'].forEach(tell);
                   return document.querySelector('#say').textContent; })",
            )
            .await;
        assert_eq!(said, "two. three. four.");
    })
    .await;
}

#[tokio::test]
async fn the_keyboard_alone_is_enough() {
    let sale = start_demo().await;
    sale.create_with("mug", json!({"total": 3, "reserve_seconds": 900})).await;
    with_browser(async |browser| {
        let page = browser.open(&sale.url).await;
        until_open(&page, "mug", "Sign in to grab").await;
        tab_to(&page, &card("mug", ".grab")).await;
        page.press(Key::Enter).await;
        assert!(page.has_focus("#signin [data-kind=go]").await);
        tab_to(&page, "#name").await;
        page.press("dora").await;
        page.press(Key::Enter).await;
        page.until_text("#user", "dora").await;
        // Back to the button from which the sign-in was asked.
        assert!(page.has_focus(&card("mug", ".grab")).await);
        page.press(Key::Enter).await;
        until_note(&page, "mug", "Reserved until").await;
        tab_to(&page, &card("mug", ".pay")).await;
        page.press(Key::Enter).await;
        until_note(&page, "mug", "Confirmed").await;
        assert!(page.has_focus(&card("mug", ".grab")).await);
    })
    .await;
    assert_eq!(sale.psql("select user_id, status from orders where coupon_id = 'mug'"), "dora|confirmed");
}

#[tokio::test]
async fn every_state_reads_well_in_both_languages_on_every_screen() {
    let sale = start_demo().await;
    let long = "A voucher for a very long breakfast with Donaudampfschifffahrtsgesellschaftskaffee for two";
    sale.create_with(
        "breakfast",
        json!({"title": long, "total": 1_000_000, "starts_at": "2199-01-01T00:00:00Z"}),
    )
    .await;
    sale.create_with("mug", json!({"title": "Mug", "total": 3, "reserve_seconds": 900})).await;
    sale.create_with(
        "dinner",
        json!({"title": long, "total": 1_000_000_000, "per_user_limit": 2, "reserve_seconds": 2_592_000}),
    )
    .await;
    sale.create("paused", 3).await;
    assert_eq!(
        sale.admin(Method::PATCH, "/v1/admin/coupons/paused", Some(json!({"paused": true}))).await.status,
        200
    );
    with_browser(async |browser| {
        let page = browser.open(&sale.url).await;
        page.until_text("#signin", "This is a demo").await;
        page.assert_steady().await;
        page.assert_accessible("signed out").await;
        page.click("#signin [data-kind=go]").await;
        for coupon in ["coffee", "mug", "gone", "dinner"] {
            page.click(&card(coupon, ".grab")).await;
        }
        until_note(&page, "coffee", "Confirmed").await;
        until_note(&page, "mug", "Reserved until").await;
        until_note(&page, "gone", "when your turn comes").await;
        page.until_text("#mine", long).await;
        page.assert_accessible("signed in").await;
        page.assert_touchable().await;

        for (language, words, tag) in
            [("en", "Confirmed. It is yours.", "en"), ("zh", "已确认，归你所有。", "zh-CN")]
        {
            page.click(&format!("[data-lang={language}]")).await;
            until_note(&page, "coffee", words).await;
            assert_eq!(page.value("document.documentElement.lang").await, tag);
            for width in [1440, 1040, 768, 360, 320] {
                page.set_width(width).await;
                page.assert_fits().await;
                let cut = page.value(CUT_IDS).await;
                assert_eq!(cut, json!([]), "order ids that run into their buttons at {width} pixels");
            }
        }
        let english = page
            .value("document.body.innerText.match(/(Grab|Yours|left|until|Sign|Reserved|coupons)/g)")
            .await;
        assert_eq!(english, json!(null), "English on the Chinese page");
        page.reload().await;
        page.until_text("#signin", "这是演示环境").await;
    })
    .await;
}
