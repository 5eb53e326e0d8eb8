//! Decides which definition of a coupon is in force after a rebuild from a Postgres that has lost commits: Redis's if
//! its version is higher, else Postgres's if Redis confirms it, else Postgres's with the coupon paused, so that an
//! operator checks the coupon first. The report lists each edit that is adopted, undone or unknown.

use anyhow::bail;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::{AuditAction, CouponId, Definition, FieldChange, Origin};
use crate::postgres::audit::AuditEntry;
use crate::postgres::rebuild::{Decision, LockedCoupon};
use crate::redis::coupon_hash::CouponHash;

const UNREADABLE: &str = "its definition in Redis cannot be read";
const WRONG_SUM: &str = "stock + claims is not its total in Redis";

/// A change of a coupon's definition by a rebuild.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = RebuildEdit)]
pub struct Edit {
    pub coupon: CouponId,
    pub outcome: Outcome,
    /// The version in Postgres before and after.
    pub from_version: i64,
    pub to_version: i64,
    /// Fields that changed in Postgres.
    pub changes: Vec<Change>,
    /// Values that Redis had and that are not in force.
    pub undone: Vec<Change>,
    /// Why Redis's definition was not adopted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RebuildOutcome)]
pub enum Outcome {
    /// Postgres had lost the definition; Redis's is in force.
    Adopted,
    /// Nothing confirms the definition: the coupon is paused.
    Paused,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RebuildChange)]
pub struct Change {
    pub field: &'static str,
    pub from: String,
    pub to: String,
}

/// The definition that will be in force, and its entry in the report.
struct Verdict {
    definition: Definition,
    outcome: Outcome,
    undone: Vec<Change>,
    why: Option<&'static str>,
}

/// Inserts the row of a coupon that only Redis knows. If its definition cannot be read, the coupon is paused and gets
/// defaults.
pub async fn adopt(
    decision: &mut Decision<'_>,
    id: &CouponId,
    stored: &CouponHash,
    held: usize,
    origin: &Origin,
) -> anyhow::Result<(Definition, Option<Edit>)> {
    let found = stored.definition(id).filter(|_| stored.adds_up());
    let has_defaults = found.is_none();
    let mut definition = found.unwrap_or_else(|| stored.partial_definition(id, held));
    definition.total = decision.adopt(&definition, origin).await?;
    let edit = has_defaults.then(|| Edit {
        coupon: id.clone(),
        outcome: Outcome::Paused,
        from_version: 0,
        to_version: definition.version,
        changes: Vec::new(),
        undone: Vec::new(),
        why: Some(if stored.adds_up() { UNREADABLE } else { WRONG_SUM }),
    });
    Ok((definition, edit))
}

/// Updates a coupon's row to the definition that will be in force; `held` units are in Redis after the rebuild.
pub async fn settle(
    decision: &mut Decision<'_>,
    definition: &mut Definition,
    stored: &CouponHash,
    held: usize,
    origin: &Origin,
) -> anyhow::Result<Option<Edit>> {
    let locked = decision.lock_coupon(&definition.id).await?;
    let Some(verdict) = decide(definition, stored, locked, held) else { return Ok(None) };
    let Verdict { definition: to, outcome, undone, why } = verdict;
    let entry = AuditEntry::of_edit(origin, definition, &to).map(|entry| match outcome {
        Outcome::Adopted => AuditEntry { action: AuditAction::Adopt, ..entry },
        Outcome::Paused => entry,
    });
    if to.version != definition.version && !decision.redefine(definition.version, &to, entry.as_ref()).await?
    {
        bail!("coupon {} was edited during the rebuild", to.id);
    }
    let edit = Edit {
        coupon: to.id.clone(),
        outcome,
        from_version: definition.version,
        to_version: to.version,
        changes: changes(definition, &to),
        undone,
        why,
    };
    *definition = to;
    Ok(Some(edit))
}

/// `None` if Redis confirms what Postgres has.
fn decide(ours: &Definition, stored: &CouponHash, locked: LockedCoupon, held: usize) -> Option<Verdict> {
    let theirs = stored.definition(&ours.id).filter(|_| stored.adds_up());
    match theirs {
        Some(theirs) if theirs.version > ours.version => Some(adopt_edit(theirs, locked, held)),
        Some(theirs) if theirs.version >= locked.published_version && theirs.version < ours.version => None,
        Some(theirs)
            if theirs.version == ours.version
                && changes(&theirs, ours).is_empty()
                && to_units(held) <= ours.total =>
        {
            None
        }
        theirs => unconfirmed(ours, theirs.as_ref(), stored, locked, held),
    }
}

/// Adopts Redis's definition. If its total is below the number of live orders or of held units, this raises the total
/// and pauses the coupon: the lower total may come from a withdrawn unit, and Postgres may have lost the end of its
/// order.
fn adopt_edit(theirs: Definition, locked: LockedCoupon, held: usize) -> Verdict {
    let total = theirs.total.max(locked.live).max(to_units(held));
    if total == theirs.total {
        return Verdict { definition: theirs, outcome: Outcome::Adopted, undone: Vec::new(), why: None };
    }
    let definition = Definition { total, paused: true, version: theirs.version + 1, ..theirs.clone() };
    let undone = changes(&theirs, &definition);
    let why = Some("more units are held than its total");
    Verdict { definition, outcome: Outcome::Paused, undone, why }
}

fn unconfirmed(
    ours: &Definition,
    theirs: Option<&Definition>,
    stored: &CouponHash,
    locked: LockedCoupon,
    held: usize,
) -> Option<Verdict> {
    // The request that inserted the coupon has not brought it into force yet.
    if stored.is_absent() && locked.published_version == 0 {
        return None;
    }
    let version = stored.valid_version().unwrap_or(0);
    // Each claim was accepted under the total in force: if Postgres lacks an edit, that total was at least `held`.
    let held = to_units(held);
    let is_excess = stored.adds_up() && held > ours.total;
    let may_lack_an_edit = stored.is_absent() || version > ours.version || is_excess;
    let total = if may_lack_an_edit { ours.total.max(held) } else { ours.total };
    let is_new = !ours.paused || total != ours.total;
    let next = if is_new { ours.version.max(version) + 1 } else { ours.version };
    let definition = Definition { total, paused: true, version: next, ..ours.clone() };
    let theirs = theirs.cloned().or_else(|| stored.definition(&ours.id));
    let undone = theirs.map(|theirs| changes(&theirs, &definition)).unwrap_or_default();
    let why = if stored.is_absent() {
        "Redis has lost the coupon"
    } else if !stored.adds_up() {
        WRONG_SUM
    } else if is_excess {
        "more units are held than its total"
    } else if version == ours.version {
        "Redis has another definition of the same version"
    } else if version < ours.version {
        "Redis is behind what it was known to have"
    } else {
        UNREADABLE
    };
    Some(Verdict { definition, outcome: Outcome::Paused, undone, why: Some(why) })
}

fn to_units(held: usize) -> i64 {
    i64::try_from(held).unwrap_or(i64::MAX)
}

fn changes(from: &Definition, to: &Definition) -> Vec<Change> {
    let text = |value: Value| match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    let changes = from.changes(to).into_iter();
    changes.map(|FieldChange { field, from, to }| Change { field, from: text(from), to: text(to) }).collect()
}

impl Edit {
    /// A sentence for the log.
    pub fn sentence(&self) -> String {
        let Self { coupon, from_version, to_version, .. } = self;
        let list = |changes: &[Change]| {
            let each = changes.iter().map(|Change { field, from, to }| format!("{field} {from} -> {to}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let changed = list(&self.changes);
        match self.outcome {
            Outcome::Adopted => format!(
                "coupon {coupon}: an edit that Postgres had lost is in force again, version {from_version} -> \
                 {to_version}: {changed}"
            ),
            Outcome::Paused => {
                let undone = if self.undone.is_empty() {
                    String::new()
                } else {
                    format!("; undone: {}", list(&self.undone))
                };
                format!(
                    "coupon {coupon} is paused, version {from_version} -> {to_version}: Postgres has lost commits, and \
                     {}: {changed}{undone}",
                    self.why.unwrap_or("nothing confirms its definition")
                )
            }
        }
    }
}
