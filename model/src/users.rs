//! What users did and were told, and what people have seen: no process knows it. Promises are asked of it.

use crate::promise::Broken;
use crate::state::{Orders, USERS};

/// What users did and were told: no process knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Users {
    /// Claims sent, for each user.
    pub sent: [u8; USERS],
    /// Orders that a user was told of.
    pub told: Orders,
    /// Of these, those that no store held any more after a fault.
    pub excused: Orders,
    /// The total was lowered: an accepted claim may be rejected.
    pub lowered: bool,
    /// Something was lost that only a comparison finds; cleared by a whole one that began after it.
    pub to_compare: ToCompare,
    /// The version of the definition that was in force last, as far as anything still tells of it.
    pub in_force: u8,
    /// Postgres has lost commits of which Redis tells, and no person has ordered a rebuild since.
    pub unseen: bool,
    /// A promise that was broken by an answer.
    pub broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ToCompare {
    #[default]
    No,
    Yes,
    UnderWay,
}
