//! Every limit of the running program: sizes, counts, timeouts, intervals and pauses. A name ends with its unit, except
//! for a `Duration`. The sizes of `bench` are in `bench/parameters.rs`; SQL and Lua files have their own page sizes.
//! `tests/layering.rs` fails for limits in other files.

mod machine;
mod postgres;
mod topology;

use std::time::Duration;

pub use machine::*;
pub use postgres::*;
pub use topology::*;

// ---- identifiers and fields of the HTTP API ----

pub const COUPON_ID_MAX_BYTES: usize = 63;
pub const USER_ID_MAX_BYTES: usize = 128;
pub const TITLE_MAX_CHARS: usize = 200;
pub const TOTAL_MAX_UNITS: i64 = 1_000_000_000;
pub const RESERVE_MAX_SECONDS: i64 = 30 * 24 * 3_600;
/// Units that one user may hold of one coupon.
pub const PER_USER_LIMIT_MAX: i64 = 16;
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 64;
/// A number with a fraction of zero is read as a whole number below this: 2^53, up to which a float is exact.
pub const EXACT_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;
pub const REASON_MAX_CHARS: usize = 500;
pub const PAGE_DEFAULT_ROWS: i64 = 50;
pub const PAGE_MAX_ROWS: i64 = 200;
/// The length of HMAC-SHA256's output: RFC 7518, section 3.2, requires at least that for HS256.
pub const JWT_SECRET_MIN_BYTES: usize = 32;
/// How far the clocks of issuer and server may differ when `exp` and `nbf` are checked.
pub const JWT_LEEWAY_SECONDS: u64 = 60;
/// Verified tokens in the cache, and the longest token that is cached: together at most 16 MB.
pub const VERIFIED_TOKENS_MAX: usize = 16_384;
pub const VERIFIED_TOKEN_MAX_BYTES: usize = 1_024;

// ---- settings ----

pub const WORKERS_MAX: u16 = 64;
pub const REDIS_PREFIX_MAX_BYTES: usize = 64;
/// Postgres cuts longer names off (`NAMEDATALEN` - 1).
pub const DB_SCHEMA_MAX_BYTES: usize = 63;
pub const MAX_BACKLOG_DEFAULT_EVENTS: u64 = 1_000_000;
pub const STREAM_KEEP_DEFAULT_ENTRIES: u64 = 100_000;
pub const RECLAIM_AFTER_DEFAULT: &str = "5s";
pub const RECLAIM_AFTER_MIN: Duration = Duration::from_millis(100);
pub const RECLAIM_AFTER_MAX: Duration = Duration::from_hours(1);

// ---- claims, orders and coupons ----

/// Claims in one EVALSHA.
pub const CLAIM_BATCH_MAX_CLAIMS: usize = 256;
/// EVALSHAs of claims in flight at once.
pub const CLAIM_MAX_SENDERS: usize = 2;
/// While one batch is in flight, a second one is sent only with at least this many claims.
pub const CLAIM_SECOND_BATCH_MIN_CLAIMS: usize = 8;
/// Claims that wait for a batch. Further claims get 503.
pub const CLAIM_QUEUE_MAX_CLAIMS: usize = 16_384;
/// Time from a claim's arrival to its deadline; the script refuses a later claim, by Redis's clock.
pub const CLAIM_DEADLINE: Duration = Duration::from_secs(2);
pub const PREFER_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a claim of a coupon with durability `postgres` waits for the commit; `Prefer: wait` may ask for more.
pub const COMMIT_WAIT: Duration = Duration::from_secs(2);
/// Orders that clients wait for at once; one more is answered without waiting.
pub const WAITING_ORDERS_MAX: usize = 20_000;
/// How often one query reads all orders that clients wait for: a notice of another process may be lost.
pub const WAITING_ORDERS_POLL: Duration = Duration::from_secs(1);
/// How far the clocks of this process and of Postgres may differ when an order is compared with the start of an epoch.
pub const ORDER_CLOCK_TOLERANCE: Duration = Duration::from_secs(1);
/// How long a repeated claim waits for the status of its order; after that the answer says `accepted`.
pub const ORDER_STATUS_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a repeated claim waits until its ended order has returned its unit.
pub const ENDING_ORDER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often one claim is retried; each retry means that another order of the user has ended.
pub const CLAIM_MAX_RETRIES: usize = 3;
/// How long a request about one order waits for the recording, and how many such requests of one user may wait at once.
pub const UNRECORDED_ORDER_TIMEOUT: Duration = Duration::from_secs(2);
pub const UNRECORDED_ORDERS_MAX_PER_USER: usize = 4;
/// Confirms or cancels in one transaction; one transaction has only one of the two kinds.
pub const TRANSITION_BATCH_MAX_ORDERS: usize = 256;
/// Transitions that wait for a transaction. A further one is answered 503.
pub const TRANSITION_QUEUE_MAX_ORDERS: usize = 4_096;
/// How long a transition may wait for its transaction. After that it is not made, and its answer is 503.
pub const TRANSITION_DEADLINE: Duration = Duration::from_secs(2);
/// How long a transaction may take; then its connection is closed. Longer than `POSTGRES_LOCK_TIMEOUT`.
pub const TRANSITION_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a request waits until another request has brought the coupon into force, and how often it checks.
pub const COUPON_IN_FORCE_TIMEOUT: Duration = Duration::from_secs(2);
pub const COUPON_IN_FORCE_POLL: Duration = Duration::from_millis(20);
/// How long an edit is retried while other edits of the coupon succeed.
pub const COUPON_EDIT_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a coupon is compared again while others edit it.
pub const COUPON_COMPARE_MAX_TRIES: usize = 8;
/// How long only the request that inserted a coupon may publish it first.
pub const FIRST_PUBLICATION_GRACE: Duration = Duration::from_secs(2);
/// Age at which a coupon's snapshot is read again. With the time of the read, a snapshot is less than 100 ms old.
pub const SNAPSHOT_MAX_AGE: Duration = Duration::from_millis(80);
/// Coupons whose snapshots are cached.
pub const SNAPSHOT_CACHE_MAX_COUPONS: u64 = 10_000;
/// Reads of coupons in flight at once for one list.
pub const SNAPSHOT_READS_IN_FLIGHT: usize = 32;
/// How long a list waits for Postgres before it shows the last rows that were read.
pub const CATALOGUE_TIMEOUT: Duration = Duration::from_millis(250);

// ---- event streams ----

/// How often coupons are read for the open event streams, at most; and the pause for each coupon, so that many coupons
/// are read less often.
pub const LIVE_POLL_MIN: Duration = Duration::from_millis(200);
pub const LIVE_POLL_PER_COUPON: Duration = Duration::from_millis(2);
/// The shortest pause between two reads, which a new stream waits for.
pub const LIVE_POLL_SOON: Duration = Duration::from_millis(20);
/// Listed coupons that the stream of all coupons has: the first ones of the list.
pub const LIVE_MAX_COUPONS: usize = 500;
/// How often one event stream is written to, at most. With many streams less often: together they are woken about
/// `LIVE_MAX_WAKES` times a second, so that claims stay fast, but each at least every `LIVE_WRITE_INTERVAL_MAX`: a page
/// that gets nothing for five seconds takes its connection for lost.
pub const LIVE_WRITE_INTERVAL: Duration = Duration::from_millis(200);
pub const LIVE_WRITE_INTERVAL_MAX: Duration = Duration::from_secs(3);
pub const LIVE_MAX_WAKES: u32 = 2_500;
/// How often a stream says that its numbers are current, or that they are not.
pub const LIVE_HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a new stream waits for the first read that was made for it.
pub const LIVE_FIRST_READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Events in one write.
pub const LIVE_WRITE_MAX_EVENTS: usize = 64;
/// Coupons that left the list and that a resumed stream is told of.
pub const LIVE_GONE_MAX_COUPONS: usize = 1_000;
/// Connections of the server that event streams may take, in percent. The others are left for claims.
pub const LIVE_MAX_CONNECTIONS_PERCENT: usize = 50;
/// Event streams of the admin.
pub const LIVE_ADMIN_STREAMS_MAX: usize = 64;
/// How often the state for the admin is read, and how many of the last readings a new stream gets.
pub const LIVE_ADMIN_INTERVAL: Duration = Duration::from_secs(1);
pub const LIVE_HISTORY_POINTS: usize = 300;
/// Coupons in the state for the admin, and in its history.
pub const LIVE_ADMIN_MAX_COUPONS: usize = 200;
pub const LIVE_HISTORY_MAX_COUPONS: usize = 20;

// ---- Redis ----

pub const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub const REDIS_COMMAND_TIMEOUT: Duration = Duration::from_millis(2_500);
/// `BLOCK` of XREADGROUP; an idle worker needs as long to stop.
pub const REDIS_BLOCK_TIMEOUT: Duration = Duration::from_millis(250);
/// Fields that one rebuild script moves, so that no script blocks Redis for long.
pub const REBUILD_CHUNK_FIELDS: usize = 1_000;
/// Rebuild scripts in flight at once.
pub const REBUILD_CHUNKS_IN_FLIGHT: usize = 8;
/// `COUNT` of HSCAN, SCAN, XRANGE and XPENDING pages.
pub const SCAN_PAGE_ENTRIES: usize = 1_000;

// ---- workers ----

/// A worker without a backlog starts a batch at most this often: each commit, however small, costs a disk flush.
pub const RECORD_INTERVAL: Duration = Duration::from_millis(10);
/// Order events in one transaction.
pub const RECORD_BATCH_MAX_EVENTS: usize = 1_000;
/// Pending entries whose age a process measures by its own clock; for others it uses Redis's idle time.
pub const RECLAIM_MAX_KNOWN_ENTRIES: usize = 100_000;
/// How much two readings of the time of one delivery may differ.
pub const RECLAIM_CLOCK_JITTER_MS: i64 = 50;
/// First and longest pause after a transient error.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A worker logs nothing about a shorter stall, such as during a restart of a store.
pub const WORKER_STALL_LOGGED_AFTER: Duration = Duration::from_secs(1);
/// The stall of an idle worker ends this time after its last failure. Longer than the pause between two attempts.
pub const WORKER_STALL_OVER_AFTER: Duration = Duration::from_secs(3);
/// After this time a worker closes a batch's connections and repeats the batch: a server that vanished without closing
/// them would block the worker for ever. Longer than any statement timeout.
pub const RECORD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a worker may continue its batch after the stop. Another worker reclaims the unfinished entries.
pub const WORKER_STOP_GRACE: Duration = Duration::from_secs(4);
/// A consumer without pending entries is removed after this much idle time.
pub const CONSUMER_GONE_AFTER: Duration = Duration::from_mins(1);
/// Acknowledged entries that stay in the stream, for an operator with redis-cli.
pub const STREAM_TAIL_ENTRIES: u64 = 1_000;
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);
/// How often a worker reads the outbox. A unit that another process puts there is then released within 100 ms.
pub const OUTBOX_POLL: Duration = Duration::from_millis(50);
/// Pause after a failure to return units.
pub const OUTBOX_RETRY: Duration = Duration::from_secs(1);
/// Outbox rows that one query reads, and that one query deletes.
pub const OUTBOX_PAGE_ROWS: usize = 1_000;
/// Units of one coupon in one call of the release script. Redis serves no other client while a script runs.
pub const RELEASE_BATCH_MAX_UNITS: usize = 500;
/// Users in one waiting list. A further one is refused.
pub const WAITLIST_MAX_USERS: usize = 100_000;
/// Requests to join that wait for a transaction. A further one is answered 503.
pub const WAITLIST_QUEUE_MAX_USERS: usize = 16_384;
/// Users that one transaction adds to waiting lists.
pub const WAITLIST_JOIN_BATCH_MAX_USERS: usize = 500;
/// How long a request to join waits for its answer.
pub const WAITLIST_JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// From this age a row of the waiting list that has no place in Redis belongs to no request that still runs.
pub const WAITLIST_JOIN_MAX_AGE: Duration = Duration::from_mins(1);
/// Users that one call of the script serves. Redis serves no other client while a script runs.
pub const WAITLIST_SERVE_MAX_UNITS: usize = 500;
/// How often each process serves the waiting lists of coupons that have units in stock.
pub const WAITLIST_SERVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the row of a user who was served stays, so that the user can see the order that came of the place.
pub const WAITLIST_SERVED_KEEP: Duration = Duration::from_hours(24);
/// Rows of a user that are read to find the order that came of a place.
pub const WAITLIST_SHOWN_ROWS: i64 = 8;
/// How often each process removes rows of users who were served long ago. It then reads all older rows.
pub const WAITLIST_CLEANUP_INTERVAL: Duration = Duration::from_hours(1);
/// Older rows that one statement reads.
pub const WAITLIST_PAGE_ROWS: i64 = 1_000;
/// Overdue orders that one transaction expires.
pub const SWEEP_BATCH_MAX_ORDERS: usize = 1_000;
/// Shortest and longest pause between two sweeps. The longest pause is not above the shortest `reserve_seconds`, so
/// that the sweeper knows of each new order before its time to pay is over.
pub const SWEEP_PAUSE_MIN: Duration = Duration::from_millis(20);
pub const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(1);

// ---- fence ----

pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the next attempt to join or rebuild.
pub const FENCE_RETRY: Duration = Duration::from_millis(100);
/// After this time a rebuild is aborted and started again.
pub const REBUILD_TIMEOUT: Duration = Duration::from_mins(2);
/// Longest pause between two rebuilds that fail; the first is `FENCE_RETRY`.
pub const FENCE_RETRY_MAX: Duration = Duration::from_secs(5);
/// A session that ends sooner counts as a failed rebuild.
pub const FENCE_RETRY_RESET_AFTER: Duration = Duration::from_secs(1);
/// How often a fence that waits for the operator checks whether another process has solved the problem.
pub const FENCE_OPERATOR_POLL: Duration = Duration::from_secs(1);
/// Reads of coupon versions in flight at once.
pub const VERSIONS_IN_FLIGHT: usize = 64;
/// The highest version of a coupon; Lua's numbers (IEEE 754 doubles) hold it exactly.
pub const VERSION_MAX: i64 = 999_999_999_999_999;
/// How long a rebuild waits for open worker transactions; longer than their statement timeout.
pub const REBUILD_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a rebuild waits while this process rebuilds another partition.
pub const REBUILD_TURN_TIMEOUT: Duration = Duration::from_secs(10);

// ---- reconcile ----

/// Coupons whose sums one script checks.
pub const SUMS_MAX_COUPONS: usize = 200;
/// Coupons whose definitions one script reads.
pub const DEFINITIONS_MAX_COUPONS: usize = 100;
/// Pending entries that one script checks.
pub const DELETED_PAGE_ENTRIES: usize = 200;
/// Claims without a row that a comparison collects before it scans the stream for their entries.
pub const RECONCILE_MAX_UNRECORDED_CLAIMS: usize = 250_000;
/// Throttles the reconciler: it sleeps this many ms for each ms of work, within the bounds below; a receipt sleeps less.
pub const RECONCILE_SLEEP_PER_WORK: u32 = 4;
pub const RECEIPT_SLEEP_PER_WORK: u32 = 1;
pub const RECONCILE_SLEEP_MIN: Duration = Duration::from_millis(2);
pub const RECONCILE_SLEEP_MAX: Duration = Duration::from_millis(100);
/// How often definitions are compared: a manual edit in Redis lasts at most this long.
pub const DEFINITIONS_INTERVAL: Duration = Duration::from_secs(10);
/// How often a reconcile retries one coupon's definition while others edit it.
pub const DEFINITION_REPAIR_MAX_TRIES: usize = 8;
/// How often sums and the pending list are checked, and how often everything is compared.
pub const CHECK_INTERVAL: Duration = Duration::from_mins(1);
pub const RECONCILE_INTERVAL: Duration = Duration::from_hours(1);
/// After this, Postgres ends the session of a process that stands still: another process then compares.
pub const COMPARISON_SESSION_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a process shows that it goes on, during a long comparison.
pub const COMPARISON_SESSION_PING: Duration = Duration::from_secs(10);
/// How many differences of each kind a report names.
pub const REPORT_MAX_NAMES: usize = 100;
/// How many differences a receipt names.
pub const RECEIPT_MAX_NAMES: usize = 10_000;
/// Units in the outbox of which a receipt asks Redis whether they are still held.
pub const RECEIPT_MAX_ASKED_UNITS: usize = 10_000;
/// How often the shares of a coupon are read for one receipt while units move between them, and the pause before each.
pub const RECEIPT_MAX_TRIES: usize = 60;
pub const RECEIPT_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often an audit opens the files of a log again because Redis has rewritten them.
pub const AOF_OPEN_TRIES: usize = 20;
/// How long the admin's lists use a count of reserved orders, as a multiple of the time that it took.
pub const COUNT_KEPT_PER_WORK: u32 = 20;
/// How many names one log line has.
pub const LOG_MAX_NAMES: usize = 10;

// ---- doctor ----

/// Time for one query to Postgres.
pub const DOCTOR_QUERY_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause before workers are checked a second time.
pub const DOCTOR_WORKERS_RETRY_DELAY: Duration = Duration::from_secs(1);
/// A consumer with pending entries and this much idle time counts as dead; longer than a batch.
pub const DOCTOR_CONSUMER_IDLE: Duration = Duration::from_secs(10);
/// Age of the oldest unrecorded event.
pub const DOCTOR_BACKLOG_YELLOW: Duration = Duration::from_secs(10);
pub const DOCTOR_BACKLOG_RED: Duration = Duration::from_mins(1);
/// Age of the oldest outbox row; workers retry once a second.
pub const DOCTOR_OUTBOX_YELLOW_SECONDS: i64 = 10;
/// How long an order may be overdue; the sweeper runs at least once a second.
pub const DOCTOR_SWEEPER_YELLOW_SECONDS: i64 = 10;
pub const DOCTOR_CLOCK_YELLOW_MS: i64 = 1_000;
pub const DOCTOR_CLOCK_RED_MS: i64 = 30_000;
/// Free space on the disk of the embedded stores: room for a few million claims.
pub const DOCTOR_DISK_YELLOW_BYTES: u64 = 1_000_000_000;
/// The first version with `#!lua` headers and with XAUTOCLAIM's list of deleted ids.
pub const REDIS_MIN_MAJOR: u32 = 7;
pub const REDIS_MEMORY_YELLOW_PERCENT: u64 = 75;
pub const REDIS_MEMORY_RED_PERCENT: u64 = 90;
/// The first version with SQL functions whose body is `return …`, which the schema uses.
pub const POSTGRES_MIN_MAJOR: i32 = 14;
pub const POSTGRES_CONNECTIONS_YELLOW_PERCENT: i64 = 80;

// ---- HTTP ----

pub const HTTP_MAX_CONNECTIONS: usize = 20_000;
/// Connections to the metrics of a worker.
pub const MONITORING_MAX_CONNECTIONS: usize = 64;
/// Connections that the kernel queues until they are accepted.
pub const HTTP_LISTEN_QUEUE_CONNECTIONS: u32 = 4_096;
/// Pause after a failed accept, such as without a free file descriptor.
pub const HTTP_ACCEPT_RETRY: Duration = Duration::from_millis(20);
/// File descriptors for everything but client connections; a generous estimate.
pub const RESERVED_OPEN_FILES: usize = 512;
/// The server refuses to start with fewer.
pub const HTTP_MIN_CONNECTIONS: usize = 256;
/// The server warns when it starts with fewer.
pub const HTTP_CONNECTIONS_WARN_BELOW: usize = 10_000;
/// How long a connection may be idle before it is closed.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Time from the first byte of a request's head to its last byte.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the moment when a client stops reading an answer to the answer's last byte, even if the client reads
/// again.
pub const HTTP_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(5);
pub const HTTP_BODY_MAX_BYTES: usize = 16 * 1024;
pub const HTTP_HEAD_MAX_BYTES: usize = 16 * 1024;
/// Longest `X-Request-Id` of a client; the server replaces a longer one.
pub const REQUEST_ID_MAX_BYTES: usize = 64;
/// Longest admin token, `aud` and `iss`: the value fits into a request's head even after two base64 encodings.
pub const HEADER_CREDENTIAL_MAX_BYTES: usize = 4_096;
/// The part of a dead letter's field that the API shows.
pub const DEAD_LETTER_FIELD_MAX_BYTES: usize = 1_024;
/// How long a handler waits for work on Postgres, in addition to `Prefer: wait`. The work continues after that.
pub const HTTP_POSTGRES_TIMEOUT: Duration = Duration::from_secs(8);
/// `Retry-After` of a 503.
pub const RETRY_AFTER_SECONDS: u64 = 1;

// ---- stopping the HTTP server ----

/// How long a stopping server accepts connections and first bytes that have already arrived.
pub const SHUTDOWN_ACCEPT_GRACE: Duration = Duration::from_millis(20);
/// How long a stopping server waits for requests in progress.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// How long a stopping server waits for a client that has not sent its whole head or does not read its answer.
pub const SHUTDOWN_CLIENT_GRACE: Duration = Duration::from_millis(300);

// ---- stopping the program: each counts from the signal, the whole takes less than 8 s ----

/// After this, claims no longer wait to be recorded; they are answered as accepted.
pub const STOP_WAITING_CLAIMS_BY: Duration = Duration::from_millis(1_500);
/// After this, requests that are still in progress are aborted.
pub const STOP_REQUESTS_BY: Duration = Duration::from_secs(3);
/// After this, workers abandon their batch; other processes reclaim it.
pub const STOP_WORKERS_BY: Duration = Duration::from_millis(4_500);
/// After this, connections to the stores are dropped without a clean close.
pub const STOP_CONNECTIONS_BY: Duration = Duration::from_secs(5);
/// By this time each process of the embedded stores has ended, if necessary by SIGKILL.
pub const STOP_STORES_BY: Duration = Duration::from_millis(6_500);
/// After this, the process exits in any case, once the last log lines are written (`LOG_FLUSH_TIMEOUT`).
pub const STOP_FORCED_EXIT_AFTER: Duration = Duration::from_millis(6_800);

// ---- command line and demo ----

/// Orders that `seckill order list` prints without `--limit`, and the most that `--limit` allows.
pub const CLI_ORDERS_DEFAULT_ROWS: u32 = 100;
pub const CLI_ORDERS_MAX_ROWS: u32 = 1_000_000;
/// The narrowest column of a table in which texts are wrapped, in characters.
pub const CLI_WRAPPED_MIN_COLUMNS: usize = 10;
/// From the first byte sent to the last byte of the answer.
pub const CLI_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
pub const CLI_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often `stream tail` reads.
pub const CLI_TAIL_INTERVAL: Duration = Duration::from_millis(300);
/// Entries that are not acknowledged and that `stream tail` follows; it says nothing more about older ones.
pub const CLI_TAIL_MAX_OPEN: usize = 1_000;
/// A command that waits longer for its server shows on a terminal that it waits.
pub const CLI_SPINNER_AFTER: Duration = Duration::from_secs(2);
pub const CLI_SPINNER_TICK: Duration = Duration::from_millis(100);
/// A reconcile of millions of claims takes minutes.
pub const CLI_RECONCILE_TIMEOUT: Duration = Duration::from_mins(10);
/// Ten years; a longer lifetime is most likely a mistaken unit.
pub const TOKEN_LIFETIME_MAX: Duration = Duration::from_hours(3_650 * 24);
/// Longer than any run of `seckill bench`.
pub const BENCH_TOKEN_LIFETIME: Duration = Duration::from_hours(24);
pub const DEMO_TOKEN_LIFETIME: Duration = Duration::from_hours(24);
/// How long after the demo's start its second coupon opens.
pub const DEMO_OPENS_AFTER: Duration = Duration::from_mins(1);
/// The time to pay for an order of its third coupon.
pub const DEMO_RESERVE_SECONDS: i64 = 300;
