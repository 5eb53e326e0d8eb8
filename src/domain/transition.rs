//! The transitions of a recorded order that a client asks for, and the result of each one for each status.

use super::{Order, OrderStatus};
use crate::config;

/// A change of a recorded order that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The order is paid: it becomes final.
    Confirm,
    /// The order is given up before it is confirmed.
    Cancel,
    /// The admin ends a confirmed order.
    Revoke,
}

/// Why an order does not make a transition. The first three reasons stay true for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionRefusal {
    Cancelled,
    /// `reserved_until` has passed. The sweeper may not have expired the order yet.
    Expired,
    Rejected,
    Confirmed,
    /// Only a confirmed order can be revoked.
    Reserved,
}

impl Transition {
    /// Checks that this request or an earlier one has made the transition. `order` is the row after the statement that
    /// confirms or cancels each reserved order in time: if the order is still reserved, the request came too late.
    ///
    /// # Errors
    /// The reason why the order did not make the transition.
    pub const fn check(self, order: &Order) -> Result<(), TransitionRefusal> {
        match (self, order.status) {
            (Self::Confirm, OrderStatus::Confirmed) | (Self::Cancel, OrderStatus::Cancelled) => Ok(()),
            (Self::Revoke, OrderStatus::Cancelled) if order.reason.is_some() => Ok(()),
            (Self::Revoke, OrderStatus::Reserved | OrderStatus::Accepted) => Err(TransitionRefusal::Reserved),
            (_, OrderStatus::Confirmed) => Err(TransitionRefusal::Confirmed),
            (_, OrderStatus::Cancelled) => Err(TransitionRefusal::Cancelled),
            (_, OrderStatus::Rejected) => Err(TransitionRefusal::Rejected),
            (_, OrderStatus::Expired | OrderStatus::Reserved | OrderStatus::Accepted) => {
                Err(TransitionRefusal::Expired)
            }
        }
    }
}

/// Whether a text is the reason of a revocation: 1 to `REASON_MAX_CHARS` characters, none of them control characters.
#[must_use]
pub fn is_reason(text: &str) -> bool {
    (1..=config::REASON_MAX_CHARS).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::OrderId;

    /// The answers to confirm, cancel and revoke; a cancelled order with a reason is a revoked one.
    #[rstest::rstest]
    #[case(OrderStatus::Reserved, false, ["Expired", "Expired", "Reserved"])]
    #[case(OrderStatus::Expired, false, ["Expired", "Expired", "Expired"])]
    #[case(OrderStatus::Confirmed, false, ["", "Confirmed", "Confirmed"])]
    #[case(OrderStatus::Cancelled, false, ["Cancelled", "", "Cancelled"])]
    #[case(OrderStatus::Cancelled, true, ["Cancelled", "", ""])]
    #[case(OrderStatus::Rejected, true, ["Rejected", "Rejected", "Rejected"])]
    fn an_order_that_was_not_changed_answers_by_its_status(
        #[case] status: OrderStatus,
        #[case] has_reason: bool,
        #[case] answers: [&str; 3],
    ) {
        let accepted = Order::accepted(OrderId::mint(), "coffee".parse().unwrap(), "alice".parse().unwrap());
        let order = Order { status, reason: has_reason.then(|| "why".to_owned()), ..accepted };
        let asked = [Transition::Confirm, Transition::Cancel, Transition::Revoke];
        let answer =
            |asked: Transition| asked.check(&order).err().map_or(String::new(), |why| format!("{why:?}"));
        assert_eq!(asked.map(answer), answers);
    }

    #[test]
    fn a_reason_is_one_line_of_limited_length() {
        assert!(is_reason("fraud") && is_reason(&"\u{4f60}".repeat(config::REASON_MAX_CHARS)));
        for wrong in ["", "a\nb", "a\u{7f}", &"a".repeat(config::REASON_MAX_CHARS + 1)] {
            assert!(!is_reason(wrong), "{wrong:?}");
        }
    }
}
