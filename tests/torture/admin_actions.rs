//! What operators do during a run: raise and lower totals, cancel and revoke orders, and add events to the stream that can never
//! be recorded.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::history::{Cancel, Class, Line, Poison};
use crate::stores::Stores;
use crate::workload::{Edits, HOLDER, TEST_COUPONS, Workload, pause, with_waitlist};

/// Cancels an order by hand, also one that is confirmed: its status, the unit in the stock of Postgres, and an outbox row for the
/// unit in Redis, in one transaction. Returns how many orders it cancelled.
const CANCEL: &str = "
with ended as (
    update orders set status = 'cancelled' where id = '{order}' and status in ('reserved', 'confirmed')
    returning id, coupon_id, user_id, slot, partition
), unit as (
    update coupons c set stock = stock + 1 from ended e where c.id = e.coupon_id
), release as (
    insert into outbox (order_id, coupon_id, user_id, slot, partition)
    select id, coupon_id, user_id, slot, partition from ended
)
select count(*) from ended";

/// Acts until the workload ends.
pub async fn run(workload: &Workload, stores: &Stores, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut totals: HashMap<&str, i64> =
        TEST_COUPONS.iter().map(|coupon| (coupon.id, coupon.total)).collect();
    while !workload.is_over() {
        match rng.random_range(0..12) {
            0 | 1 => edit(workload, &mut rng, &mut totals).await,
            2 | 3 => poison(workload, stores, &mut rng).await,
            4..8 => workload.revoke(&mut rng).await,
            _ => {
                if let Some((_, _, order)) = workload.recent_order(&mut rng) {
                    cancel(workload, stores, &order).await;
                }
            }
        }
        pause(&mut rng, 50..400).await;
    }
}

/// Brings units to the waiting lists until the workload ends: restocks the coupons, and revokes confirmed orders.
pub async fn bring_units(workload: &Workload, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let coupons = with_waitlist();
    let mut totals: HashMap<&str, i64> = coupons.iter().map(|coupon| (coupon.id, coupon.total)).collect();
    while !workload.is_over() {
        let coupon = coupons.choose(&mut rng).unwrap().id;
        if rng.random_bool(0.15) {
            let total = totals[coupon] + 1;
            let class = change_total(workload, &mut rng, coupon, total, false).await;
            if class != Class::Refused {
                totals.insert(coupon, total);
            }
        } else {
            workload.revoke_one_of(&mut rng, coupon).await;
        }
        pause(&mut rng, 200..1_000).await;
    }
}

async fn edit(workload: &Workload, rng: &mut StdRng, totals: &mut HashMap<&str, i64>) {
    let coupons: Vec<_> = TEST_COUPONS.iter().filter(|coupon| coupon.edits != Edits::None).collect();
    let coupon = coupons.choose(rng).unwrap();
    let lowers = coupon.edits == Edits::UpAndDown && rng.random_bool(0.5);
    let by = rng.random_range(1..20);
    let total = totals[coupon.id] + if lowers { -by } else { by };
    if change_total(workload, rng, coupon.id, total, lowers).await != Class::Refused {
        totals.insert(coupon.id, total);
    }
}

/// Repeats an edit until it is in force or refused; a repeated edit changes nothing.
async fn change_total(
    workload: &Workload,
    rng: &mut StdRng,
    coupon: &str,
    total: i64,
    lowers: bool,
) -> Class {
    loop {
        let url = workload.urls.choose(rng).unwrap();
        match workload.edit(url, coupon, total, lowers).await {
            Class::Unknown if !workload.is_over() => pause(rng, 100..500).await,
            class => return class,
        }
    }
}

/// Cancels an order if it is recorded and live; returns whether it did.
pub async fn cancel(workload: &Workload, stores: &Stores, order: &str) -> bool {
    let began_us = workload.recorder.now_us();
    let class = match stores.psql(&CANCEL.replace("{order}", order)).await.as_deref() {
        Ok("1") => Class::Ok,
        Ok(_) => Class::Refused,
        Err(_) => Class::Unknown,
    };
    let span = workload.recorder.since(began_us);
    workload.recorder.add(Line::Cancel(Cancel { span, order: order.into(), class }));
    class == Class::Ok
}

/// Adds an event to the stream that can never be recorded: in turn a second order and the next of the other kinds.
pub async fn poison(workload: &Workload, stores: &Stores, rng: &mut StdRng) {
    let order = Uuid::now_v7().to_string();
    let coupon = TEST_COUPONS.choose(rng).unwrap().id;
    let long = "x".repeat(50_000);
    let second = ("a second order", vec!["order", &order, "coupon", coupon, "user", HOLDER]);
    let others = [
        ("no order event", vec!["hello", "world"]),
        ("no order id", vec!["order", "nonsense", "coupon", coupon, "user", HOLDER]),
        ("no user", vec!["order", &order, "coupon", coupon]),
        ("a user too long", vec!["order", &order, "coupon", coupon, "user", &long]),
        ("an unknown coupon", vec!["order", &order, "coupon", "nowhere", "user", HOLDER]),
    ];
    // Often: when the coupon is sold out, the event is refused for want of stock, and the unique index is not tested.
    let number = workload.next_poison();
    let (kind, fields) = if number.is_multiple_of(2) { &second } else { &others[number / 2 % others.len()] };
    let stream = stores.stream_of(coupon);
    let mut args = vec!["XADD", &stream, "NOMKSTREAM", "*"];
    args.extend(fields);
    let began_us = workload.recorder.now_us();
    let entry = match stores.redis_cli(&args).await {
        // XADD with NOMKSTREAM returns nothing if there is no stream.
        Ok(entry) if entry.is_empty() => return,
        entry => entry.ok(),
    };
    workload.recorder.add(Line::Poison(Poison {
        span: workload.recorder.since(began_us),
        kind: (*kind).into(),
        entry,
        order: fields.contains(&order.as_str()).then_some(order.clone()),
    }));
}
