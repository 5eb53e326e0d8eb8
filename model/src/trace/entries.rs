//! What may happen to entries that a worker has read (rule 3): an acknowledgement follows its commit.

use super::EntryId;
use super::group::Group;
use super::memory::Memory;
use super::stores::{Redis, Stores};

/// Checks acknowledgements.
pub fn acknowledge(group: &Group<'_>, stores: &Stores, memory: &Memory) -> Result<&'static str, String> {
    let others = group.effects.len() - group.acknowledged.len() - usize::from(group.noted.is_some());
    if others > 0 {
        return Err(format!("no acknowledgement does {:?}", group.effects));
    }
    for &id in &group.acknowledged {
        let (ms, number) = id;
        let is_allowed = match &stores.redis.marker {
            Some((true, _)) => {
                memory.has_ended(id, stores.redis.noted.max(group.noted.unwrap_or(0)))
                    || is_replaced(id, &stores.redis)
            }
            // A rebuild has repaired the deleted entries.
            Some((false, _)) => stores.redis.entry(id).is_none_or(|entry| entry.is_deleted),
            None => false,
        };
        if !is_allowed {
            return Err(format!(
                "entry {ms}-{number} is acknowledged, and no commit that was noted has ended its order"
            ));
        }
    }
    Ok("entries are acknowledged")
}

/// Whether another entry replaces a deleted one; an unreadable entry needs no replacement.
fn is_replaced(id: EntryId, redis: &Redis) -> bool {
    let Some(deleted) = redis.entry(id).filter(|entry| entry.is_deleted) else { return false };
    let Some(event) = &deleted.event else { return true };
    redis.unacknowledged().any(|(other, entry)| {
        *other != id && !entry.is_deleted && entry.event.as_ref().is_some_and(|e| e.order == event.order)
    })
}
