//! The program in an empty directory, and a fake server that gives prepared answers and records the requests.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};

pub const JWT_SECRET: &str = "a secret of at least thirty-two bytes";
pub const COFFEE: &str = r#"{"id":"coffee","title":"Coffee","total":100,"stock":99,"state":"open","starts_at":null,"ends_at":"2026-11-11T20:00:00Z","unlisted":true}"#;
pub const SOLD_OUT: &str = r#"{"type":"urn:seckill:problem:sold-out","title":"Sold out","status":409,"detail":"every unit of coffee is taken","code":"sold-out"}"#;

/// An empty directory, and only the environment variables that a test sets.
pub struct Sandbox {
    dir: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

#[derive(Debug)]
pub struct Run {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Sandbox {
    pub fn new() -> Self {
        let path = ("PATH".to_owned(), "/usr/bin:/bin".to_owned());
        Self { dir: tempfile::tempdir().unwrap(), variables: vec![path] }
    }

    pub fn env(mut self, variable: &str, value: &str) -> Self {
        self.variables.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Adds a program at the front of PATH that prints its arguments and the variables with credentials.
    pub fn with_tool(self, name: &str) -> Self {
        let script = r#"#!/bin/sh
printf '%s|' "$@"
printf '\n%s\n%s\n%s\n' "$REDISCLI_AUTH" "$PGPASSWORD" "$PGOPTIONS"
exit 7
"#;
        fs::write(self.path(name), script).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        self.env("PATH", &path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn run(&self, args: &[&str]) -> Run {
        let mut command = Command::new(support::program());
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        command.args(args).env_clear().envs(variables).current_dir(self.dir.path());
        let Output { status, stdout, stderr } = command.output().unwrap();
        Run {
            status: status.code().unwrap(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
}

impl Run {
    #[track_caller]
    pub fn refused_with(self, text: &str) -> Self {
        assert_eq!((self.status, self.stderr.lines().count()), (1, 1), "{self:?}");
        assert!(self.stderr.starts_with("seckill: ") && self.stderr.contains(text), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        self
    }
}

/// Gives its answers in order and records the requests.
pub struct FakeServer {
    pub url: String,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
}

#[derive(Clone)]
pub struct RecordedRequest {
    pub line: String,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl RecordedRequest {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl FakeServer {
    pub async fn start(answers: Vec<(u16, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(listener, requests.clone(), answers));
        Self { url, requests }
    }

    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.requests.lock().unwrap().clone()
    }

    pub fn run(&self, line: &str) -> Run {
        let sandbox = Sandbox::new().env("SECKILL_URL", &self.url).env("SECKILL_ADMIN_TOKEN", "let-me-in");
        sandbox.run(&line.split_whitespace().collect::<Vec<_>>())
    }
}

async fn serve(
    listener: TcpListener,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
    answers: Vec<(u16, &'static str)>,
) {
    let answers = Arc::new(answers);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (requests, answers) = (requests.clone(), answers.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (requests, answers) = (requests.clone(), answers.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let mut requests = requests.lock().unwrap();
                let (status, text) = answers[requests.len()];
                requests.push(RecordedRequest {
                    line: format!("{} {}", head.method, head.uri),
                    headers: head.headers,
                    body,
                });
                let answer = Response::builder().status(status).header("location", "/elsewhere");
                Ok::<_, Infallible>(answer.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap())
            }
        });
        // In a task: a client may open a second connection while its first one is still open.
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { connection.await.ok() });
    }
}

/// An address that refuses connections while the socket lives: it is bound but does not listen.
pub fn refusing_address() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}
