//! Clients that behave as real ones: many at once, on connections that stay open. They repeat a request whose answer
//! leaves the outcome unknown; some ask to wait, some ask for the status of their order, some give up. `coupons` says what
//! is sold, `payments` what becomes of a reserved order, `waiting` what clients of a coupon with a waiting list do.

mod coupons;
mod payments;
mod waiting;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use support::mint_token;

use crate::history::{Claim, Class, Edit, Line, Recorder, StatusAnswer};

pub use coupons::{Edits, TEST_COUPONS, TestCoupon, steady_coupons, with_waitlist};

/// Longer than all timeouts of the program: a request that reaches it shows that the program hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Longer than any run.
const TOKEN_LIFETIME: Duration = Duration::from_hours(24);
/// How long clients repeat unanswered claims after the end of a run.
const LAST_TRIES: Duration = Duration::from_mins(1);
/// Pause between two claims of a steady client.
const STEADY_PACE: Duration = Duration::from_millis(100);
/// Enough that most of their claims are not repeats.
const STEADY_USERS: usize = 1_001;
/// How many recent orders are kept, of which one can be cancelled or revoked.
const RECENT_ORDERS: usize = 50;

/// A user who holds one unit of each coupon from before the first fault to the end: a second order event of this
/// user can never be recorded.
pub const HOLDER: &str = "keeper";

/// What all clients share.
pub struct Workload {
    pub recorder: Recorder,
    pub urls: [String; 2],
    http: Client,
    jwt_secret: String,
    admin_token: String,
    tokens: Mutex<HashMap<String, String>>,
    /// Coupon, user and order of recent claims of coupons whose units are returned.
    recent: Mutex<Vec<(String, String, String)>>,
    /// The same of orders that a client has confirmed.
    confirmed: Mutex<Vec<(String, String, String)>>,
    /// The same for the coupons with a waiting list.
    confirmed_after_waiting: Mutex<Vec<(String, String, String)>>,
    poisons: AtomicUsize,
    started: Instant,
    is_over: AtomicBool,
}

impl Workload {
    pub fn new(recorder: Recorder, urls: [String; 2], jwt_secret: String, admin_token: String) -> Self {
        Self {
            recorder,
            urls,
            http: Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build().unwrap(),
            jwt_secret,
            admin_token,
            tokens: Mutex::default(),
            recent: Mutex::default(),
            confirmed: Mutex::default(),
            confirmed_after_waiting: Mutex::default(),
            poisons: AtomicUsize::new(0),
            started: Instant::now(),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Claims until the workload ends, and then until the last claim is answered.
    pub async fn client(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let coupon = coupons::choose(&mut rng);
            let users = coupon.users + coupon.users_per_second * self.started.elapsed().as_secs();
            let user = format!("user-{}", rng.random_range(0..users));
            let key = (coupon.limit > 1).then(|| format!("key-{}", rng.random_range(0..coupon.limit + 2)));
            self.buy(&mut rng, coupon, &user, key.as_deref()).await;
            pause(&mut rng, 40..200).await;
        }
    }

    /// Claims one coupon at an even pace until the workload ends, whatever becomes of the claims: their answers show whether
    /// the coupon is on sale.
    pub async fn steady_client(&self, coupon: &TestCoupon) {
        let mut ticks = tokio::time::interval(STEADY_PACE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0.. {
            ticks.tick().await;
            if self.is_over() {
                return;
            }
            let user = format!("steady-{}", number % STEADY_USERS);
            let request = ClaimRequest {
                coupon: coupon.id,
                user: &user,
                key: None,
                wait_seconds: None,
                retries: false,
            };
            self.claim(&self.urls[number % self.urls.len()], &request).await;
        }
    }

    async fn buy(&self, rng: &mut StdRng, coupon: &TestCoupon, user: &str, key: Option<&str>) {
        let retries = rng.random_bool(0.9);
        let wait_seconds = rng.random_bool(0.2).then_some(1);
        let request = ClaimRequest { coupon: coupon.id, user, key, wait_seconds, retries };
        let mut server = rng.random_range(0..self.urls.len());
        let mut patience = Patience::default();
        let claim = loop {
            let claim = self.claim(&self.urls[server], &request).await;
            if claim.class != Class::Unknown || !retries || !patience.lasts(self) {
                break claim;
            }
            server = (server + 1) % self.urls.len();
            pause(rng, 50..400).await;
        };
        let Some(order) = claim.order else { return };
        if rng.random_bool(0.3) {
            for _ in 0..rng.random_range(1..4) {
                let path = format!("/v1/coupons/{}/claims/{order}", coupon.id);
                self.ask_status(&self.urls[server], &path, user, &order).await;
                pause(rng, 10..150).await;
            }
        }
        // A repeat of the claim may pay beside the client that made it.
        if let Some(seconds) = coupon.reserve_seconds
            && (claim.class == Class::Ok || rng.random_bool(0.3))
        {
            self.pay(rng, seconds, (coupon.id, user, &order)).await;
            // Some users want another unit once the time to pay of their first one is over.
            if rng.random_bool(0.2) {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                self.claim(&self.urls[server], &ClaimRequest { retries: false, ..request }).await;
            }
        }
    }

    /// Sends one claim and adds it with its answer to the history.
    pub async fn claim(&self, url: &str, request: &ClaimRequest<'_>) -> Claim {
        let ClaimRequest { coupon, user, key, wait_seconds, retries } = *request;
        let mut request =
            self.http.post(format!("{url}/v1/coupons/{coupon}/claims")).bearer_auth(self.token(user));
        if let Some(seconds) = wait_seconds {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let began_us = self.recorder.now_us();
        let answer = Answer::of(request.send().await).await;
        let claim = Claim {
            span: self.recorder.since(began_us),
            coupon: coupon.into(),
            user: user.into(),
            key: key.map(str::to_owned),
            class: answer.class(),
            order: answer.text("order"),
            status: answer.text("status"),
            answer: answer.summary,
            retries,
        };
        self.remember_order(&claim);
        self.recorder.add(Line::Claim(claim.clone()));
        claim
    }

    fn remember_order(&self, claim: &Claim) {
        let is_returned = TEST_COUPONS.iter().any(|coupon| coupon.id == claim.coupon && coupon.is_returned);
        if let Some(order) = claim.order.as_ref().filter(|_| is_returned && claim.user != HOLDER) {
            remember(&self.recent, (claim.coupon.clone(), claim.user.clone(), order.clone()));
        }
    }

    /// The number of the next event that cannot be recorded.
    pub fn next_poison(&self) -> usize {
        self.poisons.fetch_add(1, Ordering::SeqCst)
    }

    /// Coupon, user and order of a random recent claim.
    pub fn recent_order(&self, rng: &mut StdRng) -> Option<(String, String, String)> {
        self.recent.lock().unwrap().choose(rng).cloned()
    }

    async fn ask_status(&self, url: &str, path: &str, user: &str, order: &str) {
        let request = self.http.get(format!("{url}{path}")).bearer_auth(self.token(user));
        let began_us = self.recorder.now_us();
        let answer = Answer::of(request.send().await).await;
        if let (200, Some(status)) = (answer.status, answer.text("status")) {
            let span = self.recorder.since(began_us);
            self.recorder.add(Line::Status(StatusAnswer { span, order: order.into(), status }));
        }
    }

    /// Requests a new total once and adds the result to the history.
    pub async fn edit(&self, url: &str, coupon: &str, total: i64, lowers: bool) -> Class {
        let began_us = self.recorder.now_us();
        let path = format!("/v1/admin/coupons/{coupon}");
        let class = self.admin(url, Method::PATCH, &path, json!({"total": total})).await;
        let span = self.recorder.since(began_us);
        self.recorder.add(Line::Edit(Edit { span, coupon: coupon.into(), total, lowers, class }));
        class
    }

    pub async fn admin(&self, url: &str, method: Method, path: &str, body: Value) -> Class {
        let request = self.http.request(method, format!("{url}{path}")).bearer_auth(&self.admin_token);
        let request = request.header("content-type", "application/json").body(body.to_string());
        Answer::of(request.send().await).await.class()
    }

    fn token(&self, user: &str) -> String {
        let mut tokens = self.tokens.lock().unwrap();
        tokens
            .entry(user.to_owned())
            .or_insert_with(|| mint_token(&self.jwt_secret, user, TOKEN_LIFETIME))
            .clone()
    }
}

/// A claim as a client sends it.
pub struct ClaimRequest<'a> {
    pub coupon: &'a str,
    pub user: &'a str,
    pub key: Option<&'a str>,
    pub wait_seconds: Option<u32>,
    /// Whether the client repeats it if the outcome is unknown.
    pub retries: bool,
}

/// How long a client repeats a request without an outcome: to the end of the run and `LAST_TRIES` longer.
#[derive(Default)]
struct Patience {
    ends: Option<Instant>,
}

impl Patience {
    fn lasts(&mut self, workload: &Workload) -> bool {
        if workload.is_over() {
            self.ends.get_or_insert_with(|| Instant::now() + LAST_TRIES);
        }
        self.ends.is_none_or(|ends| Instant::now() < ends)
    }
}

/// Adds an order, and forgets the oldest.
fn remember(orders: &Mutex<Vec<(String, String, String)>>, order: (String, String, String)) {
    let mut orders = orders.lock().unwrap();
    if orders.len() >= RECENT_ORDERS {
        orders.remove(0);
    }
    orders.push(order);
}

/// An answer, or why there was none.
struct Answer {
    /// 0 without a complete answer.
    status: u16,
    /// Status and problem code, or what failed.
    summary: String,
    body: Value,
}

impl Answer {
    async fn of(response: reqwest::Result<Response>) -> Self {
        let whole = async {
            let response = response?;
            let status = response.status().as_u16();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        match whole.await {
            Ok((status, bytes)) => {
                let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let summary = format!("{status} {}", body["code"].as_str().unwrap_or_default());
                Self { status, summary: summary.trim_end().to_owned(), body }
            }
            Err(error) => {
                let summary = if error.is_timeout() {
                    "timeout"
                } else if error.is_connect() {
                    "no connection"
                } else {
                    "reset"
                };
                Self { status: 0, summary: summary.into(), body: Value::Null }
            }
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.body[name].as_str().map(str::to_owned)
    }

    fn class(&self) -> Class {
        match (self.status, self.summary.as_str()) {
            // The claim was accepted and its order has ended already.
            (_, "409 rejected") | (201 | 202, _) => Class::Ok,
            (200, _) if self.body["order"].is_string() => Class::Dup,
            (200, _) => Class::Ok,
            (_, "409 sold-out") => Class::SoldOut,
            (400..500, _) => Class::Refused,
            _ => Class::Unknown,
        }
    }
}

pub async fn pause(rng: &mut StdRng, range_ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(range_ms))).await;
}
