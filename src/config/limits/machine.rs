//! Limits of what belongs to this machine: data directory, processes of the embedded stores, log and tasks.

use std::time::Duration;

// ---- data directory and embedded stores ----

/// Random bytes of a generated secret; the file holds them as hex.
pub const GENERATED_SECRET_BYTES: usize = 32;
/// How long a start waits for the lock of a data directory while another program is ending.
pub const DATA_DIR_LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// `sun_path` of `sockaddr_un` is 108 bytes on Linux, with its final NUL.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// How often a store that starts or stops is checked.
pub const STORE_POLL: Duration = Duration::from_millis(10);
/// How often a process that this one did not start is checked: its end sends no signal here.
pub const OTHER_PROCESS_POLL: Duration = Duration::from_millis(50);
/// Time limit of one readiness check, so that a suspended store does not block the check.
pub const STORE_PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the log says that a store is still starting.
pub const STORE_STARTING_NOTICE_INTERVAL: Duration = Duration::from_secs(10);
/// At a start: time for a clean stop of processes that an earlier program left behind, and then for each stronger
/// signal.
pub const STORE_STOP_TIMEOUT: Duration = Duration::from_secs(10);
pub const STORE_KILL_TIMEOUT: Duration = Duration::from_secs(3);
/// At a stop: time for each of the two stronger signals before the deadline.
pub const STORE_LAST_SIGNAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Time for a whole stop without a deadline.
pub const STORES_STOP_TIMEOUT: Duration = Duration::from_secs(6);
/// How long the program waits until the child processes of a killed store end by themselves.
pub const STORE_ORPHANS_TIMEOUT: Duration = Duration::from_millis(200);
/// First and longest pause before a store is restarted.
pub const STORE_RESTART_MIN: Duration = Duration::from_millis(100);
pub const STORE_RESTART_MAX: Duration = Duration::from_secs(2);
/// After a run of this length the pauses start again at the shortest one.
pub const STORE_RESTART_RESET_AFTER: Duration = Duration::from_secs(10);
/// A disk with less free space counts as full: Postgres allocates 16 MB at once, and frees them when they do not fit.
pub const DISK_FULL_BELOW_BYTES: u64 = 32_000_000;
/// Redis exits at the first write that finds no space. It is restarted only with at least this much free space.
pub const REDIS_START_MIN_FREE_BYTES: u64 = 1_000_000;
/// How often the free space is checked before that restart.
pub const DISK_POLL: Duration = Duration::from_millis(500);
/// How often a failure that continues is logged again.
pub const STORE_FAILING_NOTICE_INTERVAL: Duration = Duration::from_secs(30);
/// A larger log of a store is renamed when the store starts, and truncated while it runs.
pub const STORE_LOG_MAX_BYTES: u64 = 16 * 1024 * 1024;
pub const STORE_LOG_CHECK_INTERVAL: Duration = Duration::from_mins(1);
/// How many of the last lines of a store's log are quoted when the store fails.
pub const STORE_LOG_TAIL_LINES: usize = 6;
pub const STORE_LOG_TAIL_BYTES: u64 = 4_096;
/// How long `worker`, `psql` and `redis-cli` wait for stores that are starting.
pub const STORE_JOIN_TIMEOUT: Duration = Duration::from_secs(30);
pub const STORE_JOIN_POLL: Duration = Duration::from_millis(100);

// ---- handing a server over to a new process ----

/// How long a new process waits for the answer of the running one.
pub const HANDOVER_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it waits until claims are accepted before it gives up; the running one serves all that time.
pub const HANDOVER_READY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long it waits until the old one has ended; longer than `STOP_FORCED_EXIT_AFTER`.
pub const HANDOVER_END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the old one waits for its clients to close: each answer tells its client to.
pub const HANDOVER_DRAIN: Duration = Duration::from_millis(1_500);
pub const HANDOVER_DRAIN_POLL: Duration = Duration::from_millis(10);
/// The listening socket, and the lock of the data directory.
pub const HANDOVER_MAX_DESCRIPTORS: usize = 2;
pub const HANDOVER_MESSAGE_MAX_BYTES: usize = 8_192;

// ---- log and tasks ----

/// Log lines in the queue of a slow reader; further lines are counted and dropped.
pub const LOG_QUEUE_MAX_BYTES: usize = 4 * 1024 * 1024;
/// How long the program's end waits until the queue is written.
pub const LOG_FLUSH_TIMEOUT: Duration = Duration::from_millis(400);
/// Lines of one source location that are shown in one window; further lines are counted and summarised.
pub const LOG_REPEATS_MAX_LINES: u64 = 10;
pub const LOG_REPEATS_WINDOW: Duration = Duration::from_secs(10);
/// How often the log thread checks whether a summary is due.
pub const LOG_REPEATS_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest pause before a task that ended unexpectedly is restarted.
pub const TASK_RESTART_MIN: Duration = Duration::from_millis(100);
pub const TASK_RESTART_MAX: Duration = Duration::from_secs(10);
/// After a run of this length the pauses start again at the shortest one.
pub const TASK_RESTART_RESET_AFTER: Duration = Duration::from_mins(1);
/// A task is stuck if one poll takes longer.
pub const TASK_MAX_STEP: Duration = Duration::from_secs(10);
/// The fence's task and the supervisors of the stores count as stuck if they are not polled for this time. Longer than
/// a rebuild may take.
pub const TASK_MAX_IDLE: Duration = Duration::from_mins(3);
