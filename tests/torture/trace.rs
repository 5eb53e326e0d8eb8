//! Judges the stores' own logs by the rules of the protocol's model: Redis's append-only file (`aof`) and Postgres's
//! write-ahead log (`wal`) become the lines of one trace, in which writes of the test are marked. Every line is
//! replayed, and every answer is compared with what the stores held when it was given (`answers`).

mod answers;
mod aof;
mod wal;

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use model::trace::{Line, Replay, in_one_order};

use crate::cluster::Cluster;
use crate::history::History;
use answers::Timeline;

pub use wal::ReplicationSlot;

/// The verdict on a trace.
pub enum TraceVerdict {
    /// Number of lines, all of them allowed.
    Allowed(usize),
    /// Why the first line or answer that is not allowed is refused.
    Refused(String),
    /// Why the logs could not be read.
    Unreadable(String),
    /// A run with a group has no trace: its servers have a log each, which a failover leaves in no common order.
    None,
}

impl fmt::Display for TraceVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(lines) => write!(f, "{lines} lines, all of them allowed"),
            Self::Refused(why) => write!(f, "no rule allows it: {why}"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
            Self::None => write!(f, "none, Redis is several servers"),
        }
    }
}

/// Reads the trace of a run that is at rest, writes it to the folder, and judges it.
pub async fn judge(cluster: &Cluster, history: &History, folder: &Path) -> TraceVerdict {
    if cluster.replication_slot.is_none() {
        return TraceVerdict::None;
    }
    let lines = match read(cluster).await {
        Ok(lines) => lines,
        Err(why) => return TraceVerdict::Unreadable(why),
    };
    let mut file = BufWriter::new(File::create(folder.join("trace.jsonl")).unwrap());
    for line in &lines {
        serde_json::to_writer(&mut file, line).unwrap();
        file.write_all(b"\n").unwrap();
    }
    file.flush().unwrap();
    match replay(&lines).and_then(|timeline| timeline.judge(history)) {
        Ok(()) => TraceVerdict::Allowed(lines.len()),
        Err(why) => TraceVerdict::Refused(why),
    }
}

/// Both logs of a run so far.
pub async fn read(cluster: &Cluster) -> Result<Vec<Line>, String> {
    let slot = cluster.replication_slot.as_ref().ok_or("no run with a group has a trace")?;
    let redis = aof::read(&cluster.program.data_dir().join("redis"), &cluster.stores.test_writes())?;
    let postgres = slot.read(&cluster.stores).await?;
    let mut lines = vec![slot.start()];
    lines.extend(in_one_order(redis, postgres));
    Ok(lines)
}

/// Replays every line; at the end the run must be at rest.
pub fn replay(lines: &[Line]) -> Result<Timeline, String> {
    let mut model = Replay::default();
    let mut timeline = Timeline::default();
    for (number, line) in (1..).zip(lines) {
        model.take(line).map_err(|why| format!("line {number}: {why}"))?;
        timeline.add(line, &model.stores.redis);
    }
    model.is_at_rest().map_err(|why| format!("at the end: {why}"))?;
    Ok(timeline)
}
