//! Code that the tests share: servers with private stores (`Sale`), processes, proxies before the stores, temporary
//! directories, coupon definitions and waits. The crate asserts only what every test of a kind needs. Unit tests in
//! `src` cannot use the crate: they would see two versions of the program's types.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]
#![expect(clippy::missing_panics_doc, reason = "every function here panics where a test has to fail")]

mod answer;
pub mod description;
pub mod events;
pub mod external_store;
mod fixtures;
pub mod postgres_group;
mod process;
pub mod proxy;
pub mod redis_group;
mod sale;
mod wait;

pub use answer::Answer;
pub use fixtures::{REFUSE_SOME, definition, mint_token, program, script_text, temp_dir};
pub use process::{Process, PsqlSession, output_of, signal, signal_all};
pub use sale::{Sale, client};
pub use wait::until;
