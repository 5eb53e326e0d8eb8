//! The start of the program: settings, credentials, addresses, and a data directory that is in use.

mod demo;
mod other_programs;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use support::external_store::ExternalStore;
use support::{Sale, until};

use self::other_programs::OF_OTHER_PROGRAMS;

/// Runs the program with only these settings; returns its exit status and its stderr.
fn run(dir: &std::path::Path, args: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.arg("60").arg(support::program());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(dir);
    // `timeout` ends a program that starts although it must not; the exit status then shows this.
    let output = command.args(args).envs(environment.iter().copied()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn variables_of_other_programs_do_not_affect_embedded_stores() {
    let sale = Sale::start_with(&OF_OTHER_PROGRAMS).await;
    sale.create("coffee", 10).await;
    let claim = sale.claim_with("coffee", "alice", &[("prefer", "wait=10")]).await;
    assert_eq!(claim.status, 201, "{}", claim.text);
    // psql and redis-cli with the same environment.
    sale.assert_in_agreement("coffee").await;
    let others = "select count(*) from pg_stat_activity where application_name not in ('', 'seckill', 'seckill comparisons', 'seckill notices', 'psql')";
    assert_eq!(sale.psql(others), "0");
    let worker = sale.spawn("worker", &[]);
    worker.until_logged("workers are at work").await;
    let doctor = sale.command().args(["doctor", "--json"]).output().unwrap();
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));

    for pid in std::iter::once(sale.redis_pid()).chain(sale.postgres_pids()) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let names = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let inherited: Vec<_> =
            names.filter(|name| name.starts_with("PG") || name.starts_with("REDIS")).collect();
        // Postgres sets these two for its own children.
        assert!(
            inherited
                .iter()
                .all(|name| name.starts_with("PGLOCALEDIR=") || name.starts_with("PGSYSCONFDIR=")),
            "{inherited:?}"
        );
    }
    assert!(worker.stop().success());
}

#[tokio::test]
async fn only_the_address_locates_external_stores_and_libpq_variables_give_only_the_password() {
    let sale = Sale::start().await;
    let replica = sale.spawn_by_address("serve", &[], &OF_OTHER_PROGRAMS);
    replica.url_when_up().await;
    assert!(replica.stop().success());

    let own = ExternalStore::postgres(&[]).await;
    own.psql("alter role seckill password 'secret'").unwrap();
    let hba = own.dir.path().join("cluster/pg_hba.conf");
    std::fs::write(&hba, "local all all scram-sha-256\n").unwrap();
    own.psql("select pg_reload_conf()").unwrap();
    let redis = format!("redis+unix://{}", sale.redis_socket().display());
    let doctor = |password: &str| {
        let mut doctor = sale.command();
        doctor.args(["doctor", "--json"]).env("REDIS_URL", &redis).env("DATABASE_URL", own.url("postgres"));
        doctor.env("PGPASSWORD", password).env("PGPORT", "6543").env("PGUSER", "mallory");
        String::from_utf8(doctor.output().unwrap().stdout).unwrap()
    };
    until("the password is asked for", async || {
        doctor("wrong").contains("password authentication failed for user \\\"seckill").then_some(())
    })
    .await;
    let found = doctor("secret");
    assert!(found.contains("postgres-version"), "{found}");
    let mut psql = sale.command();
    psql.args(["psql", "-X", "-A", "-t", "-c", "select current_user"]);
    psql.env("REDIS_URL", &redis).env("DATABASE_URL", own.url("postgres"));
    psql.env("PGPASSWORD", "secret").env("PGPORT", "6543").env("PGUSER", "mallory").env("PGSERVICE", "x");
    let psql = psql.output().unwrap();
    assert_eq!(psql.stdout, b"seckill\n", "{}", String::from_utf8_lossy(&psql.stderr));
}

/// Arguments, environment, exit status, a part of stderr.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);

#[test]
fn contradicting_settings_are_refused_with_their_remedy() {
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
        (&["serve"], &both("redis-sentinel://h:1/s"), 1, "sentinelServiceName"),
        (&["serve"], &both("redis+sentinel://h:1/s"), 1, "redis-sentinel://"),
        (&["serve"], &both("redis-cluster://h:1?node=h"), 1, "HOST:PORT"),
        (&["serve"], &both("http://h:1"), 1, "redis+unix://"),
        (&["serve"], &both("h:1"), 1, "redis+unix://"),
        (&["serve"], &[redis, ("DATABASE_URL", "mysql://h/x"), token, secret, listen], 1, "postgres://"),
        (&["demo"], &[("SECKILL_LISTEN", "0.0.0.0:0")], 2, "loopback"),
        (&["worker"], &[("SECKILL_DATA_DIR", "/tmp/no-such-directory")], 1, "no stores are running"),
        (&["coupon", "list"], &[("SECKILL_URL", "http://127.0.0.1:1"), token], 1, "no server answers"),
    ];
    for (args, environment, status, hint) in cases {
        let (ended, stderr) = run(dir.path(), args, environment);
        assert_eq!(ended, Some(status), "{args:?} {environment:?}: {stderr}");
        assert!(stderr.contains(hint), "{args:?} {environment:?}: {stderr}");
        assert!(
            !stderr.contains("listening") && !stderr.contains("thirty"),
            "{args:?} {environment:?}: {stderr}"
        );
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was created");
}

#[test]
fn an_unusable_credential_is_refused_by_name_and_never_shown() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let long = "0123456789abcdef0123456789abcdef";
    let invalid = ["\n", " ", "s3cret ", " s3cret", "s3cret\n\n", "s3cret\r", "s3\tcret", "\u{a0}s3cret"];
    for variable in
        ["SECKILL_ADMIN_TOKEN", "SECKILL_JWT_SECRET", "SECKILL_JWT_AUDIENCE", "SECKILL_JWT_ISSUER"]
    {
        let flag = format!("--{}", variable["SECKILL_".len()..].to_lowercase().replace('_', "-"));
        for text in invalid {
            let text = text.replace("s3cret", &format!("s3cret{long}"));
            let by_variable =
                run(dir.path(), &["serve"], &[(variable, &text), ("SECKILL_LISTEN", "127.0.0.1:0")]);
            let by_flag = run(dir.path(), &["serve", "--listen", "127.0.0.1:0", &flag, &text], &[]);
            for (ended, stderr) in [by_variable, by_flag] {
                assert_eq!(ended, Some(2), "{variable} {text:?}: {stderr}");
                assert!(
                    stderr.contains(variable) && !stderr.contains("listening"),
                    "{variable} {text:?}: {stderr}"
                );
                assert!(
                    variable.contains("JWT_A") || variable.contains("JWT_I") || !stderr.contains("s3cret"),
                    "{stderr}"
                );
            }
        }
    }
    let (ended, stderr) = run(dir.path(), &["serve", "--admin-token", "schl\u{fc}ssel"], &[]);
    assert!(ended == Some(2) && stderr.contains("ASCII") && !stderr.contains("schl"), "{stderr}");
    let (ended, stderr) = run(dir.path(), &["coupon", "list"], &[("SECKILL_ADMIN_TOKEN", " s3cret")]);
    assert!(
        ended == Some(2) && stderr.contains("SECKILL_ADMIN_TOKEN") && !stderr.contains("s3cret"),
        "{stderr}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was created");

    // The same texts in files; the error names the path.
    let run_with = |name: &str, bytes: &[u8], args: &[&str]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let settings =
            [("SECKILL_DATA_DIR", dir.path().to_str().unwrap()), ("SECKILL_LISTEN", "127.0.0.1:0")];
        let ended = run(dir.path(), args, &settings);
        std::fs::remove_file(path).unwrap();
        ended
    };
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    for name in ["admin-token", "jwt-secret"] {
        for text in invalid.map(str::as_bytes).into_iter().chain([b"".as_slice(), b"s3cret\xff"]) {
            let (ended, stderr) = run_with(name, text, &["serve"]);
            assert_eq!(ended, Some(1), "{name} {text:?}: {stderr}");
            assert!(
                stderr.contains(&format!("/{name} ")) && !stderr.contains("s3cret"),
                "{name} {text:?}: {stderr}"
            );
        }
    }
    let (ended, stderr) = run_with("jwt-secret", b"0123456789abcdef0123456789abcde\n", &["serve"]);
    assert!(ended == Some(1) && stderr.contains("31 bytes"), "{stderr}");
    let (ended, stderr) =
        run_with("jwt-secret", b"0123456789abcdef0123456789abcde \n", &["token", "--user", "a"]);
    assert!(ended == Some(1) && stderr.contains("/jwt-secret starts or ends with a blank"), "{stderr}");
}

#[tokio::test]
async fn a_credential_loses_one_final_line_end_wherever_it_comes_from() {
    let secret = "a secret of at least thirty-two bytes";
    let minted = |sale: &Sale, secret: &str| {
        let output =
            sale.command().env("SECKILL_JWT_SECRET", secret).args(["token", "--user", "alice"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim_end().to_owned()
    };
    // Variables with the line end of a file; `token` gets the secret without it.
    let sale = Sale::start_with(&[
        ("SECKILL_ADMIN_TOKEN", "let me in\r\n"),
        ("SECKILL_JWT_SECRET", &format!("{secret}\n")),
    ])
    .await;
    let authorization = [("authorization", "Bearer let me in")];
    assert_eq!(sale.send(reqwest::Method::GET, "/v1/admin/coupons", &authorization, None).await.status, 200);
    assert_eq!(sale.get_as(&minted(&sale, secret), "/v1/orders").await.status, 200);
    let listed = sale.command().args(["coupon", "list"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    drop(sale);

    // Files with the line end of another system, and without a line end.
    let mut sale = Sale::start().await;
    sale.stop();
    std::fs::write(sale.data_dir().join("admin-token"), "let-me-in\r\n").unwrap();
    std::fs::write(sale.data_dir().join("jwt-secret"), secret).unwrap();
    sale.start_server().await;
    let authorization = [("authorization", "Bearer let-me-in")];
    assert_eq!(sale.send(reqwest::Method::GET, "/v1/admin/coupons", &authorization, None).await.status, 200);
    assert_eq!(sale.get_as(&minted(&sale, secret), "/v1/orders").await.status, 200);
    let listed = sale.command().args(["coupon", "list"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
}

#[test]
fn a_listen_address_is_accepted_or_refused_with_an_example() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    // A file instead of the data directory ends the server right after it listens.
    let data_dir = dir.path().join("file");
    std::fs::write(&data_dir, "").unwrap();
    let data_dir = data_dir.to_str().unwrap();
    for (listen, line) in [
        ("localhost:0", "listening on http://127.0.0.1:"),
        ("[::1]:0", "listening on http://[::1]:"),
        ("127.0.0.1:0", "listening on http://127.0.0.1:"),
    ] {
        let (ended, stderr) =
            run(dir.path(), &["serve"], &[("SECKILL_LISTEN", listen), ("SECKILL_DATA_DIR", data_dir)]);
        assert!(ended == Some(1) && stderr.starts_with(line), "{listen}: {stderr}");
    }
    for (listen, example) in [
        (":8080", "0.0.0.0:8080"),
        ("8080", "127.0.0.1:8080"),
        ("localhost", "localhost:8080"),
        ("shop.example:9000", "127.0.0.1:9000"),
        ("127.0.0.1:99999", "127.0.0.1:8080"),
    ] {
        for stderr in [
            run(dir.path(), &["serve"], &[("SECKILL_LISTEN", listen)]),
            run(dir.path(), &["serve", "--listen", listen], &[]),
        ] {
            assert!(stderr.0 == Some(2) && stderr.1.contains(example), "{listen}: {stderr:?}");
        }
    }
    for listen in ["[::ffff:10.0.0.1]:0", "[::]:0", "0.0.0.0:0"] {
        let (ended, stderr) =
            run(dir.path(), &["demo", "--listen", listen], &[("SECKILL_DATA_DIR", data_dir)]);
        assert!(ended == Some(2) && stderr.contains("loopback"), "{listen}: {stderr}");
    }
    let (ended, stderr) =
        run(dir.path(), &["demo", "--listen", "[::ffff:127.0.0.1]:0"], &[("SECKILL_DATA_DIR", data_dir)]);
    assert!(ended == Some(1) && stderr.starts_with("listening on http://[::ffff:127.0.0.1]:"), "{stderr}");
}

#[test]
fn the_first_log_line_is_the_listen_address_with_any_log_filter() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    // A file instead of the data directory ends the server right after this line.
    let data_dir = dir.path().join("file");
    std::fs::write(&data_dir, "").unwrap();
    let run = |format| {
        let settings = [
            ("SECKILL_LOG", "error"),
            ("SECKILL_LOG_FORMAT", format),
            ("SECKILL_LISTEN", "127.0.0.1:0"),
            ("SECKILL_DATA_DIR", data_dir.to_str().unwrap()),
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

#[test]
fn a_too_low_limit_of_open_files_is_refused_and_a_low_one_is_warned_about() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    // A file instead of the data directory ends the server once it listens.
    let data_dir = dir.path().join("file");
    std::fs::write(&data_dir, "").unwrap();
    let start = |files: u64| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec timeout 60 \"$0\" serve")]);
        shell.arg(support::program()).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        shell.env("SECKILL_LISTEN", "127.0.0.1:0").env("SECKILL_DATA_DIR", &data_dir);
        String::from_utf8(shell.output().unwrap().stderr).unwrap()
    };
    for files in [20, 64, 256, 512, 767] {
        let stderr = start(files);
        assert!(!stderr.contains("listening"), "{files}: {stderr}");
        for part in [&format!("{files} open files"), "at least 768", "ulimit -n 20512", "LimitNOFILE=20512"] {
            assert!(stderr.contains(part), "{files}: {stderr}");
        }
    }
    for (files, connections) in [(768, 256), (1_024, 512), (10_511, 9_999)] {
        let stderr = start(files);
        assert!(stderr.contains("listening"), "{files}: {stderr}");
        let warning = format!("{files} open files leave room for {connections} connections");
        assert!(stderr.contains(&warning) && stderr.contains("ulimit -n 20512"), "{files}: {stderr}");
    }
    assert!(!start(10_512).contains("open files"));
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused_and_one_by_address_joins() {
    let sale = Sale::start().await;
    sale.create("coffee", 10).await;
    let (epoch, first_line) = (sale.epoch(), sale.log().lines().next().unwrap().to_owned());
    assert_eq!(first_line, format!("listening on {}", sale.url));

    let second = sale.command().args(["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(!second.status.success());
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert!(stderr.contains(sale.data_dir().to_str().unwrap()), "{stderr}");

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
    let url = until("the replica accepts claims", async || {
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
