//! Faults that delete data in Redis, or keep entries from the workers, and the rebuild that must follow.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use super::kill_points::first_taken;
use super::{FaultInjector, Outcome};
use crate::admin_actions;
use crate::cluster::{WORKERS, wait};
use crate::history::{Class, Fault, Line, Loses};
use support::proxy::Trap;

/// Of the only partition.
const STREAM: &str = "seckill:{0}:orders";

/// XAUTOCLAIM examines at most ten entries for each entry of its COUNT: more than it examines for one page.
const HOARDED_EVENTS: &str = "10500";
/// Well below the time after which a worker reclaims them.
const HOARD_INTERVAL: Duration = Duration::from_millis(250);

/// Adds entries that are not order events; the consumer `hoarder` reads them and all other unread entries.
/// Returns the ids of the first and the last of them.
const START_HOARD: &str = r"
local first, last
for i = 1, tonumber(ARGV[1]) do
  last = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'hoarded', i)
  first = first or last
end
repeat
  local read = redis.call('XREADGROUP', 'GROUP', 'order-writers', 'hoarder', 'COUNT', 1000, 'STREAMS', KEYS[1], '>')
until not read
return first .. ' ' .. last
";

/// Resets the idle time of every hoarded entry; the workers can reclaim the real events that the hoarder has read.
const KEEP_HOARD: &str = r"
local from, kept = ARGV[1], 0
while true do
  local page = redis.call('XPENDING', KEYS[1], 'order-writers', from, ARGV[2], 1000, 'hoarder')
  if #page == 0 then return kept end
  local claim = { 'XCLAIM', KEYS[1], 'order-writers', 'hoarder', 0 }
  for _, row in ipairs(page) do claim[#claim + 1] = row[1] end
  claim[#claim + 1] = 'JUSTID'
  kept = kept + #redis.call(unpack(claim))
  from = '(' .. page[#page][1]
end
";

/// Acknowledges all entries from the first to the last; no other entry lies between them.
const END_HOARD: &str = r"
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2])) do
  redis.call('XACK', KEYS[1], 'order-writers', entry[1])
end
";

impl FaultInjector {
    /// Records whether the hoard lasted to the end; if not, the run proves nothing.
    pub fn record_hoard(&self) {
        let Some(hoard) = &self.hoard else { return };
        let now_us = self.workload.recorder.now_us();
        self.workload.recorder.add(Line::Fault(Fault {
            span: self.workload.recorder.since(now_us),
            kind: "a hoard that lasts to the end".into(),
            fired: !hoard.is_finished(),
            loses: Loses::Nothing,
            note: "the machine was too slow for it, or the group was deleted".into(),
            spares: None,
        }));
    }

    /// Sends a command that deletes data, and waits for the rebuild that must follow.
    pub(super) async fn rebuilt_after(&self, partition: i16, args: &[&str]) -> Outcome {
        let before = self.cluster.marker(partition).await;
        self.redis(args).await?;
        let rebuilt = self.cluster.until_rebuilt(&before).await;
        rebuilt.ok_or_else(|| "no rebuild followed".into())
    }

    /// Deletes data while all readers of the stream are paused: some claims are then not recorded, and some events
    /// that cannot be recorded are not read.
    pub(super) async fn delete_unread(&mut self, partition: i16, args: &[&str]) -> Outcome {
        let before = self.cluster.marker(partition).await;
        self.signal_readers(Signal::SIGSTOP);
        for _ in 0..3 {
            admin_actions::poison(&self.workload, &self.cluster.stores, &mut self.rng).await;
        }
        self.sleep(200..800).await;
        let deleted = self.redis(args).await;
        // The second server rebuilds; it is the only process that is not paused.
        let rebuilt = self.cluster.until_marked(&before).await;
        self.signal_readers(Signal::SIGCONT);
        deleted?;
        rebuilt.ok_or("no rebuild followed")?;
        self.cluster.until_ready().await.ok_or_else(|| "the program accepts no claims".into())
    }

    /// Deletes unread entries. The probe of each second finds them, or the comparison that this method requests.
    pub(super) async fn trim_stream(&mut self) -> Outcome {
        self.signal_readers(Signal::SIGSTOP);
        let trimmed = self.redis(&["XTRIM", STREAM, "MAXLEN", "0"]).await;
        self.signal_readers(Signal::SIGCONT);
        let reconciled = wait(async || {
            let (url, path) = (&self.workload.urls[0], "/v1/admin/reconcile");
            let class = self.workload.admin(url, Method::POST, path, json!({"fix": true})).await;
            (class == Class::Ok).then_some(())
        });
        let reconciled = reconciled.await.ok_or_else(|| "no comparison was made".to_owned());
        self.cluster.until_ready().await;
        trimmed.and(reconciled)
    }

    /// Deletes pending entries and kills the worker that holds them. The probe of each second finds them, or the
    /// worker that reclaims them.
    pub(super) async fn trim_pending(&mut self) -> Outcome {
        let tally = ["HGET", "seckill:{0}:tally", "settled"];
        let before = self.cluster.stores.redis_cli(&tally).await;
        let traps = WORKERS
            .map(|place| (place, self.cluster.nodes[place].postgres.hold(&["insert into orders"])))
            .into();
        let (place, trap) = first_taken(traps).await?;
        self.redis(&["XTRIM", STREAM, "MAXLEN", "0"]).await?;
        self.cluster.nodes[place].kill_9();
        drop(trap);
        // The killed worker starts only afterwards: the comparison at its start would repair the loss.
        let settled = wait(async || (self.cluster.stores.redis_cli(&tally).await != before).then_some(()));
        settled.await.ok_or("no probe found the loss")?;
        self.cluster.until_ready().await;
        self.cluster.start_node(place);
        Ok(())
    }

    /// A worker has read events before the rebuild and begins its transaction only after it.
    pub(super) async fn flush_before_insert(&mut self) -> Outcome {
        let traps: Vec<(usize, Trap)> =
            WORKERS.map(|place| (place, self.cluster.nodes[place].postgres.hold(&["BEGIN"]))).into();
        let (_, trap) = first_taken(traps).await?;
        let outcome = self.rebuilt_after(0, &["FLUSHALL"]).await;
        trap.release();
        outcome
    }

    /// A worker waits for a row inside its transaction, for longer than a rebuild would take that does not wait for
    /// the transaction.
    pub(super) async fn flush_before_commit(&mut self) -> Outcome {
        let before = self.cluster.marker(0).await;
        let lock = self.cluster.program.lock_coupon("water").await;
        let waiting = "select count(*) > 0 from pg_stat_activity \
                       where application_name = 'seckill' and wait_event_type = 'Lock'";
        let waits =
            wait(async || (self.cluster.stores.psql(waiting).await.as_deref() == Ok("t")).then_some(()));
        waits.await.ok_or("no worker waits")?;
        self.redis(&["FLUSHALL"]).await?;
        let rebuilt = self.cluster.until_marked(&before).await;
        lock.release();
        rebuilt.ok_or("no rebuild followed")?;
        self.cluster.until_ready().await.ok_or_else(|| "the program accepts no claims".into())
    }

    /// Starts a hoard that lasts to the end of the run; a second call only checks that it lasts.
    pub(super) async fn hoard(&mut self) -> Outcome {
        if let Some(hoard) = &self.hoard {
            return if hoard.is_finished() { Err("it did not last".into()) } else { Ok(()) };
        }
        let stores = self.cluster.stores.clone();
        // The hoard fills the append-only file. A rewrite would remove its beginning, which the trace needs.
        stores.redis_cli(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"]).await?;
        let ids = stores.redis_cli(&["EVAL", START_HOARD, "1", STREAM, HOARDED_EVENTS]).await?;
        let (first, last) = ids.split_once(' ').ok_or("there is no stream")?;
        let (first, last) = (first.to_owned(), last.to_owned());
        self.hoard = Some(tokio::spawn(async move {
            let keep = ["EVAL", KEEP_HOARD, "1", STREAM, &first, &last];
            // A missing answer does not end the hoard; a lower count does: another consumer has some of the entries.
            while stores.redis_cli(&keep).await.map_or(true, |kept| kept == HOARDED_EVENTS) {
                tokio::time::sleep(HOARD_INTERVAL).await;
            }
            // The workers must not spend their time on the rest.
            drop(stores.redis_cli(&["EVAL", END_HOARD, "1", STREAM, &first, &last]).await);
        }));
        Ok(())
    }

    /// Signals every process with workers: they read the stream and expire orders.
    pub(super) fn signal_readers(&self, signal: Signal) {
        self.cluster.program.signal_server(signal);
        for place in WORKERS {
            self.cluster.nodes[place].signal(signal);
        }
    }
}
