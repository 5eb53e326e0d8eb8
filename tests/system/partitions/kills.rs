//! The program and both stores are killed in the middle of claims over three partitions.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{assert_orders_in_their_partitions, assert_whole, create_in_each, order_of, start, until_all_up};
use support::{Sale, signal_all, until};

const USERS: usize = 100;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Program,
    Redis,
    Postgres,
    All,
}

/// Claims each coupon for each user once, and kills in the middle. Returns the orders that were told, by coupon and user.
async fn claim_and_kill(
    sale: &Sale,
    coupons: &[String],
    pids: &[i32],
    round: usize,
) -> BTreeMap<(String, String), String> {
    let claims: Vec<(String, String)> = (0..USERS)
        .flat_map(|n| coupons.iter().map(move |coupon| (coupon.clone(), format!("user-{round}-{n}"))))
        .collect();
    let middle = claims.len() / 2;
    futures_util::stream::iter(claims.into_iter().enumerate())
        .map(|(n, (coupon, user))| async move {
            if n == middle {
                signal_all(pids, Signal::SIGKILL);
            }
            let answer = sale.claim(&coupon, &user).await;
            assert!([0, 200, 202, 503].contains(&answer.status), "{}", answer.text);
            (answer.status == 200 || answer.status == 202).then(|| ((coupon, user), order_of(&answer)))
        })
        .buffer_unordered(16)
        .filter_map(async |told| told)
        .collect()
        .await
}

#[tokio::test]
async fn kills_in_the_middle_of_claims_over_all_partitions_lose_no_order_that_was_told() {
    let mut sale = start().await;
    let coupons = create_in_each(&sale, "tea", json!({"total": 1_000})).await;
    let mut told = BTreeMap::new();
    for (round, victim) in
        [Victim::Program, Victim::Redis, Victim::Postgres, Victim::All].into_iter().enumerate()
    {
        let (program, redis, postgres) = (sale.server().pid(), sale.redis_pid(), sale.postgres_pids()[0]);
        let pids = match victim {
            Victim::Program => vec![program],
            Victim::Redis => vec![redis],
            Victim::Postgres => vec![postgres],
            Victim::All => vec![program, redis, postgres],
        };
        let answers = claim_and_kill(&sale, &coupons, &pids, round).await;
        assert!(answers.len() >= USERS, "{victim:?}: only {} claims were accepted", answers.len());
        told.extend(answers);
        if matches!(victim, Victim::Program | Victim::All) {
            sale.kill_9();
            sale.start_server().await;
        }
        until("Postgres answers", async || {
            let psql = sale.command().args(["psql", "-X", "-c", "select 1"]).output().unwrap();
            psql.status.success().then_some(())
        })
        .await;
        until_all_up(&sale).await;
    }
    sale.until_quiet().await;
    let rows = sale.psql("select coupon_id, user_id, id from orders where status = 'confirmed'");
    let recorded: BTreeMap<(String, String), String> = rows
        .lines()
        .map(|row| row.split('|').map(str::to_owned).collect::<Vec<_>>())
        .map(|row| ((row[0].clone(), row[1].clone()), row[2].clone()))
        .collect();
    assert_eq!(recorded.len(), rows.lines().count(), "a user has two orders of a coupon");
    for (claim, order) in &told {
        assert_eq!(recorded.get(claim), Some(order), "{claim:?}");
    }
    assert_whole(&sale, &coupons, i64::try_from(recorded.len()).unwrap()).await;
    assert_orders_in_their_partitions(&sale);
    assert_eq!(sale.psql_number("select count(*) from dead_letters"), 0);
}
