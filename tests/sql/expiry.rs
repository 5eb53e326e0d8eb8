//! Expiry of reserved orders: each overdue order ends once, returns its unit and writes its outbox row. No other order
//! ends.

use std::time::Duration;

use seckill::domain::{CouponId, Definition, OrderEvent, OrderStatus, Origin, Partition};
use seckill::postgres::expiry::{self, ExpireOutcome, Overdue};
use seckill::postgres::{PgConnection, coupons, orders, outbox};
use sqlx::Connection;
use support::{definition, until};

use crate::harness::{Database, EPOCH, epoch, event};

/// The lowest WAL position.
const ANY: &str = "";
const ALL: Overdue<'_> = Overdue::Oldest(1_000);

/// Records one reserved order of a new coupon for each user.
async fn reserve(database: &Database, coupon: &str, users: &[&str]) -> Vec<OrderEvent> {
    let total = i64::try_from(users.len()).unwrap();
    let reserving = Definition { reserve_seconds: Some(900), ..definition(coupon, total) };
    assert!(
        coupons::insert(&database.postgres.pool, &reserving, Partition::DEFAULT, &Origin::system(None))
            .await
            .unwrap()
    );
    let id: CouponId = coupon.parse().unwrap();
    let events: Vec<OrderEvent> = users.iter().map(|user| event(&id, user)).collect();
    database.recorded(&events.iter().collect::<Vec<_>>()).await;
    events
}

/// Ends the time to pay of these users' orders `seconds` ago.
async fn make_overdue(database: &Database, users: &[&str], seconds: u32) {
    let users = users.iter().map(|user| format!("'{user}'")).collect::<Vec<_>>().join(", ");
    let update = format!(
        "update orders set reserved_until = clock_timestamp() - interval '{seconds} seconds' where user_id in ({users})"
    );
    database.execute(&update).await.unwrap();
}

async fn expire(database: &Database, which: Overdue<'_>) -> usize {
    expire_on(&mut database.connection().await, which).await
}

async fn expire_on(connection: &mut PgConnection, which: Overdue<'_>) -> usize {
    match expiry::expire(connection, &EPOCH, ANY, which).await.unwrap() {
        ExpireOutcome::Expired(orders) => orders.len(),
        ExpireOutcome::Fenced => panic!("fenced"),
    }
}

async fn status(database: &Database, event: &OrderEvent) -> OrderStatus {
    orders::get(&database.postgres.pool, event.order).await.unwrap().unwrap().status
}

#[tokio::test]
async fn an_overdue_order_expires_with_its_unit_and_its_outbox_row_and_no_other_order_does() {
    let database = Database::new("expired").await;
    let coffee = reserve(&database, "coffee", &["alice", "bob", "carol"]).await;
    let tea = reserve(&database, "tea", &["alice", "dave"]).await;
    make_overdue(&database, &["alice", "bob"], 5).await;
    database.execute("update orders set status = 'confirmed' where user_id = 'bob'").await.unwrap();

    assert_eq!(expire(&database, ALL).await, 2);
    assert_eq!(expire(&database, ALL).await, 0, "once");

    let ended = orders::get(&database.postgres.pool, coffee[0].order).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.is_overdue), (OrderStatus::Expired, false));
    assert!(ended.ended_at >= ended.reserved_until && ended.reserved_until.is_some());
    assert_eq!(status(&database, &tea[0]).await, OrderStatus::Expired);
    assert_eq!(status(&database, &coffee[1]).await, OrderStatus::Confirmed);
    for open in [&coffee[2], &tea[1]] {
        assert_eq!(status(&database, open).await, OrderStatus::Reserved);
    }
    assert_eq!(database.stock(&coffee[0].coupon).await, 1);
    assert_eq!(database.stock(&tea[0].coupon).await, 1);
    let units = outbox::page(&database.postgres.pool, Partition::DEFAULT, None).await.unwrap();
    let units: Vec<_> = units.iter().map(|unit| (unit.order, unit.user.as_str(), unit.slot)).collect();
    assert_eq!(units, [(coffee[0].order, "alice", 1), (tea[0].order, "alice", 1)]);
}

#[tokio::test]
async fn the_oldest_deadline_is_expired_first_and_the_next_one_is_known() {
    let database = Database::new("oldest_first").await;
    let mut connection = database.connection().await;
    assert_eq!(expiry::next_deadline(&mut connection, Partition::DEFAULT).await.unwrap(), None);
    let orders = reserve(&database, "coffee", &["alice", "bob", "carol"]).await;
    make_overdue(&database, &["alice"], 5).await;
    make_overdue(&database, &["bob"], 10).await;
    for expected in [1, 0] {
        assert_eq!(
            expiry::next_deadline(&mut connection, Partition::DEFAULT).await.unwrap(),
            Some(Duration::ZERO)
        );
        assert_eq!(expire(&database, Overdue::Oldest(1)).await, 1);
        assert_eq!(status(&database, &orders[expected]).await, OrderStatus::Expired);
    }
    let left = expiry::next_deadline(&mut connection, Partition::DEFAULT).await.unwrap().unwrap();
    assert!(Duration::from_mins(10) < left && left <= Duration::from_mins(15), "{left:?}");
}

#[tokio::test]
async fn nothing_expires_in_another_epoch_or_in_an_older_copy() {
    let database = Database::new("expiry_fenced").await;
    let orders = reserve(&database, "coffee", &["alice"]).await;
    make_overdue(&database, &["alice"], 5).await;
    let mut connection = database.connection().await;
    for (epoch, position, fence) in [
        (&epoch("2-beef"), ANY, "select"),
        // Redis has the position of a commit that this Postgres lacks.
        (&*EPOCH, "FFFFFFFF/FFFFFFFF", "select"),
        (&*EPOCH, ANY, "update fence set postgres_identity = 'another'"),
        (&*EPOCH, ANY, "update fence set postgres_identity = postgres_identity(), postgres_lost = true"),
    ] {
        database.execute(fence).await.unwrap();
        for which in [ALL, Overdue::Given(&[orders[0].order])] {
            let outcome = expiry::expire(&mut connection, epoch, position, which).await.unwrap();
            assert_eq!(outcome, ExpireOutcome::Fenced, "{epoch} {position} {fence}");
        }
    }
    assert_eq!(status(&database, &orders[0]).await, OrderStatus::Reserved);
    assert_eq!(database.number("select (select count(*) from outbox) + stock from coupons").await, 0);

    database.execute("update fence set postgres_lost = false").await.unwrap();
    let position = seckill::postgres::fence::durable_lsn(&mut connection).await.unwrap();
    let outcome = expiry::expire(&mut connection, &EPOCH, &position, ALL).await.unwrap();
    assert_eq!(outcome, ExpireOutcome::Expired(vec![orders[0].order]));
}

#[tokio::test]
async fn an_order_that_another_transaction_ends_is_left_to_it() {
    let database = Database::new("skip_locked").await;
    let orders = reserve(&database, "coffee", &["alice", "bob"]).await;
    make_overdue(&database, &["alice", "bob"], 5).await;
    let mut holder = database.connection().await;
    let mut held = holder.begin().await.unwrap();
    sqlx::raw_sql("update orders set status = 'confirmed' where user_id = 'alice'")
        .execute(&mut *held)
        .await
        .unwrap();

    assert_eq!(expire(&database, ALL).await, 1, "bob's");
    held.commit().await.unwrap();

    assert_eq!(expire(&database, ALL).await, 0);
    assert_eq!(status(&database, &orders[0]).await, OrderStatus::Confirmed);
    assert_eq!(status(&database, &orders[1]).await, OrderStatus::Expired);
    assert_eq!(database.stock(&orders[0].coupon).await, 1);
}

#[tokio::test]
async fn an_expiry_on_demand_waits_for_the_transaction_that_confirms_the_order() {
    let database = Database::new("on_demand_waits").await;
    let orders = reserve(&database, "coffee", &["alice", "bob"]).await;
    make_overdue(&database, &["alice", "bob"], 5).await;
    let mut holder = database.connection().await;
    let mut held = holder.begin().await.unwrap();
    sqlx::raw_sql("update orders set status = 'confirmed' where user_id = 'alice'")
        .execute(&mut *held)
        .await
        .unwrap();
    let expiring = tokio::spawn({
        let (postgres, ids) = (database.postgres.clone(), [orders[0].order, orders[1].order]);
        async move { expire_on(&mut postgres.dedicated().await.unwrap(), Overdue::Given(&ids)).await }
    });
    until("the expiry waits for the row", async || {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%order by id%'";
        (database.number(waiting).await == 1).then_some(())
    })
    .await;
    held.commit().await.unwrap();
    assert_eq!(expiring.await.unwrap(), 1, "bob's");
    assert_eq!(status(&database, &orders[0]).await, OrderStatus::Confirmed);
    assert_eq!(status(&database, &orders[1]).await, OrderStatus::Expired);
}

#[tokio::test]
async fn sweepers_and_workers_at_the_same_time_never_deadlock_and_expire_each_order_once() {
    const USERS: usize = 200;
    let database = Database::new("sweepers").await;
    let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    let mut all = Vec::new();
    for coupon in ["coffee", "tea", "water"] {
        all.push(reserve(&database, coupon, &users).await);
    }
    database.execute("update coupons set total = total + 1000, stock = stock + 1000").await.unwrap();
    make_overdue(&database, &users, 5).await;
    let sweep = |which: bool| {
        let (postgres, ids) = (database.postgres.clone(), all.clone());
        tokio::spawn(async move {
            let mut connection = postgres.dedicated().await.unwrap();
            let mut expired = 0;
            for number in 0..USERS {
                let given: Vec<_> = ids.iter().rev().map(|events| events[number].order).collect();
                let which = if which { Overdue::Given(&given) } else { Overdue::Oldest(7) };
                expired += expire_on(&mut connection, which).await;
            }
            expired
        })
    };
    let (one, two, three) = (sweep(false), sweep(false), sweep(true));
    for number in 0..20 {
        let events: Vec<OrderEvent> =
            all.iter().map(|events| event(&events[0].coupon, &format!("new-{number}"))).collect();
        database.recorded(&events.iter().collect::<Vec<_>>()).await;
    }
    let expired = one.await.unwrap() + two.await.unwrap() + three.await.unwrap();
    assert_eq!(expired, 3 * USERS);
    assert_eq!(database.number("select count(*) from outbox").await, i64::try_from(expired).unwrap());
    for events in &all {
        assert_eq!(database.stock(&events[0].coupon).await, i64::try_from(USERS).unwrap() + 1_000 - 20);
    }
}

#[tokio::test]
async fn a_unit_that_waits_for_a_version_is_read_only_when_redis_has_it() {
    let database = Database::new("after_version").await;
    let orders = reserve(&database, "coffee", &["alice", "bob"]).await;
    make_overdue(&database, &["alice", "bob"], 5).await;
    expire(&database, ALL).await;
    database
        .execute(
            "update outbox set after_version = 7 where user_id = 'alice'; update coupons set version = 7",
        )
        .await
        .unwrap();
    let page = async || -> Vec<_> {
        let page = outbox::page(&database.postgres.pool, Partition::DEFAULT, None).await.unwrap();
        page.into_iter().map(|unit| unit.order).collect()
    };
    assert_eq!(page().await, [orders[1].order]);
    let ids = [orders[0].order, orders[1].order];
    let of_ended = outbox::units_of_ended(&database.postgres.pool, &ids).await.unwrap();
    let after = of_ended.iter().find(|unit| unit.order == ids[0]).unwrap().after_version;
    assert_eq!((of_ended.len(), after), (2, Some(7)));
    database.execute("update coupons set published_version = 7").await.unwrap();
    assert_eq!(page().await, ids);
    // After lost commits the coupon may have a lower version in Postgres than the unit waits for.
    database.execute("update coupons set version = 6, published_version = 6").await.unwrap();
    let lowered = outbox::page(&database.postgres.pool, Partition::DEFAULT, None).await.unwrap();
    assert_eq!((lowered[0].order, lowered[0].after_version), (ids[0], Some(6)));
    let after_alice = outbox::page(&database.postgres.pool, Partition::DEFAULT, Some(ids[0])).await.unwrap();
    assert_eq!(after_alice.len(), 1);
    outbox::remove(&database.postgres.pool, &EPOCH, &ids[1..]).await.unwrap();
    assert_eq!(page().await, ids[..1]);
}

#[tokio::test]
async fn the_outbox_row_of_a_released_unit_is_deleted_only_in_the_epoch_of_the_release() {
    let database = Database::new("outbox_epoch").await;
    let order = reserve(&database, "coffee", &["alice"]).await.remove(0).order;
    make_overdue(&database, &["alice"], 1).await;
    assert_eq!(expire(&database, Overdue::Oldest(1)).await, 1);
    let rows = "select count(*) from outbox";
    outbox::remove(&database.postgres.pool, &epoch("2-beef"), &[order]).await.unwrap();
    assert_eq!(database.number(rows).await, 1, "another epoch");
    outbox::remove(&database.postgres.pool, &EPOCH, &[order]).await.unwrap();
    assert_eq!(database.number(rows).await, 0);
}
