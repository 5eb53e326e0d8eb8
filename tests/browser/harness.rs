//! What the tests of the storefront share.

use support::{Sale, until};

use crate::browser::Browser;
use crate::page::Page;

/// The storefront of a sale, opened by the shop for this user.
pub async fn storefront_of(browser: &Browser, url: &str, sale: &Sale, user: &str) -> Page {
    let page = browser.open(&format!("{url}/#token={}", sale.token(user))).await;
    page.until_text("#user", user).await;
    page.until("the coupons are shown", "document.querySelector('[data-coupon]')").await;
    page
}

/// A sale whose server is a demo: visitors sign in as any user and pay with a button.
pub async fn start_demo() -> Sale {
    let mut sale = Sale::without_server(&[]);
    let process = sale.spawn("demo", &[]);
    sale.use_as_server(process).await;
    sale.until_ready().await;
    until("the demo signs users in", async || {
        (sale.get("/v1/sign-in").await.body["demo"] == true).then_some(())
    })
    .await;
    sale
}

/// CSS of a part of a coupon's card.
pub fn card(coupon: &str, part: &str) -> String {
    format!("[data-coupon={coupon}] {part}")
}

/// Waits until the button of the coupon's card can be pressed and says this.
pub async fn until_open(page: &Page, coupon: &str, label: &str) {
    let button = card(coupon, ".grab");
    page.until_text(&button, label).await;
    let is_open = format!("!document.querySelector('{button}').ariaDisabled");
    page.until("the button can be pressed", &is_open).await;
}

/// Waits until the card says this under its button.
pub async fn until_note(page: &Page, coupon: &str, words: &str) {
    page.until_text(&card(coupon, ".note"), words).await;
}

/// Signs in to a demo by a click.
pub async fn sign_in(page: &Page) {
    page.click("#signin [data-kind=go]").await;
    page.until_text("#user", "alice").await;
}
