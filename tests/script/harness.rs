//! A redis-server for one test on a Unix socket, without persistence, and a plain client that does not use the program.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use seckill::config::StoreAddresses;
use seckill::domain::{Claim, ClaimOutcome, CouponId, Definition, OrderId, Partition};
use seckill::redis::keys::GROUP;
use seckill::redis::scripts::claim::{self, BatchOutcome};
use seckill::redis::scripts::release::{self, EndedUnit, ReleaseOutcome, Released};
use seckill::redis::{Redis, RedisServer, lua, scripts};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const READ_TIMEOUT: Duration = Duration::from_secs(30);
pub const PREFIX: &str = "test";
pub const READY: &str = "ready:7-c0ffee";
/// A deadline in the far future.
pub const NEVER_MS: i64 = 32_503_680_000_000;

/// A running server with our scripts, a marker under which claims are accepted, and an empty stream with its group.
pub struct TestRedis {
    pub redis: Redis,
    pub runtime: Runtime,
    pub raw: Raw,
    // The last field, so that it is dropped after the connections.
    server: Server,
}

impl TestRedis {
    pub fn start() -> Self {
        let server = Server::start();
        let mut raw = Raw::connect(&server.socket);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let addresses = StoreAddresses {
            redis_url: format!("redis+unix://{}", server.socket.display()),
            database_url: String::new(),
        };
        let redis = runtime.block_on(async {
            let redis =
                RedisServer::new(&addresses, PREFIX, Partition::DEFAULT).unwrap().connect().await.unwrap();
            lua::load_all(&redis).await.unwrap();
            redis
        });
        // This client is another user than the program: a test may limit the program's user.
        let owner = ["ACL", "SETUSER", "owner", "on", "nopass", "+@all", "~*", "&*"];
        assert_eq!(raw.call(&owner), Reply::Simple("OK".into()));
        assert_eq!(raw.call(&["AUTH", "owner", "any"]), Reply::Simple("OK".into()));
        reset(&mut raw, &redis);
        Self { redis, runtime, raw, server }
    }

    pub fn socket(&self) -> &Path {
        &self.server.socket
    }

    /// A second plain client.
    pub fn another_client(&self) -> Raw {
        Raw::connect(self.socket())
    }

    /// Sends a batch of claims of published coupons; panics unless the code is done.
    pub fn claim(&self, claims: &[Claim]) -> Vec<ClaimOutcome> {
        let reply = claim::claim_batch(&self.redis, READY, NEVER_MS, claims, |_| true);
        match self.runtime.block_on(reply).unwrap().outcome {
            BatchOutcome::Done(outcomes) => outcomes,
            other => panic!("the batch was not decided: {other:?}"),
        }
    }

    /// Makes an open coupon with `total` units.
    pub fn publish(&self, id: &CouponId, total: i64) {
        self.publish_as(&open_coupon(id, total));
    }

    /// Makes a new coupon.
    pub fn publish_as(&self, definition: &Definition) {
        let published = scripts::publish(&self.redis, READY, true, definition);
        assert_eq!(self.runtime.block_on(published).unwrap(), scripts::Published::Applied);
    }

    /// Returns units of one coupon; panics unless the code is done.
    pub fn release(&self, coupon: &CouponId, units: &[EndedUnit]) -> Vec<Released> {
        let reply = release::release(&self.redis, READY, coupon, units);
        match self.runtime.block_on(reply).unwrap() {
            ReleaseOutcome::Done { units, .. } => units,
            other => panic!("the units were not released: {other:?}"),
        }
    }

    pub fn field(&mut self, key: &str, field: &str) -> String {
        match self.raw.call(&["HGET", key, field]) {
            Reply::Bulk(Some(value)) => value,
            other => panic!("HGET {key} {field}: {other:?}"),
        }
    }

    /// Ids of all entries, oldest first.
    pub fn entry_ids(&mut self) -> Vec<String> {
        let orders = self.redis.keys.orders.to_string();
        let entries = self.raw.call(&["XRANGE", &orders, "-", "+"]).array();
        entries.into_iter().map(|entry| entry.array().swap_remove(0).text()).collect()
    }

    /// All keys of the server with their content.
    pub fn dump(&mut self) -> Vec<(String, Reply)> {
        let mut keys: Vec<String> =
            self.raw.call(&["KEYS", "*"]).array().into_iter().map(Reply::text).collect();
        keys.sort();
        keys.into_iter()
            .map(|key| {
                let dump = match self.raw.call(&["TYPE", &key]).text().as_str() {
                    "string" => self.raw.call(&["GET", &key]),
                    "hash" => sorted_pairs(self.raw.call(&["HGETALL", &key])),
                    "zset" => self.raw.call(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]),
                    "stream" => self.raw.call(&["XRANGE", &key, "-", "+"]),
                    other => panic!("{key} is a {other}"),
                };
                (key, dump)
            })
            .collect()
    }
}

/// Sorts a hash's fields, which Redis returns in any order.
fn sorted_pairs(reply: Reply) -> Reply {
    let mut pairs: Vec<(String, String)> = reply.pairs();
    pairs.sort();
    Reply::Array(pairs.into_iter().flat_map(|(k, v)| [Reply::Bulk(Some(k)), Reply::Bulk(Some(v))]).collect())
}

/// Empties Redis, except for its scripts, and sets the marker under which claims are accepted.
pub fn reset(raw: &mut Raw, redis: &Redis) {
    let keys: Vec<String> = raw.call(&["KEYS", "*"]).array().into_iter().map(Reply::text).collect();
    let delete: Vec<&str> = std::iter::once("DEL").chain(keys.iter().map(String::as_str)).collect();
    if !keys.is_empty() {
        raw.call(&delete);
    }
    let replies = raw.pipeline(&[
        &["SET", &redis.keys.epoch, READY],
        &["XGROUP", "CREATE", &redis.keys.orders, GROUP, "0", "MKSTREAM"],
    ]);
    assert!(replies.iter().all(|reply| !matches!(reply, Reply::Error(_))), "{replies:?}");
}

pub fn open_coupon(id: &CouponId, total: i64) -> Definition {
    support::definition(id.as_str(), total)
}

pub fn claim(coupon: &CouponId, user: &str) -> Claim {
    Claim { coupon: coupon.clone(), user: user.parse().unwrap(), order: OrderId::mint(), key: None }
}

pub fn claim_with_key(coupon: &CouponId, user: &str, key: &str) -> Claim {
    Claim { key: Some(key.parse().unwrap()), ..claim(coupon, user) }
}

/// A unit that may return under any version of the coupon.
pub fn unit(field: &str, order: OrderId) -> EndedUnit {
    EndedUnit { field: field.to_owned(), order, after_version: None }
}

/// A redis-server process; dropping it ends the process.
struct Server {
    child: Child,
    socket: PathBuf,
    _dir: TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("seckill-script-").tempdir_in("/tmp").unwrap();
        let socket = dir.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"])
            .args(["--enable-debug-command", "yes"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { child, socket, _dir: dir }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A clean stop is not needed, since no data is kept.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A reply of Redis in the types of RESP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<String>),
    Array(Vec<Reply>),
}

impl Reply {
    pub fn array(self) -> Vec<Self> {
        match self {
            Self::Array(values) => values,
            other => panic!("no array: {other:?}"),
        }
    }

    pub fn text(self) -> String {
        match self {
            Self::Simple(text) | Self::Bulk(Some(text)) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    pub fn integer(self) -> i64 {
        match self {
            Self::Integer(number) => number,
            other => panic!("no integer: {other:?}"),
        }
    }

    /// Names and values in turn.
    pub fn pairs(self) -> Vec<(String, String)> {
        let mut values = self.array().into_iter();
        let mut pairs = Vec::new();
        while let (Some(name), Some(value)) = (values.next(), values.next()) {
            pairs.push((name.text(), value.text()));
        }
        pairs
    }
}

/// A plain blocking client.
pub struct Raw {
    stream: BufReader<UnixStream>,
}

impl Raw {
    /// Waits until the server answers.
    fn connect(socket: &Path) -> Self {
        let deadline = Instant::now() + READ_TIMEOUT;
        loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
                let mut raw = Self { stream: BufReader::new(stream) };
                if raw.call(&["PING"]) == Reply::Simple("PONG".into()) {
                    return raw;
                }
            }
            assert!(Instant::now() < deadline, "redis-server does not answer on {}", socket.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn call(&mut self, command: &[&str]) -> Reply {
        self.pipeline(&[command]).remove(0)
    }

    /// Sends all commands at once.
    pub fn pipeline(&mut self, commands: &[&[&str]]) -> Vec<Reply> {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len()).unwrap();
            for word in *command {
                write!(bytes, "${}\r\n{word}\r\n", word.len()).unwrap();
            }
        }
        self.stream.get_mut().write_all(&bytes).unwrap();
        commands.iter().map(|_| self.read()).collect()
    }

    fn read(&mut self) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let line = line.trim_end();
        assert!(!line.is_empty(), "redis-server has closed the connection");
        let (kind, rest) = line.split_at(1);
        match kind {
            "+" => Reply::Simple(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Integer(rest.parse().unwrap()),
            "$" => Reply::Bulk(usize::try_from(rest.parse::<i64>().unwrap()).ok().map(|n| self.read_bulk(n))),
            "*" => Reply::Array((0..rest.parse::<i64>().unwrap()).map(|_| self.read()).collect()),
            _ => panic!("no RESP: {line}"),
        }
    }

    fn read_bulk(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes.truncate(length);
        String::from_utf8(bytes).unwrap()
    }
}
