//! Kills at named points: a proxy holds a known request of a process, and the process is killed there.

use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;

use super::{FaultInjector, Outcome};
use crate::admin_actions;
use crate::cluster::{SERVER, WORKERS};
use crate::faults::Kind;
use crate::workload::{ClaimRequest, TEST_COUPONS};
use support::proxy::{ACKNOWLEDGEMENT, EVALSHA, Trap};
use support::script_text;

/// Longest wait for a process to send the request.
const TRAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Some orders cannot be cancelled: they have ended already or are not recorded yet.
const MAX_ORDERS_TRIED: usize = 500;

/// A transaction that changes orders, and its first effect in Redis.
#[derive(Clone, Copy)]
pub struct Transaction {
    /// A text of the statement, or a bound parameter with its length.
    statement: &'static str,
    /// A text in the command to Redis that follows the commit.
    effect: &'static str,
    /// The processes that make it.
    places: &'static [usize],
}

pub const CONFIRM: Transaction = by_server("set status = 'confirmed'");
pub const CANCEL: Transaction = by_server("\0\0\0\u{9}cancelled");
pub const REVOKE: Transaction = by_server("set status = 'cancelled', ended_at = f.now, reason");
pub const EXPIRE: Transaction =
    Transaction { statement: "\0\0\0\u{7}expired", effect: "seckill:{0}:claims:", places: &WORKERS };

const fn by_server(statement: &'static str) -> Transaction {
    Transaction { statement, effect: "postgres_lsn", places: &[SERVER] }
}

/// Waits until the trap has cut its connection.
pub async fn until_cut(trap: &Trap) -> Outcome {
    let cut = tokio::time::timeout(TRAP_TIMEOUT, trap.until_done()).await;
    cut.map_err(|_| "no process sent the request in time".into())
}

/// The first trap that holds a request, with its node's index; the other traps are removed.
pub async fn first_taken(mut traps: Vec<(usize, Trap)>) -> Result<(usize, Trap), String> {
    let taken = traps.iter().enumerate().map(|(number, (_, trap))| {
        Box::pin(async move {
            trap.until_taken().await;
            number
        })
    });
    let first = tokio::time::timeout(TRAP_TIMEOUT, futures_util::future::select_all(taken)).await;
    let number = first.map(|(number, _, _)| number).map_err(|_| "no process sent the request in time")?;
    Ok(traps.swap_remove(number))
}

impl FaultInjector {
    /// The script has claimed the units; the clients get no answer.
    pub(super) async fn die_after_script(&mut self) -> Outcome {
        let trap = self.cluster.nodes[SERVER].redis.cut_reply(&[EVALSHA, "user-"]);
        let outcome = until_cut(&trap).await;
        self.restart_node(SERVER).await?;
        outcome
    }

    /// Kills a worker at a point of recording. The request that it was sending is delivered, or it is dropped.
    pub(super) async fn die_recording(&mut self, kind: Kind) -> Outcome {
        let traps: Vec<(usize, Trap)> = WORKERS
            .iter()
            .map(|&place| {
                let node = &self.cluster.nodes[place];
                let trap = match kind {
                    Kind::DieBeforeInsert => node.postgres.hold(&["insert into orders"]),
                    Kind::DieBeforeCommit => node.postgres.hold(&["COMMIT", "insert into orders"]),
                    _ => node.redis.hold(&ACKNOWLEDGEMENT),
                };
                (place, trap)
            })
            .collect();
        let (place, trap) = first_taken(traps).await?;
        self.kill_at(place, trap).await;
        Ok(())
    }

    /// Kills a process before the commit, between the commit and its answer, or before or after the first effect in Redis.
    /// Clients and sweepers make the transactions.
    pub(super) async fn die_in_transition(&mut self, transaction: Transaction) -> Outcome {
        let Transaction { statement, effect, places } = transaction;
        let traps: Vec<(usize, Trap)> = places
            .iter()
            .map(|&place| (place, self.cluster.nodes[place].postgres.hold(&["COMMIT", statement])))
            .collect();
        let (place, mut trap) = first_taken(traps).await?;
        if self.rng.random_bool(0.5) {
            let before_effect = self.cluster.nodes[place].redis.hold(&[EVALSHA, effect]);
            trap.release();
            trap = first_taken(vec![(place, before_effect)]).await?.1;
        }
        self.kill_at(place, trap).await;
        Ok(())
    }

    /// Kills the second server before the row of a user in line is inserted, or between the row and the place.
    pub(super) async fn die_in_join(&mut self) -> Outcome {
        let node = &self.cluster.nodes[SERVER];
        let (place, mut trap) =
            first_taken(vec![(SERVER, node.postgres.hold(&["insert into waitlist"]))]).await?;
        if self.rng.random_bool(0.7) {
            let before_place = node.redis.hold(&[EVALSHA, "seckill:{0}:waitlist-orders:"]);
            trap.release();
            trap = first_taken(vec![(place, before_place)]).await?.1;
        }
        self.kill_at(place, trap).await;
        Ok(())
    }

    /// Kills a process whose request is held. The request is delivered, or it is dropped.
    async fn kill_at(&mut self, place: usize, trap: Trap) {
        self.cluster.nodes[place].kill_9();
        if self.rng.random_bool(0.5) {
            trap.release();
        } else {
            trap.discard();
        }
        self.sleep(0..1_500).await;
        self.cluster.start_node(place);
    }

    /// Kills the worker that returns the unit of an outbox row, before the release script or after it. The row stays,
    /// the user claims again, and the next worker releases the unit a second time.
    pub(super) async fn die_in_release(&mut self) -> Outcome {
        let place = WORKERS[0];
        let released = self.interrupt_release(place).await;
        self.restart_node(place).await?;
        self.resume_other_releases();
        released
    }

    /// Interrupts a release without a kill: the worker continues, with the row or without it.
    pub(super) async fn cut_release(&mut self) -> Outcome {
        let released = self.interrupt_release(WORKERS[0]).await;
        self.resume_other_releases();
        released
    }

    /// Pauses all other processes that return units, else one of them might do it first.
    async fn interrupt_release(&mut self, place: usize) -> Outcome {
        self.cluster.until_ready().await;
        self.cluster.program.signal_server(Signal::SIGSTOP);
        self.cluster.nodes[WORKERS[1]].signal(Signal::SIGSTOP);
        for _ in 0..MAX_ORDERS_TRIED {
            self.sleep(1..50).await;
            let Some((coupon, user, order)) = self.workload.recent_order(&mut self.rng) else { continue };
            let (redis, release) = (&self.cluster.nodes[place].redis, [EVALSHA, order.as_str()]);
            let is_sent = self.interrupted_releases % 2 == 1;
            let trap = if is_sent { redis.cut_reply(&release) } else { redis.cut(&release) };
            if !admin_actions::cancel(&self.workload, &self.cluster.stores, &order).await {
                continue;
            }
            until_cut(&trap).await?;
            self.interrupted_releases += 1;
            let (coupon, user) = (coupon.as_str(), user.as_str());
            let again = ClaimRequest { coupon, user, key: None, wait_seconds: None, retries: false };
            self.workload.claim(&self.workload.urls[1], &again).await;
            return Ok(());
        }
        Err("no order could be cancelled".into())
    }

    fn resume_other_releases(&self) {
        self.cluster.nodes[WORKERS[1]].signal(Signal::SIGCONT);
        self.cluster.program.signal_server(Signal::SIGCONT);
    }

    /// Kills the rebuilder when one claims hash is rebuilt and the next one is not.
    pub(super) async fn die_between_chunks(&mut self) -> Outcome {
        let mut ids: Vec<&str> = TEST_COUPONS.iter().map(|coupon| coupon.id).collect();
        ids.sort_unstable();
        // A rebuild handles the coupons in this order.
        let second = self.rng.random_range(1..ids.len());
        let first = self.rng.random_range(0..second);
        let chunk_script = script_text("rebuild_chunk");
        let pair = [first, second].map(|place| format!("seckill:{{0}}:claims:{}", ids[place]));
        self.cluster.program.signal_server(Signal::SIGSTOP);
        let traps: Vec<(usize, Trap)> = [SERVER, WORKERS[0], WORKERS[1]]
            .into_iter()
            .map(|place| {
                let chunk = [chunk_script.as_str(), pair[1].as_str()];
                (place, self.cluster.nodes[place].redis.hold(&chunk))
            })
            .collect();
        let before = self.cluster.marker(0).await;
        let deleted = self.redis(&["DEL", &pair[0], &pair[1]]).await;
        let taken = first_taken(traps).await;
        if let Ok((place, _)) = taken {
            self.cluster.nodes[place].kill_9();
        }
        self.cluster.program.signal_server(Signal::SIGCONT);
        deleted?;
        let (place, trap) = taken?;
        trap.release();
        self.cluster.start_node(place);
        let rebuilt = self.cluster.until_rebuilt(&before).await;
        rebuilt.ok_or_else(|| "no rebuild followed".into())
    }
}
