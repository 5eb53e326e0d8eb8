//! Both pages in headless Chromium, as a buyer and an operator use them, against the real program with real stores.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]

mod api_page;
mod browser;
mod front;
mod grab;
mod harness;
mod live;
mod look;
mod operations;
mod operations_coupons;
mod operations_health;
mod operations_orders;
mod orders;
mod page;
mod states;
