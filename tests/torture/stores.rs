//! What Redis and Postgres hold, read with the real redis-cli and psql on the stores' own sockets: samples during a
//! run, and everything after it. It knows names of tables and keys, but nothing of the program.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::group::Masters;
use crate::history::{PostgresCoupon, RedisState};

/// Longest wait for an answer: a store that is paused gives none.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Reads one partition's part of Redis. It is one script, so that all of it is of one moment.
const REDIS_STATE: &str = r"
local pending, unread = -1, 0
if redis.call('TYPE', KEYS[2]).ok == 'stream' then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    local group = {}
    for f = 1, #info, 2 do group[info[f]] = info[f + 1] end
    if group['name'] == 'order-writers' then
      pending = group['pending']
      for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], 'order-writers')) do
        -- The workers do not have to record what a fault holds on purpose.
        if info[2] == 'hoarder' then pending = pending - info[4] end
      end
      unread = #redis.call('XRANGE', KEYS[2], '(' .. group['last-delivered-id'], '+', 'COUNT', 1)
    end
  end
end
local coupons = {}
for i, id in ipairs(ARGV) do
  local hash = redis.call('HMGET', 'seckill:{PARTITION}:coupon:' .. id, 'total', 'stock')
  local held = redis.call('HLEN', 'seckill:{PARTITION}:claims:' .. id)
  coupons[i] = { id = id, total = tonumber(hash[1] or nil), stock = tonumber(hash[2] or nil), held = held }
end
return cjson.encode({ marker = redis.call('GET', KEYS[1]) or '', pending = pending, unread = unread, coupons = coupons })
";

const COUPONS: &str = "
with live as (
    select coupon_id, user_id, count(*) as orders, count(distinct coalesce(idempotency_key, '')) as keys from orders
    where status in ('reserved', 'confirmed') group by coupon_id, user_id
)
select c.id, c.total, c.stock, coalesce(sum(l.orders), 0)::bigint as live,
       count(*) filter (where l.orders > l.keys) as doubled, coalesce(max(l.orders), 0) as most
from coupons c left join live l on l.coupon_id = c.id group by c.id, c.partition order by c.id";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct OrderRow {
    pub id: String,
    pub coupon: String,
    pub user: String,
    pub slot: i64,
    pub key: Option<String>,
    pub status: String,
    /// Of a rejection or a revocation.
    pub reason: Option<String>,
    /// The time inside the id, ms since 1970.
    pub claimed_at_ms: u64,
    /// Postgres's times, microseconds since 1970.
    pub recorded_at_us: u64,
    pub reserved_until_us: Option<u64>,
    pub confirmed_at_us: Option<u64>,
    pub ended_at_us: Option<u64>,
}

impl OrderRow {
    pub fn is_live(&self) -> bool {
        self.status == "reserved" || self.status == "confirmed"
    }

    /// Field and value in the claims hash of a live order.
    pub fn claim(&self, limit: i64) -> (String, String) {
        let field =
            if self.slot == 1 { self.user.clone() } else { format!("{}\u{1f}{}", self.user, self.slot) };
        let key = self.key.as_deref().unwrap_or_default();
        (field, if limit > 1 { format!("{} {key}", self.id) } else { self.id.clone() })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Letter {
    pub id: i64,
    pub entry: Option<String>,
    pub order: Option<String>,
    pub error: String,
    /// Whether it is of an entry that the fault `Hoard` added.
    pub is_hoarded: bool,
}

/// What both stores hold when nothing changes any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastState {
    pub coupons: Vec<PostgresCoupon>,
    pub orders: Vec<OrderRow>,
    pub letters: Vec<Letter>,
    pub outbox: u64,
    pub redis: RedisState,
    /// By coupon: field of the claims hash → its value.
    pub claims: BTreeMap<String, BTreeMap<String, String>>,
    /// By coupon: the users in its waiting list in order, each with the value of the order that the user gets.
    pub lines: BTreeMap<String, Vec<(String, Option<String>)>>,
}

/// Where Redis is.
#[derive(Clone)]
pub enum Redis {
    Socket(PathBuf),
    Group(Masters),
}

/// Where the stores are, and what is in them.
#[derive(Clone)]
pub struct Stores {
    pub redis: Redis,
    pub postgres_folder: PathBuf,
    pub coupons: Vec<String>,
    pub partitions: Vec<i16>,
    /// The partition of each coupon; 0 for those that are not here.
    homes: Arc<Mutex<HashMap<String, i16>>>,
    /// Commands that write to Redis, whether they arrived or not.
    test_writes: Arc<Mutex<Vec<Vec<String>>>>,
}

const WRITES: [&str; 5] = ["DEL", "FLUSHALL", "XADD", "XGROUP", "XTRIM"];

impl Stores {
    pub fn new(redis: Redis, postgres_folder: PathBuf, coupons: Vec<String>, partitions: Vec<i16>) -> Self {
        let (homes, test_writes) = Default::default();
        Self { redis, postgres_folder, coupons, partitions, homes, test_writes }
    }

    /// Reads in which partition each coupon is.
    pub async fn learn_homes(&self) {
        let rows = self.psql("select id, partition from coupons").await.unwrap();
        let home = |row: &str| {
            let (id, partition) = row.split_once('|').unwrap();
            (id.to_owned(), partition.parse().unwrap())
        };
        self.homes.lock().unwrap().extend(rows.lines().map(home));
    }

    pub fn home(&self, coupon: &str) -> i16 {
        self.homes.lock().unwrap().get(coupon).copied().unwrap_or_default()
    }

    /// A key of the coupon's partition; `kind` is the part before the coupon.
    pub fn coupon_key(&self, kind: &str, coupon: &str) -> String {
        format!("seckill:{{{}}}:{kind}:{coupon}", self.home(coupon))
    }

    /// The stream of the coupon's partition.
    pub fn stream_of(&self, coupon: &str) -> String {
        format!("seckill:{{{}}}:orders", self.home(coupon))
    }

    /// Commands with which the test, not the program, wrote to Redis or tried to.
    pub fn test_writes(&self) -> Vec<Vec<String>> {
        self.test_writes.lock().unwrap().clone()
    }

    /// What redis-cli prints, without the last newline. A group gets the command at the master of the partition that is
    /// in a key, or else of the first one.
    ///
    /// # Errors
    /// The message of redis-cli; no answer in time.
    pub async fn redis_cli(&self, args: &[&str]) -> Result<String, String> {
        if WRITES.contains(&args[0]) {
            self.test_writes.lock().unwrap().push(args.iter().map(|arg| (*arg).to_owned()).collect());
        }
        let mut command = Command::new("redis-cli");
        command.arg("-e");
        match &self.redis {
            Redis::Socket(path) => {
                command.arg("-s").arg(path).args(args);
                output(command, TIMEOUT).await
            }
            Redis::Group(masters) => {
                let tag = |arg: &&str| arg.split_once('{')?.1.split_once('}')?.0.parse().ok();
                let partition = args.iter().skip(1).find_map(tag).unwrap_or(self.partitions[0]);
                let port = masters.known(partition).await?;
                command.args(["-p", &port.to_string()]).args(args);
                let answer = output(command, TIMEOUT).await;
                if answer.is_err() {
                    masters.forget(partition);
                }
                answer
            }
        }
    }

    /// What psql prints for a query, unaligned, tuples only.
    ///
    /// # Errors
    /// The message of psql; no answer in time.
    pub async fn psql(&self, sql: &str) -> Result<String, String> {
        self.psql_within(sql, TIMEOUT).await
    }

    /// `psql` with another timeout.
    ///
    /// # Errors
    /// As `psql`.
    pub async fn psql_within(&self, sql: &str, timeout: Duration) -> Result<String, String> {
        let mut command = Command::new("psql");
        let address = format!("postgres://seckill@localhost/seckill?host={}", self.postgres_folder.display());
        command.arg(format!("--dbname={address}")).env("PGOPTIONS", "-c search_path=seckill");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        output(command, timeout).await
    }

    async fn rows<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>, String> {
        self.rows_within(sql, TIMEOUT).await
    }

    /// The rows of a query, read by the names of its columns.
    ///
    /// # Errors
    /// As `psql`; a row that does not fit `T`.
    pub async fn rows_within<T: DeserializeOwned>(
        &self,
        sql: &str,
        timeout: Duration,
    ) -> Result<Vec<T>, String> {
        let sql = format!("select coalesce(json_agg(t), '[]') from ({sql}) t");
        let text = self.psql_within(&sql, timeout).await?;
        serde_json::from_str(&text).map_err(|error| format!("{error} in {text:?}"))
    }

    pub async fn postgres_coupons(&self) -> Result<Vec<PostgresCoupon>, String> {
        self.rows(COUPONS).await
    }

    /// All partitions together: a coupon has the sums of what they hold of it.
    pub async fn redis_state(&self) -> Result<RedisState, String> {
        let mut sum = RedisState { marker: "ready:".into(), ..RedisState::default() };
        for &partition in &self.partitions {
            if let Redis::Group(masters) = &self.redis {
                masters.find(partition).await?;
            }
            let part = self.partition_state(partition).await?;
            sum.add(part);
        }
        Ok(sum)
    }

    async fn partition_state(&self, partition: i16) -> Result<RedisState, String> {
        let script = REDIS_STATE.replace("PARTITION", &partition.to_string());
        let keys = ["epoch", "orders"].map(|kind| format!("seckill:{{{partition}}}:{kind}"));
        let mut args = vec!["EVAL_RO", &script, "2", &keys[0], &keys[1]];
        args.extend(self.coupons.iter().map(String::as_str));
        let text = self.redis_cli(&args).await?;
        serde_json::from_str(&text).map_err(|error| format!("{error} in {text:?}"))
    }

    /// Everything that a verdict needs. It is not of one moment: nothing may change while it is read.
    ///
    /// # Errors
    /// One of the stores cannot be read.
    pub async fn read_all(&self) -> Result<LastState, String> {
        let orders = self
            .rows(
                r#"select id, coupon_id as coupon, user_id as "user", slot, idempotency_key as key, status, reason,
                   (extract(epoch from claimed_at) * 1000)::bigint as claimed_at_ms,
                   (extract(epoch from recorded_at) * 1000000)::bigint as recorded_at_us,
                   (extract(epoch from reserved_until) * 1000000)::bigint as reserved_until_us,
                   (extract(epoch from confirmed_at) * 1000000)::bigint as confirmed_at_us,
                   (extract(epoch from ended_at) * 1000000)::bigint as ended_at_us from orders order by id"#,
            )
            .await?;
        let letters = self
            .rows(
                r#"select id, entry_id as entry, order_id as "order", error,
                   position('hoarded'::bytea in fields) > 0 as is_hoarded from dead_letters order by id"#,
            )
            .await?;
        let outbox = self.psql("select count(*) from outbox").await?;
        let (mut claims, mut lines) = (BTreeMap::new(), BTreeMap::new());
        for coupon in &self.coupons {
            let mut held = BTreeMap::new();
            for partition in &self.partitions {
                held.extend(self.hash(&format!("seckill:{{{partition}}}:claims:{coupon}")).await?);
            }
            claims.insert(coupon.clone(), held);
            let mut orders = self.hash(&self.coupon_key("waitlist-orders", coupon)).await?;
            let line = self.coupon_key("waitlist", coupon);
            let users = self.redis_cli(&["ZRANGE", &line, "0", "-1"]).await?;
            let users = users.lines().filter(|user| !user.is_empty());
            lines.insert(coupon.clone(), users.map(|user| (user.to_owned(), orders.remove(user))).collect());
        }
        Ok(LastState {
            coupons: self.postgres_coupons().await?,
            orders,
            letters,
            outbox: outbox.parse().map_err(|_| format!("no number: {outbox:?}"))?,
            redis: self.redis_state().await?,
            claims,
            lines,
        })
    }

    async fn hash(&self, key: &str) -> Result<BTreeMap<String, String>, String> {
        let text = self.redis_cli(&["HGETALL", key]).await?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        Ok(lines.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
    }
}

pub async fn output(mut command: Command, timeout: Duration) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true).env("PGCONNECT_TIMEOUT", "3");
    let output = tokio::time::timeout(timeout, command.output()).await;
    let output = output.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Err(format!("{}{}", out.trim(), err.trim()));
    }
    String::from_utf8(output.stdout).map(|text| text.trim_end().to_owned()).map_err(|error| error.to_string())
}
