//! Redis and Postgres of a sale, read and changed by the real redis-cli and psql.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reqwest::Method;

use super::Sale;
use crate::process::PsqlSession;
use crate::wait::until;

impl Sale {
    /// Runs `seckill redis-cli`; returns its output without the last newline.
    pub fn redis_cli(&self, args: &[&str]) -> String {
        self.tool("redis-cli", args)
    }

    /// As `redis_cli`, but runs redis-cli itself, which needs no running Postgres.
    pub fn redis_cli_without_program(&self, args: &[&str]) -> String {
        let output =
            Command::new("redis-cli").arg("-s").arg(self.redis_socket()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Runs a query with `seckill psql`; returns the rows, unaligned and without headings.
    pub fn psql(&self, sql: &str) -> String {
        self.tool("psql", &["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
    }

    pub fn psql_number(&self, sql: &str) -> i64 {
        self.psql(sql).parse().unwrap_or_else(|_| panic!("no number: {sql}"))
    }

    fn tool(&self, tool: &str, args: &[&str]) -> String {
        let output = self.command().arg(tool).args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{tool} {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Cancels an order of coffee as the program does: order, stock and outbox in one transaction.
    pub fn cancel_order(&self, order: &str) {
        self.psql(&format!(
            "with ended as (update orders set status = 'cancelled' where id = '{order}' returning *),
             returned as (update coupons set stock = stock + 1 where id = 'coffee')
             insert into outbox (order_id, coupon_id, user_id, slot)
             select id, coupon_id, user_id, slot from ended"
        ));
    }

    pub fn redis_stock(&self, coupon: &str) -> i64 {
        self.redis_cli(&["HGET", &format!("seckill:{{0}}:coupon:{coupon}"), "stock"]).parse().unwrap()
    }

    /// The numbers of the partitions, in order.
    pub fn partitions(&self) -> Vec<i16> {
        let numbers = self.psql("select partition from fence order by partition");
        numbers.lines().map(|number| number.parse().unwrap()).collect()
    }

    /// A key of the coupon's partition, as in `seckill:{2}:claims:coffee`; `kind` is the part before the coupon.
    pub fn coupon_key(&self, kind: &str, coupon: &str) -> String {
        let partition = self.psql(&format!("select partition from coupons where id = '{coupon}'"));
        format!("seckill:{{{partition}}}:{kind}:{coupon}")
    }

    /// Waits until every order event of each partition is recorded and acknowledged, and every unit returned.
    pub async fn until_quiet(&self) {
        let partitions = self.partitions();
        until("the system is quiet", async || {
            for partition in &partitions {
                let path = format!("/v1/admin/stream?partition={partition}");
                let answer = self.admin(Method::GET, &path, None).await;
                if answer.body["backlog"] != 0 || answer.body["fence"]["state"] != "up" {
                    return None;
                }
            }
            (self.psql_number("select count(*) from outbox") == 0).then_some(())
        })
        .await;
    }

    /// Promise 4: Redis stock = Postgres stock = total − live orders, and the claims hash has the live orders.
    pub async fn assert_in_agreement(&self, coupon: &str) {
        self.until_quiet().await;
        let total = self.psql_number(&format!("select total from coupons where id = '{coupon}'"));
        let stock = self.psql_number(&format!("select stock from coupons where id = '{coupon}'"));
        let live = self.psql_number(&format!(
            "select count(*) from orders where coupon_id = '{coupon}' and status in ('reserved', 'confirmed')"
        ));
        let number = |command: &[&str]| self.redis_cli(command).parse::<i64>().unwrap();
        let held = number(&["HLEN", &self.coupon_key("claims", coupon)]);
        let seen = (number(&["HGET", &self.coupon_key("coupon", coupon), "stock"]), stock, held);
        assert_eq!(seen, (total - live, total - live, live), "Redis stock, Postgres stock, claims held");
    }

    /// Process id of the running redis-server.
    pub fn redis_pid(&self) -> i32 {
        let info = self.redis_cli(&["INFO", "server"]);
        let line = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// Process ids of the running postmaster and its children, the postmaster first.
    pub fn postgres_pids(&self) -> Vec<i32> {
        let children = self.psql("select pid from pg_stat_activity where pid <> pg_backend_pid()");
        let postmaster =
            fs::read_to_string(format!("/proc/{}/stat", children.lines().next().unwrap())).unwrap();
        let parent = postmaster.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().to_owned();
        std::iter::once(parent.as_str()).chain(children.lines()).map(|pid| pid.parse().unwrap()).collect()
    }

    /// Locks the coupon's row until the session is dropped: a worker that records an order waits.
    pub async fn lock_coupon(&self, coupon: &str) -> PsqlSession {
        self.lock(&format!("select 1 from coupons where id = '{coupon}' for update")).await
    }

    /// Locks the outbox until the session is dropped: every reader waits.
    pub async fn lock_outbox(&self) -> PsqlSession {
        self.lock("lock table outbox").await
    }

    /// Locks the rebuild of a partition until the session is dropped: a process that wants to rebuild waits.
    pub async fn lock_rebuild(&self, partition: i16) -> PsqlSession {
        self.lock(&format!(
            "select pg_advisory_xact_lock(hashtextextended(current_schema() || '/rebuild/' || {partition}, 0))"
        ))
        .await
    }

    async fn lock(&self, statement: &str) -> PsqlSession {
        let mut child = self.command();
        child.args(["psql", "-X", "-q"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut session = PsqlSession::new(child.spawn().unwrap());
        session.send(&format!("begin; {statement};"));
        until("the lock is held", async || {
            // Also checks the query, because the state is the same before the lock is taken.
            let held = format!(
                "select count(*) from pg_stat_activity where application_name = 'psql'
                    and state = 'idle in transaction' and strpos(query, $${statement}$$) > 0"
            );
            (self.psql_number(&held) > 0).then_some(())
        })
        .await;
        session
    }

    /// Waits until a worker's transaction waits for a row lock.
    pub async fn until_a_worker_waits(&self) {
        until("a worker waits for the coupon's row", async || {
            let waiting = "select count(*) from pg_stat_activity where application_name = 'seckill' and wait_event_type = 'Lock'";
            (self.psql_number(waiting) > 0).then_some(())
        })
        .await;
    }

    /// Sends one command of any bytes to Redis; returns the reply in RESP.
    pub fn redis_raw(&self, args: &[&[u8]]) -> String {
        let mut command = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            command.extend(format!("${}\r\n", arg.len()).bytes());
            command.extend(*arg);
            command.extend(b"\r\n");
        }
        let mut redis = UnixStream::connect(self.redis_socket()).unwrap();
        redis.write_all(&command).unwrap();
        let mut reply = [0; 4096];
        let length = redis.read(&mut reply).unwrap();
        String::from_utf8_lossy(&reply[..length]).into_owned()
    }

    /// Checks that these are exactly the live orders in Postgres.
    pub fn assert_recorded(&self, orders: &[String]) {
        let rows = self.psql("select id from orders where status in ('reserved', 'confirmed') order by id");
        let mut expected = orders.to_vec();
        expected.sort();
        assert_eq!(rows.lines().collect::<Vec<_>>(), expected, "orders recorded, orders accepted");
    }

    /// The epoch in Postgres.
    pub fn epoch(&self) -> String {
        self.psql("select epoch from fence")
    }

    pub fn redis_socket(&self) -> PathBuf {
        self.data_dir().join("redis/redis.sock")
    }

    pub fn postgres_socket(&self) -> PathBuf {
        self.data_dir().join("postgres/.s.PGSQL.5432")
    }
}
