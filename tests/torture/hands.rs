//! What people do to a sale beside its buyers: totals are raised and lowered, orders are ended, events that can
//! never be recorded are put into the stream; and the sampler, which looks at both stores all the time.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::history::{Cancel, Class, Line, Poison, Sample};
use crate::load::{Edits, KEEPER, Market, WARES, pause};
use crate::stores::Stores;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(200);
const STREAM: &str = "seckill:{0}:orders";

/// Ends an order as the program's own cancel does: its status, the unit in Postgres's stock and the unit on
/// its way to Redis, in one transaction. Answers how many it ended.
const CANCEL: &str = "
with ended as (
    update orders set status = 'cancelled' where id = '{order}' and status in ('reserved', 'confirmed')
    returning id, coupon_id, user_id, slot
), unit as (
    update coupons c set stock = stock + 1 from ended e where c.id = e.coupon_id
), release as (
    insert into outbox (order_id, coupon_id, user_id, slot) select id, coupon_id, user_id, slot from ended
)
select count(*) from ended";

#[derive(Clone, Copy)]
pub enum Store {
    Redis,
    Postgres,
}

/// Samples one store until the market closes; each by itself, so that neither waits for the other.
pub async fn sample(market: &Market, stores: &Stores, store: Store) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !market.is_over() {
        ticks.tick().await;
        let mut sample = Sample::default();
        let began_us = market.recorder.now_us();
        match store {
            Store::Redis => sample.redis = stores.redis_state().await.ok(),
            Store::Postgres => sample.postgres = stores.postgres_coupons().await.ok(),
        }
        sample.span = market.recorder.since(began_us);
        market.recorder.add(Line::Sample(sample));
    }
}

/// Works until the market closes.
pub async fn work(market: &Market, stores: &Stores, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut totals: HashMap<&str, i64> = WARES.iter().map(|ware| (ware.id, ware.total)).collect();
    while !market.is_over() {
        match rng.random_range(0..10) {
            0 | 1 => edit(market, &mut rng, &mut totals).await,
            2 => poison(market, stores, &mut rng).await,
            _ => {
                if let Some((_, _, order)) = market.some_order(&mut rng) {
                    cancel(market, stores, &order).await;
                }
            }
        }
        pause(&mut rng, 50..400).await;
    }
}

/// Asks until the edit is in force or refused: a repeat of it changes nothing.
async fn edit(market: &Market, rng: &mut StdRng, totals: &mut HashMap<&str, i64>) {
    let wares: Vec<_> = WARES.iter().filter(|ware| ware.edits != Edits::None).collect();
    let ware = wares.choose(rng).unwrap();
    let lowers = ware.edits == Edits::UpAndDown && rng.random_bool(0.5);
    let by = rng.random_range(1..20);
    let total = totals[ware.id] + if lowers { -by } else { by };
    loop {
        let url = market.urls.choose(rng).unwrap();
        match market.edit(url, ware.id, total, lowers).await {
            Class::Unknown if !market.is_over() => pause(rng, 100..500).await,
            Class::Refused => return,
            _ => break,
        }
    }
    totals.insert(ware.id, total);
}

/// Ends an order by hand, if it is recorded and live; answers whether it did.
pub async fn cancel(market: &Market, stores: &Stores, order: &str) -> bool {
    let began_us = market.recorder.now_us();
    let class = match stores.psql(&CANCEL.replace("{order}", order)).await.as_deref() {
        Ok("1") => Class::Ok,
        Ok(_) => Class::Refused,
        Err(_) => Class::Unknown,
    };
    let span = market.recorder.since(began_us);
    market.recorder.add(Line::Cancel(Cancel { span, order: order.into(), class }));
    class == Class::Ok
}

/// Puts an event into the stream that can never be recorded, of each kind by turns.
pub async fn poison(market: &Market, stores: &Stores, rng: &mut StdRng) {
    let order = Uuid::now_v7().to_string();
    let ware = WARES.choose(rng).unwrap().id;
    let long = "x".repeat(50_000);
    let kinds: [(&str, Vec<&str>); 6] = [
        ("nothing of ours", vec!["hello", "world"]),
        ("no order id", vec!["order", "nonsense", "coupon", ware, "user", KEEPER]),
        ("no user", vec!["order", &order, "coupon", ware]),
        ("a user too long", vec!["order", &order, "coupon", ware, "user", &long]),
        ("an unknown coupon", vec!["order", &order, "coupon", "nowhere", "user", KEEPER]),
        ("a second order", vec!["order", &order, "coupon", ware, "user", KEEPER]),
    ];
    let (kind, fields) = &kinds[market.next_poison() % kinds.len()];
    let mut args = vec!["XADD", STREAM, "NOMKSTREAM", "*"];
    args.extend(fields);
    let began_us = market.recorder.now_us();
    let entry = match stores.redis_cli(&args).await {
        // Without a stream there is nothing to put it into.
        Ok(entry) if entry.is_empty() => return,
        entry => entry.ok(),
    };
    market.recorder.add(Line::Poison(Poison {
        span: market.recorder.since(began_us),
        kind: (*kind).into(),
        entry,
        order: fields.contains(&order.as_str()).then_some(order.clone()),
    }));
}
