//! How the program is started: settings that contradict each other, a data directory in use, the demo.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{Sale, until};

/// The program in an environment without any setting but these; how it ended and what it said.
fn run(dir: &std::path::Path, args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_seckill")]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(dir);
    // Whatever starts although it should not is ended, and shows as another status.
    let output = command.args(args).envs(environment.iter().copied()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Arguments, environment, exit status, a part of what is said.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);

#[test]
fn settings_that_contradict_each_other_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let redis = ("REDIS_URL", "redis://127.0.0.1:1");
    let postgres = ("DATABASE_URL", "postgres://127.0.0.1:1/x");
    let token = ("SECKILL_ADMIN_TOKEN", "t");
    let listen = ("SECKILL_LISTEN", "127.0.0.1:0");
    let secret = ("SECKILL_JWT_SECRET", "a secret of at least thirty-two bytes");
    let short = ("SECKILL_JWT_SECRET", "a secret of only thirty-one byt");
    let both = |redis_url| [("REDIS_URL", redis_url), postgres, token, secret, listen];
    let cases: [Case<'_>; 19] = [
        (&["serve"], &[("SECKILL_LISTEN", "")], 2, "SECKILL_LISTEN is set but empty"),
        (&["serve"], &[("REDIS_URL", "")], 2, "REDIS_URL is set but empty"),
        (&["serve"], &[redis], 1, "DATABASE_URL is not"),
        (&["serve"], &[postgres], 1, "REDIS_URL is not"),
        (&["serve"], &[("SECKILL_STORES", "external")], 1, "set both"),
        (&["serve"], &[redis, postgres, listen], 2, "SECKILL_ADMIN_TOKEN and SECKILL_JWT_SECRET must be set"),
        (
            &["serve"],
            &[redis, postgres, listen, token],
            2,
            "SECKILL_ADMIN_TOKEN and SECKILL_JWT_SECRET must be set",
        ),
        (
            &["serve"],
            &[redis, postgres, listen, secret],
            2,
            "SECKILL_ADMIN_TOKEN and SECKILL_JWT_SECRET must be set",
        ),
        (&["serve"], &[redis, postgres, listen, token, short], 2, "31 bytes"),
        (&["serve"], &[listen, short], 2, "31 bytes"),
        (&["serve"], &both("redis-sentinel://h:1/s"), 1, "not supported yet"),
        (&["serve"], &both("redis+sentinel://h:1/s"), 1, "not supported yet"),
        (&["serve"], &both("redis-cluster://h:1"), 1, "not supported yet"),
        (&["serve"], &both("http://h:1"), 1, "redis+unix://"),
        (&["serve"], &both("h:1"), 1, "redis+unix://"),
        (&["serve"], &[redis, ("DATABASE_URL", "mysql://h/x"), token, secret, listen], 1, "postgres://"),
        (&["demo"], &[("SECKILL_LISTEN", "0.0.0.0:0")], 2, "loopback"),
        (&["worker"], &[("SECKILL_DATA_DIR", "/tmp/no-such-directory")], 1, "no stores are running"),
        (&["coupon", "list"], &[("SECKILL_URL", "http://127.0.0.1:1"), token], 1, "no server answers"),
    ];
    for (args, environment, status, hint) in cases {
        let (ended, said) = run(dir.path(), args, environment);
        assert_eq!(ended, Some(status), "{args:?} {environment:?}: {said}");
        assert!(said.contains(hint), "{args:?} {environment:?}: {said}");
        assert!(!said.contains("listening") && !said.contains("thirty"), "{args:?} {environment:?}: {said}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn the_first_line_says_where_the_server_listens_whatever_the_filter() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    // A directory that is no fit place ends the server right after that line.
    let place = dir.path().join("file");
    std::fs::write(&place, "").unwrap();
    let run = |format| {
        let settings = [
            ("SECKILL_LOG", "error"),
            ("SECKILL_LOG_FORMAT", format),
            ("SECKILL_LISTEN", "127.0.0.1:0"),
            ("SECKILL_DATA_DIR", place.to_str().unwrap()),
        ];
        run(dir.path(), &["serve"], &settings)
    };
    let (ended, text) = run("text");
    assert_eq!(ended, Some(1), "{text}");
    assert!(text.starts_with("listening on http://127.0.0.1:"), "{text}");
    let (ended, json) = run("json");
    assert_eq!(ended, Some(1), "{json}");
    let line: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let message = line["fields"]["message"].as_str().unwrap();
    assert!(message.starts_with("listening on http://127.0.0.1:") && line["timestamp"].is_string(), "{json}");
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_told_so_and_one_by_address_joins() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let (epoch, first_line) = (sale.epoch(), sale.log().lines().next().unwrap().to_owned());
    assert_eq!(first_line, format!("listening on {}", sale.url));

    let second = sale.command().args(["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(sale.data_dir().to_str().unwrap()), "{said}");

    let data = sale.data_dir();
    let secret = std::fs::read_to_string(data.join("jwt-secret")).unwrap();
    let addresses = [
        ("REDIS_URL", format!("redis+unix://{}/redis/redis.sock", data.display())),
        ("DATABASE_URL", format!("postgres://seckill@localhost/seckill?host={}/postgres", data.display())),
        ("SECKILL_ADMIN_TOKEN", sale.admin_token()),
        ("SECKILL_JWT_SECRET", secret.trim_end().to_owned()),
        ("SECKILL_STORES", "external".to_owned()),
        ("SECKILL_LISTEN", "127.0.0.1:0".to_owned()),
    ];
    let addresses: Vec<(&str, &str)> =
        addresses.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let replica = sale.spawn("serve", &addresses);
    let url = until("the replica takes claims", async || {
        let log = replica.log();
        log.contains("fence up")
            .then(|| log.lines().next().unwrap().strip_prefix("listening on ").unwrap().to_owned())
    })
    .await;
    let claim = |url: &str| {
        let request =
            sale.client.post(format!("{url}/v1/coupons/coffee/claims")).bearer_auth(sale.token("alice"));
        async { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!((claim(&url).await, claim(&sale.url).await), (202, 200));
    sale.assert_in_agreement("coffee").await;
    assert_eq!(sale.epoch(), epoch, "joining makes no new epoch");
    assert!(replica.stop().success());
    assert_eq!(claim(&sale.url).await, 200);
}

#[test]
fn the_lines_that_the_demo_prints_work_when_pasted() {
    let dir = tempfile::Builder::new().prefix("seckill-demo-").tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(dir.path(), None, None).unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_seckill"));
    command.args(["demo", "--listen", "127.0.0.1:0"]).current_dir(dir.path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SECKILL_")) {
        command.env_remove(name);
    }
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut pasted = Vec::new();
    for line in lines.by_ref().map(Result::unwrap) {
        let is_command =
            line.starts_with("  ") && ["curl", "redis-cli", "psql"].iter().any(|word| line.contains(word));
        if is_command {
            let shell = Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
            assert!(shell.status.success(), "{line}: {}", String::from_utf8_lossy(&shell.stderr));
            pasted.push(String::from_utf8_lossy(&shell.stdout).into_owned());
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    let demo_pid = nix::unistd::Pid::from_raw(i32::try_from(demo.id()).unwrap());
    nix::sys::signal::kill(demo_pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(demo.wait().unwrap().success());
    assert_eq!(pasted.len(), 3, "{pasted:?}");
    let order = pasted[0].split("\"order\":\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(pasted[0].contains("202 Accepted"), "{}", pasted[0]);
    assert!(pasted[1].contains(order) && pasted[1].contains("alice"), "{}", pasted[1]);
    assert!(pasted[2].contains(order), "{}", pasted[2]);
}
