//! How commands find the server and authenticate as its admin, and the health check.

use std::fs;

use crate::harness::{COFFEE, FakeServer, Sandbox, refusing_address};

#[test]
fn an_error_about_a_missing_server_says_how_to_start_one() {
    let (_socket, address) = refusing_address();
    let url = format!("http://{address}");
    let run = Sandbox::new().env("SECKILL_URL", &url).run(&["coupon", "list"]);
    run.refused_with(&format!(
        "no server answers at {url}: start one with `seckill serve` or set SECKILL_URL"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_token_is_read_from_the_data_directory() {
    let server = FakeServer::start(vec![(200, COFFEE)]).await;
    let sandbox = Sandbox::new().env("SECKILL_URL", &server.url);
    fs::create_dir(sandbox.path("data")).unwrap();
    fs::write(sandbox.path("data/admin-token"), "generated\n").unwrap();
    sandbox.run(&["coupon", "show", "coffee"]);
    assert_eq!(server.requests()[0].headers["authorization"], "Bearer generated");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_errors_for_a_refused_and_a_missing_token_differ() {
    let problem = r#"{"status":401,"detail":"no such token","code":"unauthorized"}"#;
    let server = FakeServer::start(vec![(401, problem); 2]).await;
    server.run("coupon list").refused_with("no such token [unauthorized]: check SECKILL_ADMIN_TOKEN");
    let run = Sandbox::new().env("SECKILL_URL", &server.url).run(&["coupon", "list"]);
    run.refused_with("admin-token");
    assert!(!server.requests()[1].headers.contains_key("authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_not_sent_to_a_redirect() {
    let server = FakeServer::start(vec![(307, "{}")]).await;
    server.run("coupon list").refused_with("307");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_requests_readyz_on_loopback() {
    let server =
        FakeServer::start(vec![(200, "ready"), (503, r#"{"detail":"Redis is unreachable","code":"down"}"#)])
            .await;
    let port = server.url.rsplit(':').next().unwrap();
    let sandbox = Sandbox::new().env("SECKILL_LISTEN", &format!("0.0.0.0:{port}"));
    let run = sandbox.run(&["healthcheck"]);
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""));
    sandbox.run(&["healthcheck"]).refused_with("not ready: Redis is unreachable [down]");
    assert_eq!(server.requests()[0].line, "GET /readyz");
    let (_socket, address) = refusing_address();
    let sandbox = Sandbox::new().env("SECKILL_LISTEN", &address.to_string());
    sandbox.run(&["healthcheck"]).refused_with("no server answers at 127.0.0.1");
    Sandbox::new().env("SECKILL_LISTEN", "127.0.0.1:0").run(&["healthcheck"]).refused_with("port 0");
}
