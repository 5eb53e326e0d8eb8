//! Exit status 2: wrong arguments and settings, found before the command does anything.

use rstest::rstest;

use crate::harness::{JWT_SECRET, Sandbox};

#[rstest]
#[case("")]
#[case("coupon create coffee")]
#[case("coupon create _coffee --total 1")]
#[case("coupon create coffee --total 0")]
#[case("coupon create coffee --total 1000000001")]
#[case("coupon create coffee --total 1 --per-user-limit 17")]
#[case("coupon create coffee --total 1 --starts-at tomorrow")]
#[case("coupon create coffee --total 1 --starts-at 2026-11-11T20:00:00")]
#[case("coupon create coffee --total 1 --starts-at 2026-11-11T20:00:00Z --ends-at 2026-11-11T20:00:00Z")]
#[case("coupon create coffee --total 1 --reserve-for 1500ms")]
#[case("coupon create coffee --total 1 --reserve-for 0s")]
#[case("coupon create coffee --total 1 --reserve-for 31days")]
#[case("coupon create coffee --total 1 --reserve-for 15")]
#[case("coupon edit coffee")]
#[case("claim coffee")]
#[case("claim coffee --user alice --wait 11s")]
#[case("claim coffee --user alice --key ")]
#[case("coupon list --url localhost:8080")]
#[case("coupon list --url http://admin:secret@localhost:8080")]
#[case("token --user alice --ttl 0s")]
#[case("token --user alice --ttl 1500ms")]
#[case("token --user alice --ttl 5M")]
#[case("token --user alice --ttl 1month")]
#[case("token --user alice --ttl 1y")]
#[case("token --user alice --ttl 15")]
#[case("token --user alice --ttl 4000d")]
#[case("coupon create coffee --total 1 --reserve-for 15M")]
#[case("claim coffee --user alice --wait 1M")]
#[case("serve --reclaim-after 5M")]
#[case("token")]
#[case("--log =nonsense= coupon list")]
#[case("serve --workers 65")]
fn wrong_usage_exits_with_2(#[case] line: &str) {
    let run = Sandbox::new().run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(run.status, 2, "{run:?}");
    assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{run:?}");
    assert!(!run.stderr.contains("secret"), "{run:?}");
}

#[test]
fn the_error_for_a_wrong_time_shows_a_right_one() {
    let run = Sandbox::new().run(&["coupon", "edit", "coffee", "--starts-at", "11.11.2026"]);
    assert!(run.stderr.contains("2026-11-11T20:00:00+01:00"), "{run:?}");
}

#[rstest]
#[case("token --user alice --ttl 5M")]
#[case("token --user alice --ttl 5")]
#[case("token --user alice --ttl soon")]
#[case("coupon create coffee --total 1 --reserve-for 15M")]
#[case("claim coffee --user alice --wait 1M")]
#[case("worker --reclaim-after 5M")]
#[case("doctor --reclaim-after 5M")]
fn the_error_for_an_ambiguous_duration_shows_a_right_one(#[case] line: &str) {
    let run = Sandbox::new().run(&line.split(' ').collect::<Vec<_>>());
    assert!(run.status == 2 && run.stderr.contains("write a duration such as 15m, 4s or 1h30m"), "{run:?}");
}

#[rstest]
#[case("coupon create coffee --total 1e3", "from 1 to 1000000000")]
#[case("coupon create coffee --total 1.5", "from 1 to 1000000000")]
#[case("coupon edit coffee --total 0", "from 1 to 1000000000")]
#[case("coupon create coffee --total 1 --per-user-limit 17", "from 1 to 16")]
#[case("serve --workers many", "from 0 to 64")]
#[case("serve --partitions 65", "from 1 to 64")]
#[case("stream tail --partition 32768", "from 0 to 32767")]
#[case("serve --max-backlog 99999999999999999999", "from 0 to 18446744073709551615")]
#[case("worker --stream-keep 1k", "from 0 to 18446744073709551615")]
fn the_error_for_a_wrong_number_names_its_bounds(#[case] line: &str, #[case] bounds: &str) {
    let run = Sandbox::new().run(&line.split(' ').collect::<Vec<_>>());
    let words = format!("must be a whole number {bounds}");
    assert!(run.status == 2 && run.stderr.contains(&words), "{run:?}");
}

#[rstest]
#[case("SECKILL_LISTEN", "serve")]
#[case("SECKILL_DATA_DIR", "serve")]
#[case("REDIS_URL", "serve")]
#[case("DATABASE_URL", "worker")]
#[case("SECKILL_STORES", "serve")]
#[case("SECKILL_REDIS_PREFIX", "serve")]
#[case("SECKILL_DB_SCHEMA", "psql")]
#[case("SECKILL_PARTITIONS", "serve")]
#[case("SECKILL_WORKERS", "serve")]
#[case("SECKILL_POSTGRES_CONNECTIONS", "worker")]
#[case("SECKILL_ADMIN_TOKEN", "serve")]
#[case("SECKILL_JWT_SECRET", "serve")]
#[case("SECKILL_JWT_AUDIENCE", "demo")]
#[case("SECKILL_JWT_ISSUER", "serve")]
#[case("SECKILL_RECLAIM_AFTER", "worker")]
#[case("SECKILL_STREAM_KEEP", "worker")]
#[case("SECKILL_MAX_BACKLOG", "serve")]
#[case("SECKILL_ANSWER_AFTER", "serve")]
#[case("SECKILL_LOG", "serve")]
#[case("SECKILL_LOG_FORMAT", "serve")]
#[case("SECKILL_URL", "coupon list")]
fn a_setting_that_is_set_but_empty_is_refused_by_its_name(#[case] variable: &str, #[case] command: &str) {
    let run = Sandbox::new().env(variable, "").run(&command.split(' ').collect::<Vec<_>>());
    assert_eq!(run.status, 2, "{run:?}");
    assert!(run.stderr.contains(&format!("{variable} is set but empty")), "{run:?}");
}

#[test]
fn a_wrong_value_names_the_variable_it_comes_from() {
    let run = Sandbox::new().env("SECKILL_WORKERS", "65").run(&["serve"]);
    assert!(run.stderr.contains("comes from the environment variable SECKILL_WORKERS"), "{run:?}");
    let run = Sandbox::new().env("SECKILL_WORKERS", "65").run(&["serve", "--workers", "66"]);
    assert!(!run.stderr.contains("SECKILL_WORKERS"), "{run:?}");
}

#[test]
fn help_lists_all_settings_and_shows_no_secret() {
    let settings = "SECKILL_LISTEN SECKILL_DATA_DIR REDIS_URL DATABASE_URL SECKILL_STORES SECKILL_REDIS_PREFIX \
        SECKILL_DB_SCHEMA SECKILL_PARTITIONS SECKILL_WORKERS SECKILL_ADMIN_TOKEN SECKILL_JWT_SECRET SECKILL_JWT_AUDIENCE \
        SECKILL_JWT_ISSUER SECKILL_RECLAIM_AFTER SECKILL_MAX_BACKLOG SECKILL_ANSWER_AFTER SECKILL_STREAM_KEEP SECKILL_LOG \
        SECKILL_LOG_FORMAT SECKILL_URL SECKILL_POSTGRES_CONNECTIONS";
    let sandbox = Sandbox::new().env("SECKILL_JWT_SECRET", JWT_SECRET).env("SECKILL_ADMIN_TOKEN", JWT_SECRET);
    let run = sandbox.run(&["--help"]);
    assert_eq!(run.status, 0);
    for setting in settings.split_whitespace() {
        assert!(run.stdout.contains(&format!("  {setting}, --")), "{setting} is missing");
    }
    assert!(!run.stdout.contains("healthcheck"));
    for command in ["serve", "token", "claim"] {
        assert!(!sandbox.run(&[command, "--help"]).stdout.contains(JWT_SECRET));
    }
}
