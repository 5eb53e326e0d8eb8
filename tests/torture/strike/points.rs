//! Kills at named points: a proxy stops a process at a request that it knows, and there it dies.

use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;

use super::{Director, Outcome};
use crate::faults::Kind;
use crate::hands;
use crate::load::WARES;
use crate::stage::{SERVER, WORKERS};
use support::proxy::{ACKNOWLEDGEMENT, Trap};

/// How long a process is given to come to its point.
const TRAP_PATIENCE: Duration = Duration::from_secs(30);
/// Some of them have ended already, or are not recorded yet.
const MAX_ORDERS_TRIED: usize = 500;

/// Until the connection is cut.
pub async fn done(trap: &Trap) -> Outcome {
    let done = tokio::time::timeout(TRAP_PATIENCE, trap.until_done()).await;
    done.map_err(|_| "nobody came to the point in time".into())
}

/// The first trap that a request is held in, with its place; the others are lifted.
pub async fn first_taken(mut traps: Vec<(usize, Trap)>) -> Result<(usize, Trap), String> {
    let taken = traps.iter().enumerate().map(|(number, (_, trap))| {
        Box::pin(async move {
            trap.until_taken().await;
            number
        })
    });
    let first = tokio::time::timeout(TRAP_PATIENCE, futures_util::future::select_all(taken)).await;
    let number = first.map(|(number, _, _)| number).map_err(|_| "nobody came to the point in time")?;
    Ok(traps.swap_remove(number))
}

impl Director {
    /// The units are taken; whoever asked will never hear of it.
    pub(super) async fn die_after_script(&mut self) -> Outcome {
        let trap = self.stage.nodes[SERVER].redis.cut_reply(&["EVALSHA", "user-"]);
        let outcome = done(&trap).await;
        self.restart_node(SERVER).await?;
        outcome
    }

    /// A worker dies at a point of recording; what it was sending arrives all the same, or never.
    pub(super) async fn die_recording(&mut self, kind: Kind) -> Outcome {
        let traps: Vec<(usize, Trap)> = WORKERS
            .iter()
            .map(|&place| {
                let node = &self.stage.nodes[place];
                let trap = match kind {
                    Kind::DieBeforeInsert => node.postgres.hold(&["insert into orders"]),
                    Kind::DieBeforeCommit => node.postgres.hold(&["COMMIT", "insert into orders"]),
                    _ => node.redis.hold(&ACKNOWLEDGEMENT),
                };
                (place, trap)
            })
            .collect();
        let (place, trap) = first_taken(traps).await?;
        self.stage.nodes[place].kill_9();
        if self.rng.random_bool(0.5) {
            trap.release();
        } else {
            trap.discard();
        }
        self.sleep(0..1_500).await;
        self.stage.start_node(place);
        Ok(())
    }

    /// The row is still in the outbox, and whoever was to return its unit and delete it dies, before the script
    /// or after it. Then its user has claimed again; the next one returns the unit once more.
    pub(super) async fn die_in_release(&mut self) -> Outcome {
        let place = WORKERS[0];
        let released = self.break_a_release(place).await;
        self.restart_node(place).await?;
        self.end_break_of_releases();
        released
    }

    /// The same without a death: whoever did it goes on, with the row or without it.
    pub(super) async fn cut_release(&mut self) -> Outcome {
        let released = self.break_a_release(WORKERS[0]).await;
        self.end_break_of_releases();
        released
    }

    /// Everybody else who returns units is stopped, else they would be first.
    async fn break_a_release(&mut self, place: usize) -> Outcome {
        self.stage.until_ready(None).await;
        self.stage.program.signal_server(Signal::SIGSTOP);
        self.stage.nodes[WORKERS[1]].signal(Signal::SIGSTOP);
        for _ in 0..MAX_ORDERS_TRIED {
            self.sleep(1..50).await;
            let Some((coupon, user, order)) = self.market.some_order(&mut self.rng) else { continue };
            let (redis, release) = (&self.stage.nodes[place].redis, ["EVALSHA", order.as_str()]);
            let is_sent = self.broken_releases % 2 == 1;
            let trap = if is_sent { redis.cut_reply(&release) } else { redis.cut(&release) };
            if !hands::cancel(&self.market, &self.stage.stores, &order).await {
                continue;
            }
            done(&trap).await?;
            self.broken_releases += 1;
            self.market.claim(&self.market.urls[1], &coupon, &user, None, false).await;
            return Ok(());
        }
        Err("no order could be ended".into())
    }

    fn end_break_of_releases(&self) {
        self.stage.nodes[WORKERS[1]].signal(Signal::SIGCONT);
        self.stage.program.signal_server(Signal::SIGCONT);
    }

    /// One claims hash is whole again, the next one is not.
    pub(super) async fn die_between_chunks(&mut self) -> Outcome {
        let mut ids: Vec<&str> = WARES.iter().map(|ware| ware.id).collect();
        ids.sort_unstable();
        // A rebuild takes them in this order.
        let second = self.rng.random_range(1..ids.len());
        let first = self.rng.random_range(0..second);
        let pair = [first, second].map(|place| format!("seckill:{{0}}:claims:{}", ids[place]));
        self.stage.program.signal_server(Signal::SIGSTOP);
        let traps: Vec<(usize, Trap)> = [SERVER, WORKERS[0], WORKERS[1]]
            .into_iter()
            .map(|place| {
                let chunk = ["Applies some of a rebuild's differences", pair[1].as_str()];
                (place, self.stage.nodes[place].redis.hold(&chunk))
            })
            .collect();
        let before = self.stage.stores.redis_cli(&["GET", "seckill:{0}:epoch"]).await;
        let deleted = self.redis(&["DEL", &pair[0], &pair[1]]).await;
        let taken = first_taken(traps).await;
        if let Ok((place, _)) = taken {
            self.stage.nodes[place].kill_9();
        }
        self.stage.program.signal_server(Signal::SIGCONT);
        deleted?;
        let (place, trap) = taken?;
        trap.release();
        self.stage.start_node(place);
        let rebuilt = self.stage.until_ready(before.as_deref().ok()).await;
        rebuilt.map(drop).ok_or_else(|| "no rebuild came".into())
    }
}
