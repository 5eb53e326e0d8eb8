//! Coupons on the operations page: created, edited, and shown with their receipt and their waiting list.

use reqwest::Method;
use serde_json::json;
use support::{Sale, until};

use crate::browser::with_browser;
use crate::operations::{ENTER, action, fill, go, open, tab_to};

const ROW: &str = "#coupons tr[data-key=coffee]";

#[tokio::test]
async fn a_coupon_is_created_paused_resumed_and_restocked_by_keyboard_alone() {
    let sale = Sale::start().await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until_text("#coupons", "No coupons yet").await;
        tab_to(&page, "#nav [href='#coupons']").await;
        page.press(ENTER).await;
        tab_to(&page, "#coupons [data-act=create]").await;
        page.press(ENTER).await;
        page.until("the dialog asks for the id first", "document.activeElement.matches('#f-fId')").await;
        page.press("coffee").await;
        tab_to(&page, "#f-fTotal").await;
        page.press("5").await;
        page.press(ENTER).await;
        page.until_text(ROW, "Open").await;
        assert!(page.text(ROW).await.contains("5 of 5"), "{}", page.text(ROW).await);
        assert!(page.has_focus("#coupons [data-act=create]").await, "the focus is where it was");

        for (act, done, state) in [("pause", "Pause coffee", "Paused"), ("resume", "Resume coffee", "Open")] {
            tab_to(&page, &action("coupons", act, "coffee")).await;
            page.press(ENTER).await;
            page.until_text("dialog [type=submit]", done).await;
            tab_to(&page, "dialog [type=submit]").await;
            page.press(ENTER).await;
            page.until_text(ROW, state).await;
        }
        assert!(
            page.has_focus(&action("coupons", "pause", "coffee")).await,
            "the button is the one that was pressed"
        );

        tab_to(&page, &action("coupons", "restock", "coffee")).await;
        page.press(ENTER).await;
        page.until("the present total is selected", "document.activeElement.selectionEnd === 1").await;
        page.press("12").await;
        page.until_text("dialog .effect", "Total 5 → 12, stock 5 → 12.").await;
        page.press(ENTER).await;
        page.until_text(ROW, "12 of 12").await;
        page.until_text("#audit", "restock").await;
    })
    .await;
    assert_eq!(sale.redis_stock("coffee"), 12);
    assert_eq!(sale.psql("select total || ' ' || paused from coupons"), "12 false");
}

#[tokio::test]
async fn an_edit_made_from_an_older_version_is_refused_and_shows_the_present_one() {
    let sale = Sale::start().await;
    let opened = "2020-01-01T10:00:00Z";
    sale.create_with("coffee", json!({"total": 5, "title": "Coffee", "starts_at": opened})).await;
    sale.claim("coffee", "alice").await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.click(&action("coupons", "edit", "coffee")).await;
        page.until_text("dialog .effect", "Change a field to see the effect.").await;
        fill(&page, "#f-fTitle", "Latte").await;
        let other =
            sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", Some(json!({"title": "Mocha"}))).await;
        assert_eq!(other.status, 200, "{}", other.text);
        page.press(ENTER).await;
        page.until_text("dialog [role=alert]", "Another admin has changed Coffee").await;
        assert_eq!(sale.psql("select title from coupons"), "Mocha");
        page.press(ENTER).await;
        page.until(
            "the dialog shows the present title",
            "document.querySelector('#f-fTitle')?.value === 'Mocha'",
        )
        .await;
        fill(&page, "#f-fTitle", "Latte").await;
        page.until_text("dialog .effect", "Title: Mocha → Latte").await;
        go(&page, "Save 1 change").await;
        page.until_text(ROW, "Latte").await;

        // Withdrawing takes only units that no user holds.
        page.click(&action("coupons", "withdraw", "coffee")).await;
        fill(&page, "#f-dTotal", "0").await;
        page.until_text("#f-dTotal-hint", "1 unit is held already: the total cannot be lower than 1.").await;
        fill(&page, "#f-dTotal", "2").await;
        page.until_text("dialog .effect", "3 unsold units leave the sale").await;
        go(&page, "Withdraw 3, total 2").await;
        page.until_text(ROW, "1 of 2").await;
        page.until_text("#audit", "withdraw").await;
    })
    .await;
    assert_eq!(sale.redis_stock("coffee"), 1);
}

#[tokio::test]
async fn a_receipt_adds_up_and_is_off_after_an_edit_of_redis_by_hand() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    sale.create_with("gone", json!({"total": 1, "waitlist": true})).await;
    for user in ["alice", "bob"] {
        sale.claim("coffee", user).await;
    }
    sale.claim("gone", "alice").await;
    for user in ["carol", "dave"] {
        let authorization = format!("Bearer {}", sale.token(user));
        let joined = sale
            .send(Method::POST, "/v1/coupons/gone/waitlist", &[("authorization", &authorization)], None)
            .await;
        assert_eq!(joined.status, 201, "{}", joined.text);
    }
    sale.until_quiet().await;
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.click(&action("coupons", "receipt", "coffee")).await;
        page.until_text("dialog .sum", "Adds up").await;
        let receipt = page.text("dialog .ledger").await;
        assert!(receipt.contains("In stock\nin Redis\n3") && receipt.contains("Confirmed\n2"), "{receipt}");
        page.until_text("dialog .receipt", "No exceptions").await;
        page.assert_accessible("a receipt").await;
        page.set_paper("dark").await;
        let ink = "getComputedStyle(document.querySelector('dialog .state')).color";
        assert_eq!(page.value(ink).await, "rgb(77, 86, 99)", "dark on white paper");
        page.set_scheme("light").await;
        page.click("dialog [data-close]").await;

        // The sum of Redis still holds, so that nothing takes the fence down: alice's unit is gone although she has it.
        sale.redis_cli(&["HDEL", "seckill:{0}:claims:coffee", "alice"]);
        sale.redis_cli(&["HINCRBY", "seckill:{0}:coupon:coffee", "stock", "1"]);
        page.click(&action("coupons", "receipt", "coffee")).await;
        page.until("the receipt is off", "document.querySelector('dialog [data-verdict=bad]')").await;
        let row = page.until_text("dialog .receipt tbody", "alice").await;
        assert!(row.contains("Live order that Redis does not hold"), "{row}");
        page.click("dialog [data-close]").await;

        page.until_text("#coupons tr[data-key=gone]", "2 in line").await;
        page.click(&action("coupons", "line", "gone")).await;
        let line = page.until_text("dialog tbody", "dave").await;
        assert!(line.find("carol") < line.find("dave"), "{line}");
    })
    .await;
}

#[tokio::test]
async fn more_coupons_than_a_page_has_are_shown_on_request() {
    let sale = Sale::start().await;
    for number in 0..22 {
        sale.create(&format!("c-{number:02}"), 1).await;
    }
    with_browser(async |browser| {
        let page = open(&browser, &sale).await;
        page.until("the first page is shown", "document.querySelectorAll('#coupons tbody tr').length === 20")
            .await;
        page.click("#coupons [data-act=more]").await;
        page.until("all are shown", "document.querySelectorAll('#coupons tbody tr').length === 22").await;
        page.until("nothing more is offered", "!document.querySelector('#coupons [data-act=more]')").await;
        // A later refresh shows as many.
        sale.claim("c-21", "alice").await;
        page.until_text("#coupons tr[data-key=c-21]", "0 of 1").await;
        until("the count of confirmed orders follows", async || {
            page.text("#coupons tr[data-key=c-21] td:nth-child(6)").await.eq("1").then_some(())
        })
        .await;
    })
    .await;
}
