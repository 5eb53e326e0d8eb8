//! Slow clients that keep a connection: the server disconnects each in bounded time, with bounded memory, and a stop
//! does not wait for them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use support::{Sale, until};

/// Longer than the limits of ten seconds, and shorter than the minute after which an idle connection is closed.
const BOUND: Duration = Duration::from_secs(40);
const LIST: &str = "GET /v1/coupons?limit=200 HTTP/1.1\r\nHost: x\r\n\r\n";

/// Creates coupons whose list has 60 kB.
async fn fill_list(sale: &Sale) {
    for n in 0..100 {
        let body = json!({"id": format!("coupon-{n}"), "total": 5, "title": "t".repeat(200)});
        let answer = sale.admin(Method::POST, "/v1/admin/coupons", Some(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
    }
}

fn address(sale: &Sale) -> SocketAddr {
    sale.url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// A connection with a small receive buffer.
async fn connect_small(sale: &Sale) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(address(sale)).await.unwrap()
}

/// Sends requests until the server reads no more of them; reads no answer.
async fn flood(stream: &mut TcpStream, requests: usize) {
    let bytes = LIST.repeat(requests);
    let sending = stream.write_all(bytes.as_bytes());
    if let Ok(sent) = tokio::time::timeout(Duration::from_secs(2), sending).await {
        sent.unwrap();
    }
}

fn is_held(sale: &Sale, stream: &TcpStream) -> bool {
    is_port_held(sale, stream.local_addr().unwrap().port())
}

/// Whether the server still has its end of a client's connection open: a closed socket has no inode.
pub fn is_port_held(sale: &Sale, ours: u16) -> bool {
    let theirs = address(sale).port();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        port(fields[1]) == theirs && port(fields[2]) == ours && fields[9] != "0"
    })
}

async fn until_closed(sale: &Sale, what: &str, stream: &TcpStream) -> Duration {
    let since = Instant::now();
    until(what, async || (!is_held(sale, stream)).then_some(())).await;
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_is_disconnected_and_an_idle_one_is_not() {
    let sale = Sale::start().await;
    fill_list(&sale).await;
    let mut idle = sale.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1_024]).await.unwrap() > 0);

    let never_reads = async {
        let mut stream = connect_small(&sale).await;
        flood(&mut stream, 2_000).await;
        until_closed(&sale, "a client that never reads is disconnected", &stream).await
    };
    let half_closed = async {
        let mut stream = connect_small(&sale).await;
        flood(&mut stream, 200).await;
        stream.shutdown().await.unwrap();
        until_closed(&sale, "a half-closed client that never reads is disconnected", &stream).await
    };
    let slow_reader = async {
        let mut stream = connect_small(&sale).await;
        flood(&mut stream, 2_000).await;
        let since = Instant::now();
        until("a client that reads a byte at a time is disconnected", async || {
            // There may be nothing to read; after the server has closed, the kernel may still have some bytes.
            drop(stream.try_read(&mut [0]));
            (!is_held(&sale, &stream)).then_some(())
        })
        .await;
        since.elapsed()
    };
    let slow_head = async {
        let mut stream = sale.connect().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ").await.unwrap();
        let since = Instant::now();
        until("a head that comes byte by byte times out", async || {
            // Fails if the server has closed the connection.
            drop(stream.try_write(b"x"));
            (!is_held(&sale, &stream)).then_some(())
        })
        .await;
        since.elapsed()
    };
    let silent_head = async {
        let mut stream = sale.connect().await;
        // The second head on a connection has the same limit as the first.
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
        stream.write_all(b"GET /livez HT").await.unwrap();
        until_closed(&sale, "a head that stops half-way times out", &stream).await
    };
    let half_behind_a_whole = async {
        let mut stream = sale.connect().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HT").await.unwrap();
        assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
        until_closed(&sale, "half a head that came with a complete one times out", &stream).await
    };
    let slow_body = async {
        let mut stream = sale.connect().await;
        let token = sale.token("alice");
        let head = format!(
            "POST /v1/coupons/coupon-0/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: 10000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let since = Instant::now();
        until("a body that comes byte by byte times out", async || {
            drop(stream.try_write(b" "));
            (!is_held(&sale, &stream)).then_some(())
        })
        .await;
        since.elapsed()
    };
    let slow = [never_reads.boxed_local(), half_closed.boxed_local(), slow_reader.boxed_local()];
    let unfinished = [slow_head.boxed_local(), silent_head.boxed_local(), half_behind_a_whole.boxed_local()];
    let slow = slow.into_iter().chain(unfinished).chain([slow_body.boxed_local()]);
    let took = join_all(slow).await;
    assert!(took.iter().all(|took| *took < BOUND), "{took:?}");
    // The idle connection has lived longer than any slow one.
    assert!(is_held(&sale, &idle), "an idle connection stays open for a minute");
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1_024]).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_pipelines_and_reads_gets_every_answer_complete() {
    let sale = Sale::start().await;
    fill_list(&sale).await;
    let mut stream = sale.connect().await;
    let (mut reading, mut writing) = stream.split();
    let requests = LIST.repeat(199) + &LIST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let write = async { writing.write_all(requests.as_bytes()).await.unwrap() };
    let read = async {
        let mut text = String::new();
        reading.read_to_string(&mut text).await.unwrap();
        text
    };
    let ((), text) = tokio::join!(write, read);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 200);
    assert_eq!(text.matches("\"next\":null}").count(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_slow_clients() {
    let mut sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    fill_list(&sale).await;
    let mut never_reads = connect_small(&sale).await;
    flood(&mut never_reads, 2_000).await;
    let mut half_a_head = sale.connect().await;
    half_a_head.write_all(b"GET /livez HT").await.unwrap();
    let mut idle = sale.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 1_024]).await.unwrap() > 0);
    let mut half_a_body = sale.connect().await;
    let token = sale.token("bob");
    let head = format!(
        "POST /v1/coupons/coupon-1/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{"
    );
    half_a_body.write_all(head.as_bytes()).await.unwrap();
    // No worker records the claim: so it waits for the longest possible time.
    let mut waits = sale.connect().await;
    let token = sale.token("alice");
    let claim = format!(
        "POST /v1/coupons/coupon-0/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nPrefer: wait=10\r\n\r\n"
    );
    waits.write_all(claim.as_bytes()).await.unwrap();
    until("the claim is made", async || (sale.redis_stock("coupon-0") == 4).then_some(())).await;

    sale.signal_server(Signal::SIGTERM);
    let mut answer = String::new();
    let since = Instant::now();
    waits.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let others =
        [("never reads", &never_reads), ("half a head", &half_a_head), ("half a body", &half_a_body)];
    for (what, stream) in others.into_iter().chain([("idle", &idle)]) {
        until_closed(&sale, what, stream).await;
    }
    let took = since.elapsed();
    // A clean end: no connection was open at the end of the grace period.
    let status = until("the server has ended", || std::future::ready(sale.server().ended())).await;
    assert!(status.success(), "{status}");
    assert!(!sale.log().contains("had not ended"), "{}", sale.log());
    assert!(took < Duration::from_secs(8), "{took:?}");
}
