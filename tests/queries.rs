//! The schema, its statements and its constraints on a real Postgres, each test in a schema of its own.
//! The cluster is shared by the tests that run at the same time, and ends with the last of them.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use seckill::data_dir::DataDir;
use seckill::domain::{CouponId, Definition, OrderEvent, OrderId, OrderStatus, UserId};
use seckill::embedded::Embedded;
use seckill::postgres::dead_letters::{self, Letter, LetterOutcome};
use seckill::postgres::orders::{self, OrderFilter, RecordOutcome};
use seckill::postgres::rebuild::RebuildSession;
use seckill::postgres::{PgConnection, Postgres, PostgresError, coupons};
use sqlx::{AssertSqlSafe, Connection, PgPool, Row};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(30);
const EPOCH: &str = "1-c0ffee";

/// Running stores, and the runtime of those who watch over them.
struct Cluster {
    url: String,
    stores: Option<(Embedded, Runtime)>,
    _dir: TempDir,
}

impl Cluster {
    /// The one that is running, or a new one.
    fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            // A test may be asynchronous itself: the stores live on a thread and a runtime of their own.
            let cluster = Arc::new(std::thread::spawn(Self::start).join().unwrap());
            *running = Arc::downgrade(&cluster);
            cluster
        })
    }

    fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("seckill-queries-")
            .permissions(fs::Permissions::from_mode(0o711))
            .tempdir_in("/tmp")
            .unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let data = DataDir::open(Some(&dir.path().join("data"))).unwrap();
        let embedded = runtime.block_on(Embedded::start(&data)).unwrap();
        Self { url: embedded.addresses().database_url, stores: Some((embedded, runtime)), _dir: dir }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (embedded, runtime) = self.stores.take().expect("stopped once");
        let stop = std::thread::spawn(move || runtime.block_on(embedded.stop()));
        stop.join().unwrap().unwrap();
    }
}

/// A schema of a test's own.
struct Database {
    postgres: Postgres,
    // Dropped after the pools.
    cluster: Arc<Cluster>,
}

impl Database {
    /// A migrated schema in which the epoch is `EPOCH`.
    async fn new(schema: &str) -> Self {
        let database = Self::bare(schema);
        database.postgres.prepare().await.unwrap();
        database.start_epoch(EPOCH).await;
        database
    }

    /// A schema that does not exist yet.
    fn bare(schema: &str) -> Self {
        let cluster = Cluster::shared();
        Self { postgres: Postgres::new(&cluster.url, schema).unwrap(), cluster }
    }

    async fn start_epoch(&self, epoch: &str) {
        let mut session = rebuild_session(&self.postgres).await;
        session.start_epoch(epoch, "run", "replid", false).await.unwrap();
        session.close().await.unwrap();
    }

    async fn create(&self, id: &str, total: i64) -> CouponId {
        let id: CouponId = id.parse().unwrap();
        assert!(coupons::insert(&self.postgres.pool, &definition(&id, total)).await.unwrap());
        id
    }

    async fn stock(&self, id: &CouponId) -> i64 {
        coupons::get(&self.postgres.pool, id).await.unwrap().unwrap().stock
    }

    async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.postgres.pool).await.unwrap()
    }

    async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.postgres.pool).await.map(drop)
    }

    /// The constraint or unique index that refuses a statement.
    async fn refused_by(&self, sql: &str) -> String {
        let error = self.execute(sql).await.expect_err(sql);
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        constraint.unwrap_or_else(|| panic!("{sql}: {error}")).to_owned()
    }

    /// A connection as a worker has it.
    async fn connection(&self) -> PgConnection {
        self.postgres.dedicated().await.unwrap()
    }

    async fn record(&self, epoch: &str, events: &[&OrderEvent]) -> RecordOutcome {
        orders::record(&mut self.connection().await, epoch, events).await.unwrap()
    }

    /// Records in the current epoch and expects that something was written.
    async fn done(&self, events: &[&OrderEvent]) -> (Vec<OrderId>, Vec<OrderId>) {
        match self.record(EPOCH, events).await {
            RecordOutcome::Done { inserted, conflicting } => (inserted, conflicting),
            other => panic!("{other:?}"),
        }
    }

    async fn orders(&self) -> i64 {
        self.number("select count(*) from orders").await
    }
}

fn definition(id: &CouponId, total: i64) -> Definition {
    Definition {
        id: id.clone(),
        title: id.to_string(),
        total,
        starts_at: None,
        ends_at: None,
        paused: false,
        per_user_limit: 1,
        reserve_seconds: None,
        unlisted: false,
        version: 1,
    }
}

fn event(coupon: &CouponId, user: &str) -> OrderEvent {
    let user: UserId = user.parse().unwrap();
    OrderEvent { order: OrderId::mint(), coupon: coupon.clone(), user }
}

fn letter(entry_id: Option<&str>) -> Letter<'_> {
    Letter { entry_id, fields: b"*0\r\n".to_vec(), error: "a test", deliveries: Some(1) }
}

fn sql_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

// ---- statements and migrations ----

#[tokio::test]
async fn every_statement_fits_the_migrated_schema() {
    let database = Database::new("statements").await;
    let files = sql_files("sql/queries");
    assert!(files.len() >= 5, "{files:?}");
    let mut connection = database.postgres.dedicated().await.unwrap();
    for file in files {
        let statement = fs::read_to_string(&file).unwrap();
        let prepare = format!("prepare statement as {statement}; deallocate statement");
        let prepared = sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await;
        assert!(prepared.is_ok(), "{}: {}", file.display(), prepared.unwrap_err());
    }
}

#[test]
fn the_two_recording_statements_differ_only_in_their_conflict_clause() {
    let statement = |file: &str| -> Vec<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries").join(file);
        let text = fs::read_to_string(path).unwrap();
        let code = text.lines().map(|line| line.split("--").next().unwrap().trim_end().to_owned());
        code.filter(|line| !line.is_empty()).collect()
    };
    let (any, new) = (statement("record_orders.sql"), statement("record_new_orders.sql"));
    let (clauses, rest): (Vec<String>, Vec<String>) =
        any.into_iter().partition(|line| line.trim() == "on conflict do nothing");
    assert_eq!(clauses.len(), 1, "record_orders.sql has one conflict clause");
    assert_eq!(rest, new, "record_new_orders.sql is record_orders.sql without its conflict clause");
}

#[test]
fn every_migration_is_found_by_its_name() {
    // sqlx skips a name of another form without a word.
    for (index, file) in sql_files("sql/migrations").iter().enumerate() {
        let name = file.file_name().unwrap().to_str().unwrap();
        let number = format!("{:04}_", index + 1);
        let is_sql = file.extension().is_some_and(|extension| extension == "sql");
        assert!(name.starts_with(&number) && is_sql, "{name} is not migration {number}");
    }
}

/// All that a migration could have changed, as text.
async fn shape(database: &Database) -> Vec<String> {
    let columns = "select table_name || '.' || column_name || ' ' || data_type || ' ' || coalesce(column_default, '')
        from information_schema.columns where table_schema = current_schema()
        union all select indexdef from pg_indexes where schemaname = current_schema()
        union all select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint where connamespace = current_schema()::regnamespace
        union all select proname || ' ' || prosrc from pg_proc where pronamespace = current_schema()::regnamespace
        union all select version || ' ' || installed_on || ' ' || encode(checksum, 'hex') from _sqlx_migrations
        union all select epoch from fence
        order by 1";
    sqlx::query_scalar(columns).fetch_all(&database.postgres.pool).await.unwrap()
}

#[tokio::test]
async fn a_second_migration_changes_nothing() {
    let database = Database::new("twice").await;
    let before = shape(&database).await;
    assert!(before.iter().any(|line| line.contains("orders_one_live_per_slot")), "{before:#?}");
    let again = Postgres::new(&database.cluster.url, "twice").unwrap();
    again.prepare().await.unwrap();
    again.close().await;
    assert_eq!(shape(&database).await, before);
}

#[tokio::test]
async fn processes_that_start_together_migrate_once() {
    for round in 0..5 {
        let schema = format!("together_{round}");
        let first = Database::bare(&schema);
        let others: Vec<Postgres> =
            (0..3).map(|_| Postgres::new(&first.cluster.url, &schema).unwrap()).collect();
        let outcomes = tokio::join!(
            first.postgres.prepare(),
            others[0].prepare(),
            others[1].prepare(),
            others[2].prepare()
        );
        for outcome in [outcomes.0, outcomes.1, outcomes.2, outcomes.3] {
            outcome.unwrap();
        }
        let migrations = i64::try_from(sql_files("sql/migrations").len()).unwrap();
        assert_eq!(first.number("select count(*) from _sqlx_migrations").await, migrations);
        assert_eq!(first.number("select count(*) from fence").await, 1);
    }
}

/// A first migration on a slow disk takes longer than any other lock may be waited for.
#[tokio::test]
async fn a_migration_waits_for_another_one_longer_than_for_a_lock() {
    let database = Database::bare("slow_migration");
    let other = Database::new("beside_slow_migration").await;
    let lock = |function: &str| format!("select {function}(hashtextextended('slow_migration/schema', 0))");
    let mut migrating = other.postgres.dedicated().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(lock("pg_advisory_lock"))).execute(&mut migrating).await.unwrap();

    let waits = async {
        let too_long = "select count(*) from pg_stat_activity where wait_event = 'advisory'
            and query like '%/schema%' and now() - query_start > interval '2.2 s'";
        while other.number(too_long).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sqlx::raw_sql(AssertSqlSafe(lock("pg_advisory_unlock"))).execute(&mut migrating).await.unwrap();
    };
    let (prepared, waited) = tokio::join!(database.postgres.prepare(), tokio::time::timeout(PATIENCE, waits));
    prepared.unwrap();
    waited.unwrap();
}

// ---- constraints ----

#[tokio::test]
async fn stock_never_falls_below_zero_or_above_the_total() {
    let database = Database::new("stock_range").await;
    database.create("coffee", 2).await;
    assert_eq!(database.refused_by("update coupons set stock = stock - 3").await, "coupons_stock_range");
    assert_eq!(database.refused_by("update coupons set stock = stock + 1").await, "coupons_stock_range");
    assert_eq!(database.refused_by("update coupons set total = 0, stock = 0").await, "coupons_total_range");
    database.execute("update coupons set stock = 0").await.unwrap();
}

/// An insert of an order with this id, coupon, user, slot, key and status.
fn insert_order(user: &str, slot: i16, key: Option<&str>, status: &str) -> String {
    let key = key.map_or("null".to_owned(), |key| format!("'{key}'"));
    format!(
        "insert into orders (id, coupon_id, user_id, slot, idempotency_key, status, claimed_at)
         values (gen_random_uuid(), 'coffee', '{user}', {slot}, {key}, '{status}', now())"
    )
}

#[tokio::test]
async fn a_user_has_one_live_order_for_each_slot() {
    let database = Database::new("live_order").await;
    for live in ["reserved", "confirmed"] {
        let user = format!("user-{live}");
        database.execute(&insert_order(&user, 1, None, live)).await.unwrap();
        for second in ["reserved", "confirmed"] {
            let refused = database.refused_by(&insert_order(&user, 1, None, second)).await;
            assert_eq!(refused, "orders_one_live_per_slot");
        }
        database.execute(&insert_order(&user, 2, None, live)).await.unwrap();
    }
}

#[tokio::test]
async fn a_user_has_one_live_order_for_each_key() {
    let database = Database::new("live_key").await;
    database.execute(&insert_order("alice", 1, Some("k1"), "confirmed")).await.unwrap();
    let again = insert_order("alice", 2, Some("k1"), "confirmed");
    assert_eq!(database.refused_by(&again).await, "orders_one_live_per_key");
    database.execute(&insert_order("alice", 2, Some("k2"), "confirmed")).await.unwrap();
    database.execute(&insert_order("bob", 1, Some("k1"), "confirmed")).await.unwrap();
}

#[tokio::test]
async fn dead_orders_keep_nobody_from_claiming_again() {
    let database = Database::new("dead_orders").await;
    for dead in ["cancelled", "expired", "rejected"] {
        for _ in 0..2 {
            database.execute(&insert_order("alice", 1, Some("k1"), dead)).await.unwrap();
        }
    }
    database.execute(&insert_order("alice", 1, Some("k1"), "confirmed")).await.unwrap();
}

#[tokio::test]
async fn an_order_has_a_known_status_and_a_user_that_fits() {
    let database = Database::new("order_checks").await;
    assert_eq!(database.refused_by(&insert_order("alice", 1, None, "accepted")).await, "orders_status");
    assert_eq!(database.refused_by(&insert_order("alice", 0, None, "confirmed")).await, "orders_slot_range");
    assert_eq!(database.refused_by(&insert_order("alice", 17, None, "confirmed")).await, "orders_slot_range");
    assert_eq!(database.refused_by(&insert_order("", 1, None, "confirmed")).await, "orders_user_length");
    let long = "x".repeat(1_000_000);
    assert_eq!(database.refused_by(&insert_order(&long, 1, None, "confirmed")).await, "orders_user_length");
}

#[tokio::test]
async fn an_entry_has_one_dead_letter() {
    let database = Database::new("dead_letters").await;
    for ended in [LetterOutcome::Written, LetterOutcome::AlreadyEnded] {
        let letter = letter(Some("5-0"));
        let kept =
            dead_letters::keep_unreadable(&mut database.connection().await, EPOCH, None, &letter).await;
        assert_eq!(kept.unwrap(), ended);
    }
    assert_eq!(database.number("select count(*) from dead_letters").await, 1);
    let again = "insert into dead_letters (entry_id, fields, error) values ('5-0', '', '')";
    assert_eq!(database.refused_by(again).await, "dead_letters_one_per_entry");
}

// ---- recording ----

#[tokio::test]
async fn an_event_recorded_twice_is_one_order_and_one_unit() {
    let database = Database::new("recorded_twice").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");

    assert_eq!(database.done(&[&claim]).await, (vec![claim.order], vec![]));
    assert_eq!(database.done(&[&claim]).await, (vec![], vec![]));
    assert_eq!(database.done(&[&claim, &claim]).await, (vec![], vec![]));

    assert_eq!((database.orders().await, database.stock(&coffee).await), (1, 4));
    let order = orders::get(&database.postgres.pool, claim.order).await.unwrap().unwrap();
    assert_eq!((order.user, order.status), (claim.user.clone(), OrderStatus::Confirmed));
    assert_eq!(order.claimed_at, claim.order.claimed_at().unwrap());
}

#[tokio::test]
async fn an_event_twice_in_one_batch_is_one_order_and_one_unit() {
    let database = Database::new("twice_in_batch").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    assert_eq!(database.done(&[&claim, &claim]).await, (vec![claim.order], vec![]));
    assert_eq!((database.orders().await, database.stock(&coffee).await), (1, 4));
}

#[tokio::test]
async fn events_taken_for_new_are_recorded_like_any_others_where_they_are_not() {
    let database = Database::new("taken_for_new").await;
    let coffee = database.create("coffee", 3).await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|user| event(&coffee, user));
    let rival = event(&coffee, "alice");
    let mut connection = database.connection().await;
    let mut done =
        async |events: &[&OrderEvent]| match orders::record_new(&mut connection, EPOCH, events).await {
            Ok(RecordOutcome::Done { inserted, conflicting }) => (inserted, conflicting),
            other => panic!("{other:?}"),
        };
    assert_eq!(done(&[&alice]).await, (vec![alice.order], vec![]));
    assert_eq!(done(&[&alice, &bob]).await, (vec![bob.order], vec![]), "one of them again");
    assert_eq!(done(&[&alice, &bob]).await, (vec![], vec![]), "both again");
    assert_eq!(done(&[&rival, &carol]).await, (vec![carol.order], vec![rival.order]));
    assert_eq!((database.orders().await, database.stock(&coffee).await), (3, 0));

    let late = event(&coffee, "dave");
    for (epoch, expected) in [("2-beef", "Fenced"), (EPOCH, "StockShort")] {
        let refused = orders::record_new(&mut connection, epoch, &[&late]).await.unwrap();
        assert!(format!("{refused:?}").starts_with(expected), "{refused:?}");
    }
    assert_eq!(database.orders().await, 3);
}

/// How often the tables that workers use were read whole, index builds among them.
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
async fn what_was_planned_for_empty_tables_goes_on_by_index() {
    let database = Database::new("by_index").await;
    let mut session = database.postgres.dedicated().await.unwrap();
    let tea = database.create("tea", 10_000).await;
    let before = whole_reads(&mut session).await;
    for batch in 0..30 {
        let events: Vec<OrderEvent> =
            (0..100).map(|number| event(&tea, &format!("user-{batch}-{number}"))).collect();
        let events: Vec<&OrderEvent> = events.iter().collect();
        let ids: Vec<OrderId> = events.iter().map(|event| event.order).collect();
        orders::record_new(&mut session, EPOCH, &events).await.unwrap();
        orders::record(&mut session, EPOCH, &events).await.unwrap();
        assert_eq!(orders::get_many(&mut session, &ids).await.unwrap().len(), events.len());
    }
    assert_eq!(whole_reads(&mut session).await, before, "tables were read whole");
    session.close().await.unwrap();
}

/// Rows and entries of indexes of `orders` that were read.
async fn entries_read(pool: &PgPool) -> i64 {
    // Each session tells what it counted when it is asked to, or a second later.
    let mut sessions = Vec::new();
    while sessions.len() < pool.size() as usize {
        let mut session = pool.acquire().await.unwrap();
        sqlx::query("select pg_stat_force_next_flush()").execute(&mut *session).await.unwrap();
        sessions.push(session);
    }
    sqlx::query_scalar(
        "select (seq_tup_read + (select sum(idx_tup_read) from pg_stat_user_indexes i where i.relid = t.relid))::bigint
         from pg_stat_user_tables t where schemaname = current_schema and relname = 'orders'",
    )
    .fetch_one(&mut *sessions[0])
    .await
    .unwrap()
}

#[tokio::test]
async fn lists_and_counts_of_orders_go_by_index() {
    let database = Database::new("lists").await;
    let pool = &database.postgres.pool;
    let (coffee, tea) = (database.create("coffee", 10).await, database.create("tea", 10).await);
    let ended = event(&coffee, "alice");
    database.done(&[&ended, &event(&coffee, "bob")]).await;
    database.execute("update orders set status = 'cancelled' where user_id = 'alice'").await.unwrap();
    database.execute("update coupons set stock = stock + 1 where id = 'coffee'").await.unwrap();
    let live = [event(&coffee, "alice"), event(&tea, "alice")];
    database.done(&live.each_ref()).await;
    let crowd = database.create("crowd", 2_000).await;
    let events: Vec<OrderEvent> = (0..2_000).map(|number| event(&crowd, &format!("user-{number}"))).collect();
    database.done(&events.iter().collect::<Vec<_>>()).await;
    let mut newest_first = [ended.order, live[0].order, live[1].order];
    newest_first.sort_by(|one, other| other.cmp(one));

    let before = entries_read(pool).await;
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
    let rest = orders::live_page(pool, &coffee, Some(page[0].id), 5).await.unwrap();
    assert_eq!([&page[..], &rest].map(|page| page[0].user.as_str()), ["bob", "alice"]);
    assert_eq!((page.len(), rest.len()), (1, 1));
    assert!(!coupons::stock_drifts(pool, &coffee).await.unwrap());
    let read = entries_read(pool).await - before;
    assert!((1..100).contains(&read), "{read} rows and entries of indexes were read");
}

#[tokio::test]
async fn a_users_second_order_is_named_as_conflicting_and_the_rest_is_recorded() {
    let database = Database::new("conflicting").await;
    let coffee = database.create("coffee", 5).await;
    let (first, second, other) = (event(&coffee, "alice"), event(&coffee, "alice"), event(&coffee, "bob"));

    assert_eq!(database.done(&[&second, &first]).await, (vec![first.order], vec![second.order]));
    assert_eq!(database.done(&[&second, &other]).await, (vec![other.order], vec![second.order]));
    assert_eq!((database.orders().await, database.stock(&coffee).await), (2, 3));
}

#[tokio::test]
async fn a_coupon_with_a_reservation_time_records_reserved_orders() {
    let database = Database::new("reserved").await;
    let id: CouponId = "coffee".parse().unwrap();
    let reserved = Definition { reserve_seconds: Some(900), ..definition(&id, 5) };
    assert!(coupons::insert(&database.postgres.pool, &reserved).await.unwrap());
    database.done(&[&event(&id, "alice")]).await;
    let row =
        sqlx::query("select status, extract(epoch from expires_at - claimed_at)::bigint as s from orders")
            .fetch_one(&database.postgres.pool)
            .await
            .unwrap();
    let found: (String, i64) = (row.get("status"), row.get("s"));
    assert_eq!(found, ("reserved".into(), 900));
}

#[tokio::test]
async fn a_batch_beyond_the_stock_writes_nothing() {
    let database = Database::new("stock_short").await;
    let (coffee, tea) = (database.create("coffee", 5).await, database.create("tea", 1).await);
    let events = [event(&coffee, "alice"), event(&tea, "alice"), event(&tea, "bob")];
    let outcome = database.record(EPOCH, &events.each_ref()).await;
    assert!(matches!(&outcome, RecordOutcome::StockShort(id) if *id == tea), "{outcome:?}");
    assert_eq!(database.orders().await, 0);
    assert_eq!((database.stock(&coffee).await, database.stock(&tea).await), (5, 1));
}

#[tokio::test]
async fn a_batch_with_an_unknown_coupon_writes_nothing() {
    let database = Database::new("unknown_coupon").await;
    let coffee = database.create("coffee", 5).await;
    let ghost: CouponId = "ghost".parse().unwrap();
    let events = [event(&coffee, "alice"), event(&ghost, "alice")];
    let outcome = database.record(EPOCH, &events.each_ref()).await;
    assert!(matches!(&outcome, RecordOutcome::UnknownCoupon(id) if *id == ghost), "{outcome:?}");
    assert_eq!((database.orders().await, database.stock(&coffee).await), (0, 5));
}

// ---- the fence ----

#[tokio::test]
async fn behind_a_fence_nothing_is_recorded_rejected_or_kept() {
    let database = Database::new("fenced").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    let fences = [
        ("2-beef", "update fence set epoch = '1-c0ffee'"),
        (EPOCH, "update fence set postgres_identity = 'another'"),
        (EPOCH, "update fence set postgres_identity = postgres_identity(), postgres_lost = true"),
    ];
    for (epoch, fence) in fences {
        database.execute(fence).await.unwrap();
        let recorded = database.record(epoch, &[&claim]).await;
        assert!(matches!(recorded, RecordOutcome::Fenced), "{fence}: {recorded:?}");
        let entry = letter(Some("5-0"));
        let rejected =
            dead_letters::reject(&mut database.connection().await, epoch, &claim, &entry).await.unwrap();
        assert_eq!(rejected, LetterOutcome::Fenced, "{fence}");
        let kept = dead_letters::keep_unreadable(&mut database.connection().await, epoch, None, &entry)
            .await
            .unwrap();
        assert_eq!(kept, LetterOutcome::Fenced, "{fence}");
    }
    let written = "select (select count(*) from orders) + (select count(*) from dead_letters) + (select count(*) from outbox)";
    assert_eq!((database.number(written).await, database.stock(&coffee).await), (0, 5));

    database.execute("update fence set postgres_lost = false").await.unwrap();
    assert_eq!(database.done(&[&claim]).await, (vec![claim.order], vec![]));
}

#[tokio::test]
async fn a_publication_is_noted_in_its_epoch_only_and_never_above_the_version() {
    let database = Database::new("published").await;
    database.create("coffee", 5).await;
    let published = "select published_version from coupons";
    let before = database.number(published).await;
    database.execute("update coupons set version = 7").await.unwrap();
    for (epoch, version) in [("2-beef", 7), (EPOCH, 8)] {
        let mut connection = database.connection().await;
        coupons::mark_published(&mut connection, epoch, vec!["coffee"], vec![version]).await.unwrap();
        assert_eq!(database.number(published).await, before, "version {version} in epoch {epoch}");
    }
    let mut connection = database.connection().await;
    coupons::mark_published(&mut connection, EPOCH, vec!["coffee"], vec![7]).await.unwrap();
    assert_eq!(database.number(published).await, 7);
}

#[tokio::test]
async fn a_rejected_order_has_one_letter_and_one_unit_to_return() {
    let database = Database::new("rejected").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    for expected in [LetterOutcome::Written, LetterOutcome::AlreadyEnded] {
        let ended =
            dead_letters::reject(&mut database.connection().await, EPOCH, &claim, &letter(Some("5-0"))).await;
        assert_eq!(ended.unwrap(), expected);
    }
    let order = orders::get(&database.postgres.pool, claim.order).await.unwrap().unwrap();
    assert_eq!(order.status, OrderStatus::Rejected);
    assert_eq!(database.number("select count(*) from dead_letters").await, 1);
    assert_eq!(database.number("select count(*) from outbox").await, 1);
    assert_eq!(database.stock(&coffee).await, 5, "it never took a unit here");

    assert_eq!(database.done(&[&claim]).await, (vec![], vec![]), "an event ends in one way");
    let next = event(&coffee, "alice");
    assert_eq!(database.done(&[&next]).await, (vec![next.order], vec![]));
}

#[tokio::test]
async fn a_recorded_order_is_never_rejected() {
    let database = Database::new("never_rejected").await;
    let coffee = database.create("coffee", 5).await;
    let claim = event(&coffee, "alice");
    database.done(&[&claim]).await;
    let ended = dead_letters::reject(&mut database.connection().await, EPOCH, &claim, &letter(Some("5-0")))
        .await
        .unwrap();
    assert_eq!(ended, LetterOutcome::AlreadyEnded);
    let order = orders::get(&database.postgres.pool, claim.order).await.unwrap().unwrap();
    assert_eq!(order.status, OrderStatus::Confirmed);
    assert_eq!(database.number("select count(*) from outbox").await, 0);
    assert_eq!(database.number("select count(*) from dead_letters").await, 0);
}

#[tokio::test]
async fn batches_in_opposite_orders_never_deadlock() {
    const ROUNDS: usize = 50;
    const COUPONS: usize = 8;
    let database = Database::new("deadlock").await;
    let rounds = i64::try_from(ROUNDS).unwrap();
    let mut ids = Vec::new();
    for number in 0..COUPONS {
        ids.push(database.create(&format!("coupon-{number}"), 3 * rounds).await);
    }
    for round in 0..ROUNDS {
        let user = |who: &str| format!("{who}-{round}");
        // Two workers hold the same events after a reclaim, and each some that only it has.
        let shared: Vec<OrderEvent> = ids.iter().map(|id| event(id, &user("both"))).collect();
        let mine: Vec<OrderEvent> = ids.iter().map(|id| event(id, &user("first"))).collect();
        let yours: Vec<OrderEvent> = ids.iter().map(|id| event(id, &user("second"))).collect();
        let forwards: Vec<&OrderEvent> = shared.iter().chain(&mine).collect();
        let backwards: Vec<&OrderEvent> = yours.iter().rev().chain(shared.iter().rev()).collect();
        let (mut mine, mut theirs) = (database.connection().await, database.connection().await);
        let (one, two) = tokio::join!(
            orders::record(&mut mine, EPOCH, &forwards),
            orders::record(&mut theirs, EPOCH, &backwards)
        );
        let inserted = |outcome: Result<RecordOutcome, PostgresError>| match outcome {
            Ok(RecordOutcome::Done { inserted, conflicting }) => {
                assert!(conflicting.is_empty(), "round {round}: {conflicting:?}");
                inserted.len()
            }
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(inserted(one) + inserted(two), 3 * COUPONS, "round {round}");
    }
    for id in &ids {
        assert_eq!(database.stock(id).await, 0, "{id}: one unit for each order");
    }
}

#[tokio::test]
async fn a_rebuild_waits_for_a_recording_transaction_and_then_fences_it_off() {
    let database = Database::new("rebuild_waits").await;
    let coffee = database.create("coffee", 5).await;
    let (claim, late) = (event(&coffee, "alice"), event(&coffee, "bob"));

    // Somebody holds the coupon's row, so that the recording stands still between insert and commit.
    let mut holder = database.postgres.dedicated().await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut holder).await.unwrap();
    let patient = "set idle_in_transaction_session_timeout = 0";
    sqlx::raw_sql(patient).execute(&mut holder).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::raw_sql("select from coupons for update").execute(&mut *held).await.unwrap();
    let recording = tokio::spawn({
        let (postgres, claim) = (database.postgres.clone(), claim.clone());
        async move { orders::record(&mut postgres.dedicated().await.unwrap(), EPOCH, &[&claim]).await }
    });
    let blocked = "select count(*) from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
    let waiting = async |by: i32| -> i64 {
        sqlx::query_scalar(blocked).bind(by).fetch_one(&database.postgres.pool).await.unwrap()
    };
    until("the recording waits for the row", async || waiting(pid).await == 1).await;

    let rebuild = tokio::spawn({
        let postgres = database.postgres.clone();
        async move {
            let mut session = rebuild_session(&postgres).await;
            session.start_epoch("2-beef", "run", "replid", false).await.unwrap();
            let mut recorded: Vec<OrderId> = Vec::new();
            let mut decision = session.decide().await.unwrap();
            let coffee = "coffee".parse().unwrap();
            decision.visit_live_orders(&coffee, |_, order| recorded.push(order)).await.unwrap();
            decision.commit().await.unwrap();
            session.close().await.unwrap();
            recorded
        }
    });
    let advisory = "select count(*) from pg_locks where locktype = 'advisory' and not granted
        and mode = 'ExclusiveLock' and database = (select oid from pg_database where datname = current_database())
        and pid in (select pid from pg_stat_activity where backend_type = 'client backend' and query like '%/fence/%')";
    until("the rebuild waits for the recording", async || {
        assert!(!rebuild.is_finished(), "the rebuild did not wait");
        database.number(advisory).await == 1
    })
    .await;
    assert!(!recording.is_finished());

    held.commit().await.unwrap();
    let recorded = recording.await.unwrap().unwrap();
    assert!(matches!(&recorded, RecordOutcome::Done { inserted, .. } if inserted.len() == 1), "{recorded:?}");
    assert_eq!(rebuild.await.unwrap(), [claim.order], "the rebuild sees what it waited for");

    let after = database.record(EPOCH, &[&late]).await;
    assert!(matches!(after, RecordOutcome::Fenced), "{after:?}");
    assert_eq!((database.orders().await, database.stock(&coffee).await), (1, 4));
}

#[tokio::test]
async fn one_process_rebuilds_at_a_time_and_other_schemas_are_none_of_its_business() {
    let production = Database::new("rebuild_lock").await;
    let staging = Database::new("rebuild_lock_staging").await;
    let session = rebuild_session(&production.postgres).await;
    assert!(RebuildSession::open(&production.postgres).await.unwrap().is_none());
    rebuild_session(&staging.postgres).await.close().await.unwrap();
    assert!(RebuildSession::open(&production.postgres).await.unwrap().is_none());
    session.close().await.unwrap();
    rebuild_session(&production.postgres).await.close().await.unwrap();
}

/// A session with the rebuild's lock; Postgres gives it back a moment after its last holder has gone.
async fn rebuild_session(postgres: &Postgres) -> RebuildSession {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(session) = RebuildSession::open(postgres).await.unwrap() {
            return session;
        }
        assert!(Instant::now() < deadline, "another process rebuilds");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls until the condition holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_statement_that_its_session_has_lost_is_prepared_anew() {
    let database = Database::new("lost_statements").await;
    let pool = &database.postgres.pool;
    let coffee = database.create("coffee", 10).await;
    for loss in ["deallocate all", "discard all", "alter table coupons alter column title type varchar(300)"]
    {
        coupons::get(pool, &coffee).await.unwrap().unwrap();
        let mut sessions = Vec::new();
        while sessions.len() < pool.size() as usize {
            let mut session = pool.acquire().await.unwrap();
            sqlx::raw_sql(loss).execute(&mut *session).await.unwrap();
            sessions.push(session);
        }
        drop(sessions);
        coupons::get(pool, &coffee).await.unwrap().unwrap();
    }

    // A session outside the pool is thrown away by its owner, as after any error that passes.
    let mut session = database.connection().await;
    orders::get_many(&mut session, &[]).await.unwrap();
    sqlx::raw_sql("deallocate all").execute(&mut session).await.unwrap();
    let stale = orders::get_many(&mut session, &[]).await.unwrap_err();
    assert!(matches!(stale, PostgresError::Transient(_)), "{stale}");
}
