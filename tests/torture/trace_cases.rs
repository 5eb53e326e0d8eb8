//! Tests of the trace: the trace of a small real run is allowed. With one line edited, dropped, doubled or moved it is
//! refused at that line, or at the first line that needs it.

mod edits;

use std::time::Duration;

use model::trace::{Effect, Line};
use reqwest::Method;
use serde_json::json;

use crate::cluster::Cluster;
use crate::faults::Mode;
use crate::history::{Claim, Class, History, Span, StatusAnswer};
use crate::trace::{read, replay};
use edits::EDITS;
use support::{Sale, until};

const COUPON: &str = "coffee";
/// A user may hold two units of it, and has an hour to pay.
const RESERVED: &str = "tea";

/// One unit, and a waiting list.
const WAITED_FOR: &str = "cocoa";

/// Alice, bob and carol claim the three units of coffee; dave is too late. Alice's order is cancelled, dave gets its unit,
/// the total is raised, and an unreadable entry is added. Erin claims three units of tea with a key each: one order is
/// confirmed, one is cancelled before the third claim. Frank has the cocoa; grace, heidi, ivan and judy wait for it, and ivan
/// leaves. Frank's order is revoked, and the total is raised: judy waits when Redis is flushed.
async fn small_run() -> Vec<Line> {
    let coupons = [COUPON, RESERVED, WAITED_FOR].map(str::to_owned).into();
    let cluster = Cluster::start(coupons, Duration::from_secs(1), Mode::Safe).await;
    let sale = &cluster.program;
    sale.create(COUPON, 3).await;
    for (user, status) in [("alice", 202), ("bob", 202), ("carol", 202), ("dave", 409)] {
        assert_eq!(sale.claim(COUPON, user).await.status, status, "{user}");
    }
    sale.until_quiet().await;
    sale.cancel_order(&sale.psql("select id from orders where user_id = 'alice'"));
    until("dave has alice's unit", async || (sale.claim(COUPON, "dave").await.status == 202).then_some(()))
        .await;
    let path = format!("/v1/admin/coupons/{COUPON}");
    assert_eq!(sale.admin(Method::PATCH, &path, Some(json!({"total": 5}))).await.status, 200);
    let unreadable = ["XADD", "seckill:{0}:orders", "NOMKSTREAM", "*", "hello", "world"];
    cluster.stores.redis_cli(&unreadable).await.unwrap();
    until("the entry is a dead letter", async || {
        (sale.psql_number("select count(*) from dead_letters") == 1).then_some(())
    })
    .await;
    sale.create_with(RESERVED, json!({"total": 3, "per_user_limit": 2, "reserve_seconds": 3_600})).await;
    for (key, asked) in [("k1", Some("confirm")), ("k2", Some("cancel")), ("k3", None)] {
        let claim = sale.claim_with(RESERVED, "erin", &[("idempotency-key", key)]).await;
        assert_eq!(claim.status, 202, "{}", claim.text);
        sale.until_quiet().await;
        if let Some(asked) = asked {
            let path = format!("/v1/orders/{}/{asked}", claim.body["order"].as_str().unwrap());
            assert_eq!(sale.admin(Method::POST, &path, None).await.status, 200, "{asked}");
        }
        sale.until_quiet().await;
    }
    wait_for_cocoa(sale).await;
    cluster.stores.redis_cli(&["FLUSHALL"]).await.unwrap();
    until("the run is at rest", async || {
        let lines = read(&cluster).await.ok()?;
        replay(&lines).ok().map(|_| lines)
    })
    .await
}

async fn wait_for_cocoa(sale: &Sale) {
    sale.create_with(WAITED_FOR, json!({"total": 1, "waitlist": true})).await;
    let franks = sale.claim(WAITED_FOR, "frank").await;
    assert_eq!(franks.status, 202, "{}", franks.text);
    sale.until_quiet().await;
    let path = format!("/v1/coupons/{WAITED_FOR}/waitlist");
    for (method, user, status) in [
        (Method::POST, "grace", 201),
        (Method::POST, "heidi", 201),
        (Method::POST, "ivan", 201),
        (Method::POST, "judy", 201),
        (Method::DELETE, "ivan", 204),
    ] {
        let authorization = format!("Bearer {}", sale.token(user));
        let answer = sale.send(method, &path, &[("authorization", &authorization)], None).await;
        assert_eq!(answer.status, status, "{user}: {}", answer.text);
    }
    let path = format!("/v1/admin/orders/{}/revoke", franks.body["order"].as_str().unwrap());
    let body = json!({"reason": "test", "return_unit": true});
    assert_eq!(sale.admin(Method::POST, &path, Some(body)).await.status, 200);
    let served = |user: &str| format!("select count(*) from orders where user_id = '{user}'");
    until("grace is served", async || (sale.psql_number(&served("grace")) == 1).then_some(())).await;
    let path = format!("/v1/admin/coupons/{WAITED_FOR}");
    assert_eq!(sale.admin(Method::PATCH, &path, Some(json!({"total": 2}))).await.status, 200);
    until("heidi is served", async || (sale.psql_number(&served("heidi")) == 1).then_some(())).await;
    sale.until_quiet().await;
}

#[tokio::test]
async fn a_trace_is_allowed_unchanged_and_refused_when_a_line_is_edited() {
    let lines = small_run().await;
    let mut wrong = Vec::new();
    for (number, (edit, sentence)) in EDITS.iter().enumerate() {
        let mut edited = lines.clone();
        edit(&mut edited).unwrap_or_else(|| panic!("edit {number} finds nothing to edit"));
        match replay(&edited) {
            Ok(_) => wrong.push(format!("edit {number} is allowed, not refused: {sentence}")),
            Err(why) if why.contains(sentence) => {}
            Err(why) => wrong.push(format!("edit {number} is refused otherwise: {why}, not {sentence}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn an_answer_that_the_stores_could_not_have_given_is_refused() {
    let lines = small_run().await;
    let first = lines.iter().find_map(|line| match line {
        Line::Redis(effects) => effects.iter().find_map(|effect| match effect {
            Effect::Sent { entry, event } => Some((entry.0 * 1_000, event.clone()?.order)),
            _ => None,
        }),
        _ => None,
    });
    let (first_us, order) = first.unwrap();
    let timeline = replay(&lines).unwrap();
    let judge = |class, user: &str, order: Option<&str>, after_ms: i64| {
        let began_us = first_us.checked_add_signed(after_ms * 1_000).unwrap();
        let mut history = History::default();
        history.claims.push(Claim {
            span: Span { began_us, ended_us: began_us },
            coupon: COUPON.into(),
            user: user.into(),
            key: None,
            class,
            answer: String::new(),
            order: order.map(str::to_owned),
            status: None,
            retries: false,
        });
        timeline.judge(&history)
    };
    assert_eq!(judge(Class::Ok, "alice", Some(&order), 0), Ok(()));
    assert!(judge(Class::Ok, "alice", Some("made up"), 0).unwrap_err().contains("which had no event"));
    // Nothing was sold yet.
    assert!(judge(Class::SoldOut, "dave", None, -1_000).unwrap_err().contains("while there was stock"));
    // Long after the end: two of five units are left.
    assert!(judge(Class::SoldOut, "erin", None, 3_600_000).unwrap_err().contains("while there was stock"));
    let mut history = History::default();
    let span = Span { began_us: first_us, ended_us: u64::MAX };
    history.statuses.push(StatusAnswer { span, order: order.clone(), status: "accepted".into() });
    assert_eq!(timeline.judge(&history), Ok(()));
    history.statuses[0].span.began_us = u64::MAX;
    assert!(timeline.judge(&history).unwrap_err().contains("was recorded, and then its status"));
}
