//! Every limit of the program, with its unit in its name.

use std::time::Duration;

// ---- identifiers and fields, as the HTTP documentation states them ----

pub const COUPON_ID_MAX_BYTES: usize = 63;
pub const USER_ID_MAX_BYTES: usize = 128;
pub const TITLE_MAX_CHARS: usize = 200;
pub const TOTAL_MAX_UNITS: i64 = 1_000_000_000;
pub const RESERVE_MAX_SECONDS: i64 = 2_592_000;
pub const PER_USER_LIMIT_MAX: i64 = 16;
pub const IDEMPOTENCY_KEY_MAX_BYTES: usize = 64;
pub const PAGE_DEFAULT_ROWS: i64 = 50;
pub const PAGE_MAX_ROWS: i64 = 200;
pub const JWT_SECRET_MIN_BYTES: usize = 32;
pub const JWT_LEEWAY_SECONDS: u64 = 60;
/// Tokens whose verification is remembered, and how long one may be for that: together at most 16 MB.
pub const VERIFIED_TOKENS_MAX: usize = 16_384;
pub const VERIFIED_TOKEN_MAX_BYTES: usize = 1_024;

// ---- claims ----

/// Claims in one EVALSHA.
pub const CLAIM_BATCH_MAX_CLAIMS: usize = 256;
/// EVALSHAs of claims under way at once.
pub const CLAIM_MAX_SENDERS: usize = 2;
/// Fewer claims than this wait for the batch that is under way.
pub const CLAIM_SECOND_BATCH_MIN_CLAIMS: usize = 8;
/// Claims that wait for a place in a batch; one more is answered 503.
pub const CLAIM_QUEUE_MAX_CLAIMS: usize = 16_384;
/// From the claim's arrival to the moment after which the script refuses it, by Redis's clock.
pub const CLAIM_DEADLINE: Duration = Duration::from_secs(2);
/// Largest `Prefer: wait=N`.
pub const PREFER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Orders somebody waits for at once; one more is answered without waiting.
pub const WAITING_ORDERS_MAX: usize = 20_000;
/// How often Postgres is asked, once for all waiting orders, for what other processes recorded.
pub const WAITING_ORDERS_POLL: Duration = Duration::from_millis(50);
/// How long a repeated claim waits to learn the status of its order; without an answer the order is `accepted`.
pub const ORDER_STATUS_TIMEOUT: Duration = Duration::from_millis(250);
/// How often one claim is made again; each time another order of the user has ended since.
pub const CLAIM_MAX_RETRIES: usize = 3;
/// How long the admin waits for an order that may be on its way.
pub const ORDER_ON_ITS_WAY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a coupon's request waits for another request to bring the coupon into force, and how often it looks.
pub const COUPON_IN_FORCE_TIMEOUT: Duration = Duration::from_secs(2);
pub const COUPON_IN_FORCE_POLL: Duration = Duration::from_millis(20);
/// How long an edit is tried again while other edits come between; one of them succeeds each time.
pub const COUPON_EDIT_TIMEOUT: Duration = Duration::from_secs(4);
/// How often a coupon is compared again while others edit it.
pub const COUPON_COMPARE_MAX_TRIES: usize = 8;
/// How long the first publication of a coupon is left to the request that inserted it.
pub const FIRST_PUBLICATION_GRACE: Duration = Duration::from_secs(2);
/// How long a handler waits for work on Postgres that goes on without it, beside what its client asked it to wait.
pub const HTTP_POSTGRES_TIMEOUT: Duration = Duration::from_secs(8);
/// `Retry-After` of a 503.
pub const RETRY_AFTER_SECONDS: u64 = 1;

// ---- Redis ----

pub const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub const REDIS_COMMAND_TIMEOUT: Duration = Duration::from_millis(2_500);
/// A blocking read returns empty-handed after this long; an idle worker takes so long to stop.
pub const REDIS_BLOCK: Duration = Duration::from_millis(250);
/// Fields moved by one rebuild script, so that no script blocks Redis for long.
pub const REBUILD_CHUNK_FIELDS: usize = 1_000;
/// Such scripts under way at once.
pub const REBUILD_CHUNKS_IN_FLIGHT: usize = 8;
/// `COUNT` of HSCAN, SCAN, XRANGE and XPENDING pages.
pub const SCAN_PAGE: usize = 1_000;

// ---- workers ----

/// From one batch of a worker to the next while there is no backlog: a commit, however small, costs a flush.
pub const RECORD_INTERVAL: Duration = Duration::from_millis(10);
/// Order events in one transaction.
pub const RECORD_BATCH_MAX_EVENTS: usize = 1_000;
pub const RECLAIM_AFTER_DEFAULT: &str = "5s";
pub const MAX_BACKLOG_DEFAULT_EVENTS: u64 = 1_000_000;
pub const RECLAIM_AFTER_MIN: Duration = Duration::from_millis(100);
pub const RECLAIM_AFTER_MAX: Duration = Duration::from_hours(1);
/// Pending entries whose age a process counts by its own clock; of further ones Redis's word is taken.
pub const RECLAIM_MAX_KNOWN_ENTRIES: usize = 100_000;
/// How far two readings of the moment of one delivery may lie apart.
pub const RECLAIM_CLOCK_JITTER_MS: i64 = 50;
/// First and longest pause after a transient error.
pub const BACKOFF_MIN: Duration = Duration::from_millis(50);
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A worker that has to wait for a shorter time, such as while a store restarts, is no news.
pub const HINDRANCE_TOLD_AFTER: Duration = Duration::from_secs(1);
/// What has not failed for this long, with nothing to do, is no hindrance any more; above the pause between two tries.
pub const HINDRANCE_OVER_AFTER: Duration = Duration::from_secs(3);
/// After this long a batch's connections are thrown away and it is done again: a server that vanished
/// without a word would hold it for ever. Above any statement's own time-out.
pub const RECORD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a worker that is told to stop may go on with its batch; another worker takes over what is left.
pub const WORKER_STOP_GRACE: Duration = Duration::from_secs(4);
/// A consumer that holds nothing and was not seen for this long is removed.
pub const CONSUMER_GONE_AFTER: Duration = Duration::from_mins(1);
/// Acknowledged entries that stay in the stream for people with redis-cli.
pub const STREAM_TAIL_ENTRIES: u64 = 1_000;
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

// ---- fence ----

pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the next attempt to join or rebuild.
pub const FENCE_RETRY: Duration = Duration::from_millis(100);
/// After this long a rebuild is given up and begun again.
pub const REBUILD_TIMEOUT: Duration = Duration::from_mins(2);
/// Longest pause between two rebuilds that fail; the first is `FENCE_RETRY`.
pub const FENCE_RETRY_MAX: Duration = Duration::from_secs(5);
/// A session that ends sooner counts as a rebuild that failed.
pub const FENCE_HELD_AFTER: Duration = Duration::from_secs(1);
/// How often a process looks whether what waits for a person has been settled elsewhere.
pub const FENCE_WAIT: Duration = Duration::from_secs(1);
/// Versions of coupons asked for at once.
pub const VERSIONS_IN_FLIGHT: usize = 64;
/// The highest version that Redis's numbers hold exactly.
pub const VERSION_MAX: i64 = 999_999_999_999_999;
/// How long a rebuild waits for open worker transactions; above their own statement time-out.
pub const REBUILD_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

// ---- reconcile ----

/// Coupons whose sums one script looks at.
pub const SUMS_MAX_COUPONS: usize = 200;
/// Coupons whose definitions one script reads.
pub const DEFINITIONS_MAX_COUPONS: usize = 100;
/// Pending entries that one script looks at.
pub const DELETED_PAGE_ENTRIES: usize = 200;
/// Claims without a row that are remembered until the stream is walked for them.
pub const RECONCILE_MAX_WITHOUT_ROW: usize = 250_000;
/// For each ms of a comparison's work so many of rest, within bounds, so that live claims do not feel it.
pub const RECONCILE_REST_PER_WORK: u32 = 4;
pub const RECONCILE_REST_MIN: Duration = Duration::from_millis(2);
pub const RECONCILE_REST_MAX: Duration = Duration::from_millis(100);
/// How often definitions are compared: an edit by hand lasts no longer in Redis.
pub const DEFINITIONS_INTERVAL: Duration = Duration::from_secs(10);
/// How often sums and the pending list are looked at, and how often everything is compared.
pub const CHECK_INTERVAL: Duration = Duration::from_mins(1);
pub const RECONCILE_INTERVAL: Duration = Duration::from_hours(1);
/// How many of each kind of difference a report names.
pub const REPORT_MAX_NAMES: usize = 100;
/// The same for a line of the log.
pub const LOG_MAX_NAMES: usize = 10;

// ---- doctor ----

/// Time for one question to Postgres.
pub const DOCTOR_PATIENCE: Duration = Duration::from_secs(6);
/// Pause before workers are looked for once more.
pub const DOCTOR_SECOND_LOOK: Duration = Duration::from_secs(1);
/// A consumer that holds entries and was not seen for this long is gone; above a batch.
pub const DOCTOR_CONSUMER_IDLE: Duration = Duration::from_secs(10);
/// Age of the oldest unrecorded event.
pub const DOCTOR_BACKLOG_YELLOW: Duration = Duration::from_secs(10);
pub const DOCTOR_BACKLOG_RED: Duration = Duration::from_mins(1);
/// Age of what is repeated once a second until it is done.
pub const DOCTOR_OUTBOX_YELLOW_SECONDS: i64 = 10;
pub const DOCTOR_CLOCK_YELLOW_MS: i64 = 1_000;
pub const DOCTOR_CLOCK_RED_MS: i64 = 30_000;
/// Room on the disk of the embedded stores: a few million claims.
pub const DOCTOR_ROOM_YELLOW_BYTES: u64 = 1_000_000_000;
/// `#!lua` headers and XAUTOCLAIM's list of deleted ids.
pub const REDIS_MIN_MAJOR: u32 = 7;
pub const REDIS_MEMORY_YELLOW_PERCENT: u64 = 75;
pub const REDIS_MEMORY_RED_PERCENT: u64 = 90;
/// The oldest that the schema's functions with a SQL body run on.
pub const POSTGRES_MIN_MAJOR: i32 = 14;
pub const POSTGRES_CONNECTIONS_YELLOW_PERCENT: i64 = 80;

// ---- Postgres ----

pub const POSTGRES_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub const POSTGRES_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
pub const POSTGRES_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// A stopped worker must not hold the fence's lock for ever.
pub const POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(1);
pub const POSTGRES_POOL_CONNECTIONS: u32 = 8;

// ---- HTTP ----

pub const HTTP_MAX_CONNECTIONS: usize = 20_000;
/// Connections that the system keeps until they are accepted.
pub const HTTP_LISTEN_QUEUE: u32 = 4_096;
/// Files that are open beside connections of clients, generously.
pub const OTHER_OPEN_FILES: usize = 512;
/// A server with room for fewer is of no use.
pub const HTTP_MIN_CONNECTIONS: usize = 256;
/// Fewer than these are worth a warning.
pub const HTTP_FEW_CONNECTIONS: usize = 10_000;
/// How long a connection may be idle before it is closed.
pub const HTTP_IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// From the first bytes of a request's head to its last one.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the moment a client stops taking an answer to the answer's last byte, however slowly it reads.
pub const HTTP_WRITE_TIMEOUT: Duration = Duration::from_secs(10);
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(5);
pub const HTTP_BODY_MAX_BYTES: usize = 16 * 1024;
/// How much of a dead letter's field the API shows.
pub const DEAD_FIELD_SHOWN_BYTES: usize = 1_024;
pub const HTTP_HEAD_MAX_BYTES: usize = 16 * 1024;
/// The admin token, or a token's `aud` or `iss`: a head has room for it, encoded in base64 and twice over.
pub const HEADER_CREDENTIAL_MAX_BYTES: usize = 4_096;
/// How long a stopping server waits for requests that are under way.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);
/// The same for a client that has not sent its head or does not take its answer.
pub const SHUTDOWN_CLIENT_PATIENCE: Duration = Duration::from_millis(300);
/// Age at which a coupon's snapshot is read again; with the read itself it stays under 100 ms.
pub const SNAPSHOT_MAX_AGE: Duration = Duration::from_millis(80);
/// How long a list waits for Postgres before it shows what was last read.
pub const CATALOGUE_TIMEOUT: Duration = Duration::from_millis(250);
/// Coupons whose snapshots are kept in memory.
pub const SNAPSHOT_CACHE_MAX_COUPONS: u64 = 10_000;

// ---- stopping: each counted from the signal, the whole within 8 s ----

/// Then claims stop waiting for their recording and are answered as accepted.
pub const STOP_WAITS_BY: Duration = Duration::from_millis(1_500);
/// Then requests that are still under way are cut.
pub const STOP_ANSWERS_BY: Duration = Duration::from_secs(3);
/// Then workers leave their batch to others.
pub const STOP_WORKERS_BY: Duration = Duration::from_millis(4_500);
/// Then connections to the stores are dropped without a goodbye.
pub const STOP_CONNECTIONS_BY: Duration = Duration::from_secs(5);
/// Then no process of an embedded store is left, after the last, harshest signal.
pub const STOP_STORES_BY: Duration = Duration::from_millis(6_500);
/// Then the process ends whatever is under way, but for the last lines of its log (`LOG_FLUSH_MAX`).
pub const STOP_AT_LAST: Duration = Duration::from_millis(6_800);

// ---- data directory and embedded stores ----

/// Bytes of chance in a generated secret; the file holds them as hex.
pub const GENERATED_SECRET_BYTES: usize = 32;
/// How long a start waits for a data directory whose program is just ending.
pub const DATA_DIR_PATIENCE: Duration = Duration::from_millis(500);
/// `sun_path` is 108 bytes with its final NUL.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// Pause between two looks at a store that starts or stops.
pub const STORE_POLL: Duration = Duration::from_millis(10);
/// Time for one readiness question, so that a stopped store does not hang the asker.
pub const STORE_PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a store that takes long to start is mentioned in the log.
pub const STORE_STARTING_NOTICE: Duration = Duration::from_secs(10);
/// At a start: time for a clean stop of what an earlier program left, and then for each harsher signal.
pub const STORE_STOP_TIMEOUT: Duration = Duration::from_secs(10);
pub const STORE_KILL_TIMEOUT: Duration = Duration::from_secs(3);
/// At a stop: time for each of the two harsher signals before the deadline.
pub const STORE_LAST_SIGNAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for all of a stop that has no deadline of its own.
pub const STORES_STOP_WITHIN: Duration = Duration::from_secs(6);
/// Time for processes whose store was killed to notice it themselves.
pub const STORE_ORPHANS_TIMEOUT: Duration = Duration::from_millis(200);
pub const STORE_RESTART_MIN: Duration = Duration::from_millis(100);
pub const STORE_RESTART_MAX: Duration = Duration::from_secs(2);
/// A store that ran this long starts its restart delays anew.
pub const STORE_RAN_WELL_AFTER: Duration = Duration::from_secs(10);
/// A disk with less room than this is called full; Postgres wants 16 MB at once, and gives them back when it gets less.
pub const DISK_FULL_BELOW_BYTES: u64 = 32_000_000;
/// Redis ends at the first write that finds no room: it is started again only with so much.
pub const REDIS_LEAST_ROOM_BYTES: u64 = 1_000_000;
/// How often a disk is looked at for that room.
pub const DISK_POLL: Duration = Duration::from_millis(500);
/// How often a failure that goes on is told again.
pub const STORE_FAILING_NOTICE: Duration = Duration::from_secs(30);
/// A store's log beyond this is put aside at its start, and emptied while it runs.
pub const STORE_LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;
pub const STORE_LOG_CHECK_INTERVAL: Duration = Duration::from_mins(1);
/// Lines of a store's log that accompany the news of its death.
pub const STORE_LOG_TAIL_LINES: usize = 6;
pub const STORE_LOG_TAIL_BYTES: u64 = 4_096;
/// How long `worker`, `psql` and `redis-cli` wait for stores that are just starting.
pub const STORE_JOIN_TIMEOUT: Duration = Duration::from_secs(30);
pub const STORE_JOIN_POLL: Duration = Duration::from_millis(100);

// ---- the log and the tasks ----

/// Lines that wait for a slow reader of the log; those beyond are counted and lost.
pub const LOG_QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// How long the end of the program waits for that reader.
pub const LOG_FLUSH_MAX: Duration = Duration::from_millis(400);
/// How often it is looked whether lines that were left out are to be summed up.
pub const LOG_TICK: Duration = Duration::from_secs(1);
/// Lines from one place in the sources that are shown in one window; more are a storm, and are counted.
pub const LOG_REPEATS_SHOWN: u64 = 10;
pub const LOG_REPEATS_WINDOW: Duration = Duration::from_secs(10);
/// First and longest pause before a task that has ended before its time is started again.
pub const TASK_RESTART_MIN: Duration = Duration::from_millis(100);
pub const TASK_RESTART_MAX: Duration = Duration::from_secs(10);
/// A task that ran this long starts its restart delays anew.
pub const TASK_RAN_WELL_AFTER: Duration = Duration::from_mins(1);
/// A task that keeps its thread for this long without a pause is stuck.
pub const TASK_STEP_MAX: Duration = Duration::from_secs(10);
/// The fence and the supervisors of the stores look around at least this often; above a rebuild's longest time.
pub const TASK_WAKES_WITHIN: Duration = Duration::from_mins(3);
