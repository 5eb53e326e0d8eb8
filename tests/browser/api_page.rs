//! `/docs`: a developer reads the API's description and sends requests with either token.

use support::Sale;

use crate::browser::with_browser;
use crate::page::Page;

/// Writes into a field as a person does.
async fn fill(page: &Page, css: &str, text: &str) {
    page.click(css).await;
    page.press(text).await;
}

/// Opens an operation, fills in its coupon if it has one, and sends the request.
async fn send(page: &Page, operation: &str, coupon: Option<&str>) -> String {
    let part = |css: &str| format!("[id$='-{operation}'] {css}");
    page.click(&part(".opblock-summary-control")).await;
    page.click(&part(".try-out__btn")).await;
    if let Some(coupon) = coupon {
        fill(page, &part("tr[data-param-name=coupon] input"), coupon).await;
    }
    page.click(&part("button.execute")).await;
    page.until_text(&part(".live-responses-table tbody .response-col_status"), "20").await;
    page.text(&part(".live-responses-table")).await
}

#[tokio::test]
async fn the_description_is_read_and_tried_with_both_tokens() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    with_browser(async |browser| {
        let page = browser.open(&format!("{}/docs", sale.url)).await;
        page.until_text(".info .title", "seckill").await;
        page.assert_accessible("the API's description").await;
        page.click(".scheme-container .authorize").await;
        for (scheme, token) in [(1, sale.admin_token()), (2, sale.token("alice"))] {
            let part = |css: &str| format!(".modal-ux-content .auth-container:nth-of-type({scheme}) {css}");
            fill(&page, &part("input"), &token).await;
            page.click(&part(".authorize")).await;
        }
        page.assert_accessible("the fields for both tokens").await;
        page.click(".modal-ux .close-modal").await;

        let claimed = send(&page, "claim", Some("coffee")).await;
        assert!(claimed.contains("202") && claimed.contains("\"user\": \"alice\""), "{claimed}");
        page.assert_accessible("an answer").await;
        let listed = send(&page, "list_all_coupons", None).await;
        assert!(listed.contains("200") && listed.contains("\"unlisted\": false"), "{listed}");
        let events = send(&page, "follow_coupon", Some("coffee")).await;
        assert!(events.contains("event: reset") && events.contains("event: coupon"), "{events}");

        for (scheme, is_dark) in [("dark", "true"), ("light", "false")] {
            page.set_scheme(scheme).await;
            let painted = format!("document.documentElement.classList.contains('dark-mode') === {is_dark}");
            page.until("the page has the colours of the system", &painted).await;
        }
    })
    .await;
    assert_eq!(sale.redis_stock("coffee"), 4);
}
