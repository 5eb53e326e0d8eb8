//! A Postgres cluster that tests share, and a schema for each test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use seckill::data_dir::DataDir;
use seckill::domain::{CouponId, Epoch, OrderEvent, OrderId, Origin, Partition, UserId};
use seckill::embedded::Embedded;
use seckill::postgres::dead_letters::Letter;
use seckill::postgres::orders::{self, RecordOutcome};
use seckill::postgres::rebuild::RebuildSession;
use seckill::postgres::{PgConnection, Postgres, coupons};
use sqlx::AssertSqlSafe;
use support::{definition, temp_dir, until};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The epoch that `Database::new` starts.
pub static EPOCH: LazyLock<Epoch> = LazyLock::new(|| epoch("1-c0ffee"));

pub fn epoch(text: &str) -> Epoch {
    Epoch::new(Partition::DEFAULT, text.to_owned())
}

/// Running stores, and the runtime of the tasks that supervise them.
pub struct Cluster {
    pub url: String,
    stores: Option<(Embedded, Runtime)>,
    _dir: TempDir,
}

impl Cluster {
    /// Returns the running cluster, or starts one. The cluster ends with the last test that uses it.
    fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            // An asynchronous test cannot block on a second runtime in its own thread.
            let cluster = Arc::new(std::thread::spawn(Self::start).join().unwrap());
            *running = Arc::downgrade(&cluster);
            cluster
        })
    }

    fn start() -> Self {
        let dir = temp_dir("seckill-sql-");
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

/// A schema for one test.
pub struct Database {
    pub postgres: Postgres,
    // The last field, so that it is dropped after the pools.
    pub cluster: Arc<Cluster>,
}

impl Database {
    /// A migrated schema in which the epoch is `EPOCH`.
    pub async fn new(schema: &str) -> Self {
        let database = Self::bare(schema);
        database.postgres.prepare().await.unwrap();
        database.start_epoch(&EPOCH).await;
        database
    }

    /// A schema that does not exist yet.
    pub fn bare(schema: &str) -> Self {
        let cluster = Cluster::shared();
        Self { postgres: Postgres::new(&cluster.url, schema).unwrap(), cluster }
    }

    async fn start_epoch(&self, epoch: &Epoch) {
        let mut session = rebuild_session(&self.postgres).await;
        session.start_epoch(epoch, "run", "replid", false, None).await.unwrap();
        session.close().await.unwrap();
    }

    pub async fn create(&self, id: &str, total: i64) -> CouponId {
        let id: CouponId = id.parse().unwrap();
        let (new, origin) = (definition(id.as_str(), total), Origin::system(None));
        assert!(coupons::insert(&self.postgres.pool, &new, Partition::DEFAULT, &origin).await.unwrap());
        id
    }

    pub async fn stock(&self, id: &CouponId) -> i64 {
        coupons::get(&self.postgres.pool, Partition::DEFAULT, id).await.unwrap().unwrap().stock
    }

    pub async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.postgres.pool).await.unwrap()
    }

    pub async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.postgres.pool).await.map(drop)
    }

    /// The constraint or unique index that refuses a statement.
    pub async fn refused_by(&self, sql: &str) -> String {
        let error = self.execute(sql).await.expect_err(sql);
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        constraint.unwrap_or_else(|| panic!("{sql}: {error}")).to_owned()
    }

    /// A dedicated connection, as a worker has.
    pub async fn connection(&self) -> PgConnection {
        self.postgres.dedicated().await.unwrap()
    }

    pub async fn record(&self, epoch: &Epoch, events: &[&OrderEvent]) -> RecordOutcome {
        orders::record(&mut self.connection().await, epoch, events).await.unwrap()
    }

    /// Records in `EPOCH`, which must not be refused; returns the inserted and the conflicting orders.
    pub async fn recorded(&self, events: &[&OrderEvent]) -> (Vec<OrderId>, Vec<OrderId>) {
        match self.record(&EPOCH, events).await {
            RecordOutcome::Done { inserted, conflicting } => (inserted, conflicting),
            other => panic!("{other:?}"),
        }
    }

    pub async fn orders(&self) -> i64 {
        self.number("select count(*) from orders").await
    }
}

pub fn event(coupon: &CouponId, user: &str) -> OrderEvent {
    let user: UserId = user.parse().unwrap();
    OrderEvent { order: OrderId::mint(), coupon: coupon.clone(), user, slot: 1, key: None }
}

pub fn letter(entry_id: Option<&str>) -> Letter<'_> {
    Letter { entry_id, fields: b"*0\r\n".to_vec(), error: "a test", deliveries: Some(1) }
}

pub fn sql_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A session with the rebuild's lock. It waits: Postgres frees the lock shortly after its holder's session ends.
pub async fn rebuild_session(postgres: &Postgres) -> RebuildSession {
    until("no other process rebuilds", async || {
        RebuildSession::open(postgres, Partition::DEFAULT).await.unwrap()
    })
    .await
}
