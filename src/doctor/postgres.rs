//! Postgres's settings and health, and the rows of our tables that wait for a worker or an operator.

use std::future::Future;

use super::finding::{Finding, REPAIRED_BY_SERVER, format_seconds, pluralize};
use super::{disk, standby};
use crate::config;
use crate::postgres::health::{self, Migrated, Server, Waiting};
use crate::postgres::{PgConnection, Postgres, PostgresError};

/// Returns the findings, and the connection if Postgres answers and has our tables.
pub async fn examine(postgres: &Postgres) -> (Vec<Finding>, Option<PgConnection>) {
    let mut connection = match health::connect(postgres).await {
        Ok(connection) => connection,
        Err(error) => return (vec![unavailable(postgres, &error)], None),
    };
    match check(postgres, &mut connection).await {
        Ok((findings, true)) => (findings, Some(connection)),
        Ok((findings, false)) => (findings, None),
        Err(error) => (vec![unavailable(postgres, &error)], None),
    }
}

/// Limits a query in time on the client's side: a Postgres process that hangs does not apply its own statement timeout.
///
/// # Errors
/// As the query, and a transient error after `config::DOCTOR_QUERY_TIMEOUT`.
pub async fn with_timeout<T>(
    query: impl Future<Output = Result<T, PostgresError>>,
) -> Result<T, PostgresError> {
    match tokio::time::timeout(config::DOCTOR_QUERY_TIMEOUT, query).await {
        Ok(result) => result,
        Err(_) => Err(PostgresError::Transient("it does not answer".into())),
    }
}

fn unavailable(postgres: &Postgres, error: &PostgresError) -> Finding {
    let what_to_do = match postgres.store_folder() {
        Some(folder) => disk::advice_for_store(folder, "postgres.log", &error.to_string()),
        None => "check that it runs and has free connections, and that DATABASE_URL has its address and the right \
                 password"
            .to_owned(),
    };
    Finding::red("postgres", error.to_string(), what_to_do)
}

/// Returns the findings, and whether all our tables exist.
async fn check(
    postgres: &Postgres,
    connection: &mut PgConnection,
) -> Result<(Vec<Finding>, bool), PostgresError> {
    let server = with_timeout(health::server(connection)).await?;
    let own = with_timeout(health::own_synchronous_commit(postgres)).await?;
    let mut findings = vec![
        version(&server),
        role(&server),
        fsync(&server),
        full_page_writes(&server),
        synchronous_commit(&server, &own),
        connections(&server, postgres.most_connections()),
        pooler(with_timeout(postgres.is_behind_transaction_pooler()).await?),
    ];
    findings.extend(standby::judge(&server, &own));
    let migrated = match with_timeout(health::migrated(connection, postgres.schema())).await {
        Ok(migrated) => migrated,
        Err(error @ PostgresError::Transient(_)) => return Err(error),
        Err(error) => {
            findings.push(Finding::red(
                "migrations",
                error.to_string(),
                "make DATABASE_URL's user the owner of the schema",
            ));
            return Ok((findings, false));
        }
    };
    findings.push(migrations(&migrated, postgres.schema()));
    let has_tables = migrated.missing.is_empty() && migrated.broken.is_empty();
    if has_tables {
        findings.push(check_query("outbox", health::outbox(&mut *connection), outbox).await?);
        findings.push(check_query("sweeper", health::overdue(&mut *connection), sweeper).await?);
        let unseen = health::unseen_letters(&mut *connection);
        findings.push(check_query("dead-letters", unseen, dead_letters).await?);
        findings.push(check_query("publications", health::unpublished(connection), publications).await?);
        findings.push(check_query("postgres-stock", health::stock_drift(connection), stock).await?);
    }
    Ok((findings, has_tables))
}

/// Makes a finding of a query's result. If Postgres refuses the query, this is a finding; if it does not answer, this
/// is an error.
async fn check_query<T>(
    check: &'static str,
    query: impl Future<Output = Result<T, PostgresError>>,
    finding: impl FnOnce(T) -> Finding,
) -> Result<Finding, PostgresError> {
    match with_timeout(query).await {
        Ok(result) => Ok(finding(result)),
        Err(error @ PostgresError::Transient(_)) => Err(error),
        Err(error) => Ok(Finding::unreadable(check, &error.to_string())),
    }
}

fn version(server: &Server) -> Finding {
    if server.version_number / 10_000 >= config::POSTGRES_MIN_MAJOR {
        return Finding::green("postgres-version", &server.version);
    }
    let what = format!("{}: too old for the statements of this program", server.version);
    Finding::red("postgres-version", what, format!("upgrade to {} or later", config::POSTGRES_MIN_MAJOR))
}

fn role(server: &Server) -> Finding {
    if !server.in_recovery {
        return Finding::green("postgres-role", "primary");
    }
    let what = "a standby, or still recovering: orders cannot be recorded";
    Finding::red("postgres-role", what, "set DATABASE_URL to the address of the primary")
}

fn fsync(server: &Server) -> Finding {
    if server.fsync == "on" {
        return Finding::green("postgres-fsync", "on");
    }
    let what = format!("{}: a crash of the machine may lose or damage the whole database", server.fsync);
    Finding::red("postgres-fsync", what, "alter system set fsync = on; select pg_reload_conf()")
}

fn full_page_writes(server: &Server) -> Finding {
    if server.full_page_writes == "on" {
        return Finding::green("postgres-full-page-writes", "on");
    }
    let what = format!(
        "{}: a crash of the machine may leave half-written pages, whose rows are lost",
        server.full_page_writes
    );
    let what_to_do = "alter system set full_page_writes = on; select pg_reload_conf()";
    Finding::red("postgres-full-page-writes", what, what_to_do)
}

fn synchronous_commit(server: &Server, own: &str) -> Finding {
    let check = "postgres-synchronous-commit";
    let what_to_do = "alter system set synchronous_commit = on; select pg_reload_conf()";
    if own == "off" {
        let what = "off, although this program sets it to on: a crash may lose recorded orders";
        Finding::red(check, what, format!("configure the pooler to pass `options` on; {what_to_do}"))
    } else if server.synchronous_commit == "off" {
        let what = "off; this program sets it to on, but a crash may lose what psql and other programs write";
        Finding::yellow(check, what, what_to_do)
    } else {
        Finding::green(check, &server.synchronous_commit)
    }
}

fn connections(server: &Server, of_each_process: i64) -> Finding {
    let check = "postgres-connections";
    let percent = server.connections * 100 / i64::from(server.max_connections.max(1));
    let in_use = format!("{} of {} connections are in use", server.connections, server.max_connections);
    let processes = server.processes.max(1);
    let (needed, room) = (processes * of_each_process, server.room());
    if percent >= config::POSTGRES_CONNECTIONS_YELLOW_PERCENT {
        let what_to_do = "raise max_connections, or find the programs that hold so many connections";
        return Finding::yellow(check, in_use, what_to_do);
    }
    if needed <= room {
        return Finding::green(check, in_use);
    }
    let what = format!(
        "{in_use}; {} may open {needed}, but {room} are left for them",
        pluralize(processes.unsigned_abs(), "process of this program", "processes of this program"),
    );
    let least = i64::from(server.max_connections) + needed - room;
    let what_to_do = format!("set max_connections to {least} or more, or lower SECKILL_POSTGRES_CONNECTIONS");
    Finding::yellow(check, what, what_to_do)
}

fn pooler(is_behind_transaction_pooler: bool) -> Finding {
    if !is_behind_transaction_pooler {
        return Finding::green("postgres-session", "each connection has its own session");
    }
    Finding::red(
        "postgres-session",
        "DATABASE_URL is a transaction pooler, which gives sessions with our locks to other clients",
        "use a direct address, or the pooler's session mode",
    )
}

fn migrations(found: &Migrated, schema: &str) -> Finding {
    let check = "migrations";
    let list = |versions: &[i64]| versions.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let start = "start `seckill serve`: it migrates the schema";
    if !found.broken.is_empty() {
        let what = format!(
            "schema {schema}: migrations {} failed or are not those of this program",
            list(&found.broken)
        );
        Finding::red(
            check,
            what,
            "run the version of seckill that created this schema, or restore the schema",
        )
    } else if !found.missing.is_empty() {
        Finding::red(check, format!("schema {schema} lacks migrations {}", list(&found.missing)), start)
    } else if !found.unknown.is_empty() {
        let what = format!(
            "schema {schema} has migrations {}, which this program does not know",
            list(&found.unknown)
        );
        Finding::yellow(check, what, "upgrade this program: a newer version uses this database")
    } else {
        Finding::green(check, format!("schema {schema} is up to date"))
    }
}

fn outbox(waiting: Waiting) -> Finding {
    let check = "outbox";
    let what = waiting_units(waiting);
    if waiting.oldest_seconds < config::DOCTOR_OUTBOX_YELLOW_SECONDS {
        return Finding::green(check, what);
    }
    let what_to_do =
        "units are returned at once while workers run and claims are accepted: see the other findings";
    Finding::yellow(check, what, what_to_do)
}

fn waiting_units(waiting: Waiting) -> String {
    if waiting.rows == 0 {
        return "no unit waits for its return to stock".into();
    }
    let units =
        pluralize(waiting.rows.unsigned_abs(), "unit waits for its return", "units wait for their return");
    format!("{units} to stock, the oldest for {}", format_seconds(waiting.oldest_seconds.unsigned_abs()))
}

fn sweeper(overdue: Waiting) -> Finding {
    let check = "sweeper";
    if overdue.rows == 0 {
        return Finding::green(check, "no reserved order is past its time to pay");
    }
    let orders = pluralize(
        overdue.rows.unsigned_abs(),
        "reserved order is past its",
        "reserved orders are past their",
    );
    let age = format_seconds(overdue.oldest_seconds.unsigned_abs());
    let what = format!("{orders} time to pay, the oldest for {age}");
    if overdue.oldest_seconds < config::DOCTOR_SWEEPER_YELLOW_SECONDS {
        return Finding::green(check, what);
    }
    let what_to_do = "workers expire such orders and return their units while claims are accepted: start \
                      `seckill serve` or `seckill worker`, and see the other findings";
    Finding::yellow(check, what, what_to_do)
}

fn dead_letters(unseen: i64) -> Finding {
    if unseen == 0 {
        return Finding::green("dead-letters", "no unseen dead letters");
    }
    let what = pluralize(
        unseen.unsigned_abs(),
        "order event could not be recorded and is not marked as seen",
        "order events could not be recorded and are not marked as seen",
    );
    Finding::yellow("dead-letters", what, "`seckill dead list`, then replay or discard each")
}

fn publications(waiting: Waiting) -> Finding {
    if waiting.oldest_seconds < config::DOCTOR_OUTBOX_YELLOW_SECONDS {
        return Finding::green("publications", "Redis has the latest version of every coupon");
    }
    let coupons = pluralize(waiting.rows.unsigned_abs(), "coupon is", "coupons are");
    let age = format_seconds(waiting.oldest_seconds.unsigned_abs());
    let what = format!("{coupons} not in force as edited, the oldest for {age}");
    Finding::yellow("publications", what, REPAIRED_BY_SERVER)
}

fn stock((coupons, wrong): (i64, Option<String>)) -> Finding {
    let check = "postgres-stock";
    match wrong {
        None => {
            let coupons = pluralize(coupons.unsigned_abs(), "coupon", "coupons");
            Finding::green(check, format!("stock is the total minus live orders, for {coupons}"))
        }
        Some(coupon) => Finding::red(
            check,
            format!("coupon {coupon}: stock in Postgres is not the total minus live orders"),
            "orders or stock were edited by hand: `seckill reconcile --fix` counts the stock again",
        ),
    }
}
