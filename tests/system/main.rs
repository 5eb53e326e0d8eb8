//! The real program with a real Redis and Postgres, used through HTTP, commands and signals.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue has failed")]
#![expect(clippy::print_stdout, reason = "a test prints the figures that help to read a failure")]

mod api_admin;
mod api_audit;
mod api_auth;
mod api_claims;
mod api_coupons;
mod api_http;
mod api_restock;
mod api_waitlist;
mod bench_alternatives;
mod claims;
mod cli;
mod clocks;
mod compensation;
mod costs;
mod counterexamples;
mod crash;
mod cut_points;
mod damaged_log;
mod data_loss;
mod definitions;
mod deleted_entries;
mod description;
mod doctor;
mod durability;
mod event_streams;
mod expiry;
mod full_disk;
mod full_stream;
mod late_commits;
mod log_reader;
mod log_storms;
mod long_lived_tasks;
mod lost_answers;
mod lost_commits;
mod metrics;
mod million;
mod missed_entries;
mod monitoring;
mod order_life;
mod order_log;
mod rebuild_races;
mod recording;
mod redis_rights;
mod replace;
mod schema_changes;
mod settings;
mod shutdown;
mod slots;
mod slow_clients;
mod store_trouble;
mod stream_tail;
mod waitlist;
