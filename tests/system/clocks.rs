//! Two servers, one whose clock is an hour ahead of the stores and one whose clock is an hour behind. The clocks of the
//! stores decide every deadline.

use reqwest::Method;
use serde_json::{Value, json};

use support::{Process, Sale, until};

/// The library of Debian's package faketime, which shifts the clock of one process.
fn library() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let libraries = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let found = libraries.into_iter().find(|library| library.exists());
    found.expect("the package faketime is installed").to_str().unwrap().to_owned()
}

/// A server with another clock than the stores.
struct Shifted {
    process: Process,
    url: String,
}

impl Shifted {
    async fn start(sale: &Sale, offset: &str) -> Self {
        let environment = [
            ("LD_PRELOAD", library()),
            ("FAKETIME", offset.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("SECKILL_WORKERS", "1".to_owned()),
        ];
        let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
        let process = sale.spawn_by_address("serve", &[], &environment);
        process.until_logged("fence up").await;
        let log = process.log();
        let url = log.lines().find_map(|line| line.strip_prefix("listening on ")).unwrap().to_owned();
        Self { process, url }
    }

    async fn ask(&self, sale: &Sale, method: Method, path: &str, user: &str) -> (u16, Value) {
        // The token's times are of this test's clock.
        let token = sale.token_with(user, std::time::Duration::from_hours(6));
        let request = sale.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        let answer = request.header("prefer", "wait=10").send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn order_of(&self, sale: &Sale, user: &str) -> String {
        let (status, body) = self.ask(sale, Method::POST, "/v1/coupons/coffee/claims", user).await;
        assert_eq!((status, &body["status"]), (201, &json!("reserved")), "{body}");
        body["order"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn clocks_of_servers_that_are_hours_apart_change_no_deadline_and_no_order_of_joining() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    let (ahead, behind) = (Shifted::start(&sale, "+1h").await, Shifted::start(&sale, "-1h").await);
    let at = "2999-01-01T00:00:00Z";
    let coupon = json!({"total": 2, "reserve_seconds": 900, "waitlist": true, "ends_at": at});
    sale.create_with("coffee", coupon).await;
    let orders = [ahead.order_of(&sale, "alice").await, behind.order_of(&sale, "bob").await];
    let seconds = "select max(abs(extract(epoch from reserved_until - recorded_at) - 900))::bigint,
        bool_and(recorded_at between clock_timestamp() - interval '1 minute' and clock_timestamp()) from orders";
    assert_eq!(sale.psql(seconds), "0|t");

    let confirm = |order: &str| format!("/v1/orders/{order}/confirm");
    let (status, body) = ahead.ask(&sale, Method::POST, &confirm(&orders[1]), "bob").await;
    assert_eq!((status, &body["status"]), (200, &json!("confirmed")), "{body}");
    // The one who joins first has the later time in the order's id.
    for (server, user, place) in [(&ahead, "carol", 1), (&behind, "dave", 2)] {
        let (status, body) = server.ask(&sale, Method::POST, "/v1/coupons/coffee/waitlist", user).await;
        assert_eq!((status, &body["place"]), (201, &json!(place)), "{body}");
    }
    sale.redis_cli(&["FLUSHALL"]);
    until("the line is there again", async || {
        let (status, body) = ahead.ask(&sale, Method::GET, "/v1/coupons/coffee/waitlist", "dave").await;
        (status == 200).then(|| assert_eq!(body["place"], 2, "{body}"))
    })
    .await;

    sale.psql("update orders set reserved_until = clock_timestamp() where status = 'reserved'");
    until("carol has got the unit", async || {
        let (_, body) = behind.ask(&sale, Method::GET, "/v1/coupons/coffee/waitlist", "carol").await;
        (body["status"] == "reserved").then_some(())
    })
    .await;
    let (status, body) = behind.ask(&sale, Method::POST, &confirm(&orders[0]), "alice").await;
    assert_eq!((status, &body["refund_due"]), (409, &json!(true)), "{body}");
    sale.assert_in_agreement("coffee").await;
    assert!(ahead.process.stop().success() && behind.process.stop().success());
}
