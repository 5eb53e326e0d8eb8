//! No statement of the hot paths reads a whole table.

use seckill::domain::{OrderEvent, OrderId, OrderStatus, Partition, WaitingUser};
use seckill::postgres::expiry::{self, ExpireOutcome, Overdue};
use seckill::postgres::orders::{self, OrderFilter};
use seckill::postgres::transitions::{self, AskedOrder};
use seckill::postgres::{PgConnection, Pool, coupons, health, waitlist};
use sqlx::Connection;

use crate::harness::{Database, EPOCH, event, rebuild_session};

/// How many sequential scans of the workers' tables have run; building an index counts too.
async fn whole_reads(session: &mut PgConnection) -> i64 {
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut *session).await.unwrap();
    sqlx::query_scalar(
        "select sum(seq_scan)::bigint from pg_stat_user_tables
         where schemaname = current_schema and relname in ('orders', 'coupons', 'fence')",
    )
    .fetch_one(session)
    .await
    .unwrap()
}

#[tokio::test]
async fn statements_planned_for_empty_tables_still_use_indexes() {
    let database = Database::new("by_index").await;
    let mut session = database.postgres.dedicated().await.unwrap();
    let tea = database.create("tea", 10_000).await;
    let before = whole_reads(&mut session).await;
    for batch in 0..30 {
        let events: Vec<OrderEvent> =
            (0..100).map(|number| event(&tea, &format!("user-{batch}-{number}"))).collect();
        let events: Vec<&OrderEvent> = events.iter().collect();
        let ids: Vec<OrderId> = events.iter().map(|event| event.order).collect();
        orders::record_new(&mut session, &EPOCH, &events).await.unwrap();
        orders::record(&mut session, &EPOCH, &events).await.unwrap();
        assert_eq!(orders::get_many(&mut session, &ids).await.unwrap().len(), events.len());
    }
    assert_eq!(whole_reads(&mut session).await, before, "tables were scanned whole");
    session.close().await.unwrap();
}

/// How many rows of these tables and entries of their indexes were read.
pub async fn entries_read(pool: &Pool, tables: &[&str]) -> i64 {
    // Makes each session flush its counts: otherwise it reports them up to a second later.
    let pool = pool.current();
    let mut sessions = Vec::new();
    while sessions.len() < pool.size() as usize {
        let mut session = pool.acquire().await.unwrap();
        sqlx::query("select pg_stat_force_next_flush()").execute(&mut *session).await.unwrap();
        sessions.push(session);
    }
    sqlx::query_scalar(
        "select sum(seq_tup_read + (select sum(idx_tup_read) from pg_stat_user_indexes i where i.relid = t.relid))::bigint
         from pg_stat_user_tables t where schemaname = current_schema and relname = any($1)",
    )
    .bind(tables)
    .fetch_one(&mut *sessions[0])
    .await
    .unwrap()
}

#[tokio::test]
async fn lists_and_counts_of_orders_use_indexes() {
    let database = Database::new("lists").await;
    let pool = &database.postgres.pool;
    let (coffee, tea) = (database.create("coffee", 10).await, database.create("tea", 10).await);
    let ended = event(&coffee, "alice");
    database.recorded(&[&ended, &event(&coffee, "bob")]).await;
    database.execute("update orders set status = 'cancelled' where user_id = 'alice'").await.unwrap();
    database.execute("update coupons set stock = stock + 1 where id = 'coffee'").await.unwrap();
    let live = [event(&coffee, "alice"), event(&tea, "alice")];
    database.recorded(&live.each_ref()).await;
    let crowd = database.create("crowd", 2_000).await;
    let events: Vec<OrderEvent> = (0..2_000).map(|number| event(&crowd, &format!("user-{number}"))).collect();
    database.recorded(&events.iter().collect::<Vec<_>>()).await;
    let mut newest_first = [ended.order, live[0].order, live[1].order];
    newest_first.sort_by(|one, other| other.cmp(one));

    let before = entries_read(pool, &["orders"]).await;
    let of_alice = OrderFilter { user: Some("alice".parse().unwrap()), ..OrderFilter::default() };
    let ids = async |filter: &OrderFilter, after, limit| -> Vec<OrderId> {
        let page = orders::list(pool, filter, after, limit).await.unwrap();
        page.into_iter().map(|order| order.id).collect()
    };
    assert_eq!(ids(&of_alice, None, 2).await, newest_first[..2]);
    assert_eq!(ids(&of_alice, Some(newest_first[1]), 2).await, newest_first[2..]);
    let cancelled = OrderFilter { status: Some(OrderStatus::Cancelled), ..of_alice.clone() };
    assert_eq!(ids(&cancelled, None, 2).await, [ended.order]);
    let of_tea = OrderFilter { coupon: Some(tea.clone()), ..OrderFilter::default() };
    assert_eq!(ids(&of_tea, None, 2).await, [live[1].order]);
    let page = orders::live_page(pool, &coffee, None, 1).await.unwrap();
    let rest = orders::live_page(pool, &coffee, Some(page[0].order), 5).await.unwrap();
    assert_eq!([&page[..], &rest].map(|page| page[0].user.as_str()), ["bob", "alice"]);
    assert_eq!((page.len(), rest.len()), (1, 1));
    assert!(!coupons::stock_drifts(pool, &coffee).await.unwrap());
    let read = entries_read(pool, &["orders"]).await - before;
    assert!((1..100).contains(&read), "{read} rows and entries of indexes were read");
}

#[tokio::test]
async fn the_sweeper_reads_overdue_orders_by_their_index() {
    let database = Database::new("sweeper_index").await;
    let pool = &database.postgres.pool;
    let crowd = database.create("crowd", 2_000).await;
    database.execute("update coupons set reserve_seconds = 900").await.unwrap();
    let events: Vec<OrderEvent> = (0..2_000).map(|number| event(&crowd, &format!("user-{number}"))).collect();
    database.recorded(&events.iter().collect::<Vec<_>>()).await;
    let overdue = "update orders set reserved_until = clock_timestamp() - interval '1 second' where user_id like 'user-100_'";
    database.execute(overdue).await.unwrap();
    let before = entries_read(pool, &["orders"]).await;
    assert_eq!(health::overdue(pool).await.unwrap().rows, 10);
    let mut session = pool.current().acquire().await.unwrap();
    for expected in [7, 3, 0] {
        let outcome = expiry::expire(&mut session, &EPOCH, "", Overdue::Oldest(7)).await.unwrap();
        assert!(
            matches!(&outcome, ExpireOutcome::Expired(orders) if orders.len() == expected),
            "{outcome:?}"
        );
        expiry::next_deadline(&mut session, Partition::DEFAULT).await.unwrap().unwrap();
    }
    drop(session);
    let read = entries_read(pool, &["orders"]).await - before;
    assert!((1..300).contains(&read), "{read} rows and entries of indexes were read");
}

#[tokio::test]
async fn waiting_lists_read_and_change_rows_by_their_indexes() {
    let database = Database::new("waitlist_index").await;
    let pool = &database.postgres.pool;
    let (crowd, tea) = (database.create("crowd", 1).await, database.create("tea", 10).await);
    let waiting = |name: String| {
        let event = event(&crowd, &name);
        WaitingUser { user: event.user, order: event.order, key: None }
    };
    let users: Vec<WaitingUser> = (0..2_000).map(|number| waiting(format!("user-{number}"))).collect();
    for chunk in users.chunks(500) {
        let rows: Vec<_> = chunk.iter().map(|waiting| (crowd.clone(), waiting.clone())).collect();
        assert!(waitlist::add(pool, &EPOCH, &rows).await.unwrap());
    }
    let events: Vec<OrderEvent> = (0..2_000).map(|number| event(&tea, &format!("user-{number}"))).collect();
    database.execute("update coupons set total = 2000, stock = 2000 where id = 'tea'").await.unwrap();
    database.recorded(&events.iter().collect::<Vec<_>>()).await;

    let tables = ["orders", "waitlist"];
    let before = entries_read(pool, &tables).await;
    let [alice, bob] = ["alice", "bob"].map(|name| waiting(name.to_owned()));
    let both = [(crowd.clone(), alice.clone()), (crowd.clone(), bob.clone())];
    for _ in 0..2 {
        assert!(waitlist::add(pool, &EPOCH, &both).await.unwrap());
    }
    assert_eq!(waitlist::newest_orders(pool, &crowd, &alice.user).await.unwrap(), [alice.order]);
    waitlist::leave(pool, &EPOCH, &crowd, &bob.user, &[]).await.unwrap();
    assert_eq!(waitlist::newest_orders(pool, &crowd, &bob.user).await.unwrap(), []);
    waitlist::remove(pool, &[alice.order]).await.unwrap();
    assert_eq!(waitlist::existing(pool, &[alice.order, users[7].order]).await.unwrap().len(), 1);
    let read = entries_read(pool, &tables).await - before;
    assert!((1..100).contains(&read), "{read} rows and entries of indexes were read");

    // A rebuild reads one coupon's rows once.
    let before = entries_read(pool, &tables).await;
    let mut session = rebuild_session(&database.postgres).await;
    let mut decision = session.decide().await.unwrap();
    assert!(decision.unserved(&tea).await.unwrap().is_empty());
    let unserved = decision.unserved(&crowd).await.unwrap();
    assert_eq!(unserved.into_iter().map(|row| row.waiting).collect::<Vec<_>>(), users);
    drop(decision);
    session.close().await.unwrap();
    let read = entries_read(pool, &tables).await - before;
    assert!((2_000..10_000).contains(&read), "{read} rows and entries of indexes were read");
}

#[tokio::test]
async fn rows_of_users_who_were_served_long_ago_are_removed_page_by_page() {
    let database = Database::new("waitlist_served").await;
    let pool = &database.postgres.pool;
    database.create("tea", 3_000).await;
    // Rows whose ids are from 1970: the even ones were served two days ago, the odd ones just now, every third not yet.
    let rows = "insert into waitlist (order_id, coupon_id, user_id)
            select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'tea', 'user-' || n
            from generate_series(1, 2400) n;
        insert into orders (id, coupon_id, user_id, status, claimed_at, recorded_at)
            select order_id, coupon_id, user_id, 'confirmed', now(),
                now() - case when substr(user_id, 6)::int % 2 = 0 then interval '2 days' else interval '1 h' end
            from waitlist where substr(user_id, 6)::int % 3 <> 0;
        update coupons set stock = stock - 1600";
    database.execute(rows).await.unwrap();
    let young = event(&"tea".parse().unwrap(), "young");
    let young = WaitingUser { user: young.user, order: young.order, key: None };
    waitlist::add(pool, &EPOCH, &[("tea".parse().unwrap(), young)]).await.unwrap();

    let (mut after, mut pages) = (None, 0);
    loop {
        let before = entries_read(pool, &["orders", "waitlist"]).await;
        after = waitlist::remove_served(pool, after).await.unwrap();
        let read = entries_read(pool, &["orders", "waitlist"]).await - before;
        assert!(read <= 5_000, "{read} rows and entries of indexes were read");
        if after.is_none() {
            break;
        }
        pages += 1;
    }
    assert_eq!(pages, 3, "pages of 1,000 rows");
    let left = "select count(*) from waitlist w left join orders o on o.id = w.order_id
        where o.id is null or o.recorded_at > now() - interval '1 day'";
    assert_eq!(database.number(left).await, 800 + 800 + 1);
    assert_eq!(database.number("select count(*) from waitlist").await, 1_601);
}

#[tokio::test]
async fn transitions_read_only_the_asked_orders_also_by_a_plan_for_no_reserved_orders() {
    const ASKED: usize = 20;
    let database = Database::new("transitions_index").await;
    let pool = &database.postgres.pool;
    let crowd = database.create("crowd", 10_000).await;
    database.execute("update coupons set reserve_seconds = 900").await.unwrap();
    let mut session = database.postgres.dedicated().await.unwrap();
    let record = async |first: usize, count: usize| -> Vec<OrderId> {
        let event = |number| event(&crowd, &format!("user-{number}"));
        let events: Vec<OrderEvent> = (first..first + count).map(event).collect();
        database.recorded(&events.iter().collect::<Vec<_>>()).await;
        events.iter().map(|event| event.order).collect()
    };
    let asked = |orders: &[OrderId]| -> Vec<AskedOrder> {
        orders.iter().map(|order| AskedOrder { order: *order, user: None }).collect()
    };
    let confirmed = record(0, 100).await;
    transitions::confirm(&mut session, &EPOCH, "", &asked(&confirmed)).await.unwrap();
    database.execute("analyze orders").await.unwrap();
    let reserved = record(100, 5_000).await;
    let mut parts = reserved.chunks(ASKED);
    let mut next = || parts.next().unwrap();
    let before = entries_read(pool, &["orders"]).await;
    // More often than Postgres makes a new plan for each call.
    for _ in 0..7 {
        let (to_confirm, to_cancel, to_expire) = (next(), next(), next());
        transitions::confirm(&mut session, &EPOCH, "", &asked(to_confirm)).await.unwrap();
        transitions::cancel(&mut session, &EPOCH, "", &asked(to_cancel)).await.unwrap();
        let outcome = expiry::expire(&mut session, &EPOCH, "", Overdue::Given(to_expire)).await.unwrap();
        assert_eq!(outcome, ExpireOutcome::Expired(Vec::new()), "they are in time");
    }
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut session).await.unwrap();
    let read = entries_read(pool, &["orders"]).await - before;
    let expected = i64::try_from(7 * 3 * ASKED).unwrap();
    assert!((expected..10 * expected).contains(&read), "{read} rows and entries of indexes were read");
}
