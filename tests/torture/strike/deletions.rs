//! What somebody takes out of Redis, or withholds in it, and the rebuild that must follow.

use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use super::points::first_taken;
use super::{Director, Outcome, STREAM};
use crate::hands;
use crate::history::{Class, Fault, Line, Loses};
use crate::stage::{WORKERS, wait};
use support::proxy::Trap;

/// More than ten times the batch of a reclaim, which is how many of them Redis looks at for one page.
const HOARDED_EVENTS: &str = "10500";
/// Well below the time after which somebody takes them over.
const HOARD_INTERVAL: Duration = Duration::from_millis(250);

/// Makes events of nobody's, and has them, and whatever else is unread, delivered to a consumer of its own.
/// Answers the first and the last of them.
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

/// Makes every hoarded event look just delivered; real ones that the hoarder was given are left to the workers.
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

/// Nothing else lies between the first and the last.
const END_HOARD: &str = r"
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[2])) do
  redis.call('XACK', KEYS[1], 'order-writers', entry[1])
end
";

impl Director {
    /// A hoard that did not last proves nothing.
    pub fn note_hoard(&self) {
        let Some(hoard) = &self.hoard else { return };
        let now_us = self.market.recorder.now_us();
        self.market.recorder.add(Line::Fault(Fault {
            span: self.market.recorder.since(now_us),
            kind: "a hoard that lasts to the end".into(),
            fired: !hoard.is_finished(),
            loses: Loses::Nothing,
            note: "the machine was too slow for it, or the group was deleted".into(),
        }));
    }

    /// A command that takes something away, and the rebuild that it must bring about.
    pub(super) async fn rebuilt_after(&self, args: &[&str]) -> Outcome {
        let before = self.stage.stores.redis_cli(&["GET", "seckill:{0}:epoch"]).await;
        self.redis(args).await?;
        let rebuilt = self.stage.until_ready(before.as_deref().ok()).await;
        rebuilt.map(drop).ok_or_else(|| "no rebuild came".into())
    }

    /// The same while everybody who reads is stopped, so that there are claims that nobody has recorded, and
    /// bad events that nobody has read.
    pub(super) async fn delete_unread(&mut self, args: &[&str]) -> Outcome {
        let before = self.stage.stores.redis_cli(&["GET", "seckill:{0}:epoch"]).await;
        self.signal_readers(Signal::SIGSTOP);
        for _ in 0..3 {
            hands::poison(&self.market, &self.stage.stores, &mut self.rng).await;
        }
        self.sleep(200..800).await;
        let deleted = self.redis(args).await;
        // By the second server, which is the only one awake.
        let rebuilt = self.stage.until_marked(before.as_deref().ok()).await;
        self.signal_readers(Signal::SIGCONT);
        deleted?;
        rebuilt.ok_or("no rebuild came")?;
        self.stage.until_ready(None).await.map(drop).ok_or_else(|| "the program takes no claims".into())
    }

    /// What was unread is missed by the look of each second, or by the comparison that a person asks for.
    pub(super) async fn trim_stream(&mut self) -> Outcome {
        self.signal_readers(Signal::SIGSTOP);
        let trimmed = self.redis(&["XTRIM", STREAM, "MAXLEN", "0"]).await;
        self.signal_readers(Signal::SIGCONT);
        let reconciled = wait(async || {
            let (url, path) = (&self.market.urls[0], "/v1/admin/reconcile");
            let class = self.market.admin(url, Method::POST, path, json!({"fix": true})).await;
            (class == Class::Ok).then_some(())
        });
        let reconciled = reconciled.await.ok_or_else(|| "no reconcile came".to_owned());
        self.stage.until_ready(None).await;
        trimmed.and(reconciled)
    }

    /// What a worker held when it died is missed by the look of each second, or by the worker that takes over.
    pub(super) async fn trim_pending(&mut self) -> Outcome {
        let tally = ["HGET", "seckill:{0}:tally", "settled"];
        let before = self.stage.stores.redis_cli(&tally).await;
        let traps = WORKERS
            .map(|place| (place, self.stage.nodes[place].postgres.hold(&["insert into orders"])))
            .into();
        let (place, trap) = first_taken(traps).await?;
        self.redis(&["XTRIM", STREAM, "MAXLEN", "0"]).await?;
        self.stage.nodes[place].kill_9();
        drop(trap);
        // Not started before: the comparison at its start would mend what nobody had missed.
        let settled = wait(async || (self.stage.stores.redis_cli(&tally).await != before).then_some(()));
        settled.await.ok_or("no look missed them")?;
        self.stage.until_ready(None).await;
        self.stage.start_node(place);
        Ok(())
    }

    /// A worker begins its transaction only after the rebuild, with what it had read before.
    pub(super) async fn flush_before_insert(&mut self) -> Outcome {
        let traps: Vec<(usize, Trap)> =
            WORKERS.map(|place| (place, self.stage.nodes[place].postgres.hold(&["BEGIN"]))).into();
        let (_, trap) = first_taken(traps).await?;
        let outcome = self.rebuilt_after(&["FLUSHALL"]).await;
        trap.release();
        outcome
    }

    /// A worker waits for a row inside its transaction, for longer than a rebuild takes that does not wait for it.
    pub(super) async fn flush_before_commit(&mut self) -> Outcome {
        let before = self.stage.stores.redis_cli(&["GET", "seckill:{0}:epoch"]).await;
        let lock = self.stage.program.lock_coupon("water").await;
        let waiting = "select count(*) > 0 from pg_stat_activity \
                       where application_name = 'seckill' and wait_event_type = 'Lock'";
        let waits =
            wait(async || (self.stage.stores.psql(waiting).await.as_deref() == Ok("t")).then_some(()));
        waits.await.ok_or("no worker waits")?;
        self.redis(&["FLUSHALL"]).await?;
        let rebuilt = self.stage.until_marked(before.as_deref().ok()).await;
        lock.release();
        rebuilt.ok_or("no rebuild came")?;
        self.stage.until_ready(None).await.map(drop).ok_or_else(|| "the program takes no claims".into())
    }

    /// From here to the end of the run.
    pub(super) async fn hoard(&mut self) -> Outcome {
        if let Some(hoard) = &self.hoard {
            return if hoard.is_finished() { Err("it did not last".into()) } else { Ok(()) };
        }
        let stores = self.stage.stores.clone();
        // A hoard fills the append-only file, of which a trace needs the beginning.
        stores.redis_cli(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"]).await?;
        let ids = stores.redis_cli(&["EVAL", START_HOARD, "1", STREAM, HOARDED_EVENTS]).await?;
        let (first, last) = ids.split_once(' ').ok_or("there is no stream")?;
        let (first, last) = (first.to_owned(), last.to_owned());
        self.hoard = Some(tokio::spawn(async move {
            let keep = ["EVAL", KEEP_HOARD, "1", STREAM, &first, &last];
            // An answer that is late is no loss; what is held by another, or by nobody, is one.
            while stores.redis_cli(&keep).await.map_or(true, |kept| kept == HOARDED_EVENTS) {
                tokio::time::sleep(HOARD_INTERVAL).await;
            }
            // The workers are not to be busy with the rest.
            drop(stores.redis_cli(&["EVAL", END_HOARD, "1", STREAM, &first, &last]).await);
        }));
        Ok(())
    }

    /// Everybody who reads the stream.
    fn signal_readers(&self, signal: Signal) {
        self.stage.program.signal_server(signal);
        for place in WORKERS {
            self.stage.nodes[place].signal(signal);
        }
    }
}
