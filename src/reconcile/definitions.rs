//! Definitions compared field by field, and those that differ brought into force as Postgres has them: as a part of
//! the whole comparison, and alone every ten seconds, at a cost that does not grow with claims.

use super::pass::Pass;
use super::{Comparison, Extent, ReconcileError, Reconciler};
use crate::config;
use crate::coupons::in_force::{self, Outcome, Standing};
use crate::domain::CouponId;
use crate::fence::StoreError;
use crate::metrics;
use crate::postgres::coupons::{self, CouponRow};
use crate::redis::coupon_hash::{self, KeptDefinition};

impl Reconciler {
    /// Compares definitions alone, and repairs.
    pub(super) async fn check_definitions(&self) -> Result<(), ReconcileError> {
        let session = self.fence.session().map_err(|reason| ReconcileError::Fenced(reason.to_string()))?;
        let mut pass = Pass::new(self, &session, Extent::ByItself, Comparison::default());
        let mut after = None;
        loop {
            let page = coupons::page(&self.postgres.pool, after.as_ref(), config::PAGE_MAX_ROWS).await?;
            let Some(last) = page.last().map(|row| row.definition.id.clone()) else { break };
            let ids: Vec<CouponId> = page.iter().map(|row| row.definition.id.clone()).collect();
            let kept = coupon_hash::read(&session.redis, &ids).await.inspect_err(|error| {
                self.fence.redis_failed(&session.epoch, error);
            })?;
            for (row, kept) in page.iter().zip(kept).filter(|(row, _)| row.published_version > 0) {
                pass.definition(row, kept).await?;
                if pass.found.fenced {
                    break;
                }
            }
            if pass.found.fenced {
                break;
            }
            pass.pace.rest().await;
            after = Some(last);
        }
        if pass.found.definition_drift > 0 {
            metrics::DRIFT_TOTAL.add("definition", pass.found.definition_drift as u64);
            super::log(&pass.found);
        }
        Ok(())
    }
}

impl Pass<'_> {
    /// Holds a definition that Postgres had against what Redis has had since.
    pub(super) async fn definition(
        &mut self,
        row: &CouponRow,
        kept: Option<KeptDefinition>,
    ) -> Result<(), ReconcileError> {
        let id = &row.definition.id;
        let Reconciler { postgres, .. } = self.reconciler;
        let (_, standing) = in_force::stands(&self.session.redis, postgres, row.clone(), kept).await?;
        if matches!(standing, Standing::InForce | Standing::Unpublished(_)) {
            return Ok(());
        }
        self.found.definition_drift += 1;
        self.name_definition(id, standing.differences());
        if self.extent.repairs() { self.bring_into_force(id).await } else { Ok(()) }
    }

    async fn bring_into_force(&mut self, id: &CouponId) -> Result<(), ReconcileError> {
        let Reconciler { fence, postgres } = self.reconciler;
        for _ in 0..config::DEFINITION_REPAIR_MAX_TRIES {
            match in_force::bring(fence, self.session, postgres, id).await {
                Ok(Outcome::InForce(_)) => {
                    self.found.fixed += 1;
                    return Ok(());
                }
                Ok(Outcome::Overtaken) => {}
                Ok(Outcome::NotMade | Outcome::Unknown) => return Ok(()),
                Err(StoreError::Fenced) => {
                    self.found.fenced = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
