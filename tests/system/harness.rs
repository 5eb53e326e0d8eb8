//! A real `seckill serve` on private stores, and what a client, redis-cli and psql can do to it. Every
//! test has its own data directory; ports are picked by the system.

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use seckill::cli::token::mint_token;
use seckill::config::CredentialSettings;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::proxy::Proxy;

/// Longest wait for anything; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server with its data directory.
pub struct Sale {
    server: Option<Process>,
    pub url: String,
    pub client: Client,
    environment: Vec<(String, String)>,
    // Last, so that it is dropped last: the server stops first, and a failed test shows its log.
    pub dir: TempDir,
}

/// A process of the program.
pub struct Process {
    child: Child,
    stderr: PathBuf,
}

/// An answer as a client sees it.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// Null where the body is no JSON.
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The error answer that every refused request gets, in all its parts.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) -> &Self {
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store", "{self:?}");
        assert_eq!(self.body["type"], format!("urn:seckill:problem:{code}"), "{self:?}");
        assert_eq!(self.body["status"], status, "{self:?}");
        assert!(!self.header("x-request-id").is_empty(), "{self:?}");
        assert_eq!(self.body["request_id"], self.header("x-request-id"), "{self:?}");
        for member in ["title", "detail"] {
            assert!(self.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {self:?}");
        }
        let challenge = if status == 401 { "Bearer" } else { "" };
        assert_eq!(self.header("www-authenticate"), challenge, "{self:?}");
        assert_eq!(self.headers.contains_key("allow"), status == 405, "{self:?}");
        assert_eq!(self.headers.contains_key("retry-after"), [429, 503].contains(&status), "{self:?}");
        self
    }
}

impl Sale {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more environment and waits until it takes claims.
    pub async fn start_with(environment: &[(&str, &str)]) -> Self {
        let mut sale = Self::without_server(environment);
        sale.start_server().await;
        sale
    }

    /// A data directory that does not exist yet.
    pub fn without_server(environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("seckill-").tempdir_in("/tmp").unwrap();
        open_to_stores(&dir);
        let environment = environment.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Self { server: None, url: String::new(), client: client(), environment, dir }
    }

    /// Starts the server again after it was killed or stopped.
    pub async fn start_server(&mut self) {
        self.start_server_unready().await;
        self.until_ready().await;
    }

    /// The same without waiting until claims are taken.
    pub async fn start_server_unready(&mut self) {
        let process = self.spawn("serve", &[]);
        self.serve_by(process).await;
    }

    /// Takes a process that was spawned for the sale's server.
    pub async fn serve_by(&mut self, process: Process) {
        self.url = until("the server listens", async || {
            let log = process.log();
            let (line, _) = log.split_once('\n')?;
            line.strip_prefix("listening on ").map(str::to_owned)
        })
        .await;
        self.server = Some(process);
    }

    pub async fn until_ready(&self) {
        until("claims are taken", async || (self.get("/readyz").await.status == 200).then_some(())).await;
    }

    /// A second process on the same stores: `worker`, say.
    pub fn spawn(&self, command: &str, environment: &[(&str, &str)]) -> Process {
        let mut child = self.command();
        child.arg(command).envs(environment.iter().copied());
        self.spawn_as(command, child)
    }

    /// A command of any kind that becomes a process of the program.
    pub fn spawn_as(&self, name: &str, mut child: Command) -> Process {
        let number = std::fs::read_dir(self.dir.path()).unwrap().count();
        let stderr = self.dir.path().join(format!("stderr-{number}-{name}"));
        child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&stderr).unwrap());
        Process { child: child.spawn().unwrap(), stderr }
    }

    /// The program with this sale's environment and nothing of the machine's own settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seckill"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("SECKILL_") || text == "REDIS_URL" || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command.env("SECKILL_DATA_DIR", self.data_dir()).env("SECKILL_URL", &self.url);
        command.env("SECKILL_LISTEN", "127.0.0.1:0");
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn server(&mut self) -> &mut Process {
        self.server.as_mut().expect("the server was started")
    }

    pub fn signal_server(&self, signal: nix::sys::signal::Signal) {
        self.server.as_ref().expect("the server was started").signal(signal);
    }

    /// What the running server has logged.
    pub fn log(&self) -> String {
        self.server.as_ref().map(Process::log).unwrap_or_default()
    }

    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.data_dir().join("admin-token")).unwrap().trim_end().to_owned()
    }

    pub fn token(&self, user: &str) -> String {
        self.token_with(user, Duration::from_hours(1))
    }

    pub fn token_with(&self, user: &str, lifetime: Duration) -> String {
        let secret = std::fs::read_to_string(self.data_dir().join("jwt-secret")).unwrap();
        let settings =
            CredentialSettings { admin_token: None, jwt_secret: None, jwt_audience: None, jwt_issuer: None };
        mint_token(secret.trim_end().as_bytes(), &user.parse().unwrap(), lifetime, &settings).unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        self.send(Method::GET, path, &[("authorization", &format!("Bearer {token}"))], None).await
    }

    pub async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let authorization = format!("Bearer {}", self.admin_token());
        self.send(method, path, &[("authorization", &authorization)], body).await
    }

    /// Sends a request; a broken connection is a status of 0.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let json = body.map(|body| body.to_string());
        let mut headers = headers.to_vec();
        if json.is_some() {
            headers.push(("content-type", "application/json"));
        }
        self.send_bytes(method, path, &headers, json).await
    }

    /// The same with a body as it is.
    pub async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<impl Into<reqwest::Body>>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request = request.header(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        match request.send().await {
            Ok(response) => {
                let (status, headers) = (response.status().as_u16(), response.headers().clone());
                let text = response.text().await.unwrap_or_default();
                let body = serde_json::from_str(&text).unwrap_or(Value::Null);
                Answer { status, headers, text, body }
            }
            Err(error) => {
                Answer { status: 0, headers: HeaderMap::new(), text: error.to_string(), body: Value::Null }
            }
        }
    }

    /// Everything that the server answers to these bytes, until it closes the connection.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("the server closes the connection").unwrap();
        String::from_utf8(answer).unwrap()
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.url.strip_prefix("http://").unwrap()).await.unwrap()
    }

    /// Creates a coupon without a window.
    pub async fn create(&self, coupon: &str, total: i64) {
        let body = json!({"id": coupon, "total": total});
        let answer = self.admin(Method::POST, "/v1/admin/coupons", Some(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }

    pub async fn claim(&self, coupon: &str, user: &str) -> Answer {
        self.claim_with(coupon, user, &[]).await
    }

    pub async fn claim_with(&self, coupon: &str, user: &str, headers: &[(&str, &str)]) -> Answer {
        let authorization = format!("Bearer {}", self.token(user));
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend(headers);
        self.send(Method::POST, &format!("/v1/coupons/{coupon}/claims"), &all, None).await
    }

    /// What the real redis-cli prints, without the last newline.
    pub fn redis_cli(&self, args: &[&str]) -> String {
        self.tool("redis-cli", args)
    }

    /// The same without the program, which looks at Postgres first.
    pub fn redis_cli_alone(&self, args: &[&str]) -> String {
        let output =
            Command::new("redis-cli").arg("-s").arg(self.redis_socket()).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What the real psql prints for a query, unaligned, tuples only.
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

    /// Ends an order of coffee as the program does: order, stock and outbox in one transaction.
    pub fn end_order(&self, order: &str) {
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

    /// Waits until every order event is recorded and acknowledged, and every unit returned.
    pub async fn until_quiet(&self) {
        until("the system is quiet", async || {
            let answer = self.admin(Method::GET, "/v1/admin/stream", None).await;
            let quiet = answer.body["backlog"] == 0 && answer.body["fence"]["state"] == "up";
            (quiet && self.psql_number("select count(*) from outbox") == 0).then_some(())
        })
        .await;
    }

    /// Promise 4: Redis stock = Postgres stock = total − live orders, exactly, and the claims hash agrees.
    pub async fn assert_in_agreement(&self, coupon: &str) {
        self.until_quiet().await;
        let total = self.psql_number(&format!("select total from coupons where id = '{coupon}'"));
        let stock = self.psql_number(&format!("select stock from coupons where id = '{coupon}'"));
        let live = self.psql_number(&format!(
            "select count(*) from orders where coupon_id = '{coupon}' and status in ('reserved', 'confirmed')"
        ));
        let held: i64 = self.redis_cli(&["HLEN", &format!("seckill:{{0}}:claims:{coupon}")]).parse().unwrap();
        let seen = (self.redis_stock(coupon), stock, held);
        assert_eq!(seen, (total - live, total - live, live), "Redis stock, Postgres stock, claims held");
    }

    /// The running redis-server.
    pub fn redis_pid(&self) -> i32 {
        let info = self.redis_cli(&["INFO", "server"]);
        let line = info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// The running postmaster, then its children.
    pub fn postgres_pids(&self) -> Vec<i32> {
        let children = self.psql("select pid from pg_stat_activity where pid <> pg_backend_pid()");
        let postmaster =
            std::fs::read_to_string(format!("/proc/{}/stat", children.lines().next().unwrap())).unwrap();
        let parent = postmaster.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().to_owned();
        std::iter::once(parent.as_str()).chain(children.lines()).map(|pid| pid.parse().unwrap()).collect()
    }

    /// Holds a lock on the coupon's row until the session is dropped: whoever records an order waits.
    pub async fn lock_coupon(&self, coupon: &str) -> PsqlSession {
        let mut child = self.command();
        child.args(["psql", "-X", "-q"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut session = PsqlSession { child: child.spawn().unwrap() };
        session.send(&format!("begin; select 1 from coupons where id = '{coupon}' for update;"));
        until("the coupon's row is locked", async || {
            let held = "select count(*) from pg_stat_activity where application_name = 'psql' and state = 'idle in transaction'";
            (self.psql_number(held) > 0).then_some(())
        })
        .await;
        session
    }

    /// Waits until a worker's transaction waits for such a lock.
    pub async fn until_a_worker_waits(&self) {
        until("a worker waits for the coupon's row", async || {
            let waiting = "select count(*) from pg_stat_activity where application_name = 'seckill' and wait_event_type = 'Lock'";
            (self.psql_number(waiting) > 0).then_some(())
        })
        .await;
    }

    /// Epoch of the agreement in force.
    pub fn epoch(&self) -> String {
        self.psql("select epoch from fence")
    }

    /// SIGTERM, and how the server ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.server.take().expect("the server runs").stop()
    }

    /// The same, where it ends well, and all it has logged.
    pub fn stop_and_read(&mut self) -> String {
        let (status, log) = self.server.take().expect("the server runs").stop_and_read();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// Kill -9 of the server; its stores go on running.
    pub fn kill_9(&mut self) {
        self.server.take().expect("the server runs").kill_9();
    }

    pub fn redis_socket(&self) -> PathBuf {
        self.data_dir().join("redis/redis.sock")
    }

    pub fn postgres_socket(&self) -> PathBuf {
        self.data_dir().join("postgres/.s.PGSQL.5432")
    }

    /// A process that knows the stores by address only, as a replica on another machine would: that of a
    /// proxy before a store, else the store's own.
    pub fn spawn_by_address(
        &self,
        command: &str,
        proxies: &[&Proxy],
        environment: &[(&str, &str)],
    ) -> Process {
        let data = self.data_dir();
        let secret = std::fs::read_to_string(data.join("jwt-secret")).unwrap();
        let redis = format!("redis+unix://{}", self.redis_socket().display());
        let postgres =
            format!("postgres://seckill@localhost/seckill?host={}", data.join("postgres").display());
        let token = self.admin_token();
        let mut all = vec![
            ("SECKILL_LISTEN", "127.0.0.1:0"),
            ("REDIS_URL", &redis),
            ("DATABASE_URL", &postgres),
            ("SECKILL_JWT_SECRET", secret.trim_end()),
            ("SECKILL_ADMIN_TOKEN", &token),
        ];
        // The later of two values counts.
        all.extend(proxies.iter().map(|proxy| (proxy.setting, proxy.url.as_str())));
        all.extend(environment);
        self.spawn(command, &all)
    }

    /// Sends one command to Redis, of any bytes and without a process for it; its reply as it comes.
    pub fn redis_raw(&self, args: &[&[u8]]) -> String {
        use std::io::{Read, Write};
        let mut command = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            command.extend(format!("${}\r\n", arg.len()).bytes());
            command.extend(*arg);
            command.extend(b"\r\n");
        }
        let mut redis = std::os::unix::net::UnixStream::connect(self.redis_socket()).unwrap();
        redis.write_all(&command).unwrap();
        let mut reply = [0; 4096];
        let length = redis.read(&mut reply).unwrap();
        String::from_utf8_lossy(&reply[..length]).into_owned()
    }

    /// Every one of these orders is a row, and nothing else of these statuses is.
    pub fn assert_recorded(&self, orders: &[String]) {
        let rows = self.psql("select id from orders where status in ('reserved', 'confirmed') order by id");
        let mut told = orders.to_vec();
        told.sort();
        assert_eq!(rows.lines().collect::<Vec<_>>(), told, "orders recorded, orders told of");
    }
}

/// A psql that stays open.
pub struct PsqlSession {
    child: Child,
}

impl PsqlSession {
    pub fn send(&mut self, sql: &str) {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{sql}").unwrap();
        stdin.flush().unwrap();
    }

    /// Ends the transaction and the session.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for PsqlSession {
    fn drop(&mut self) {
        // Its end of file ends psql, and the transaction with it.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Sends a signal to a process of a store.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

pub fn signal_all(pids: &[i32], what: nix::sys::signal::Signal) {
    for &pid in pids {
        signal(pid, what);
    }
}

impl Process {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Where a server listens, once it takes claims.
    pub async fn url_when_up(&self) -> String {
        until("the process takes claims", async || {
            let log = self.log();
            let first = log.lines().next()?.strip_prefix("listening on ")?;
            log.contains("fence up").then(|| first.to_owned())
        })
        .await
    }

    /// SIGTERM, how it ended, and all it has logged.
    pub fn stop_and_read(self) -> (ExitStatus, String) {
        let stderr = self.stderr.clone();
        (self.stop(), std::fs::read_to_string(stderr).unwrap())
    }

    /// Waits until the process has logged this.
    pub async fn until_it_says(&self, what: &str) {
        until(&format!("the log says {what:?}"), async || self.log().contains(what).then_some(())).await;
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end of a process that was killed.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn stop(mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.stderr.display(), self.log());
        }
        if self.is_running() {
            self.signal(nix::sys::signal::Signal::SIGCONT);
            self.signal(nix::sys::signal::Signal::SIGTERM);
            let deadline = Instant::now() + PATIENCE;
            while self.is_running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            if self.is_running() {
                drop(self.child.kill());
                drop(self.child.wait());
            }
        }
    }
}

impl Drop for Sale {
    fn drop(&mut self) {
        if self.server.is_some() {
            return;
        }
        // The server was killed and its stores still run: a last server takes them over and stops them.
        let process = self.spawn("serve", &[("SECKILL_LISTEN", "127.0.0.1:0"), ("SECKILL_WORKERS", "0")]);
        let deadline = Instant::now() + PATIENCE;
        while !process.log().contains("fence up") && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Polls until the condition gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        rustls::crypto::ring::default_provider().install_default().expect("installed once");
    });
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// The stores run as users of their own and must reach their folders.
fn open_to_stores(dir: &TempDir) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
}
