//! Clients of coupons with a waiting list: they claim, and if the coupon is sold out they join the line, look at their
//! place, claim although others wait, leave, or stop asking; those who are served pay or let the order expire.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use reqwest::Method;

use super::coupons::with_waitlist;
use super::{Answer, ClaimRequest, Patience, TestCoupon, Workload, pause};
use crate::history::{Class, Line, Wait, Wish};

/// How often a client looks at its place before it stops asking. The place stays.
const LOOKS: u32 = 12;

/// The user of a client, and the key if the coupon needs one.
#[derive(Clone, Copy)]
struct Buyer<'a> {
    coupon: &'static TestCoupon,
    user: &'a str,
    key: Option<&'a str>,
}

impl Workload {
    /// Buys or waits until the workload ends.
    pub async fn waiting_client(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let coupons = with_waitlist();
        while !self.is_over() {
            let coupon = coupons.choose(&mut rng).unwrap();
            let user = format!("user-{}", rng.random_range(0..coupon.users));
            let key = (coupon.limit > 1).then(|| format!("key-{}", rng.random_range(0..coupon.limit + 2)));
            self.wait_in_line(&mut rng, Buyer { coupon, user: &user, key: key.as_deref() }).await;
            pause(&mut rng, 20..100).await;
        }
    }

    async fn wait_in_line(&self, rng: &mut StdRng, buyer: Buyer<'_>) {
        let mut patience = Patience::default();
        if rng.random_bool(0.5) {
            let order = self.try_claim(rng, buyer).await;
            if let Some(order) = order {
                return self.pay_for(rng, buyer, &order).await;
            }
        }
        let joined = loop {
            let joined = self.ask_line(rng, Wish::Join, buyer).await;
            if joined.class != Class::Unknown || !patience.lasts(self) {
                break joined;
            }
            pause(rng, 50..400).await;
        };
        if !joined.is_waiting() {
            if let Some(order) = joined.order {
                self.pay_for(rng, buyer, &order).await;
            }
            return;
        }
        for _ in 0..LOOKS {
            pause(rng, 50..300).await;
            if self.is_over() {
                return;
            }
            if rng.random_bool(0.1) {
                drop(self.try_claim(rng, buyer).await);
            }
            let wish = if rng.random_bool(0.04) { Wish::Leave } else { Wish::Look };
            let seen = self.ask_line(rng, wish, buyer).await;
            if wish == Wish::Leave {
                return;
            }
            if let Some(order) = seen.order.as_ref().filter(|_| !seen.is_waiting()) {
                return self.pay_for(rng, buyer, order).await;
            }
        }
    }

    /// The order of the unit that the user holds afterwards.
    async fn try_claim(&self, rng: &mut StdRng, Buyer { coupon, user, key }: Buyer<'_>) -> Option<String> {
        let request = ClaimRequest { coupon: coupon.id, user, key, wait_seconds: None, retries: false };
        self.claim(self.urls.choose(rng).unwrap(), &request).await.order
    }

    async fn pay_for(&self, rng: &mut StdRng, buyer: Buyer<'_>, order: &str) {
        let seconds = buyer.coupon.reserve_seconds.unwrap_or(0);
        self.pay(rng, seconds, (buyer.coupon.id, buyer.user, order)).await;
    }

    /// Sends one request to a waiting list and adds it with its answer to the history.
    async fn ask_line(&self, rng: &mut StdRng, wish: Wish, Buyer { coupon, user, key }: Buyer<'_>) -> Wait {
        let method = match wish {
            Wish::Join => Method::POST,
            Wish::Look => Method::GET,
            Wish::Leave => Method::DELETE,
        };
        let url = self.urls.choose(rng).unwrap();
        let mut request = self.http.request(method, format!("{url}/v1/coupons/{}/waitlist", coupon.id));
        request = request.bearer_auth(self.token(user));
        let key = key.filter(|_| wish == Wish::Join);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let began_us = self.recorder.now_us();
        let answer = Answer::of(request.send().await).await;
        let wait = Wait {
            span: self.recorder.since(began_us),
            coupon: coupon.id.into(),
            user: user.into(),
            key: key.map(str::to_owned),
            wish,
            class: match answer.status {
                200..300 => Class::Ok,
                400..500 => Class::Refused,
                _ => Class::Unknown,
            },
            order: answer.text("order"),
            status: answer.text("status"),
            place: answer.body["place"].as_i64(),
            answer: answer.summary,
        };
        self.recorder.add(Line::Wait(wait.clone()));
        wait
    }
}
