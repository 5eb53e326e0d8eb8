//! The test fixture: the bench's own stores, and servers of this program that use them, each in its own process.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::StoreAddresses;
use crate::data_dir::DataDir;
use crate::domain::{ClaimDurability, Partition};
use crate::embedded::Embedded;
use crate::postgres::Postgres;
use crate::redis::keys::GROUP;
use crate::redis::{Redis, RedisServer, order_stream, server_info};
use crate::tasks::Tasks;

pub const PREFIX: &str = "seckill";
pub const SCHEMA: &str = "seckill";
const ADMIN_TOKEN: &str = "admin-token-of-the-bench";
const POLL: Duration = Duration::from_millis(5);
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);
/// A worker records a million events in about a minute.
const RECORDING_TIMEOUT: Duration = Duration::from_mins(10);

pub struct Fixture {
    embedded: Embedded,
    pub addresses: StoreAddresses,
    pub redis: Redis,
    pub jwt_secret: String,
}

/// A server process of this program, and the address that it has printed.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Fixture {
    /// Starts the stores.
    ///
    /// # Errors
    /// When a store does not start, or `stop` is cancelled; no process is then left.
    pub async fn start(dir: &DataDir, stop: &CancellationToken, tasks: &Tasks) -> anyhow::Result<Self> {
        let start = async || {
            let started = Embedded::start_unless_stopped(dir, stop, tasks).await?;
            started.context("a signal stopped the start of the stores")
        };
        let jwt_secret = dir.secret(crate::data_dir::JWT_SECRET)?;
        let embedded = start().await?;
        let configured = allow_prepared_transactions(&embedded.addresses()).await;
        embedded.stop().await?;
        configured?;
        let embedded = start().await?;
        let addresses = embedded.addresses();
        let connected =
            async { Ok(RedisServer::new(&addresses, PREFIX, Partition::DEFAULT)?.connect().await?) };
        match connected.await {
            Ok(redis) => Ok(Self { embedded, addresses, redis, jwt_secret }),
            Err(error) => {
                embedded.stop().await?;
                Err(error)
            }
        }
    }

    /// Empties the stores and starts a server with this number of workers.
    pub async fn start_empty_server(&self, workers: usize) -> anyhow::Result<Server> {
        self.empty_stores().await?;
        self.start_server(workers, &[]).await
    }

    /// Empties the stores, and waits until the disk has no pending work: removed files and unwritten data would slow down
    /// the flushes of the next scenario.
    pub async fn empty_stores(&self) -> anyhow::Result<()> {
        // Freeing millions of claims can take longer than the timeout of a command.
        self.redis.call("FLUSHALL", vec!["ASYNC".into()]).await?;
        wait_until("Redis has freed its memory", async || {
            Ok((self.redis_info_number("lazyfree_pending_objects").await? == 0).then_some(()))
        })
        .await?;
        self.wait_until_log_rewritten().await?;
        self.redis.call("BGREWRITEAOF", vec![]).await?;
        self.wait_until_log_rewritten().await?;
        let mut postgres = connect(&self.addresses).await?;
        for statement in ["set statement_timeout = 0", "drop schema if exists seckill cascade", "checkpoint"]
        {
            sqlx::query(statement).execute(&mut postgres).await?;
        }
        postgres.close().await?;
        Ok(tokio::task::spawn_blocking(nix::unistd::sync).await?)
    }

    pub async fn wait_until_log_rewritten(&self) -> anyhow::Result<()> {
        wait_until("Redis has rewritten its log", async || {
            let under_way = self.redis_info_number("aof_rewrite_in_progress").await?
                + self.redis_info_number("aof_rewrite_scheduled").await?;
            Ok((under_way == 0).then_some(()))
        })
        .await
    }

    /// Starts a server with additional settings, without emptying the stores, and waits until it is ready.
    pub async fn start_server(&self, workers: usize, settings: &[(&str, &str)]) -> anyhow::Result<Server> {
        let mut command = self.command(&["serve"], workers)?;
        command.envs(settings.iter().copied());
        let server = start(command).await?;
        wait_until("the server accepts claims", async || {
            let answer = http().get(format!("http://{}/readyz", server.address)).send().await;
            Ok(answer.is_ok_and(|answer| answer.status().is_success()).then_some(()))
        })
        .await?;
        Ok(server)
    }

    /// Empties the stores, starts a server with one worker and this number of partitions, and waits until all are up.
    pub async fn start_partitions(&self, partitions: usize) -> anyhow::Result<Server> {
        self.empty_stores().await?;
        let server = self.start_server(1, &[("SECKILL_PARTITIONS", &partitions.to_string())]).await?;
        wait_until("all partitions accept claims", async || {
            let are_up = server.partitions_up().await? == partitions;
            Ok(are_up.then_some(()))
        })
        .await?;
        Ok(server)
    }

    /// Starts a worker process.
    pub fn start_worker(&self) -> anyhow::Result<Child> {
        self.command(&["worker"], 1)?.stderr(Stdio::null()).spawn().context("cannot start a worker")
    }

    /// Starts the server with fixed answers.
    pub async fn start_noop_server(&self) -> anyhow::Result<Server> {
        start(self.command(&["bench-noop"], 0)?).await
    }

    fn command(&self, args: &[&str], workers: usize) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SECKILL_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .env("REDIS_URL", &self.addresses.redis_url)
            .env("DATABASE_URL", &self.addresses.database_url)
            .env("SECKILL_LISTEN", "127.0.0.1:0")
            .env("SECKILL_WORKERS", workers.to_string())
            .env("SECKILL_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("SECKILL_JWT_SECRET", &self.jwt_secret)
            .env("SECKILL_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        Ok(command)
    }

    /// Number of order events that are not acknowledged yet.
    pub async fn backlog(&self) -> anyhow::Result<u64> {
        let groups = order_stream::groups(&self.redis).await?;
        let group = groups.iter().find(|group| group.name == GROUP).context("the stream has no group")?;
        Ok(u64::try_from(group.pending + order_stream::unread(&self.redis, group).await?)?)
    }

    pub async fn wait_until_recorded(&self) -> anyhow::Result<()> {
        let recorded = async || Ok((self.backlog().await? == 0).then_some(()));
        wait_until_within(RECORDING_TIMEOUT, "all order events are recorded", recorded).await
    }

    /// A number from Redis's INFO.
    pub async fn redis_info_number(&self, name: &str) -> anyhow::Result<u64> {
        let info = server_info::read(&self.redis).await?.context("this Redis does not allow INFO")?;
        info.number(name).with_context(|| format!("INFO does not show {name}"))
    }

    pub async fn query_count(&self, sql: &'static str) -> anyhow::Result<i64> {
        let mut postgres = connect(&self.addresses).await?;
        let count = sqlx::query_scalar(sql).fetch_one(&mut postgres).await?;
        postgres.close().await?;
        Ok(count)
    }

    pub async fn stop_by(self, deadline: Instant) -> anyhow::Result<()> {
        self.embedded.stop_by(deadline).await
    }
}

impl Server {
    pub async fn create(&self, coupon: &str, total: u64) -> anyhow::Result<()> {
        self.create_as(coupon, &json!({"id": coupon, "total": total})).await
    }

    /// Creates a coupon whose orders are reserved for this long.
    pub async fn create_reserving(&self, coupon: &str, total: u64, seconds: u64) -> anyhow::Result<()> {
        self.create_as(coupon, &json!({"id": coupon, "total": total, "reserve_seconds": seconds})).await
    }

    /// Creates a coupon with this durability.
    pub async fn create_durable(
        &self,
        coupon: &str,
        total: u64,
        durability: ClaimDurability,
    ) -> anyhow::Result<()> {
        let definition = json!({"id": coupon, "total": total, "durability": durability.as_str()});
        self.create_as(coupon, &definition).await
    }

    /// Creates a coupon with this number of shares.
    pub async fn create_spread(&self, coupon: &str, total: u64, shares: usize) -> anyhow::Result<()> {
        self.create_as(coupon, &json!({"id": coupon, "total": total, "spread": shares})).await
    }

    /// The number of partitions that accept claims.
    async fn partitions_up(&self) -> anyhow::Result<usize> {
        let text = http().get(format!("http://{}/metrics", self.address)).send().await?.text().await?;
        let is_up = |line: &&str| line.starts_with("seckill_partition_up{") && line.ends_with(" 1");
        Ok(text.lines().filter(is_up).count())
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = http().get(format!("http://{}/metrics", self.address)).send().await?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("/metrics does not show {name}"))?.parse()?)
    }

    async fn create_as(&self, coupon: &str, definition: &Json) -> anyhow::Result<()> {
        let request = http().post(format!("http://{}/v1/admin/coupons", self.address));
        let answer = request.bearer_auth(ADMIN_TOKEN).json(definition).send().await?;
        ensure!(answer.status().is_success(), "creating coupon {coupon}: {}", answer.text().await?);
        Ok(())
    }

    pub fn pid(&self) -> anyhow::Result<Pid> {
        let pid = self.child.id().context("the server has ended by itself")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        kill(self.pid()?, Signal::SIGTERM)?;
        self.child.wait().await?;
        Ok(())
    }
}

/// Changes a setting for two-phase commit. Postgres reads this setting only at its start.
async fn allow_prepared_transactions(addresses: &StoreAddresses) -> anyhow::Result<()> {
    let mut postgres = connect(addresses).await?;
    sqlx::query("alter system set max_prepared_transactions = 100").execute(&mut postgres).await?;
    Ok(postgres.close().await?)
}

async fn start(mut command: Command) -> anyhow::Result<Server> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("a piped stderr")?).lines();
    let address = loop {
        let line = lines.next_line().await?.context("the server ended at once")?;
        if let Some(address) = line.strip_prefix("listening on http://") {
            break address.parse()?;
        }
    };
    // Later lines go to the bench's own log.
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            tracing::warn!("server: {line}");
        }
    });
    Ok(Server { child, address })
}

fn http() -> reqwest::Client {
    reqwest::Client::new()
}

pub async fn connect(addresses: &StoreAddresses) -> anyhow::Result<PgConnection> {
    Ok(Postgres::new(&addresses.database_url, SCHEMA)?.dedicated().await?)
}

/// Polls until the condition returns a value, and returns it.
///
/// # Errors
/// When the condition fails, or has no value after `WAIT_TIMEOUT`.
pub async fn wait_until<T>(
    what: &str,
    condition: impl AsyncFn() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    wait_until_within(WAIT_TIMEOUT, what, condition).await
}

async fn wait_until_within<T>(
    limit: Duration,
    what: &str,
    condition: impl AsyncFn() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let poll = async {
        loop {
            if let Some(value) = condition().await? {
                return Ok(value);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(limit, poll)
        .await
        .with_context(|| format!("timed out while waiting until {what}"))?
}
