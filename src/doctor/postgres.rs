//! Postgres's settings and health, and what waits in our tables.

use super::{Finding, ask, counted, postgres_is_away, seconds};
use crate::config;
use crate::postgres::health::{self, Migrated, Server, Waiting};
use crate::postgres::{PgConnection, Postgres, PostgresError};

/// The findings, and the connection where Postgres answers and has our tables.
pub async fn examine(postgres: &Postgres) -> (Vec<Finding>, Option<PgConnection>) {
    let mut connection = match health::connect(postgres).await {
        Ok(connection) => connection,
        Err(error) => return (vec![postgres_is_away(postgres, &error)], None),
    };
    match check(postgres, &mut connection).await {
        Ok((findings, true)) => (findings, Some(connection)),
        Ok((findings, false)) => (findings, None),
        Err(error) => (vec![postgres_is_away(postgres, &error)], None),
    }
}

/// The findings, and whether our tables are all there.
async fn check(
    postgres: &Postgres,
    connection: &mut PgConnection,
) -> Result<(Vec<Finding>, bool), PostgresError> {
    let server = ask(health::server(connection)).await?;
    let own = ask(health::own_synchronous_commit(postgres)).await?;
    let mut findings = vec![
        version(&server),
        role(&server),
        fsync(&server),
        full_page_writes(&server),
        synchronous_commit(&server, &own),
        connections(&server),
        pooler(ask(postgres.is_behind_transaction_pooler()).await?),
    ];
    let migrated = match ask(health::migrated(connection, postgres.schema())).await {
        Ok(migrated) => migrated,
        Err(error @ PostgresError::Transient(_)) => return Err(error),
        Err(error) => {
            findings.push(Finding::red(
                "migrations",
                error.to_string(),
                "let DATABASE_URL's user own the schema",
            ));
            return Ok((findings, false));
        }
    };
    findings.push(migrations(&migrated, postgres.schema()));
    let has_tables = migrated.missing.is_empty() && migrated.broken.is_empty();
    if has_tables {
        findings.push(read("outbox", health::outbox(connection), outbox).await?);
        findings.push(read("dead-letters", health::unseen_letters(connection), dead_letters).await?);
        findings.push(read("publications", health::unpublished(connection), publications).await?);
        findings.push(read("postgres-stock", health::stock_drift(connection), stock).await?);
    }
    Ok((findings, has_tables))
}

/// What the check makes of the answer; a refused question is a finding, no answer an error.
async fn read<T>(
    check: &'static str,
    question: impl Future<Output = Result<T, PostgresError>>,
    judge: impl FnOnce(T) -> Finding,
) -> Result<Finding, PostgresError> {
    match ask(question).await {
        Ok(answer) => Ok(judge(answer)),
        Err(error @ PostgresError::Transient(_)) => Err(error),
        Err(error) => Ok(Finding::unreadable(check, &error.to_string())),
    }
}

fn version(server: &Server) -> Finding {
    if server.version_number / 10_000 >= config::POSTGRES_MIN_MAJOR {
        return Finding::green("postgres-version", &server.version);
    }
    let what = format!("{}: too old for this program's statements", server.version);
    Finding::red("postgres-version", what, format!("upgrade to {} or later", config::POSTGRES_MIN_MAJOR))
}

fn role(server: &Server) -> Finding {
    if !server.in_recovery {
        return Finding::green("postgres-role", "primary");
    }
    let what = "a standby, or still recovering: it records nothing";
    Finding::red("postgres-role", what, "let DATABASE_URL lead to the primary")
}

fn fsync(server: &Server) -> Finding {
    if server.fsync == "on" {
        return Finding::green("postgres-fsync", "on");
    }
    let what = format!("{}: a crash of the machine may lose or ruin the whole database", server.fsync);
    Finding::red("postgres-fsync", what, "alter system set fsync = on; select pg_reload_conf()")
}

fn full_page_writes(server: &Server) -> Finding {
    if server.full_page_writes == "on" {
        return Finding::green("postgres-full-page-writes", "on");
    }
    let what =
        format!("{}: a crash of the machine may tear pages that are then lost", server.full_page_writes);
    let what_to_do = "alter system set full_page_writes = on; select pg_reload_conf()";
    Finding::red("postgres-full-page-writes", what, what_to_do)
}

fn synchronous_commit(server: &Server, own: &str) -> Finding {
    let check = "postgres-synchronous-commit";
    let what_to_do = "alter system set synchronous_commit = on; select pg_reload_conf()";
    if own == "off" {
        let what =
            "off, also where this program asks for on: orders that were recorded may be lost in a crash";
        Finding::red(check, what, format!("let a pooler in between pass `options`; {what_to_do}"))
    } else if server.synchronous_commit == "off" {
        let what = "off; this program asks for on, but what others and psql write may be lost in a crash";
        Finding::yellow(check, what, what_to_do)
    } else {
        Finding::green(check, &server.synchronous_commit)
    }
}

fn connections(server: &Server) -> Finding {
    let percent = server.connections * 100 / i64::from(server.max_connections.max(1));
    let what = format!("{} of {} connections are in use", server.connections, server.max_connections);
    if percent < config::POSTGRES_CONNECTIONS_YELLOW_PERCENT {
        return Finding::green("postgres-connections", what);
    }
    Finding::yellow("postgres-connections", what, "raise max_connections, or find who keeps so many open")
}

fn pooler(is_behind_transaction_pooler: bool) -> Finding {
    if !is_behind_transaction_pooler {
        return Finding::green("postgres-session", "a session of our own");
    }
    Finding::red(
        "postgres-session",
        "DATABASE_URL leads through a transaction pooler, which hands our locks to others",
        "give a direct address, or the pooler's session mode",
    )
}

fn migrations(found: &Migrated, schema: &str) -> Finding {
    let check = "migrations";
    let list = |versions: &[i64]| versions.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let start = "start `seckill serve` once: it brings the schema up to date";
    if !found.broken.is_empty() {
        let what = format!("schema {schema} has another {} than this program", list(&found.broken));
        Finding::red(check, what, "run the version of seckill that made this schema, or restore it")
    } else if !found.missing.is_empty() {
        Finding::red(check, format!("schema {schema} lacks {}", list(&found.missing)), start)
    } else if !found.unknown.is_empty() {
        let what = format!("schema {schema} has {}, which this program does not know", list(&found.unknown));
        Finding::yellow(check, what, "upgrade this program: a newer one runs on this database")
    } else {
        Finding::green(check, format!("schema {schema} is up to date"))
    }
}

fn outbox(waiting: Waiting) -> Finding {
    let check = "outbox";
    let what = returning(waiting);
    if waiting.oldest_seconds < config::DOCTOR_OUTBOX_YELLOW_SECONDS {
        return Finding::green(check, what);
    }
    let what_to_do =
        "units go back once a second while workers run and claims are taken: see the other findings";
    Finding::yellow(check, what, what_to_do)
}

fn returning(waiting: Waiting) -> String {
    if waiting.rows == 0 {
        return "no unit waits to go back to stock".into();
    }
    let units = counted(waiting.rows.unsigned_abs(), "unit waits", "units wait");
    format!("{units} to go back to stock, the oldest for {}", seconds(waiting.oldest_seconds.unsigned_abs()))
}

fn dead_letters(unseen: i64) -> Finding {
    if unseen == 0 {
        return Finding::green("dead-letters", "none that nobody has seen");
    }
    let letters = counted(unseen.unsigned_abs(), "order event", "order events");
    let what = format!("{letters} could not be recorded, and nobody has seen to it");
    Finding::yellow("dead-letters", what, "`seckill dead list`, then replay or discard each")
}

fn publications(waiting: Waiting) -> Finding {
    if waiting.oldest_seconds < config::DOCTOR_OUTBOX_YELLOW_SECONDS {
        return Finding::green("publications", "every coupon is in force as Postgres has it");
    }
    let coupons = counted(waiting.rows.unsigned_abs(), "coupon is", "coupons are");
    let age = seconds(waiting.oldest_seconds.unsigned_abs());
    let what = format!("{coupons} not in force as edited, the oldest for {age}");
    Finding::yellow("publications", what, super::redis::MENDS_ITSELF)
}

fn stock((coupons, wrong): (i64, Option<String>)) -> Finding {
    let check = "postgres-stock";
    match wrong {
        None => {
            let coupons = counted(coupons.unsigned_abs(), "coupon", "coupons");
            Finding::green(check, format!("total less live orders, for {coupons}"))
        }
        Some(coupon) => Finding::red(
            check,
            format!("coupon {coupon}: stock is not total less live orders in Postgres"),
            "orders or stock were edited by hand: `seckill reconcile --fix` recounts the stock",
        ),
    }
}
