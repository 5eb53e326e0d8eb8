//! What users and the operator did and were told. No process knows it; the promises are checked against it.

use crate::broken::Broken;
use crate::state::{Order, Orders, USERS, bit};

impl Users {
    #[must_use]
    pub fn key_of(&self, order: Order) -> usize {
        usize::from(self.second_key & bit(order) != 0)
    }
}

/// What users and the operator did and were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Users {
    /// How many claims each user has made. With slots: how many claims with each key.
    pub sent: [u8; USERS],
    /// With slots: orders whose claim had the second key.
    pub second_key: Orders,
    /// How often each user has asked to join the line.
    pub joins: [u8; USERS],
    /// Tickets of the places that their users were told and have not left.
    pub joined: Orders,
    /// Orders whose claim was accepted.
    pub accepted: Orders,
    /// Accepted orders that no store held any more after a fault: they need not exist.
    pub excused: Orders,
    /// Orders whose confirm was answered. A revoked order leaves the set. So does an order that a rebuild reports after
    /// a Postgres loss: it reports every reserved order.
    pub confirmed: Orders,
    /// Whether the total was lowered: an accepted claim may then be rejected.
    pub lowered: bool,
    /// Whether something is lost that only a comparison finds. A whole comparison that begins later clears it.
    pub to_compare: ToCompare,
    /// The version of the definition that was in force last, as far as a store still shows it.
    pub in_force: u8,
    /// Whether Redis shows a Postgres loss, and the operator has not ordered a rebuild since.
    pub loss_pending: bool,
    /// A promise that an answer broke.
    pub broken: Option<Broken>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ToCompare {
    #[default]
    No,
    Yes,
    UnderWay,
}
