//! What users did and were told, and what people have seen: no process knows it. Promises are asked of it.

use crate::state::{Orders, USERS};

/// What users did and were told: no process knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Users {
    /// Claims sent, for each user.
    pub sent: [u8; USERS],
    /// Orders that somebody was told of.
    pub told: Orders,
    /// Of these, those that no store held any more after a fault.
    pub excused: Orders,
    /// Somebody lowered the total: an accepted claim may be rejected.
    pub lowered: bool,
    /// Something was lost that only a comparison finds; cleared by a whole one that began after it.
    pub to_compare: ToCompare,
    /// A repeat was answered with an order that had ended.
    pub answered_dead: bool,
    /// The version of the definition that was in force last, as far as anything still tells of it.
    pub in_force: u8,
    /// A unit was sold under a definition that had been replaced.
    pub sold_undone: bool,
    /// Postgres has lost commits of which Redis tells, and no person has ordered a rebuild since.
    pub unseen: bool,
    /// Claims were accepted again over those.
    pub came_up_unseen: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ToCompare {
    #[default]
    No,
    Yes,
    UnderWay,
}
