//! Orders, dead letters, the audit log and reconciling on the operations page.

use serde_json::json;
use support::{REFUSE_SOME, Sale};

use crate::browser::with_browser;
use crate::operations::{ENTER, action, fill, go, open};

#[tokio::test]
async fn a_dead_letter_appears_and_is_replayed_and_another_one_is_discarded() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 5, "title": "Coffee"})).await;
    sale.psql(REFUSE_SOME);
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until_text("#dead", "No dead letters").await;
        for user in ["doomed-1", "doomed-2"] {
            assert_eq!(sale.claim("coffee", user).await.status, 202);
        }
        page.until_text("#dead-count", "2").await;
        page.until("both letters are shown", "document.querySelectorAll('#dead tbody tr').length === 2").await;
        let of = |user: &str| format!("document.evaluate(\"//*[@id='dead']//tr[contains(., '{user}')]\", document, null, 9).singleNodeValue");
        let id_of = async |user: &str| page.value(&format!("{}.dataset.key", of(user))).await.as_str().unwrap().to_owned();
        let (first, second) = (id_of("doomed-1").await, id_of("doomed-2").await);

        page.click(&action("dead", "details", &first)).await;
        let details = page.until_text("dialog .ledger", "doomed-1").await;
        assert!(details.contains("Field coupon"), "{details}");
        page.click("dialog [data-close]").await;

        page.click(&action("dead", "replay", &first)).await;
        page.until_text("dialog .effect", "Makes a new claim for doomed-1 on Coffee").await;
        go(&page, "Claim again for doomed-1").await;
        page.until_text(&format!("#dead tr[data-key='{first}']"), "replayed as …").await;

        page.click(&action("dead", "discard", &second)).await;
        go(&page, "Mark as seen").await;
        page.until_text(&format!("#dead tr[data-key='{second}']"), "discarded").await;
        page.until("no letter is open", "document.querySelector('#dead-count').hidden").await;
        page.until_text("#audit", "replay").await;
        page.until_text("#audit", "discard").await;
    })
    .await;
    sale.until_quiet().await;
    assert_eq!(sale.psql("select user_id from orders where status = 'confirmed'"), "doomed-1");
    sale.assert_in_agreement("coffee").await;
}

#[tokio::test]
async fn an_order_is_found_by_its_user_confirmed_and_revoked_and_its_unit_returns() {
    let sale = Sale::start().await;
    sale.create_with("seat", json!({"total": 2, "reserve_seconds": 900, "title": "Seat"})).await;
    let order = sale.claim("seat", "alice").await.body["order"].as_str().unwrap().to_owned();
    sale.claim("seat", "bob").await;
    sale.until_quiet().await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        fill(&page, "#q", "no-such-user").await;
        page.press(ENTER).await;
        page.until_text("#orders", "No order and no user no-such-user").await;
        fill(&page, "#q", "alice").await;
        page.press(ENTER).await;
        page.until_text("#orders .line", "Waiting for payment").await;
        page.until_text("#orders .cmd", "where user_id = 'alice'").await;
        page.until_text("#coupons tr[data-key=seat]", "0 of 2").await;

        page.click(&action("orders", "confirm", &order)).await;
        go(&page, "Confirm for alice").await;
        page.until_text("#orders .line", "paid in time").await;
        page.until(
            "it is shown when the order was paid",
            "document.querySelector('#orders .line li:nth-child(3) time').innerText.includes(':')",
        )
        .await;

        page.click(&action("orders", "revoke", &order)).await;
        fill(&page, "#f-dReason", "chargeback").await;
        page.until_text("dialog .effect", "Seat has one unit more to grab.").await;
        go(&page, "Revoke, return the unit").await;
        let line = page.until_text("#orders .line", "Revoked by admin").await;
        assert!(line.contains("chargeback"), "{line}");
        page.until_text("#coupons tr[data-key=seat]", "1 of 2").await;
        page.until_text("#audit", "revoke").await;
        page.until_text("#audit", &order).await;

        // By state, and cancelled there; then by id.
        fill(&page, "#q", "").await;
        page.value(
            "document.querySelector('#q').value = ''; document.querySelector('#q-status').value = 'reserved'",
        )
        .await;
        page.click("#orders [type=submit]").await;
        let hits = page.until_text("#orders .hits", "bob").await;
        assert!(!hits.contains("alice"), "{hits}");
        page.click("#orders [data-act=cancel]").await;
        go(&page, "Cancel order of bob").await;
        page.until_text("#orders", "No order matches").await;
        fill(&page, "#q", &order).await;
        page.press(ENTER).await;
        page.until_text("#orders .line", "Revoked by admin").await;
    })
    .await;
    sale.assert_in_agreement("seat").await;
    assert_eq!(
        sale.psql("select string_agg(status, ' ' order by status) from orders"),
        "cancelled cancelled"
    );
}

#[tokio::test]
async fn a_comparison_names_a_difference_and_repairs_it_after_a_confirmation() {
    let sale = Sale::start().await;
    sale.create_with("coffee", json!({"total": 5, "title": "Coffee"})).await;
    let order = sale.claim("coffee", "alice").await.body["order"].as_str().unwrap().to_owned();
    sale.until_quiet().await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.click("#reconcile [data-act=compare]").await;
        page.until_text("#reconcile .result", "No difference. Compared: 1 claim of 1 coupon.").await;

        // An order that ends by hand, without its row in the outbox: its unit does not go back.
        sale.psql(&format!(
            "update orders set status = 'cancelled', ended_at = now() where id = '{order}';
             update coupons set stock = stock + 1"
        ));
        page.click("#reconcile [data-act=compare]").await;
        page.until_text("#reconcile tbody", "Unit held by an order that has ended").await;
        page.until_text("#reconcile tbody", &order).await;
        page.until_text(".verdict", "the stores differ").await;
        page.click("#reconcile [data-act=fix]").await;
        go(&page, "Compare and fix").await;
        page.until_text("#reconcile .result", "1 repaired.").await;
        page.until_text("#coupons tr[data-key=coffee]", "5 of 5").await;
        page.until_text("#audit", "fix").await;
    })
    .await;
    sale.assert_in_agreement("coffee").await;
}
