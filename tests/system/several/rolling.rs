//! Three servers behind a balancer are replaced one by one under load, on stores that go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use rand::RngExt;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use support::external_store::{ExternalStore, folder};
use support::{Process, Sale, mint_token, until};

use super::on_own_stores;

const CLIENTS: usize = 12;
const UNITS: i64 = 1_000_000;
/// Units that are left when the last replacement is done.
const LAST_UNITS: i64 = 500;
/// Below the ports that the system assigns, so that no other process takes one while its server is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Sends each request to the next of the servers.
#[derive(Default)]
struct Balancer {
    servers: Mutex<Vec<String>>,
    /// The server that is being replaced: only it may refuse connections.
    leaving: Mutex<BTreeSet<String>>,
    next: AtomicUsize,
    refused: AtomicUsize,
    unavailable: AtomicUsize,
    /// Each user's order, as the answers told it.
    told: Mutex<BTreeMap<String, String>>,
    wrong: Mutex<Vec<String>>,
}

impl Balancer {
    fn pick(&self) -> String {
        let servers = self.servers.lock().unwrap();
        servers[self.next.fetch_add(1, Ordering::Relaxed) % servers.len()].clone()
    }

    fn is_leaving(&self, url: &str) -> bool {
        self.leaving.lock().unwrap().contains(url)
    }

    fn accepted(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    fn tell(&self, user: &str, order: &str) {
        let before = self.told.lock().unwrap().insert(user.to_owned(), order.to_owned());
        if let Some(before) = before.filter(|before| before != order) {
            self.report(format!("{user} got order {order} after {before}"));
        }
    }

    fn report(&self, wrong: String) {
        self.wrong.lock().unwrap().push(wrong);
    }
}

/// Claims for one user after the other, each until there is an outcome, until the coupon is sold out.
async fn buy(balancer: Arc<Balancer>, client: Client, secret: String, number: usize) {
    for claim in 0.. {
        let user = format!("user-{number}-{claim}");
        let token = mint_token(&secret, &user, std::time::Duration::from_hours(1));
        // Some wait for the row, which any of the processes may record; some repeat what they have.
        let wait = if claim % 3 == 0 { "wait=2" } else { "wait=0" };
        let mut answers_left = if claim % 5 == 0 { 2 } else { 1 };
        while answers_left > 0 {
            let url = balancer.pick();
            let request = client.post(format!("{url}/v1/coupons/coffee/claims")).bearer_auth(&token);
            let was_leaving = balancer.is_leaving(&url);
            match request.header("prefer", wait).send().await {
                Ok(response) => {
                    let (status, headers) = (response.status().as_u16(), response.headers().clone());
                    let body: Value = response.json().await.unwrap_or_default();
                    match (status, body["code"].as_str()) {
                        (200..=202, None) => {
                            balancer.tell(&user, body["order"].as_str().unwrap());
                            answers_left -= 1;
                        }
                        (409, Some("sold-out")) => return,
                        (503, Some(_)) if headers.contains_key("retry-after") => {
                            balancer.unavailable.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => balancer.report(format!("{url}: {status} {body}")),
                    }
                }
                Err(_) if was_leaving || balancer.is_leaving(&url) => {
                    balancer.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => balancer.report(format!("{url}: {error:?}")),
            }
        }
    }
}

fn free_address() -> String {
    loop {
        let address = format!("127.0.0.1:{}", rand::rng().random_range(PORTS));
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

struct Server {
    process: Process,
    address: String,
}

impl Server {
    /// Starts a server, and waits until it accepts claims.
    async fn start(sale: &Sale, address: String, more: &[&str]) -> Self {
        let mut command = sale.command();
        command.arg("serve").args(more).env("SECKILL_LISTEN", &address);
        let process = sale.spawn_as("serve", command);
        process.until_logged("fence up").await;
        Self { process, address }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn end(&mut self) {
        let status = until("the old server has ended", || std::future::ready(self.process.ended())).await;
        assert!(status.success(), "{}", self.process.log());
    }
}

async fn until_claims_are_answered(balancer: &Balancer) {
    let before = balancer.accepted();
    until("claims are answered", async || (balancer.accepted() > before + 50).then_some(())).await;
}

/// A new server at another address, then the end of the old one.
async fn replace_beside(sale: &Sale, balancer: &Balancer, mut old: Server) -> Server {
    let new = Server::start(sale, free_address(), &[]).await;
    until("the new server accepts claims", async || {
        let ready = sale.client.get(format!("{}/readyz", new.url())).send().await;
        ready.is_ok_and(|answer| answer.status() == 200).then_some(())
    })
    .await;
    balancer.servers.lock().unwrap().push(new.url());
    balancer.leaving.lock().unwrap().insert(old.url());
    old.process.signal(Signal::SIGTERM);
    // The balancer notices only by the answers.
    old.end().await;
    balancer.servers.lock().unwrap().retain(|url| *url != old.url());
    new
}

/// A new server that takes over the socket of the old one: no connection is refused.
async fn replace_in_place(sale: &Sale, mut old: Server) -> Server {
    let new = Server::start(sale, old.address.clone(), &["--replace"]).await;
    old.end().await;
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_that_are_replaced_one_by_one_under_load_lose_no_claim_and_oversell_nothing() {
    let (redis, postgres) = (ExternalStore::redis(&[], folder()), ExternalStore::postgres(&[]).await);
    let mut sale = on_own_stores(&redis.url("redis"), &postgres).await;
    assert!(sale.stop().success());
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start(&sale, free_address(), &[]).await);
    }
    sale.url = servers[0].url();
    sale.create("coffee", UNITS).await;
    let epoch = sale.epoch();
    let balancer = Arc::new(Balancer::default());
    balancer.servers.lock().unwrap().extend(servers.iter().map(Server::url));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        // Without kept connections: each request shows whether its server takes new ones.
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        clients.spawn(buy(balancer.clone(), client, sale.jwt_secret(), number));
    }
    for round in 0..6 {
        until_claims_are_answered(&balancer).await;
        let old = servers.remove(0);
        let refused_before = balancer.refused.load(Ordering::Relaxed);
        let new = if round % 2 == 0 {
            replace_beside(&sale, &balancer, old).await
        } else {
            let new = replace_in_place(&sale, old).await;
            let refused = balancer.refused.load(Ordering::Relaxed);
            assert_eq!(refused, refused_before, "a replacement in place refuses no connection");
            new
        };
        servers.push(new);
        assert_eq!(*balancer.wrong.lock().unwrap(), Vec::<String>::new(), "round {round}");
    }
    until_claims_are_answered(&balancer).await;
    sale.url = servers[0].url();
    let held = UNITS - sale.redis_stock("coffee");
    let total = Some(json!({"total": held + LAST_UNITS}));
    let lowered = sale.admin(Method::PATCH, "/v1/admin/coupons/coffee", total).await;
    assert_eq!(lowered.status, 200, "{}", lowered.text);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let (refused, unavailable) =
        (balancer.refused.load(Ordering::Relaxed), balancer.unavailable.load(Ordering::Relaxed));
    println!("{} accepted, {refused} refused connections, {unavailable} retryable 503s", balancer.accepted());
    assert_eq!(*balancer.wrong.lock().unwrap(), Vec::<String>::new());
    assert_eq!(sale.epoch(), epoch, "Redis was never rebuilt");
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.redis_stock("coffee"), 0, "every unit is sold, none twice");
    let told: Vec<String> = balancer.told.lock().unwrap().values().cloned().collect();
    sale.assert_recorded(&told);
}
