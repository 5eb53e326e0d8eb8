//! The health of the sale on the operations page: what is said when a part of it is away, and that refreshes disturb
//! nothing.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use serde_json::json;
use support::{Sale, signal_all};

use crate::browser::with_browser;
use crate::operations::{action, go, open};
use crate::page::Page;

/// The marks that say that something is well.
const GREEN: &str =
    "document.querySelectorAll('#main .mark[data-tone=ok], #link .mark[data-tone=ok]').length";

async fn until_next_status(page: &Page) {
    page.value("window.seen = document.querySelector('#clock').textContent").await;
    page.until("the page is refreshed", "document.querySelector('#clock').textContent !== window.seen").await;
}

#[tokio::test]
async fn a_fence_that_is_down_is_said_with_its_reason_until_it_is_up_again() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until_text(".verdict", "Taking claims").await;
        page.until_text("#backlog", "No event waited in this window.").await;
        // As after a Postgres loss, which only the operator can end.
        sale.psql("update fence set postgres_lost = true");
        page.until_text(".verdict", "Not taking claims").await;
        page.until_text(".strip .why", "Postgres has lost commits").await;
        page.until_text("#say", "Not taking claims").await;
        page.assert_accessible("a fence that is down").await;
        page.click("#reconcile [data-act=rebuild]").await;
        go(&page, "Stop claims and rebuild").await;
        page.until_text("#reconcile .result", "Epoch").await;
        page.until(
            "claims are taken again",
            "document.querySelector('.verdict').innerText === 'Taking claims'",
        )
        .await;
        page.until_text("#audit", "rebuild").await;
    })
    .await;
}

#[tokio::test]
async fn workers_that_are_absent_and_a_postgres_that_gives_no_answer_are_said() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until_text(".verdict", "no worker records them").await;
        page.until_text("#workers", "No worker is connected").await;
        assert_eq!(sale.claim("coffee", "alice").await.status, 202);
        page.until(
            "the backlog is shown",
            "document.querySelector('.strip > :nth-child(5) .big').innerText === '1'",
        )
        .await;
        page.until(
            "its age is shown",
            "/\\d/.test(document.querySelector('.strip > :nth-child(6) .big').innerText)",
        )
        .await;
        let worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
        page.until(
            "orders are recorded again",
            "document.querySelector('.verdict').innerText === 'Taking claims'",
        )
        .await;
        page.until_text("#coupons tr[data-key=coffee] td:nth-child(6)", "1").await;
        drop(worker);

        let postgres = sale.postgres_pids();
        signal_all(&postgres, Signal::SIGSTOP);
        page.until_text(".strip > :nth-child(4) .big", "No answer").await;
        page.until_text(".verdict", "Postgres is away").await;
        page.value("document.querySelector('#q').value = 'alice'").await;
        page.click("#orders [type=submit]").await;
        page.until_text("#orders .banner", "Could not be read").await;
        signal_all(&postgres, Signal::SIGCONT);
        page.until_text("#orders .line", "Recorded").await;
        page.until_text(".strip > :nth-child(4) .big", "OK").await;
    })
    .await;
}

#[tokio::test]
async fn nothing_is_green_after_the_server_was_killed_and_all_is_live_when_it_is_back() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut sale = Sale::start_with(&[("SECKILL_LISTEN", &format!("127.0.0.1:{port}"))]).await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until_text("#link", "Live").await;
        page.until_text("#coupons", "coffee").await;
        sale.kill_9();
        page.until_text("#link", "Reconnecting").await;
        page.until_text(".verdict", "No news since").await;
        page.until_text(".alarm", "The connection to the server is lost.").await;
        assert_eq!(page.value(GREEN).await, 0, "{}", page.text("#main").await);
        assert_eq!(page.value("document.body.hasAttribute('data-stale')").await, true);
        page.assert_accessible("a server that is away").await;
        sale.start_server().await;
        page.click(".alarm [data-act=tryNow]").await;
        page.until_text("#link", "Live").await;
        page.until_text(".verdict", "Taking claims").await;
        page.until("the alarm has gone", "!document.querySelector('.alarm .banner')").await;
        assert_ne!(page.value(GREEN).await, 0);
        page.until_text("#coupons tr[data-key=coffee]", "5 of 5").await;
    })
    .await;
}

#[tokio::test]
async fn refreshes_keep_focus_and_selection_and_a_command_is_copied() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 50, "title": "Coffee for two"})).await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until_text("#coupons", "Coffee for two").await;
        page.focus(&action("coupons", "restock", "coffee")).await;
        page.value(
            "getSelection().selectAllChildren(document.querySelector('#coupons .name')); window.button = document.activeElement",
        )
        .await;
        for (user, left) in [("alice", "49 of 50"), ("bob", "48 of 50")] {
            sale.claim("coffee", user).await;
            page.until_text("#coupons tr[data-key=coffee]", left).await;
            until_next_status(&page).await;
        }
        let window = "document.querySelector('#window .legend dd').innerText";
        page.until("the time from claim to row is shown", &format!("/\\d/.test({window})")).await;
        // A row that comes before the others moves none of them.
        sale.create("a-first", 1).await;
        page.until_text("#coupons", "a-first").await;
        assert_eq!(page.value("getSelection().toString()").await, "Coffee for two");
        assert_eq!(page.value("document.activeElement === window.button").await, true);

        let names = "[...document.querySelectorAll('.cmd .button')].map((button) => button.textContent)";
        let repeated = format!("({names}).length - new Set({names}).size");
        assert_eq!(page.value(&repeated).await, 0, "each button says what it copies");
        page.allow_clipboard().await;
        page.click("#workers .cmd .button").await;
        page.until_text("#say", "Copied").await;
        let copied = page.value("navigator.clipboard.readText()").await;
        assert_eq!(copied, "seckill redis-cli XINFO CONSUMERS 'seckill:{0}:orders' order-writers");
    })
    .await;
}

const CUT_TABLES: &str =
    "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth)
       .map((box) => box.innerText.slice(0, 80))";

#[tokio::test]
async fn the_page_is_accessible_and_fits_a_phone() {
    let sale = Sale::start().await;
    sale.create_with(
        "coffee",
        json!({"total": 5, "title": "A coupon with a rather long title, which does not fit"}),
    )
    .await;
    sale.create_with(
        "dinner",
        json!({"total": 1_000_000_000, "starts_at": "2199-01-01T00:00:00Z",
            "title": "A dinner with Donaudampfschifffahrtsgesellschaftskaffee for two, with wine and a view"}),
    )
    .await;
    for user in ["alice", "a-user-with-a-name-that-is-as-long-as-a-mail-address@subdomain.example.org"] {
        sale.claim("coffee", user).await;
    }
    sale.until_quiet().await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until_text("#coupons", "A coupon with").await;
        page.value("document.querySelector('#q-coupon').value = 'coffee'").await;
        page.click("#orders [type=submit]").await;
        page.until_text("#orders .line", "Confirmed").await;
        page.assert_accessible("a sale that is well").await;
        for act in ["create", "pause", "restock", "edit"] {
            page.click(&format!("#coupons [data-act={act}]")).await;
            page.until("the dialog is open", "document.querySelector('dialog[open]')").await;
            page.assert_accessible(act).await;
            page.click("dialog [data-close]").await;
        }
        page.assert_touchable().await;
        page.set_width(360).await;
        for act in ["pause", "restock", "edit"] {
            page.click(&action("coupons", act, "dinner")).await;
            page.until("the dialog is open", "document.querySelector('dialog[open]')").await;
            let fits = "document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth";
            assert_eq!(page.value(fits).await, true, "{act} on a phone");
            page.click("dialog [data-close]").await;
        }
        for lang in ["en", "zh"] {
            page.click(&format!("[data-lang={lang}]")).await;
            for width in [320, 360, 768, 1024, 1101, 1280, 1440] {
                page.set_width(width).await;
                page.assert_fits().await;
                let cut = page.value(CUT_TABLES).await;
                assert_eq!(cut, json!([]), "tables that must be scrolled at {width} pixels");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_verdict_names_the_worst_problem_and_what_is_unknown_is_never_well() {
    const WELL: &str = "({ fence: { state: 'up', epoch: '7-a' }, redis: { state: 'ok' }, postgres: { state: 'ok' },
        backlog: { events: 0, allowed: 10, lag: 0, oldest_ms: 0 }, consumers: [], drift: { total: 0 }, point: {} })";
    let sale = Sale::start().await;
    with_browser(async |browser| {
        let page = browser.open(&format!("{}/admin", sale.url)).await;
        page.value(&format!("import('/assets/strip.js').then((strip) => {{ window.verdict = strip.verdict; window.state = {WELL}; }})")).await;
        let verdict_after = async |change: &str| {
            let said = page.value(&format!("{change}; (({{ tone, words }}) => `${{tone}}: ${{words}}`)(verdict(state))")).await;
            said.as_str().unwrap().to_owned()
        };
        // Each problem is worse than those before, which stay.
        for (change, said) in [
            ("0", "ok: Taking claims"),
            ("state.drift.total = 2", "warn: Taking claims, the stores differ"),
            ("state.backlog.oldest_ms = 5001", "warn: Taking claims, recording is behind"),
            ("state.postgres.state = 'no answer'", "warn: Taking claims, Postgres is away"),
            ("state.redis.state = 'no memory'", "bad: Not taking claims"),
            ("state.fence = { state: 'down', reason: 'no marker' }", "bad: Not taking claims"),
        ] {
            assert_eq!(verdict_after(change).await, said, "{change}");
        }
        for part in ["fence", "redis", "postgres", "backlog", "consumers"] {
            let said = verdict_after(&format!("state = {WELL}; state.{part} = null")).await;
            assert_eq!(said, "warn: Taking claims, some facts are unknown", "{part}");
        }
    })
    .await;
}
