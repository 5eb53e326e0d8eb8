//! Injects one fault into the cluster and then repairs the cluster. A fault has fired if its target existed. The
//! checker judges how the program behaved.

mod deletions;
mod failovers;
mod kill_points;

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use support::proxy::EVALSHA;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, SERVER, TIMEOUT, WORKERS, signal, wait, with_children};
use crate::faults::Kind;
use crate::history::{Fault, Line, Spared};
use crate::workload::{TEST_COUPONS, Workload};
use kill_points::{CANCEL, CONFIRM, EXPIRE, REVOKE};

pub struct FaultInjector {
    pub cluster: Cluster,
    pub workload: Arc<Workload>,
    pub rng: StdRng,
    /// The task that renews the hoarded entries.
    pub hoard: Option<JoinHandle<()>>,
    /// Number of releases that were interrupted: alternately before the script and after it.
    pub interrupted_releases: usize,
    /// What the current fault must not slow down.
    pub spares: Option<Spared>,
    /// Promises that an injected fault itself saw broken.
    pub broken: Vec<String>,
}

/// The error says why a fault did not fire.
type Outcome = Result<(), String>;

impl FaultInjector {
    /// Injects one fault, waits until everything runs again, and adds the fault to the history.
    pub async fn inject(&mut self, kind: Kind) {
        if kind.deletes() {
            self.cluster.until_ready().await;
        }
        if self.cluster.group.is_some() {
            self.until_whole().await;
        }
        let began_us = self.workload.recorder.now_us();
        let outcome = self.fire(kind).await;
        self.workload.recorder.add(Line::Fault(Fault {
            span: self.workload.recorder.since(began_us),
            kind: kind.description().into(),
            fired: outcome.is_ok(),
            loses: kind.loses(),
            note: outcome.err().unwrap_or_default(),
            spares: self.spares.take(),
        }));
    }

    async fn fire(&mut self, kind: Kind) -> Outcome {
        match kind {
            Kind::KillProgram | Kind::StopProgram => self.restart_program(kind == Kind::KillProgram).await,
            Kind::PauseProgram => {
                self.cluster.program.signal_server(Signal::SIGSTOP);
                self.sleep(500..4_000).await;
                self.cluster.program.signal_server(Signal::SIGCONT);
                Ok(())
            }
            Kind::KillServer => self.restart_node(SERVER).await,
            Kind::KillWorker => {
                let place = *WORKERS.choose(&mut self.rng).unwrap();
                self.restart_node(place).await
            }
            Kind::PauseWorker => self.pause_worker().await,
            Kind::PauseSweepers => {
                self.signal_readers(Signal::SIGSTOP);
                self.sleep(1_500..4_000).await;
                self.signal_readers(Signal::SIGCONT);
                Ok(())
            }
            Kind::KillRedis | Kind::StopRedis => {
                let what = if kind == Kind::KillRedis { Signal::SIGKILL } else { Signal::SIGTERM };
                signal_process(self.cluster.redis_pid().await, what)
            }
            Kind::PauseRedis => self.pause(self.cluster.redis_pid().await).await,
            Kind::PausePostgres => self.pause(self.cluster.postgres_pid().await).await,
            Kind::KillPostgres => signal_process(self.cluster.postgres_pid().await, Signal::SIGKILL),
            Kind::RestartPostgres => signal_process(self.cluster.postgres_pid().await, Signal::SIGINT),
            Kind::KillBackend => self.kill_backend().await,
            Kind::CutReplies | Kind::CutCommits => self.cut(kind == Kind::CutCommits).await,
            Kind::KillClients => self.redis(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await,
            Kind::TerminateBackends => self.terminate_backends().await,
            Kind::FlushScripts => self.redis(&["SCRIPT", "FLUSH"]).await,
            Kind::DieAfterScript => self.die_after_script().await,
            Kind::DieBeforeInsert | Kind::DieBeforeCommit | Kind::DieBeforeAck => {
                self.die_recording(kind).await
            }
            Kind::DieInRelease => self.die_in_release().await,
            Kind::CutRelease => self.cut_release().await,
            Kind::DieInConfirm => self.die_in_transition(CONFIRM).await,
            Kind::DieInCancel => self.die_in_transition(CANCEL).await,
            Kind::DieInRevoke => self.die_in_transition(REVOKE).await,
            Kind::DieInExpiry => self.die_in_transition(EXPIRE).await,
            Kind::DieInJoin => self.die_in_join().await,
            Kind::DieBetweenChunks => self.die_between_chunks().await,
            Kind::LockCoupon => self.lock_coupon().await,
            Kind::DeleteMarker => {
                let partition = self.random_partition();
                self.rebuilt_after(partition, &["DEL", &format!("seckill:{{{partition}}}:epoch")]).await
            }
            Kind::DeleteClaims => {
                let (partition, key) = self.random_key("claims");
                self.delete_unread(partition, &["DEL", &key]).await
            }
            Kind::DeleteCoupon => {
                let (partition, key) = self.random_key("coupon");
                self.rebuilt_after(partition, &["DEL", &key]).await
            }
            Kind::DeleteStream => {
                let partition = self.random_partition();
                self.delete_unread(partition, &["DEL", &stream(partition)]).await
            }
            Kind::DestroyGroup => {
                let partition = self.random_partition();
                let group = ["XGROUP", "DESTROY", &stream(partition), "order-writers"];
                self.delete_unread(partition, &group).await
            }
            Kind::TrimStream => self.trim_stream().await,
            Kind::TrimPending => self.trim_pending().await,
            Kind::FlushRedis => self.rebuilt_after(0, &["FLUSHALL"]).await,
            Kind::LateInsert => self.flush_before_insert().await,
            Kind::LateCommit => self.flush_before_commit().await,
            Kind::Hoard => self.hoard().await,
            Kind::KillMaster => self.kill_master().await,
            Kind::StopMaster => self.stop_master().await,
            Kind::PauseMajority => self.pause_majority().await,
            Kind::MoveSlot => self.move_slot().await,
        }
    }

    async fn sleep(&mut self, range_ms: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(range_ms))).await;
    }

    async fn restart_program(&mut self, is_killed: bool) -> Outcome {
        if is_killed {
            self.cluster.program.kill_9();
            self.sleep(0..1_500).await;
        } else if !self.cluster.program.stop().success() {
            return Err("the program did not stop cleanly".into());
        }
        self.cluster.program.start_server_unready().await;
        self.cluster.until_ready().await.ok_or_else(|| "the program took no claims again".into())
    }

    async fn restart_node(&mut self, place: usize) -> Outcome {
        self.cluster.nodes[place].kill_9();
        self.sleep(0..1_500).await;
        self.cluster.start_node(place);
        Ok(())
    }

    async fn pause_worker(&mut self) -> Outcome {
        let place = *WORKERS.choose(&mut self.rng).unwrap();
        self.cluster.nodes[place].signal(Signal::SIGSTOP);
        tokio::time::sleep(2 * self.cluster.reclaim_after).await;
        self.sleep(0..2_000).await;
        self.cluster.nodes[place].signal(Signal::SIGCONT);
        Ok(())
    }

    /// Pauses all processes of a store.
    async fn pause(&mut self, pid: Option<i32>) -> Outcome {
        let pid = pid.ok_or("the store does not run")?;
        let pids = with_children(pid);
        let stopped = pids.iter().filter(|pid| signal(**pid, Signal::SIGSTOP)).count();
        self.sleep(500..4_000).await;
        for pid in pids {
            signal(pid, Signal::SIGCONT);
        }
        if stopped == 0 { Err("the store has ended".into()) } else { Ok(()) }
    }

    async fn kill_backend(&mut self) -> Outcome {
        let pid = wait(async || {
            let some = "select pid from pg_stat_activity where application_name = 'seckill' and pid <> pg_backend_pid() \
                        order by random() limit 1";
            self.cluster.stores.psql(some).await.ok()?.parse().ok()
        });
        signal_process(pid.await, Signal::SIGKILL)
    }

    async fn terminate_backends(&mut self) -> Outcome {
        let all = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                   where backend_type = 'client backend' and pid <> pg_backend_pid()";
        let ended = wait(async || self.cluster.stores.psql(all).await.ok()).await;
        ended.map(drop).ok_or_else(|| "Postgres does not answer".into())
    }

    /// Cuts connections, each at the reply to a request.
    async fn cut(&mut self, is_commit: bool) -> Outcome {
        let nodes = &self.cluster.nodes;
        let traps: Vec<_> = if is_commit {
            WORKERS.map(|place| nodes[place].postgres.cut_reply(&["COMMIT"])).into()
        } else {
            let claims = nodes[SERVER].redis.cut_reply(&[EVALSHA, "user-"]);
            let reads = WORKERS.map(|place| nodes[place].redis.cut_reply(&["XREADGROUP"]));
            std::iter::once(claims).chain(reads).collect()
        };
        for trap in &traps {
            kill_points::until_cut(trap).await?;
        }
        Ok(())
    }

    async fn redis(&self, args: &[&str]) -> Outcome {
        let done = wait(async || self.cluster.stores.redis_cli(args).await.ok()).await;
        done.map(drop).ok_or_else(|| "Redis does not answer".into())
    }

    /// Three times as long as a worker waits for a lock, so that the parts of a batch time out too.
    async fn lock_coupon(&mut self) -> Outcome {
        let id = self.random_coupon();
        let lock = format!("select 1 from coupons where id = '{id}' for update; select pg_sleep(7)");
        let locked = wait(async || self.cluster.stores.psql_within(&lock, TIMEOUT).await.ok()).await;
        locked.map(drop).ok_or_else(|| "Postgres does not answer".into())
    }

    fn random_partition(&mut self) -> i16 {
        *self.cluster.stores.partitions.choose(&mut self.rng).unwrap()
    }

    /// A key of a random coupon, and its partition; `kind` is the part before the coupon.
    fn random_key(&mut self, kind: &str) -> (i16, String) {
        let coupon = self.random_coupon();
        (self.cluster.stores.home(coupon), self.cluster.stores.coupon_key(kind, coupon))
    }

    fn random_coupon(&mut self) -> &'static str {
        TEST_COUPONS.choose(&mut self.rng).unwrap().id
    }
}

fn stream(partition: i16) -> String {
    format!("seckill:{{{partition}}}:orders")
}

fn signal_process(pid: Option<i32>, what: Signal) -> Outcome {
    match pid {
        Some(pid) if signal(pid, what) => Ok(()),
        _ => Err("the process does not exist".into()),
    }
}
