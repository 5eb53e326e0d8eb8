//! The alternatives of the bench on real stores: each sells units, no unit twice, and at most one unit to a user.
//! `seckill bench` measures their speed.

use std::process::Command;
use std::time::Duration;

use seckill::bench::alternatives::{self, Pgbench};
use seckill::bench::{Rate, fdatasync, redis_cpu};
use seckill::config::StoreAddresses;
use seckill::domain::Partition;
use seckill::embedded::Embedded;
use seckill::redis::{RedisServer, marker};

use support::Sale;

const ROUND: Duration = Duration::from_millis(200);
/// The shortest round that pgbench can measure.
const PGBENCH_ROUND: Duration = Duration::from_secs(1);

async fn stores_of(sale: &Sale) -> StoreAddresses {
    Embedded::join(&sale.data_dir()).await.unwrap()
}

fn pgbench(sale: &Sale, stores: &StoreAddresses) -> Pgbench {
    Pgbench::find(&sale.data_dir(), stores).unwrap()
}

fn assert_sold<'f>(figures: impl IntoIterator<Item = &'f alternatives::Figure>) {
    for figure in figures {
        assert!(figure.rate.operations > 0 && figure.rate.elapsed >= ROUND, "{figure:?}");
    }
}

/// As `Sale::psql`, in another database of the sale's Postgres.
fn psql_in(sale: &Sale, database: &str, sql: &str) -> String {
    let mut psql = Command::new("psql");
    psql.arg("-h").arg(sale.data_dir().join("postgres")).args(["-U", "seckill", "-d", database]);
    let output = psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn number_in(sale: &Sale, database: &str, sql: &str) -> i64 {
    psql_in(sale, database, sql).parse().unwrap()
}

/// Checks the tables of the last round: all units are sold, each to a different user.
fn assert_sold_out(sale: &Sale, stock: &str, orders: &str) {
    let [left, total] = ["stock", "total"]
        .map(|column| number_in(sale, stock, &format!("select {column} from bench.coupons")));
    let rows = number_in(sale, orders, "select count(*) from bench.orders");
    let users = number_in(sale, orders, "select count(distinct user_id) from bench.orders");
    assert_eq!((left, rows, users), (0, total, total), "units left, orders, users with an order");
}

#[tokio::test]
async fn claims_sent_one_in_each_script_call_are_accepted_and_their_cost_is_measured() {
    let sale = Sale::start().await;
    sale.create("mug", 1_000_000).await;
    let server = RedisServer::new(&stores_of(&sale).await, "seckill", Partition::DEFAULT).unwrap();
    let redis = server.connect().await.unwrap();
    let ready = marker::read(&redis).await.unwrap().unwrap();
    let before = redis_cpu(&redis).await.unwrap();
    let mug = "mug".parse().unwrap();
    let fenced = alternatives::per_request(&server, "ready:0-0", &mug, ROUND).await;
    assert!(fenced.unwrap_err().to_string().contains("Fenced"));

    let sold = alternatives::per_request(&server, &ready, &mug, ROUND).await.unwrap();
    assert_sold([&sold.figure]);
    assert!(sold.redis_cpu_per_claim > Duration::ZERO && redis_cpu(&redis).await.unwrap() > before);
    sale.assert_in_agreement("mug").await;
}

/// The figures by name and number of clients.
fn names_and_clients(figures: &[alternatives::Figure]) -> Vec<(&str, usize)> {
    figures.iter().map(|figure| (figure.name, figure.clients)).collect()
}

#[tokio::test]
async fn the_conditional_update_driven_by_pgbench_sells_its_stock_and_no_unit_more() {
    let sale = Sale::start().await;
    let stores = stores_of(&sale).await;
    let pgbench = pgbench(&sale, &stores);
    let figures = alternatives::optimistic_lock(&stores, &pgbench, &[1, 8], PGBENCH_ROUND).await.unwrap();
    assert_sold(&figures);
    let expected = [
        ("optimistic lock, one statement", 1),
        ("optimistic lock, one statement", 8),
        ("optimistic lock, order first", 8),
        ("optimistic lock, transaction", 8),
    ];
    assert_eq!(names_and_clients(&figures), expected);
    assert_sold_out(&sale, "seckill", "seckill");
    // The last round's figure equals the number of rows, without the hundred units of the check at the end.
    let rows = sale.psql_number("select count(*) from bench.orders");
    assert_eq!(figures.last().unwrap().rate.operations, u64::try_from(rows).unwrap() - 100);
    let scripts = std::fs::read_dir(sale.data_dir()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "sql")
    });
    assert_eq!(scripts.count(), 0, "scripts left behind");
}

/// Runs this SQL in Postgres as soon as the tables of the bench are created.
fn damage(sale: &Sale, sql: &str) {
    sale.psql(&format!(
        "create function public.damage() returns event_trigger language plpgsql as $$ begin
             if to_regclass('bench.orders_ended_of_user') is not null then {sql}; end if;
         end $$;
         create event trigger damage on ddl_command_end when tag in ('CREATE INDEX')
             execute function public.damage()"
    ));
}

/// Makes Postgres leave out each `insert` or `update` of an order whose user's name ends in 7.
fn lose_each(sale: &Sale, write: &str) {
    sale.psql(
        "create function public.lose() returns trigger language plpgsql as
             $$ begin return case when new.user_id not like '%7' then new end; end $$",
    );
    damage(
        sale,
        &format!(
            "create or replace trigger lose before {write} on bench.orders
                 for each row execute function public.lose()"
        ),
    );
}

async fn error_of_a_round(sale: &Sale) -> String {
    let stores = stores_of(sale).await;
    let pgbench = pgbench(sale, &stores);
    let error = alternatives::optimistic_lock(&stores, &pgbench, &[2], PGBENCH_ROUND).await.unwrap_err();
    format!("{error:#}")
}

#[tokio::test]
async fn a_round_that_sells_twice_to_a_user_fails() {
    let sale = Sale::start().await;
    damage(&sale, "drop index if exists bench.orders_one_live_per_slot");
    assert_eq!(error_of_a_round(&sale).await, "one_statement.sql: a user's second order was not refused");
}

#[tokio::test]
async fn a_round_that_refuses_a_buyer_while_units_are_left_fails() {
    let sale = Sale::start().await;
    damage(&sale, "alter table bench.orders add check (user_id > 'x')");
    let error = error_of_a_round(&sale).await;
    assert!(error.starts_with("one_statement.sql: a new user was refused though units are left"), "{error}");
    assert!(error.contains("violates check constraint"), "{error}");
}

#[tokio::test]
async fn a_round_that_loses_an_order_fails() {
    let sale = Sale::start().await;
    lose_each(&sale, "insert");
    let error = error_of_a_round(&sale).await;
    assert!(error.ends_with("units left"), "{error}");
}

#[tokio::test]
async fn lua_then_the_conditional_update_sells_each_unit_once_in_both_stores() {
    let sale = Sale::start().await;
    let stores = stores_of(&sale).await;
    assert_sold(&alternatives::lua_then_lock(&stores, &[1, 24], ROUND).await.unwrap());
    assert_sold_out(&sale, "seckill", "seckill");
    assert_eq!(sale.redis_cli(&["--scan", "--pattern", "bench:*"]), "", "keys left behind");

    let pgbench = pgbench(&sale, &stores);
    let alone = alternatives::update_alone(&stores, &pgbench, 8, PGBENCH_ROUND).await.unwrap();
    assert_sold([&alone]);
    let [total, stock] =
        ["total", "stock"].map(|column| sale.psql_number(&format!("select {column} from bench.coupons")));
    let sold = i64::try_from(alone.rate.operations).unwrap();
    assert_eq!((total, stock), (sold + 100, 0), "units of the round and of its end, units left");
}

#[tokio::test]
async fn a_row_for_each_unit_is_sold_once_and_bare_inserts_take_their_stock() {
    let sale = Sale::start().await;
    let stores = stores_of(&sale).await;
    let pgbench = pgbench(&sale, &stores);
    let figures = alternatives::row_per_unit(&stores, &pgbench, &[8], PGBENCH_ROUND).await.unwrap();
    assert_sold(&figures);
    assert_eq!(
        names_and_clients(&figures),
        [("row per unit, skip locked", 8), ("row per unit, clients apart", 8)]
    );
    let [units, sold, users] = ["count(*)", "count(order_id)", "count(distinct user_id)"]
        .map(|what| sale.psql_number(&format!("select {what} from bench.units")));
    assert_eq!((sold, users), (units, units), "units sold, users with a unit");
    assert_eq!(figures[1].rate.operations, u64::try_from(units).unwrap() - 100);

    let inserted = alternatives::bare_insert(&stores, ROUND).await.unwrap();
    assert_sold([&inserted]);
    assert_eq!(inserted.rate.operations % 1_000, 0, "whole batches");
    let missing = "select total - stock - (select count(*) from bench.orders) from bench.coupons";
    assert_eq!(sale.psql_number(missing), 0, "units that are neither left nor sold");

    let left = "select count(*) from pg_namespace where nspname = 'bench'";
    assert_eq!(sale.psql_number(left), 1);
    alternatives::clear(&stores).await.unwrap();
    assert_eq!(sale.psql_number(left), 0, "a schema left behind");
}

#[tokio::test]
async fn both_clients_sell_by_the_same_statement() {
    let sale = Sale::start().await;
    let stores = stores_of(&sale).await;
    let pgbench = pgbench(&sale, &stores);
    let check = alternatives::client_check(&stores, &pgbench, 4, PGBENCH_ROUND).await.unwrap();
    assert_sold([&check.pgbench, &check.buyers]);
}

#[tokio::test]
async fn two_phase_commit_sells_each_unit_once_and_leaves_no_prepared_transaction() {
    let mut sale = Sale::start().await;
    sale.psql("alter system set max_prepared_transactions = 100");
    sale.stop();
    sale.start_server().await;
    // Does what a killed bench may leave: a database with a prepared transaction, which cannot be dropped.
    sale.psql("create database bench_stock");
    psql_in(&sale, "bench_stock", "begin; create table left_over (); prepare transaction 'left'");
    assert_sold(&alternatives::two_phase(&stores_of(&sale).await, &[1, 16], ROUND).await.unwrap());
    assert_sold_out(&sale, "bench_stock", "bench_orders");
    assert_eq!(sale.psql_number("select count(*) from pg_prepared_xacts"), 0);

    let left = "select count(*) from pg_database where datname like 'bench%'";
    assert_eq!(sale.psql_number(left), 2);
    alternatives::clear(&stores_of(&sale).await).await.unwrap();
    assert_eq!(sale.psql_number(left), 0, "databases left behind");
}

#[tokio::test]
async fn the_textbook_tcc_sells_each_unit_once_and_its_cancelled_units_again() {
    let sale = Sale::start().await;
    let stores = stores_of(&sale).await;
    let pgbench = pgbench(&sale, &stores);
    let figures = alternatives::textbook_tcc(&stores, &pgbench, &[4], PGBENCH_ROUND).await.unwrap();
    assert_sold(&figures);
    let expected = [("textbook TCC, stock first", 4), ("textbook TCC, order first", 4)];
    assert_eq!(names_and_clients(&figures), expected);
    let [left, frozen, total] = ["stock", "frozen", "total"]
        .map(|column| sale.psql_number(&format!("select {column} from bench.coupons")));
    let orders = |of: &str| {
        sale.psql_number(&format!("select count({of}) from bench.orders where status = 'confirmed'"))
    };
    assert_eq!((left, frozen, orders("*"), orders("distinct user_id")), (0, 0, total, total));
    assert_eq!(figures[1].rate.operations, u64::try_from(total).unwrap() - 100, "cycles of the last round");
    let cancelled = "select count(*) from bench.orders where status = 'cancelled'";
    assert_eq!(sale.psql_number(cancelled), 4 * (100 / 4 + 2), "all tries of the hundred last units had one");
}

#[tokio::test]
async fn a_textbook_tcc_that_loses_a_confirm_fails() {
    let sale = Sale::start().await;
    lose_each(&sale, "update");
    let stores = stores_of(&sale).await;
    let pgbench = pgbench(&sale, &stores);
    let error = alternatives::textbook_tcc(&stores, &pgbench, &[2], PGBENCH_ROUND).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("frozen and") && error.ends_with("reserved"), "{error}");
}

#[tokio::test]
async fn a_flush_takes_some_time_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    assert!(fdatasync(dir.path()).await.unwrap() > Duration::ZERO);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let error = fdatasync(&dir.path().join("absent")).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot write"), "{error}");
}

#[test]
fn the_fastest_round_is_found() {
    let round = |operations| alternatives::Figure {
        name: "",
        clients: 1,
        rate: Rate { operations, elapsed: Duration::from_secs(1) },
    };
    let figures = [round(2), round(5), round(3)];
    assert_eq!(alternatives::fastest(&figures).unwrap().rate.operations, 5);
    assert!(alternatives::fastest([]).is_none());
}
