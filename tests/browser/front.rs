//! An HTTP proxy before the server, as a shop has one. Its address stays while the server is replaced; it can hold back
//! what the server sends, give answers of its own, and knows which claims a page has sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A handle.
#[derive(Clone)]
pub struct Front {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    server: Mutex<String>,
    /// Answers to requests whose path contains this are held back.
    held: watch::Sender<Option<&'static str>>,
    answers: Mutex<VecDeque<(&'static str, String)>>,
    keys: Mutex<Vec<(String, String)>>,
}

impl Front {
    /// A proxy before the server at this URL.
    pub async fn before(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            server: Mutex::default(),
            held: watch::Sender::new(None),
            answers: Mutex::default(),
            keys: Mutex::default(),
        });
        let front =
            Self { url: format!("http://{}", listener.local_addr().unwrap()), shared: shared.clone() };
        front.use_server(url);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, shared.clone()));
            }
        });
        front
    }

    /// Sends later requests to another server.
    pub fn use_server(&self, url: &str) {
        url.trim_start_matches("http://").clone_into(&mut self.shared.server.lock().unwrap());
    }

    /// Holds back all that the server sends to requests whose path contains `path`, until `release`.
    pub fn hold(&self, path: &'static str) {
        self.shared.held.send_replace(Some(path));
    }

    pub fn release(&self) {
        self.shared.held.send_replace(None);
    }

    /// Answers the next POST whose path contains `path` instead of the server.
    pub fn answer_next(&self, path: &'static str, status: &str, code: &str, headers: &str) {
        let body = format!(r#"{{"status":{},"code":"{code}","detail":"a test"}}"#, &status[..3]);
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n{headers}content-length: {length}\r\n\
             connection: close\r\n\r\n{body}"
        );
        self.shared.answers.lock().unwrap().push_back((path, answer));
    }

    /// The Idempotency-Key of each claim of the coupon that a page has sent.
    pub fn claims(&self, coupon: &str) -> Vec<String> {
        let keys = self.shared.keys.lock().unwrap();
        keys.iter()
            .filter(|(path, _)| path.contains(&format!("/{coupon}/")))
            .map(|(_, key)| key.clone())
            .collect()
    }
}

/// Passes one request on, and its answer back, then closes the connection.
async fn pass(mut client: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (this, value) = line.split_once(':')?;
            this.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let path = head.split(' ').nth(1)?.to_owned();
    let mut body = vec![0; header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)];
    client.read_exact(&mut body).await.ok()?;
    if head.starts_with("POST") {
        if path.ends_with("/claims") {
            let key = header("idempotency-key").unwrap_or_default();
            shared.keys.lock().unwrap().push((path.clone(), key));
        }
        let own = {
            let mut answers = shared.answers.lock().unwrap();
            let next = answers.iter().position(|(part, _)| path.contains(part));
            next.and_then(|next| answers.remove(next))
        };
        if let Some((_, answer)) = own {
            return client.write_all(answer.as_bytes()).await.ok();
        }
    }
    let address = shared.server.lock().unwrap().clone();
    let mut server = TcpStream::connect(address).await.ok()?;
    let lines =
        head.lines().filter(|line| !line.to_lowercase().starts_with("connection:") && !line.is_empty());
    let head = lines.collect::<Vec<_>>().join("\r\n") + "\r\nconnection: close\r\n\r\n";
    server.write_all(head.as_bytes()).await.ok()?;
    server.write_all(&body).await.ok()?;
    let mut holding = shared.held.subscribe();
    let mut buffer = vec![0; 65_536];
    loop {
        let length = server.read(&mut buffer).await.ok().filter(|&length| length > 0)?;
        holding.wait_for(|held| !held.is_some_and(|held| path.contains(held))).await.ok()?;
        client.write_all(&buffer[..length]).await.ok()?;
    }
}
