//! Who asked for a change, and the name of each kind of change.

use std::borrow::Cow;

use super::FieldChange;

/// Who asked for a change: it goes into the audit log with the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of the admin's token, or `system`.
    pub actor: Cow<'static, str>,
    /// The `x-request-id` of the request; `None` if no request asked for the change.
    pub request_id: Option<String>,
}

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAction {
    Create,
    /// An edit of several fields, or of a field without a kind of its own.
    Edit,
    Pause,
    Resume,
    /// The total was raised.
    Restock,
    /// The total was lowered.
    Withdraw,
    /// A confirmed order was ended.
    Revoke,
    /// A new claim was made for the user of a dead letter.
    Replay,
    /// A dead letter was marked as seen.
    Discard,
    /// A rebuild was ordered.
    Rebuild,
    /// A rebuild adopted a coupon or an edit that only Redis had.
    Adopt,
    /// `reconcile --fix` repaired a difference.
    Fix,
}

impl Origin {
    /// A request of the admin. The actor is always `admin`, because there is only one admin token.
    #[must_use]
    pub fn admin(request_id: impl Into<String>) -> Self {
        Self { actor: "admin".into(), request_id: Some(request_id.into()) }
    }

    /// The program itself, with the id of the request that led to the change, if there is one.
    #[must_use]
    pub fn system(request_id: Option<String>) -> Self {
        Self { actor: "system".into(), request_id }
    }
}

impl AuditAction {
    /// The kind of an edit of these fields.
    #[must_use]
    pub fn of_edit(changes: &[FieldChange]) -> Self {
        match changes {
            [FieldChange { field: "paused", to, .. }] if to.as_bool() == Some(true) => Self::Pause,
            [FieldChange { field: "paused", .. }] => Self::Resume,
            [FieldChange { field: "total", from, to }] if to.as_i64() > from.as_i64() => Self::Restock,
            [FieldChange { field: "total", .. }] => Self::Withdraw,
            _ => Self::Edit,
        }
    }

    /// The word in column `audit_log.action` and in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Edit => "edit",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Restock => "restock",
            Self::Withdraw => "withdraw",
            Self::Revoke => "revoke",
            Self::Replay => "replay",
            Self::Discard => "discard",
            Self::Rebuild => "rebuild",
            Self::Adopt => "adopt",
            Self::Fix => "fix",
        }
    }
}
