//! Clients that behave as real ones do: many at once, over connections kept alive, again after every answer
//! that leaves it open, some with a preference to wait, some asking what became of their order, some giving up.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::history::{Claim, Class, Edit, Line, Recorder, Status};

/// Above the program's own deadlines, so that a time-out means that it hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// After the end of a run its clients still want their answers, for this long.
const LAST_TRIES: Duration = Duration::from_mins(1);
/// Recent orders of which one may be ended by hand.
const RECENT_ORDERS: usize = 50;

/// Holds one unit of each coupon from before the first fault to the end, so that a second event of his is bad
/// for sure.
pub const KEEPER: &str = "keeper";

/// What one coupon is there for.
pub struct Ware {
    pub id: &'static str,
    pub total: i64,
    /// Users who want it, at first.
    pub users: u64,
    /// Users who join them in each second.
    pub users_per_second: u64,
    /// Of 100 claims.
    pub share: u32,
    /// Its orders are ended by hand now and then, so that units go back.
    pub is_returned: bool,
    pub edits: Edits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Edits {
    None,
    Up,
    UpAndDown,
}

pub const WARES: [Ware; 5] = [
    Ware {
        id: "espresso",
        total: 40,
        users: 150,
        users_per_second: 1,
        share: 10,
        is_returned: false,
        edits: Edits::None,
    },
    Ware {
        id: "mug",
        total: 30,
        users: 45,
        users_per_second: 0,
        share: 25,
        is_returned: true,
        edits: Edits::None,
    },
    Ware {
        id: "saucer",
        total: 150,
        users: 200,
        users_per_second: 2,
        share: 10,
        is_returned: false,
        edits: Edits::UpAndDown,
    },
    Ware {
        id: "tea",
        total: 100,
        users: 200,
        users_per_second: 5,
        share: 15,
        is_returned: false,
        edits: Edits::Up,
    },
    Ware {
        id: "water",
        total: 1_000_000,
        users: 200,
        users_per_second: 20,
        share: 40,
        is_returned: true,
        edits: Edits::None,
    },
];

/// What every client shares.
pub struct Market {
    pub recorder: Recorder,
    pub urls: [String; 2],
    http: Client,
    jwt_secret: String,
    admin_token: String,
    tokens: Mutex<HashMap<String, String>>,
    /// Coupon, user and order of claims answered lately, of coupons whose units go back.
    recent: Mutex<Vec<(String, String, String)>>,
    poisons: AtomicUsize,
    started: Instant,
    is_over: AtomicBool,
}

impl Market {
    pub fn new(recorder: Recorder, urls: [String; 2], jwt_secret: String, admin_token: String) -> Self {
        Self {
            recorder,
            urls,
            http: Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build().unwrap(),
            jwt_secret,
            admin_token,
            tokens: Mutex::default(),
            recent: Mutex::default(),
            poisons: AtomicUsize::new(0),
            started: Instant::now(),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// A client until the market closes; then until its last claim is answered.
    pub async fn client(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let ware = choose(&mut rng);
            let users = ware.users + ware.users_per_second * self.started.elapsed().as_secs();
            let user = format!("user-{}", rng.random_range(0..users));
            self.buy(&mut rng, ware.id, &user).await;
            pause(&mut rng, 40..200).await;
        }
    }

    async fn buy(&self, rng: &mut StdRng, coupon: &str, user: &str) {
        let insists = rng.random_bool(0.9);
        let wait_seconds = rng.random_bool(0.2).then_some(1);
        let mut server = rng.random_range(0..self.urls.len());
        let mut last_try: Option<Instant> = None;
        let claim = loop {
            let claim = self.claim(&self.urls[server], coupon, user, wait_seconds, insists).await;
            if self.is_over() {
                last_try.get_or_insert_with(|| Instant::now() + LAST_TRIES);
            }
            let is_patient = last_try.is_none_or(|last| Instant::now() < last);
            if claim.class != Class::Unknown || !insists || !is_patient {
                break claim;
            }
            server = (server + 1) % self.urls.len();
            pause(rng, 50..400).await;
        };
        let Some(order) = claim.order else { return };
        if rng.random_bool(0.3) {
            for _ in 0..rng.random_range(1..4) {
                self.ask_status(&self.urls[server], coupon, user, &order).await;
                pause(rng, 10..150).await;
            }
        }
    }

    /// One request for one unit, noted with its answer.
    pub async fn claim(
        &self,
        url: &str,
        coupon: &str,
        user: &str,
        wait_seconds: Option<u32>,
        insists: bool,
    ) -> Claim {
        let mut request =
            self.http.post(format!("{url}/v1/coupons/{coupon}/claims")).bearer_auth(self.token(user));
        if let Some(seconds) = wait_seconds {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        let began_us = self.recorder.now_us();
        let answer = Answer::of(request.send().await).await;
        let claim = Claim {
            span: self.recorder.since(began_us),
            coupon: coupon.into(),
            user: user.into(),
            class: answer.class(),
            order: answer.text("order"),
            status: answer.text("status"),
            told: answer.told,
            insists,
        };
        self.note(&claim);
        self.recorder.add(Line::Claim(claim.clone()));
        claim
    }

    fn note(&self, claim: &Claim) {
        let is_returned = WARES.iter().any(|ware| ware.id == claim.coupon && ware.is_returned);
        if let Some(order) = claim.order.as_ref().filter(|_| is_returned && claim.user != KEEPER) {
            let mut recent = self.recent.lock().unwrap();
            if recent.len() >= RECENT_ORDERS {
                recent.remove(0);
            }
            recent.push((claim.coupon.clone(), claim.user.clone(), order.clone()));
        }
    }

    /// Numbers the events made by hand.
    pub fn next_poison(&self) -> usize {
        self.poisons.fetch_add(1, Ordering::SeqCst)
    }

    /// Coupon, user and order of some claim that was answered lately.
    pub fn some_order(&self, rng: &mut StdRng) -> Option<(String, String, String)> {
        self.recent.lock().unwrap().choose(rng).cloned()
    }

    async fn ask_status(&self, url: &str, coupon: &str, user: &str, order: &str) {
        let request =
            self.http.get(format!("{url}/v1/coupons/{coupon}/claims/{order}")).bearer_auth(self.token(user));
        let began_us = self.recorder.now_us();
        let answer = Answer::of(request.send().await).await;
        if let (200, Some(told)) = (answer.status, answer.text("status")) {
            let span = self.recorder.since(began_us);
            self.recorder.add(Line::Status(Status { span, order: order.into(), told }));
        }
    }

    /// Asks for a new total once, and notes what came of it.
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
        tokens.entry(user.to_owned()).or_insert_with(|| mint(&self.jwt_secret, user)).clone()
    }
}

/// What came back, if anything did.
struct Answer {
    /// 0 where nothing whole came.
    status: u16,
    told: String,
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
                let told = format!("{status} {}", body["code"].as_str().unwrap_or_default());
                Self { status, told: told.trim_end().to_owned(), body }
            }
            Err(error) => {
                let told = if error.is_timeout() {
                    "timeout"
                } else if error.is_connect() {
                    "no connection"
                } else {
                    "reset"
                };
                Self { status: 0, told: told.into(), body: Value::Null }
            }
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.body[name].as_str().map(str::to_owned)
    }

    fn class(&self) -> Class {
        match (self.status, self.told.as_str()) {
            // It was accepted and has ended already, which the same answer tells.
            (_, "409 rejected") | (201 | 202, _) => Class::Ok,
            (200, _) if self.body["order"].is_string() => Class::Dup,
            (200, _) => Class::Ok,
            (_, "409 sold-out") => Class::SoldOut,
            (400..500, _) => Class::Refused,
            _ => Class::Unknown,
        }
    }
}

fn choose(rng: &mut StdRng) -> &'static Ware {
    let mut place = rng.random_range(0..WARES.iter().map(|ware| ware.share).sum());
    WARES
        .iter()
        .find(|ware| {
            let is_here = place < ware.share;
            place = place.saturating_sub(ware.share);
            is_here
        })
        .unwrap()
}

pub async fn pause(rng: &mut StdRng, range_ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(rng.random_range(range_ms))).await;
}

/// A user's token for longer than any run.
fn mint(secret: &str, user: &str) -> String {
    use seckill::config::CredentialSettings;
    let settings =
        CredentialSettings { admin_token: None, jwt_secret: None, jwt_audience: None, jwt_issuer: None };
    let lifetime = Duration::from_hours(24);
    seckill::cli::token::mint_token(secret.as_bytes(), &user.parse().unwrap(), lifetime, &settings).unwrap()
}
