//! The operations page: the helper that opens it, and signing in.

use serde_json::json;
use support::Sale;

use crate::browser::{Browser, with_browser};
use crate::page::Page;

pub const ENTER: &str = "\u{E007}";
pub const TAB: &str = "\u{E004}";

/// Opens the page and signs in.
pub async fn open(browser: &Browser, sale: &Sale) -> Page {
    let page = browser.open(&format!("{}/admin", sale.url)).await;
    sign_in(&page, &sale.admin_token()).await;
    page.until("the state of the sale is shown", "document.querySelector('.strip')").await;
    page
}

pub async fn sign_in(page: &Page, token: &str) {
    page.until("the token is asked for", "document.activeElement.matches('.door input')").await;
    page.value("document.activeElement.select()").await;
    page.press(token).await;
    page.press(ENTER).await;
}

/// The selector of a button of a panel.
pub fn action(panel: &str, act: &str, of: &str) -> String {
    format!("#{panel} [data-act='{act}'][data-of='{of}']")
}

/// Presses the button of a dialog that does what the dialog says, and waits until the dialog has gone.
pub async fn go(page: &Page, words: &str) {
    page.until_text("dialog [type=submit]", words).await;
    page.until("the button can be pressed", "!document.querySelector('dialog [type=submit][aria-disabled]')")
        .await;
    page.click("dialog [type=submit]").await;
    page.until("the dialog has closed", "!document.querySelector('dialog')").await;
}

/// Replaces what a field has.
pub async fn fill(page: &Page, css: &str, text: &str) {
    page.until(css, &format!("document.querySelector({})", json!(css))).await;
    page.focus(css).await;
    page.value("document.activeElement.select?.()").await;
    page.press(text).await;
}

/// Presses Tab until the element has the focus.
pub async fn tab_to(page: &Page, css: &str) {
    const TABS_MAX: usize = 60;
    for _ in 0..TABS_MAX {
        if page.has_focus(css).await {
            return;
        }
        page.press(TAB).await;
    }
    panic!("{TABS_MAX} presses of Tab do not reach {css}");
}

#[tokio::test]
async fn the_admin_token_is_asked_for_once_in_a_tab_and_forgotten_when_signing_out() {
    let sale = Sale::start().await;
    with_browser(async |browser| {
        let page = browser.open(&format!("{}/admin", sale.url)).await;
        page.assert_accessible("the door").await;
        sign_in(&page, "not-the-token").await;
        page.until_text("#f-token-hint", "The server does not know this token.").await;
        sign_in(&page, &sale.admin_token()).await;
        page.until_text(".verdict", "Taking claims").await;
        assert!(page.has_focus("#main").await, "the keyboard goes on from the start of the page");
        page.reload().await;
        page.until_text(".verdict", "Taking claims").await;

        let elsewhere = browser.open(&format!("{}/admin", sale.url)).await;
        elsewhere.until("the token is asked for", "document.querySelector('.door')").await;

        page.click("#out").await;
        page.until("the page has been left", "document.querySelector('.door')").await;
        page.reload().await;
        page.until("the token is asked for", "document.querySelector('.door')").await;

        // A token that was good once: the server has another one now.
        page.value("sessionStorage.setItem('seckill-admin-token', 'of-yesterday')").await;
        page.reload().await;
        page.until_text(".notice", "no longer accepts the token").await;
    })
    .await;
}

#[tokio::test]
async fn the_page_is_the_same_in_chinese_and_times_are_in_utc_or_local() {
    let sale = Sale::start().await;
    sale.create_with("tea", json!({"total": 5, "starts_at": "2030-01-01T10:00:00Z", "title": "Tea"})).await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.value("window.texts = () => document.body.innerText").await;
        page.until_text("#coupons", "1 Jan 2030, 10:00").await;
        page.click("[data-lang=zh]").await;
        page.until_text(".verdict", "正在受理").await;
        assert_eq!(page.value("document.documentElement.lang").await, "zh-CN");
        page.until_text("#coupons", "2030年1月1日").await;
        page.click("[data-lang=en]").await;
        page.set_time_zone("Asia/Tokyo").await;
        page.click("#zones [data-zone='']").await;
        page.until_text("#coupons", "1 Jan 2030, 19:00").await;
        page.click("#zones [data-zone=UTC]").await;
        page.until_text("#coupons", "1 Jan 2030, 10:00").await;
    })
    .await;
}
