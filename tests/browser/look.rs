//! The page for each reader: two languages, every width, light and dark, a keyboard alone, a screen reader.

use reqwest::Method;
use serde_json::json;
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
        for coupon in ["coffee", "mug", "gone"] {
            page.click(&card(coupon, ".grab")).await;
        }
        until_note(&page, "coffee", "Confirmed").await;
        until_note(&page, "mug", "Reserved until").await;
        until_note(&page, "gone", "when your turn comes").await;
        page.assert_accessible("signed in").await;

        for (language, words, tag) in
            [("en", "Confirmed. It is yours.", "en"), ("zh", "已确认，归你所有。", "zh-CN")]
        {
            page.click(&format!("[data-lang={language}]")).await;
            until_note(&page, "coffee", words).await;
            assert_eq!(page.value("document.documentElement.lang").await, tag);
            for width in [1440, 768, 360, 320] {
                page.set_width(width).await;
                page.assert_fits().await;
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
