//! The API's description against the sources, without stores: each row of the router is described, and each description
//! has exactly the codes that its handler can give. `tests/system/description.rs` compares it with the running server, and
//! `support` with each answer that a system test gets.
#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

mod codes;
mod described;
mod fields;
mod routes;
mod sources;
