//! One window: what a person does in it, what it shows, and waits for what it shall show.

use serde_json::{Value, json};
use support::until;
use thirtyfour::prelude::ElementQueryable;
use thirtyfour::{By, TypingData, WebDriver};

const AXE: &str = include_str!("axe.min.js");
/// A page may move its contents by this much without an action of the reader (web.dev, Cumulative Layout Shift).
const GOOD_LAYOUT_SHIFT: f64 = 0.1;

/// A page in its window.
#[derive(Clone)]
pub struct Page {
    window: WebDriver,
}

impl Page {
    pub fn new(window: WebDriver) -> Self {
        Self { window }
    }

    pub async fn go(&self, url: &str) {
        self.window.goto(url).await.unwrap();
    }

    pub async fn reload(&self) {
        self.window.refresh().await.unwrap();
    }

    /// Opens the address in a further tab, which hides the one before it, and goes on there.
    pub async fn go_in_new_tab(&self, url: &str) {
        let tab = self.window.new_tab().await.unwrap();
        self.window.switch_to_window(tab).await.unwrap();
        self.go(url).await;
    }

    /// The value of an expression in the page, which may be a promise. The content security policy does not apply to it.
    pub async fn value(&self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.window.cdp().send_raw("Runtime.evaluate", asked).await.unwrap();
        assert!(answer["exceptionDetails"].is_null(), "{expression:.200}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until the expression is true in the page.
    pub async fn until(&self, what: &str, expression: &str) {
        until(what, async || (self.value(&format!("!!({expression})")).await == true).then_some(())).await;
    }

    /// The text that an element shows; empty if there is none.
    pub async fn text(&self, css: &str) -> String {
        let shown = self.value(&format!("document.querySelector({})?.innerText ?? ''", json!(css))).await;
        shown.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the element shows a text with this part; returns the whole text.
    pub async fn until_text(&self, css: &str, part: &str) -> String {
        until(&format!("{css} shows {part:?}"), async || {
            let shown = self.text(css).await;
            shown.contains(part).then_some(shown)
        })
        .await
    }

    /// Clicks with the mouse, once the element is there: what lies above it would get the click.
    pub async fn click(&self, css: &str) {
        let element = self.window.query(By::Css(css)).first().await.unwrap();
        element.scroll_into_view().await.unwrap();
        element.click().await.unwrap();
    }

    /// Gives the element the focus, as a reader's Tab key does.
    pub async fn focus(&self, css: &str) {
        self.value(&format!("document.querySelector({}).focus()", json!(css))).await;
    }

    /// Whether the element has the focus.
    pub async fn has_focus(&self, css: &str) -> bool {
        self.value(&format!("document.activeElement?.matches({}) ?? false", json!(css))).await == true
    }

    /// Presses keys, or types a text, where the focus is.
    pub async fn press(&self, keys: impl Into<TypingData>) {
        self.window.action_chain().send_keys(keys).perform().await.unwrap();
    }

    /// Shows the page at this width in CSS pixels.
    pub async fn set_width(&self, width: u32) {
        let asked = json!({ "width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.window.cdp().send_raw("Emulation.setDeviceMetricsOverride", asked).await.unwrap();
    }

    /// Shows the page as to a reader who prefers `light` or `dark`, and no motion: else colours change slowly.
    pub async fn set_scheme(&self, scheme: &str) {
        let features = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")];
        let asked =
            json!({ "features": features.map(|(name, value)| json!({ "name": name, "value": value })) });
        self.window.cdp().send_raw("Emulation.setEmulatedMedia", asked).await.unwrap();
    }

    /// Shows the page as in this time zone.
    pub async fn set_time_zone(&self, zone: &str) {
        let asked = json!({ "timezoneId": zone });
        self.window.cdp().send_raw("Emulation.setTimezoneOverride", asked).await.unwrap();
    }

    /// Lets the page read the clipboard, so that a test can see what a button has copied.
    pub async fn allow_clipboard(&self) {
        let asked = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
        self.window.cdp().send_raw("Browser.grantPermissions", asked).await.unwrap();
    }

    /// Checks that each target on a phone is large enough for a finger.
    pub async fn assert_touchable(&self) {
        self.set_width(360).await;
        let small = self
            .value(
                "[...document.querySelectorAll('a, button, input, select')].filter((node) => node.checkVisibility())
                   .map((node) => [node.outerHTML.slice(0, 120), (node.closest('label') ?? node).getBoundingClientRect()])
                   .filter(([, { width, height }]) => width < 44 || height < 44)
                   .map(([html, { width, height }]) => `${width} x ${height}: ${html}`)",
            )
            .await;
        assert_eq!(small, json!([]), "{small:#}");
        self.set_width(1440).await;
    }

    /// Shows the page as on paper, to a reader who prefers `light` or `dark`.
    pub async fn set_paper(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let asked = json!({ "media": "print", "features": features });
        self.window.cdp().send_raw("Emulation.setEmulatedMedia", asked).await.unwrap();
    }

    /// Checks that the page can be read without scrolling sideways.
    pub async fn assert_fits(&self) {
        let page = "document.documentElement";
        let widths = self.value(&format!("[{page}.scrollWidth, {page}.clientWidth]")).await;
        assert!(widths[0].as_i64() <= widths[1].as_i64(), "{widths}: {}", self.widest().await);
    }

    /// The elements that reach beyond the right edge, for the message of a failed test.
    async fn widest(&self) -> Value {
        self.value(
            "[...document.querySelectorAll('body *')].filter((node) =>
               node.getBoundingClientRect().right > document.documentElement.clientWidth)
               .map((node) => `${node.tagName}.${node.className}`)",
        )
        .await
    }

    /// Checks that axe finds nothing serious or critical, in the light and in the dark scheme and on a phone.
    pub async fn assert_accessible(&self, what: &str) {
        if self.value("typeof axe").await == "undefined" {
            self.value(&format!("{AXE};0")).await;
        }
        for (scheme, width) in [("light", 1440), ("dark", 1440), ("light", 360)] {
            self.set_scheme(scheme).await;
            self.set_width(width).await;
            let found = self
                .value(
                    // A colour that still changes is of neither scheme.
                    "Promise.all(document.getAnimations().filter((running) => running instanceof CSSTransition)
                       .map((running) => running.finished.catch(() => {})))
                       .then(() => axe.run(document, { resultTypes: ['violations'] }))
                       .then(({ violations }) => violations
                       .filter(({ impact }) => ['serious', 'critical'].includes(impact))
                       .map(({ id, help, nodes }) => ({ id, help, nodes: nodes.map(({ html, failureSummary }) =>
                         [html.slice(0, 200), failureSummary]) })))",
                )
                .await;
            assert_eq!(found, json!([]), "{what}, {scheme}, {width} pixels: {found:#}");
        }
        self.set_scheme("light").await;
        self.set_width(1440).await;
    }

    /// Checks that the contents have hardly moved by themselves since the page was opened.
    pub async fn assert_steady(&self) {
        let shifted = self
            .value(
                "new Promise((done) => {
                   const shifts = [];
                   new PerformanceObserver((list) => shifts.push(...list.getEntries()))
                     .observe({ type: 'layout-shift', buffered: true });
                   requestAnimationFrame(() => setTimeout(() => done(shifts.filter((s) => !s.hadRecentInput)
                     .map(({ value, sources }) => ({ value, moved: sources.map(({ node }) => node?.outerHTML?.slice(0, 120)) })))));
                 })",
            )
            .await;
        let sum: f64 = shifted.as_array().unwrap().iter().filter_map(|shift| shift["value"].as_f64()).sum();
        assert!(sum < GOOD_LAYOUT_SHIFT, "{shifted:#}");
    }
}
