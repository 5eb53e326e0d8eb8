//! The run as the stores' own logs tell it, held against the protocol: Redis's append-only file (`aof`) and
//! Postgres's write-ahead log (`wal`) as lines of one trace, what hands of ours did marked as such, then every
//! line replayed, and every answer compared with what the stores held when it was given (`answers`).

mod answers;
mod aof;
mod wal;

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use model::trace::{Line, Replay, in_one_order};

use crate::history::History;
use crate::stage::Stage;
use answers::Moments;

pub use wal::Slot;

/// What came of it.
pub enum Judgement {
    /// So many lines, all allowed.
    Allowed(usize),
    /// The first thing that is not.
    Refused(String),
    /// The logs could not be read whole.
    Unreadable(String),
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allowed(lines) => write!(f, "{lines} lines, all of them allowed"),
            Self::Refused(why) => write!(f, "no rule allows it: {why}"),
            Self::Unreadable(why) => write!(f, "cannot be read: {why}"),
        }
    }
}

/// Reads the trace of a run that has come to rest, keeps it in the folder, and judges it.
pub async fn judge(stage: &Stage, history: &History, folder: &Path) -> Judgement {
    let lines = match read(stage).await {
        Ok(lines) => lines,
        Err(why) => return Judgement::Unreadable(why),
    };
    let mut file = BufWriter::new(File::create(folder.join("trace.jsonl")).unwrap());
    for line in &lines {
        serde_json::to_writer(&mut file, line).unwrap();
        file.write_all(b"\n").unwrap();
    }
    file.flush().unwrap();
    match follow(&lines).and_then(|moments| moments.judge(history)) {
        Ok(()) => Judgement::Allowed(lines.len()),
        Err(why) => Judgement::Refused(why),
    }
}

/// Both logs of a run so far.
pub async fn read(stage: &Stage) -> Result<Vec<Line>, String> {
    let redis = aof::read(&stage.program.data_dir().join("redis"), &stage.stores.hands())?;
    let postgres = stage.slot.read(&stage.stores).await?;
    let mut lines = vec![stage.slot.start()];
    lines.extend(in_one_order(redis, postgres));
    Ok(lines)
}

/// Replays every line; at the end the run has to be at rest.
pub fn follow(lines: &[Line]) -> Result<Moments, String> {
    let mut replay = Replay::default();
    let mut moments = Moments::default();
    for (number, line) in (1..).zip(lines) {
        replay.take(line).map_err(|why| format!("line {number}: {why}"))?;
        moments.note(line, &replay.stores.redis);
    }
    replay.is_at_rest().map_err(|why| format!("at the end: {why}"))?;
    Ok(moments)
}
