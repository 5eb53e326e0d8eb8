//! What becomes of orders: buyers and a shop's backend confirm and cancel reserved orders, repeat it, do both at once,
//! or let them expire; the admin revokes confirmed orders.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::json;

use super::{Answer, Patience, TEST_COUPONS, Workload, pause, remember};
use crate::history::{Asked, Class, Line, Transition};

/// Coupon, user and order.
pub type Whose<'a> = (&'a str, &'a str, &'a str);

impl Workload {
    /// Ends or confirms an order that was reserved for so many seconds, in one of the ways in which buyers do it.
    pub(super) async fn pay(&self, rng: &mut StdRng, seconds: u64, whose: Whose<'_>) {
        match rng.random_range(0..20) {
            0..7 => {
                self.ask(rng, Asked::Confirm, whose).await;
                self.ask_again(rng, whose).await;
            }
            7..10 => {
                self.ask(rng, Asked::Cancel, whose).await;
                self.ask_again(rng, whose).await;
            }
            10..12 => {
                let urls = [(); 3].map(|()| &self.urls[rng.random_range(0..self.urls.len())]);
                tokio::join!(
                    self.transition(urls[0], Asked::Confirm, whose, true),
                    self.transition(urls[1], Asked::Cancel, whose, false),
                    self.transition(urls[2], Asked::Cancel, whose, true),
                );
                self.ask(rng, Asked::Confirm, whose).await;
            }
            // Around the deadline, also beside the sweeper.
            12..16 => {
                let asked = if rng.random_bool(0.8) { Asked::Confirm } else { Asked::Cancel };
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                pause(rng, 0..100).await;
                self.ask(rng, asked, whose).await;
                self.ask_again(rng, whose).await;
            }
            _ => {}
        }
        if rng.random_bool(0.3) {
            let (_, user, order) = whose;
            let url = self.urls.choose(rng).unwrap();
            self.ask_status(url, &format!("/v1/orders/{order}"), user, order).await;
        }
    }

    /// Some clients repeat their request, or change their mind.
    async fn ask_again(&self, rng: &mut StdRng, whose: Whose<'_>) {
        if rng.random_bool(0.3) {
            let asked = if rng.random_bool(0.5) { Asked::Confirm } else { Asked::Cancel };
            self.ask(rng, asked, whose).await;
        }
    }

    /// Asks until the outcome is known.
    async fn ask(&self, rng: &mut StdRng, asked: Asked, whose: Whose<'_>) {
        let by_admin = rng.random_bool(0.5);
        let mut patience = Patience::default();
        loop {
            let class = self.transition(self.urls.choose(rng).unwrap(), asked, whose, by_admin).await;
            if class == Class::Ok && asked == Asked::Confirm {
                let (coupon, user, order) = whose;
                let has_waitlist = TEST_COUPONS.iter().any(|known| known.id == coupon && known.has_waitlist);
                let confirmed = if has_waitlist { &self.confirmed_after_waiting } else { &self.confirmed };
                remember(confirmed, (coupon.into(), user.into(), order.into()));
            }
            if class != Class::Unknown || !patience.lasts(self) {
                return;
            }
            pause(rng, 50..400).await;
        }
    }

    /// Revokes a recent order of any coupon. Its unit returns to stock, or it is withdrawn.
    pub async fn revoke(&self, rng: &mut StdRng) {
        let orders = if rng.random_bool(0.8) { &self.confirmed } else { &self.recent };
        let Some((coupon, user, order)) = orders.lock().unwrap().choose(rng).cloned() else { return };
        let asked = if rng.random_bool(0.3) { Asked::Withdraw } else { Asked::Revoke };
        self.ask(rng, asked, (&coupon, &user, &order)).await;
    }

    /// Revokes a recent confirmed order of a coupon with a waiting list. Its unit returns.
    pub async fn revoke_one_of(&self, rng: &mut StdRng, coupon: &str) {
        let is_of_coupon = |order: &&(String, String, String)| order.0 == coupon;
        let confirmed = self.confirmed_after_waiting.lock().unwrap().clone();
        let orders: Vec<_> = confirmed.iter().filter(is_of_coupon).collect();
        if let Some((_, user, order)) = orders.choose(rng) {
            self.ask(rng, Asked::Revoke, (coupon, user, order)).await;
        }
    }

    /// Confirms an order as its owner.
    pub async fn confirm(&self, url: &str, whose: Whose<'_>) {
        assert_eq!(self.transition(url, Asked::Confirm, whose, false).await, Class::Ok);
    }

    /// Sends one request and adds it with its answer to the history.
    async fn transition(&self, url: &str, asked: Asked, whose: Whose<'_>, by_admin: bool) -> Class {
        let (coupon, user, order) = whose;
        let path = match asked {
            Asked::Confirm => format!("/v1/orders/{order}/confirm"),
            Asked::Cancel => format!("/v1/orders/{order}/cancel"),
            Asked::Revoke | Asked::Withdraw => format!("/v1/admin/orders/{order}/revoke"),
        };
        let mut request = self.http.post(format!("{url}{path}"));
        request = match asked.reason() {
            Some(reason) => {
                let body = json!({"reason": reason, "return_unit": asked == Asked::Revoke});
                request.bearer_auth(&self.admin_token).json(&body)
            }
            None if by_admin => request.bearer_auth(&self.admin_token),
            None => request.bearer_auth(self.token(user)),
        };
        let began_us = self.recorder.now_us();
        let answer = Answer::of(request.send().await).await;
        let class = match answer.status {
            200 => Class::Ok,
            400..500 => Class::Refused,
            _ => Class::Unknown,
        };
        self.recorder.add(Line::Transition(Transition {
            span: self.recorder.since(began_us),
            coupon: coupon.into(),
            order: order.into(),
            asked,
            class,
            status: answer.text("status"),
            refund_due: answer.body["refund_due"].as_bool().unwrap_or(false),
            answer: answer.summary,
        }));
        class
    }
}
