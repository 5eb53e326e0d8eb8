//! The audit log: the transaction of a change adds its row, and no statement changes or removes a row.

use seckill::domain::{AuditAction, Definition, OrderId, Origin, Partition};
use seckill::postgres::audit::{self, AuditEntry, AuditFilter, AuditRow};
use seckill::postgres::coupons::{self, Edited};
use seckill::postgres::dead_letters;
use serde_json::json;
use sqlx::Connection;
use support::definition;

use crate::harness::{Database, epoch, event, rebuild_session};

fn entry(origin: &Origin) -> AuditEntry<'_> {
    let action = AuditAction::Discard;
    AuditEntry { origin, action, coupon: None, order: None, old: None, new: None }
}

async fn rows(database: &Database, filter: &AuditFilter) -> Vec<AuditRow> {
    audit::list(&database.postgres.pool, filter, None, 100).await.unwrap()
}

#[tokio::test]
async fn a_row_of_the_audit_log_is_never_changed_or_removed() {
    let database = Database::new("audit_append_only").await;
    let mut connection = database.connection().await;
    audit::record(&mut connection, &entry(&Origin::admin("r1"))).await.unwrap();
    let statements = [
        "update audit_log set actor = 'bob'",
        "update audit_log set actor = 'bob' where false",
        "delete from audit_log",
        "truncate audit_log",
        "insert into audit_log (id, actor, action) overriding system value values (1, 'bob', 'edit')
            on conflict (id) do update set actor = 'bob'",
        "do $$ begin
            set local session_replication_role = replica;
            delete from audit_log;
        end $$",
    ];
    for statement in statements {
        assert_eq!(database.refused_by(statement).await, "audit_log_append_only", "{statement}");
    }
    let kept = rows(&database, &AuditFilter::default()).await;
    assert_eq!(kept.iter().map(|row| row.actor.as_str()).collect::<Vec<_>>(), ["admin"]);
}

#[tokio::test]
async fn a_change_that_is_rolled_back_leaves_no_row() {
    let database = Database::new("audit_rolled_back").await;
    let mut connection = database.connection().await;
    let mut transaction = connection.begin().await.unwrap();
    audit::record(&mut transaction, &entry(&Origin::admin("r1"))).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(rows(&database, &AuditFilter::default()).await, []);
}

#[tokio::test]
async fn a_change_whose_audit_row_cannot_be_written_is_not_made() {
    let database = Database::new("audit_refused").await;
    let pool = &database.postgres.pool;
    let coffee = database.create("coffee", 5).await;
    database.execute("insert into dead_letters (fields, error) values ('', 'x'), ('', 'y')").await.unwrap();
    database.execute("alter table audit_log add check (actor <> 'admin')").await.unwrap();
    let origin = Origin::admin("r1");
    assert!(coupons::insert(pool, &definition("tea", 5), Partition::DEFAULT, &origin).await.is_err());
    let (old, edited) = (definition("coffee", 5), definition("coffee", 9));
    assert!(coupons::edit(pool, &old, &edited, &origin).await.is_err());
    assert!(dead_letters::mark_seen(pool, 1, None, &origin).await.is_err());
    assert!(dead_letters::mark_replaced(pool, 2, &coffee, OrderId::mint(), &origin).await.is_err());
    database.execute("update coupons set stock = 3").await.unwrap();
    assert!(coupons::recount_stock(pool, Partition::DEFAULT, &coffee, &origin).await.is_err());
    let mut session = rebuild_session(&database.postgres).await;
    assert!(session.start_epoch(&epoch("2-beef"), "", "", false, Some(&entry(&origin))).await.is_err());

    assert_eq!(database.number("select sum(total)::bigint from coupons").await, 5);
    assert_eq!(database.number("select sum(stock)::bigint from coupons").await, 3);
    assert_eq!(database.number("select count(*) from dead_letters where seen_at is null").await, 2);
    assert_eq!(database.number("select count(*) from fence where epoch = '2-beef'").await, 0);
}

#[tokio::test]
async fn an_edit_that_is_refused_leaves_no_row() {
    let database = Database::new("audit_refused_edit").await;
    let pool = &database.postgres.pool;
    let coffee = database.create("coffee", 5).await;
    database.recorded(&[&event(&coffee, "alice"), &event(&coffee, "bob")]).await;
    let origin = Origin::admin("r1");
    let (old, lower) = (definition("coffee", 5), definition("coffee", 1));
    assert_eq!(coupons::edit(pool, &old, &lower, &origin).await.unwrap(), Edited::TotalTooLow);
    let stale = Definition { version: 7, ..old };
    assert_eq!(coupons::edit(pool, &stale, &lower, &origin).await.unwrap(), Edited::Stale);
    let kept = rows(&database, &AuditFilter::default()).await;
    assert_eq!(kept.iter().map(|row| row.action.as_str()).collect::<Vec<_>>(), ["create"]);
}

#[tokio::test]
async fn a_row_says_who_changed_what_from_which_request() {
    let database = Database::new("audit_row").await;
    let mut connection = database.connection().await;
    let (coffee, order) = ("coffee".parse().unwrap(), OrderId::mint());
    let (old, new) = (json!({"total": 5, "title": "日\"\n"}), json!({"total": 9, "title": null}));
    let origin = Origin::admin("r1");
    let written = AuditEntry {
        action: AuditAction::Edit,
        coupon: Some(&coffee),
        order: Some(order),
        old: Some(old.clone()),
        new: Some(new.clone()),
        ..entry(&origin)
    };
    audit::record(&mut connection, &written).await.unwrap();
    let read = rows(&database, &AuditFilter::default()).await.remove(0);
    let AuditRow { actor, action, coupon, order: of_order, request_id, old: was, new: is, .. } = read;
    assert_eq!(
        [&*actor, &*action, &*coupon.unwrap(), &*request_id.unwrap()],
        ["admin", "edit", "coffee", "r1"]
    );
    assert_eq!((of_order, was, is), (Some(order.0), Some(old), Some(new)));
}

#[tokio::test]
async fn the_log_is_read_by_coupon_and_by_order_newest_first() {
    let database = Database::new("audit_list").await;
    let mut connection = database.connection().await;
    let (coffee, tea) = ("coffee".parse().unwrap(), "tea".parse().unwrap());
    let (one, other) = (OrderId::mint(), OrderId::mint());
    let origin = Origin::system(None);
    for (coupon, order) in [(&coffee, one), (&tea, one), (&coffee, other), (&coffee, one)] {
        let entry = AuditEntry { coupon: Some(coupon), order: Some(order), ..entry(&origin) };
        audit::record(&mut connection, &entry).await.unwrap();
    }
    let ids = async |filter: AuditFilter| -> Vec<i64> {
        rows(&database, &filter).await.iter().map(|row| row.id).collect()
    };
    assert_eq!(ids(AuditFilter::default()).await, [4, 3, 2, 1]);
    assert_eq!(ids(AuditFilter { coupon: Some(coffee.clone()), order: None }).await, [4, 3, 1]);
    assert_eq!(ids(AuditFilter { coupon: None, order: Some(one) }).await, [4, 2, 1]);
    assert_eq!(ids(AuditFilter { coupon: Some(coffee), order: Some(one) }).await, [4, 1]);
    let page = audit::list(&database.postgres.pool, &AuditFilter::default(), Some(3), 1).await.unwrap();
    assert_eq!(page.iter().map(|row| row.id).collect::<Vec<_>>(), [2]);
}
