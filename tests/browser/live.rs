//! Figures follow the server, and the page says when they do not.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use support::{Sale, signal};

use crate::browser::with_browser;
use crate::front::Front;
use crate::harness::{card, storefront_of, until_note, until_open};

/// Nothing looks as if all were well.
const NO_GREEN: &str =
    "document.body.dataset.stale !== undefined && !document.querySelector('[data-tone=ok]')
    && document.querySelector('#link').innerText === 'Reconnecting'";
const LIVE: &str =
    "document.body.dataset.stale === undefined && document.querySelector('#link [data-tone=ok]')";

#[tokio::test]
async fn two_windows_see_one_stock_and_a_sold_out_button_opens_by_itself() {
    let sale = Sale::start().await;
    sale.create("coffee", 2).await;
    let order = sale.claim_with("coffee", "carol", &[("prefer", "wait=10")]).await.body["order"].clone();
    with_browser(async |browser| {
        let alice = storefront_of(&browser, &sale.url, &sale, "alice").await;
        let bob = storefront_of(&browser, &sale.url, &sale, "bob").await;
        bob.until_text(&card("coffee", ".figure b"), "1").await;
        bob.focus(&card("coffee", ".grab")).await;
        alice.click(&card("coffee", ".grab")).await;
        until_note(&alice, "coffee", "Confirmed").await;
        bob.until_text(&card("coffee", ".figure b"), "0").await;
        bob.until_text(&card("coffee", ".grab"), "Sold out").await;
        until_note(&bob, "coffee", "If one comes back, the button opens by itself.").await;

        let body = json!({"reason": "sent back", "return_unit": true});
        let path = format!("/v1/admin/orders/{}/revoke", order.as_str().unwrap());
        assert_eq!(sale.admin(Method::POST, &path, Some(body)).await.status, 200);
        until_open(&bob, "coffee", "Grab").await;
        assert!(bob.has_focus(&card("coffee", ".grab")).await);
        bob.click(&card("coffee", ".grab")).await;
        until_note(&bob, "coffee", "Confirmed").await;

        // A new coupon appears under the open page.
        sale.create("tea", 3).await;
        until_open(&bob, "tea", "Grab").await;
        sale.psql("update coupons set unlisted = true where id = 'tea'");
        bob.until_text(&card("tea", ".grab"), "Not on sale").await;
        bob.assert_steady().await;
    })
    .await;
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn a_page_says_that_its_server_is_gone_and_goes_on_with_the_next_one() {
    let mut sale = Sale::without_server(&[]);
    sale.start_server_unready().await;
    let front = Front::before(&sale.url).await;
    with_browser(async |browser| {
        // Opened before the stores are ready.
        let page = browser.open(&front.url).await;
        page.until_text("#coupons", "Nothing is on sale").await;
        sale.until_ready().await;
        sale.create("coffee", 5).await;
        until_open(&page, "coffee", "Sign in to grab").await;
        let page = storefront_of(&browser, &front.url, &sale, "alice").await;
        page.until("the page is live", LIVE).await;

        sale.kill_9();
        page.until("nothing looks current", NO_GREEN).await;
        page.until_text("#banner", "Numbers are from").await;
        page.until_text("#say", "Numbers are from").await;
        page.assert_accessible("a page without its server").await;
        // The button stays: the claim gets through as soon as a server is there.
        page.click(&card("coffee", ".grab")).await;
        until_note(&page, "coffee", "The sale is busy.").await;
        sale.start_server().await;
        front.use_server(&sale.url);
        page.until("the page is live again", LIVE).await;
        until_note(&page, "coffee", "Confirmed").await;
        page.until_text(&card("coffee", ".figure b"), "4").await;

        // A server that runs and cannot read Redis says so, and so does the page.
        let redis = sale.redis_pid();
        signal(redis, Signal::SIGSTOP);
        page.until("nothing looks current", NO_GREEN).await;
        signal(redis, Signal::SIGCONT);
        page.until("the page is live again", LIVE).await;
    })
    .await;
    sale.assert_in_agreement("coffee").await;
}
