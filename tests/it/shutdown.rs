//! SIGTERM in the middle of a sale: what was accepted is answered and recorded, and nothing is left running.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Sale, until};

/// What one connection with one claim came to.
enum Fate {
    Answered(String),
    /// Refused or reset before a byte of an answer.
    Refused,
}

async fn claim(sale: &Sale, user: &str, wait: &str) -> Fate {
    let Ok(mut stream) = TcpStream::connect(sale.url.strip_prefix("http://").unwrap()).await else {
        return Fate::Refused;
    };
    let request = format!(
        "POST /v1/coupons/coffee/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{wait}Connection: close\r\n\r\n",
        sale.token(user)
    );
    let mut answer = Vec::new();
    let outcome = match stream.write_all(request.as_bytes()).await {
        Ok(()) => stream.read_to_end(&mut answer).await,
        Err(error) => Err(error),
    };
    if answer.is_empty() {
        return Fate::Refused;
    }
    outcome.expect("an answer that has begun ends well");
    Fate::Answered(String::from_utf8(answer).unwrap())
}

/// The order of a whole answer to an accepted claim.
fn order_of(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    assert!(head.starts_with("HTTP/1.1 202") || head.starts_with("HTTP/1.1 201"), "{answer}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    assert_eq!(length.parse(), Ok(body.len()), "{answer}");
    let order: serde_json::Value = serde_json::from_str(body).unwrap();
    order["order"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_stop_amid_claims_answers_or_refuses_each_and_keeps_every_promise() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 1_000_000).await;
    let answered = AtomicUsize::new(0);
    let buyers = futures_util::future::join_all((0..200).map(|n| {
        let (sale, answered) = (&sale, &answered);
        async move {
            let mut orders = Vec::new();
            for round in 0.. {
                let user = format!("user-{n}-{round}");
                let wait = if n % 2 == 0 { "Prefer: wait=5\r\n" } else { "" };
                match claim(sale, &user, wait).await {
                    Fate::Answered(answer) => orders.push((user, order_of(&answer))),
                    Fate::Refused => return (orders, user),
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
            unreachable!("the server was stopped")
        }
    }));
    let stop = async {
        until("claims are answered", async || (answered.load(Ordering::Relaxed) > 100).then_some(())).await;
        sale.signal_server(Signal::SIGTERM);
    };
    let (told, ()) = tokio::join!(buyers, stop);
    let status = until("the server has ended", || std::future::ready(sale.server().ended())).await;
    assert!(status.success(), "{status}");
    assert_eq!(processes_of(&sale.data_dir()), Vec::<String>::new());

    sale.start_server().await;
    sale.assert_in_agreement("coffee").await;
    let rows = sale.psql("select user_id || ' ' || id from orders");
    let rows: std::collections::HashSet<&str> = rows.lines().collect();
    let mut accepted = 0;
    for (orders, refused) in &told {
        accepted += orders.len();
        for (user, order) in orders {
            assert!(rows.contains(&*format!("{user} {order}")), "{user} was told {order}");
        }
        let is_his = |row: &&&str| row.starts_with(&format!("{refused} "));
        assert_eq!(rows.iter().find(is_his), None, "{refused} was refused");
    }
    assert_eq!(accepted, rows.len());
}

/// Command lines of processes that work with files below `dir`.
fn processes_of(dir: &Path) -> Vec<String> {
    let text = |path: std::path::PathBuf| std::fs::read(path).unwrap_or_default();
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let of_dir = processes.filter_map(|process| {
        let command = String::from_utf8_lossy(&text(process.join("cmdline"))).replace('\0', " ");
        let works_there = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        (works_there || command.contains(dir.to_str().unwrap())).then_some(command)
    });
    of_dir.collect()
}
