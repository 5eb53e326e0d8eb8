//! Tables change while the program runs, as in an upgrade with replicas of two versions: no request is refused,
//! although the statements were prepared before.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use support::Sale;

/// Each change keeps every row and every name that the program uses.
const CHANGES: [&str; 17] = [
    "alter table coupons alter column title type varchar(400)",
    "alter table coupons alter column total type integer, alter column stock type integer",
    "alter table coupons alter column total type numeric, alter column version type integer",
    "alter table coupons add column note text, add column color text not null default 'red'",
    "alter table coupons drop column note",
    "alter table coupons alter column starts_at type timestamp(3) with time zone",
    "drop index coupons_changed_at; create index coupons_changed_at on coupons (changed_at)",
    "create table copied (like coupons including all); insert into copied select * from coupons;
     drop table coupons; alter table copied rename to coupons",
    "alter table orders alter column status type varchar(20), alter column user_id type varchar(200)",
    "alter table orders add column note text",
    "vacuum full orders",
    "reindex table orders",
    "alter table dead_letters alter column error type varchar(9000), add column note text",
    "alter table outbox alter column user_id type varchar(200), alter column slot type integer",
    "alter table fence alter column epoch type varchar(200), alter column redis_run_id type varchar(100)",
    "drop function durable_lsn(); create function durable_lsn() returns text language sql volatile return (
        select lpad(split_part(lsn, '/', 1), 8, '0') || '/' || lpad(split_part(lsn, '/', 2), 8, '0')
        from (select pg_current_wal_flush_lsn()::text as lsn) position)",
    "analyze",
];

/// Uses every kind of statement, many at once, so that each connection of the pool prepares it.
async fn use_all(sale: &Sale, round: usize) {
    let user = format!("user-{round}");
    let claimed = sale.claim_with("coffee", &user, &[("prefer", "wait=10")]).await;
    assert_eq!(claimed.status, 201, "{}", claimed.text);
    let order = claimed.header("location").to_owned();
    let token = sale.token(&user);
    let coffee = "/v1/admin/coupons/coffee";
    let reads = [
        coffee,
        "/v1/admin/coupons",
        "/v1/admin/orders?user=user-0",
        "/v1/admin/orders?coupon=coffee&status=confirmed",
        "/v1/admin/dead",
        "/v1/admin/dead/1",
        "/v1/admin/stream",
        "/v1/coupons",
        "/readyz?verbose",
        "/metrics",
    ];
    let reads = join_all(reads.iter().cycle().take(3 * reads.len()).map(|path| async move {
        let answer = sale.admin(Method::GET, path, None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }));
    let own = async { sale.get_as(&token, &order).await };
    let edited = async { sale.admin(Method::PATCH, coffee, Some(json!({"title": user}))).await };
    let (_, own, edited) = tokio::join!(reads, own, edited);
    assert_eq!((own.status, edited.status), (200, 200), "{}, {}", own.text, edited.text);
    let made = json!({"id": format!("tea-{round}"), "total": 5, "reserve_seconds": 9});
    for status in [201, 200] {
        let answer = sale.admin(Method::POST, "/v1/admin/coupons", Some(made.clone())).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    let seen = sale.admin(Method::POST, "/v1/admin/dead/1/discard", None).await;
    assert_eq!(seen.status, 200, "{}", seen.text);
    let compared = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"fix": true}))).await;
    assert_eq!(compared.status, 200, "{}", compared.text);
    assert_eq!((&compared.body["fixed"], &compared.body["fenced"]), (&json!(0), &json!(false)));
}

#[tokio::test]
async fn no_request_is_refused_after_a_table_has_changed() {
    let sale = Sale::start().await;
    sale.create("coffee", 1_000).await;
    sale.redis_cli(&["XADD", "seckill:{0}:orders", "*", "no", "order"]);
    sale.until_quiet().await;
    let epoch = sale.epoch();
    use_all(&sale, 0).await;
    for (number, change) in CHANGES.iter().enumerate() {
        sale.psql(change);
        use_all(&sale, number + 1).await;
    }
    // A returned unit and a rebuild work on the changed tables too.
    let order = sale.psql("select id from orders where user_id = 'user-0'");
    sale.cancel_order(&order);
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.epoch(), epoch, "the fence stayed up");
    let rebuilt = sale.admin(Method::POST, "/v1/admin/reconcile", Some(json!({"rebuild": true}))).await;
    assert_eq!(rebuilt.status, 200, "{}", rebuilt.text);
    sale.until_ready().await;
    sale.assert_in_agreement("coffee").await;
    let log = sale.log();
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
