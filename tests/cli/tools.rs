//! `redis-cli` and `psql`: which arguments and credentials the tools get.

use crate::harness::Sandbox;

#[test]
fn the_tools_get_passwords_only_through_the_environment() {
    let sandbox = Sandbox::new()
        .env("REDIS_URL", "redis://shop:red1s@cache:6380/2")
        .env("DATABASE_URL", "postgres://shop:p0stgres@db/sale?sslmode=require")
        .env("SECKILL_DB_SCHEMA", "staging")
        .with_tool("redis-cli")
        .with_tool("psql");
    let run = sandbox.run(&["redis-cli", "-x", "GET", "--", "a b", "--help"]);
    let expected = "-h|cache|-p|6380|-n|2|--user|shop|-x|GET|--|a b|--help|\nred1s\n\n\n";
    assert_eq!((run.status, run.stdout.as_str()), (7, expected), "{run:?}");
    let run = sandbox.run(&["psql", "--help"]);
    let expected =
        "--dbname=postgres://shop@db/sale?sslmode=require|--help|\n\np0stgres\n-c search_path=staging\n";
    assert_eq!((run.status, run.stdout.as_str()), (7, expected), "{run:?}");
}

#[test]
fn a_missing_tool_names_its_package() {
    let sandbox = Sandbox::new().env("REDIS_URL", "redis://cache").env("DATABASE_URL", "postgres://db/sale");
    let sandbox = sandbox.env("PATH", "/nowhere");
    sandbox.run(&["redis-cli"]).refused_with("redis-tools");
    sandbox.run(&["psql"]).refused_with("postgresql-client");
}

#[test]
fn the_tools_refuse_half_a_configuration() {
    let run = Sandbox::new().env("REDIS_URL", "redis://:secret@cache").run(&["redis-cli", "PING"]);
    assert!(!run.stderr.contains("secret"), "{run:?}");
    run.refused_with("DATABASE_URL");
}
