//! Rule 8: compares Redis with Postgres while claims continue, and repairs what is safe to repair then. The comparison
//! reads the claims hash, then unacknowledged entries, then Postgres. An event moves in this direction: if an event is
//! in none of them, it is lost, not late. The reconciler never writes a stock in Redis and never inserts an order; it
//! takes the fence down for a difference that it must not repair.

mod comparison;
mod definitions;
mod error;
mod one_coupon;
mod report;
mod throttle;
mod waiting_lists;

use comparison::{Comparison, RepairLevel};
pub use error::ReconcileError;
pub use report::{ComparisonReport, Difference};

use crate::config;
use crate::domain::Origin;
use crate::fence::{Fence, FenceState, Session, wal_position};
use crate::metrics;
use crate::postgres::coupons::CouponRow;
use crate::postgres::{self, Postgres, comparisons};
use crate::redis::tally::Tally;
use crate::redis::{coupon_hash, deleted_entries, marker, probe, tally};

/// Compares the stores, on request and periodically.
#[derive(Clone)]
pub struct Reconciler {
    pub fence: Fence,
    pub postgres: Postgres,
}

/// The check that `run` does next.
#[derive(Clone, Copy)]
enum Check {
    Definitions,
    /// Lost events, after the fence's probe found that entries are missing.
    MissingEntries,
    /// Sums of the coupons, and deleted pending entries.
    Sums,
    Everything,
}

impl Reconciler {
    /// Compares everything once for an operator. Repairs only if `fix` has the origin of the operator's order. Writes
    /// each kind of repair of each coupon into the audit log before the repair begins.
    ///
    /// # Errors
    /// If a store cannot serve, the fence is down, or the epoch changes during the comparison.
    pub async fn compare(&self, fix: Option<Origin>) -> Result<ComparisonReport, ReconcileError> {
        self.compare_all(fix.map_or(RepairLevel::None, RepairLevel::Ordered)).await
    }

    /// Compares the orders of one coupon for its receipt, while claims continue. Repairs nothing.
    ///
    /// # Errors
    /// As [`compare`](Self::compare).
    pub async fn compare_for_receipt(
        &self,
        session: &Session,
        row: &CouponRow,
    ) -> Result<ComparisonReport, ReconcileError> {
        let mut comparison = Comparison::new(&self.fence, &self.postgres, session, RepairLevel::None);
        comparison.compare_for_receipt(row).await?;
        if marker::read(&session.redis).await?.as_deref() != Some(&*session.ready) {
            return Err(ReconcileError::marker_changed(&self.fence, session));
        }
        Ok(comparison.report)
    }

    async fn compare_all(&self, level: RepairLevel) -> Result<ComparisonReport, ReconcileError> {
        let session = self.fence.require_session()?;
        // Before the claims are read: the comparison then finds all events that were lost with the tally's entries.
        let tally = if level.repairs() { Some(self.tally(&session).await?) } else { None };
        let deleted_entries = deleted_entries::find(&session.redis).await?;
        let mut comparison = Comparison::new(&self.fence, &self.postgres, &session, level);
        comparison.report.deleted_entries = deleted_entries.len();
        comparison.compare_coupons().await?;
        if !comparison.report.fenced {
            comparison.find_lost_events().await?;
        }
        let report = comparison.report;
        if report.fenced {
            self.show(&report).await;
            return Ok(report);
        }
        // A difference between reads of two epochs is not a difference of the stores.
        if marker::read(&session.redis).await?.as_deref() != Some(&*session.ready) {
            return Err(ReconcileError::marker_changed(&self.fence, &session));
        }
        self.show(&report).await;
        if let Some(tally) = tally {
            if !deleted_entries.is_empty() {
                // The acknowledgement covers entries whose orders are recorded.
                wal_position::record(&self.fence, &session, &self.postgres).await?;
            }
            deleted_entries::acknowledge_deleted(&session.redis, &deleted_entries).await?;
            if !tally::settle(&session.redis, &session.ready, &tally).await? {
                return Err(ReconcileError::marker_changed(&self.fence, &session));
            }
        }
        Ok(report)
    }

    /// Shows the result in this process's metrics, and on the operations page of every process.
    async fn show(&self, report: &ComparisonReport) {
        let partition = self.fence.partition();
        report.record_metrics(partition);
        let (pool, differences) = (self.postgres.pool.clone(), report.by_kind());
        let recording = async move { comparisons::record(&pool, partition, &differences).await };
        if let Err(error) = postgres::with_timeout(config::POSTGRES_STATEMENT_TIMEOUT, recording).await {
            tracing::debug!(%partition, "reconcile: the result is not recorded: {error}");
        }
    }

    async fn tally(&self, session: &Session) -> Result<Tally, ReconcileError> {
        let tally = probe::recount_tally(&session.redis, &session.ready).await?;
        tally.ok_or_else(|| ReconcileError::marker_changed(&self.fence, session))
    }

    /// Compares definitions only; repairs.
    async fn check_definitions(&self) -> Result<(), ReconcileError> {
        let session = self.fence.require_session()?;
        let mut comparison = Comparison::new(&self.fence, &self.postgres, &session, RepairLevel::Automatic);
        comparison.compare_definitions().await?;
        let report = comparison.report;
        if report.definition_drift > 0 {
            metrics::DRIFT_TOTAL.add("definition", report.definition_drift as u64);
            report.log();
        }
        Ok(())
    }

    /// Checks the sums of all coupons and scans the pending entries list, which is as long as the number of events that
    /// are being recorded. Compares everything if pending entries were deleted.
    async fn check_sums(&self) -> Result<(), ReconcileError> {
        let session = self.fence.require_session()?;
        self.find_wrong_sum(&session).await?;
        if !deleted_entries::find(&session.redis).await?.is_empty() {
            self.compare_all(RepairLevel::Automatic).await?.log();
        }
        Ok(())
    }

    async fn find_wrong_sum(&self, session: &Session) -> Result<(), ReconcileError> {
        let mut cursor = "0".to_owned();
        loop {
            let (ids, next) = coupon_hash::scan(&session.redis, &cursor).await?;
            if let Some(wrong) = coupon_hash::first_inconsistent(&session.redis, &ids).await? {
                self.fence.invalidate_coupon(&session.epoch, wrong);
                return Ok(());
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Compares everything because entries are missing, unless another process has compared everything since.
    async fn check_missing_entries(&self) -> Result<(), ReconcileError> {
        let session = self.fence.require_session()?;
        let tally = probe::probe_stream(&session.redis).await?.tally;
        if tally.misses_entries() {
            let report = self.compare_all(RepairLevel::Automatic).await?;
            tracing::warn!(
                lost_events = report.lost_events,
                tally.now,
                tally.settled,
                "another program trimmed, deleted, skipped or acknowledged entries of the order stream: \
                 requeued {} lost events",
                report.lost_events
            );
            report.log();
        }
        Ok(())
    }

    /// Checks definitions every `DEFINITIONS_INTERVAL`, sums every `CHECK_INTERVAL`, everything at the start and every
    /// `RECONCILE_INTERVAL`, unless another process does so; at the start it checks the sums in any case. Checks missing
    /// entries when the fence's probe reports them. May be cancelled at any time.
    pub async fn run(self) {
        let mut checks = tokio::time::interval(config::CHECK_INTERVAL);
        let mut comparisons = tokio::time::interval(config::RECONCILE_INTERVAL);
        let mut definitions = tokio::time::interval(config::DEFINITIONS_INTERVAL);
        // With thousands of coupons, a check may take longer than the interval.
        definitions.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut states = self.fence.subscribe();
        let mut is_start = true;
        loop {
            let check = tokio::select! {
                () = self.fence.misses_entries() => Check::MissingEntries,
                _ = definitions.tick() => Check::Definitions,
                _ = checks.tick() => Check::Sums,
                _ = comparisons.tick() => Check::Everything,
            };
            if !matches!(*states.borrow(), FenceState::Up(_)) {
                self.give_up_turns().await;
            }
            if states.wait_for(|state| matches!(state, FenceState::Up(_))).await.is_err() {
                return; // the fence has ended with the program
            }
            let made = tokio::select! {
                made = self.check_in_turn(check) => made,
                () = self.postgres.turns.keep() => Ok(false),
            };
            let is_first = matches!(check, Check::Sums) && std::mem::take(&mut is_start);
            let made = match made {
                // Also without a turn: what this process finds may have happened while no other one compared.
                Ok(false) if is_first => self.check_sums().await.map(|()| false),
                made => made,
            };
            if let Err(error) = &made {
                match check {
                    // At debug only: the next check follows soon, and the cause of the failure has its own log line.
                    Check::Definitions | Check::MissingEntries => tracing::debug!("reconcile: {error}"),
                    Check::Sums | Check::Everything => tracing::warn!("reconcile: {error}"),
                }
                self.give_up_turns().await;
            }
            // After a failure, or to take over soon from a process that dies.
            if matches!(check, Check::Everything) && !matches!(made, Ok(true)) {
                comparisons.reset_after(config::CHECK_INTERVAL);
            }
        }
    }

    /// Makes the check and returns `true`; returns `false` if another process makes the checks of this kind.
    async fn check_in_turn(&self, check: Check) -> Result<bool, ReconcileError> {
        let partition = self.fence.partition();
        let kind = match check {
            // A loss must not wait for a process that may be about to die.
            Check::MissingEntries => return self.check_missing_entries().await.map(|()| true),
            Check::Definitions => "definitions",
            Check::Sums => "sums",
            Check::Everything => "everything",
        };
        match self.postgres.turns.take(partition, kind).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::debug!(%partition, kind, "reconcile: another process compares {kind}");
                return Ok(false);
            }
            Err(error) => {
                tracing::debug!(%partition, kind, "reconcile: no lock to compare {kind}: {error}");
                return Ok(false);
            }
        }
        match check {
            Check::Definitions => self.check_definitions().await?,
            Check::Sums => self.check_sums().await?,
            _ => self.compare_all(RepairLevel::Automatic).await?.log(),
        }
        tracing::debug!(%partition, kind, "reconcile: compared {kind}");
        Ok(true)
    }

    /// Another process may reach what this one does not.
    async fn give_up_turns(&self) {
        if let Err(error) = self.postgres.turns.give_up(self.fence.partition()).await {
            tracing::debug!("reconcile: {error}");
        }
    }
}
