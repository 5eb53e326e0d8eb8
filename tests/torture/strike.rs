//! Does one fault to the stage and puts everything back on its feet. A fault fires when what it is aimed at was
//! there to be hit; whether the program bears it is the checker's affair.

mod deletions;
mod points;

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::task::JoinHandle;

use crate::faults::Kind;
use crate::history::{Fault, Line};
use crate::load::{Market, WARES};
use crate::stage::{PATIENCE, SERVER, Stage, WORKERS, signal, wait, with_children};

const STREAM: &str = "seckill:{0}:orders";

pub struct Director {
    pub stage: Stage,
    pub market: Arc<Market>,
    pub rng: StdRng,
    pub hoard: Option<JoinHandle<()>>,
    /// How many; by turns before the script and after it.
    pub broken_releases: usize,
}

/// Why a fault did not fire.
type Outcome = Result<(), String>;

impl Director {
    /// One fault from its beginning to the moment when everything runs again, noted in the history.
    pub async fn strike(&mut self, kind: Kind) {
        if kind.deletes() {
            self.stage.until_ready(None).await;
        }
        let began_us = self.market.recorder.now_us();
        let outcome = self.fire(kind).await;
        self.market.recorder.add(Line::Fault(Fault {
            span: self.market.recorder.since(began_us),
            kind: kind.name().into(),
            fired: outcome.is_ok(),
            loses: kind.loses(),
            note: outcome.err().unwrap_or_default(),
        }));
    }

    async fn fire(&mut self, kind: Kind) -> Outcome {
        match kind {
            Kind::KillProgram | Kind::StopProgram => self.restart_program(kind == Kind::KillProgram).await,
            Kind::PauseProgram => {
                self.stage.program.signal_server(Signal::SIGSTOP);
                self.sleep(500..4_000).await;
                self.stage.program.signal_server(Signal::SIGCONT);
                Ok(())
            }
            Kind::KillServer => self.restart_node(SERVER).await,
            Kind::KillWorker => {
                let place = *WORKERS.choose(&mut self.rng).unwrap();
                self.restart_node(place).await
            }
            Kind::PauseWorker => self.pause_worker().await,
            Kind::KillRedis | Kind::StopRedis => {
                let what = if kind == Kind::KillRedis { Signal::SIGKILL } else { Signal::SIGTERM };
                hit(self.stage.redis_pid().await, what)
            }
            Kind::PauseRedis => self.pause(self.stage.redis_pid().await).await,
            Kind::PausePostgres => self.pause(self.stage.postgres_pid().await).await,
            Kind::KillPostgres => hit(self.stage.postgres_pid().await, Signal::SIGKILL),
            Kind::RestartPostgres => hit(self.stage.postgres_pid().await, Signal::SIGINT),
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
            Kind::DieBetweenChunks => self.die_between_chunks().await,
            Kind::LockCoupon => self.lock_coupon().await,
            Kind::DeleteMarker => self.rebuilt_after(&["DEL", "seckill:{0}:epoch"]).await,
            Kind::DeleteClaims => {
                let key = format!("seckill:{{0}}:claims:{}", self.ware());
                self.delete_unread(&["DEL", &key]).await
            }
            Kind::DeleteCoupon => {
                let key = format!("seckill:{{0}}:coupon:{}", self.ware());
                self.rebuilt_after(&["DEL", &key]).await
            }
            Kind::DeleteStream => self.delete_unread(&["DEL", STREAM]).await,
            Kind::DestroyGroup => self.delete_unread(&["XGROUP", "DESTROY", STREAM, "order-writers"]).await,
            Kind::TrimStream => self.trim_stream().await,
            Kind::TrimPending => self.trim_pending().await,
            Kind::FlushRedis => self.rebuilt_after(&["FLUSHALL"]).await,
            Kind::LateInsert => self.flush_before_insert().await,
            Kind::LateCommit => self.flush_before_commit().await,
            Kind::Hoard => self.hoard().await,
        }
    }

    async fn sleep(&mut self, range_ms: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(range_ms))).await;
    }

    async fn restart_program(&mut self, is_killed: bool) -> Outcome {
        if is_killed {
            self.stage.program.kill_9();
            self.sleep(0..1_500).await;
        } else if !self.stage.program.stop().success() {
            return Err("the program did not stop cleanly".into());
        }
        self.stage.program.start_server_unready().await;
        self.stage.until_ready(None).await.map(drop).ok_or_else(|| "it never came back".into())
    }

    async fn restart_node(&mut self, place: usize) -> Outcome {
        self.stage.nodes[place].kill_9();
        self.sleep(0..1_500).await;
        self.stage.start_node(place);
        Ok(())
    }

    async fn pause_worker(&mut self) -> Outcome {
        let place = *WORKERS.choose(&mut self.rng).unwrap();
        self.stage.nodes[place].signal(Signal::SIGSTOP);
        tokio::time::sleep(2 * self.stage.reclaim_after).await;
        self.sleep(0..2_000).await;
        self.stage.nodes[place].signal(Signal::SIGCONT);
        Ok(())
    }

    /// SIGSTOP of a store with all its processes, for a while.
    async fn pause(&mut self, pid: Option<i32>) -> Outcome {
        let pid = pid.ok_or("the store is not there")?;
        let pids = with_children(pid);
        let stopped = pids.iter().filter(|pid| signal(**pid, Signal::SIGSTOP)).count();
        self.sleep(500..4_000).await;
        for pid in pids {
            signal(pid, Signal::SIGCONT);
        }
        if stopped == 0 { Err("the store has gone".into()) } else { Ok(()) }
    }

    async fn kill_backend(&mut self) -> Outcome {
        let pid = wait(async || {
            let some = "select pid from pg_stat_activity where application_name = 'seckill' and pid <> pg_backend_pid() \
                        order by random() limit 1";
            self.stage.stores.psql(some).await.ok()?.parse().ok()
        });
        hit(pid.await, Signal::SIGKILL)
    }

    async fn terminate_backends(&mut self) -> Outcome {
        let all = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                   where backend_type = 'client backend' and pid <> pg_backend_pid()";
        let ended = wait(async || self.stage.stores.psql(all).await.ok()).await;
        ended.map(drop).ok_or_else(|| "Postgres is not there".into())
    }

    /// Cuts some connections, each at the reply to what it has just sent.
    async fn cut(&mut self, is_commit: bool) -> Outcome {
        let nodes = &self.stage.nodes;
        let traps: Vec<_> = if is_commit {
            WORKERS.map(|place| nodes[place].postgres.cut_reply(&["COMMIT"])).into()
        } else {
            let claims = nodes[SERVER].redis.cut_reply(&["EVALSHA", "user-"]);
            let reads = WORKERS.map(|place| nodes[place].redis.cut_reply(&["XREADGROUP"]));
            std::iter::once(claims).chain(reads).collect()
        };
        for trap in &traps {
            points::done(trap).await?;
        }
        Ok(())
    }

    async fn redis(&self, args: &[&str]) -> Outcome {
        let done = wait(async || self.stage.stores.redis_cli(args).await.ok()).await;
        done.map(drop).ok_or_else(|| "Redis is not there".into())
    }

    /// Longer than a worker waits for a lock, three times over: also for the parts of a batch.
    async fn lock_coupon(&mut self) -> Outcome {
        let id = self.ware();
        let lock = format!("select 1 from coupons where id = '{id}' for update; select pg_sleep(7)");
        let locked = wait(async || self.stage.stores.psql_within(&lock, PATIENCE).await.ok()).await;
        locked.map(drop).ok_or_else(|| "Postgres is not there".into())
    }

    fn ware(&mut self) -> &'static str {
        WARES.choose(&mut self.rng).unwrap().id
    }
}

fn hit(pid: Option<i32>, what: Signal) -> Outcome {
    match pid {
        Some(pid) if signal(pid, what) => Ok(()),
        _ => Err("nobody was there".into()),
    }
}
