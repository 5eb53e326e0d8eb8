//! Whether a standby that was promoted in the place of Postgres has every commit that Redis knows of. Then nothing is
//! lost, and the stores are brought into agreement without an operator.
//!
//! Redis has a WAL position that is not before any commit with an effect there. A promoted standby has the WAL of the
//! timeline before its own up to the position at which it left that timeline. Where that is not below the position in
//! Redis, it has all those commits.

use tokio::task::JoinHandle;

use crate::domain::counter;
use crate::postgres::fence::{self, FenceRow};
use crate::postgres::timeline::{self, History, split_identity};
use crate::postgres::{PgConnection, Postgres, PostgresError};
use crate::redis::marker::{epoch_of, ready_marker};
use crate::redis::probe::RedisProbe;

/// What has become of the Postgres of the last agreement.
#[derive(Clone, Debug)]
pub enum Successor {
    /// It is still there.
    Same,
    /// A standby has been promoted, which has left the timeline of the last agreement at this WAL position.
    Promoted { left_at: String },
    /// Another server has taken its place, and may lack commits, for this reason.
    Unknown { why: String },
}

impl Successor {
    /// Compares this Postgres with the one of the last agreement.
    ///
    /// # Errors
    /// If Postgres cannot serve.
    pub async fn find(
        connection: &mut PgConnection,
        seen: &RedisProbe,
        row: &FenceRow,
    ) -> Result<Self, PostgresError> {
        let agreed = if has_agreed(seen, row) { &row.postgres_identity } else { row.agreed_postgres() };
        if agreed.is_empty() || [agreed, &row.postgres_identity].iter().all(|of| *of == row.this_postgres) {
            return Ok(Self::Same);
        }
        let unknown = |why: String| Ok(Self::Unknown { why });
        let timelines = split_identity(agreed).zip(split_identity(&row.this_postgres));
        let Some(((_, before), _)) = timelines.filter(|((before, _), (now, _))| before == now) else {
            return unknown("another server has taken its place".into());
        };
        let history: History = match timeline::history(connection).await? {
            Ok(history) => history,
            Err(why) => {
                return unknown(format!(
                    "a promoted standby, or a restored copy, has taken its place; {why}"
                ));
            }
        };
        match history.left_at(before) {
            Some(left_at) => Ok(Self::Promoted { left_at: left_at.to_owned() }),
            None => unknown("a server with another history has taken its place".into()),
        }
    }

    /// Why commits are lost, or may be; `None` if Redis shows that none is.
    #[must_use]
    pub fn loss(&self, seen: &RedisProbe, row: &FenceRow) -> Option<String> {
        match self {
            Self::Same => None,
            Self::Unknown { why } => Some(why.clone()),
            Self::Promoted { .. } if !knows_every_commit(seen, row) => Some(
                "a promoted standby has taken its place, and Redis may not know its last commits either"
                    .into(),
            ),
            Self::Promoted { .. } => self.loss_before(seen.postgres_lsn.as_deref()),
        }
    }

    /// Why commits up to the position in Redis are lost; `None` if they are not. To be asked again when no process can
    /// record a position any more: the old server may still have committed.
    #[must_use]
    pub fn loss_before(&self, noted: Option<&str>) -> Option<String> {
        match (self, noted) {
            (Self::Promoted { .. }, None) => Some(
                "a promoted standby has taken its place, and Redis has lost the position to compare it with"
                    .into(),
            ),
            (Self::Promoted { left_at }, Some(noted)) if left_at.as_str() < noted => Some(format!(
                "the promoted standby has the commits up to {left_at}, Redis knows of commits up to {noted}"
            )),
            _ => None,
        }
    }
}

/// Whether the marker proves that the stores have agreed since the row names its Postgres.
pub fn has_agreed(seen: &RedisProbe, row: &FenceRow) -> bool {
    seen.marker.as_deref() == Some(&*ready_marker(&row.epoch))
}

/// Whether the position in Redis covers every commit with an effect outside Postgres. Another Redis than that of the
/// agreement may be a replica that was behind: it counts only if commits waited for a standby, because then a failover of
/// Postgres itself loses none.
fn knows_every_commit(seen: &RedisProbe, row: &FenceRow) -> bool {
    let Some(epoch) = seen.marker.as_deref().and_then(epoch_of) else { return false };
    let is_of_the_agreement = seen.run_id == row.redis_run_id && seen.replid == row.redis_replid;
    // A rebuild that died before the one of the row. Of two epochs with the same counter, one was made by another server.
    let is_of_a_rebuild_since =
        (counter(&row.agreed_epoch) + 1..row.epoch.counter()).contains(&counter(epoch));
    let is_known = epoch == row.epoch.as_str() || epoch == row.agreed_epoch || is_of_a_rebuild_since;
    is_known && (is_of_the_agreement || row.agreed_with_standby)
}

/// Keeps in the fence row what the agreement rests on, while the fence is up.
#[derive(Default)]
pub struct TermsWatch {
    /// A commit may wait for a standby that is away: one attempt at a time.
    attempt: Option<JoinHandle<()>>,
}

impl TermsWatch {
    /// `row` is one that a probe has just read and that agrees with Redis.
    pub fn check(&mut self, row: &FenceRow, postgres: &Postgres) {
        let is_pending = self.attempt.as_ref().is_some_and(|attempt| !attempt.is_finished());
        if row.lsn.is_none() || row.has_current_terms() || is_pending {
            return;
        }
        let (pool, epoch) = (postgres.pool.clone(), row.epoch.clone());
        self.attempt = Some(tokio::spawn(async move {
            if let Err(error) = fence::record_terms(&pool, &epoch).await {
                tracing::debug!("cannot record what the agreement rests on: {error}");
            }
        }));
    }
}
