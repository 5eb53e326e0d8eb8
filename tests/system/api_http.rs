//! HTTP: malformed and pipelined requests, many connections, and the readiness answer. Addresses, request ids and
//! queries are in `requests`.

mod requests;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::{Sale, signal, until};

/// The status of each answer in the text.
fn statuses(text: &str) -> Vec<&str> {
    text.split("HTTP/1.").skip(1).map(|answer| &answer[2..5]).collect()
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_server_goes_on() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let token = sale.token("alice");
    let claim = |headers: &str| {
        format!(
            "POST /v1/coupons/coffee/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n{headers}"
        )
    };
    for broken in [
        "GARBAGE\r\n\r\n".to_owned(),
        "GET\r\n\r\n".into(),
        "GET /livez\r\n\r\n".into(),
        "GET /livez HTTP/9.9\r\n\r\n".into(),
        "GET /li vez HTTP/1.1\r\n\r\n".into(),
        "GET /livez HTTP/1.1\r\nno colon\r\n\r\n".into(),
        "GET /livez HTTP/1.1\r\nA\0: b\r\n\r\n".into(),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".into(),
        claim("Content-Length: x\r\n\r\n"),
        claim("Content-Length: -1\r\n\r\n"),
        claim("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"),
        claim("Transfer-Encoding: gzip\r\n\r\n"),
    ] {
        let answer = sale.raw(broken.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{broken:?}: {answer}");
    }
    for head in [
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000)),
        format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(200)),
    ] {
        assert_eq!(statuses(&sale.raw(head.as_bytes()).await), ["431"]);
    }
    let long = sale.raw(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)).as_bytes()).await;
    assert!(["414", "431"].contains(&statuses(&long)[0]), "{long}");

    // A malformed body gets a problem like every other refusal.
    let json = "Content-Type: application/json\r\n";
    for broken in [
        claim(&format!("{json}Transfer-Encoding: chunked\r\n\r\nzz\r\n")),
        claim(&format!("{json}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}x")),
    ] {
        let answer = sale.raw(broken.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{broken:?}: {answer}");
        assert!(answer.contains("urn:seckill:problem:bad-request"), "{answer}");
    }
    // A body whose declared length is too large is refused before the server reads any of it.
    let answer = sale.raw(claim(&format!("{json}Content-Length: 1000000000\r\n\r\n")).as_bytes()).await;
    assert_eq!(statuses(&answer), ["413"], "{answer}");
    assert!(answer.contains("urn:seckill:problem:payload-too-large"), "{answer}");
    for target in ["CONNECT x:443", "OPTIONS *", "GET http://x/nowhere", "GET /../livez"] {
        let answer =
            sale.raw(format!("{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(statuses(&answer), ["404"], "{target}: {answer}");
        assert!(answer.contains("urn:seckill:problem:not-found"), "{answer}");
    }
    assert_eq!(sale.redis_stock("coffee"), 5, "nothing was claimed");
    let expect = claim(&format!("{json}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{{}}"));
    assert_eq!(*statuses(&sale.raw(expect.as_bytes()).await).last().unwrap(), "202");
    assert_eq!(statuses(&sale.raw(b"GET /livez HTTP/1.0\r\n\r\n").await), ["200"]);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_a_stalled_body_times_out() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let head = format!(
        "POST /v1/coupons/coffee/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n",
        sale.token("alice")
    );
    let stalled = async {
        let mut stream = sale.connect().await;
        let part = format!("{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{");
        stream.write_all(part.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let pipelined = async {
        let requests = format!(
            "GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: one\r\n\r\n\
             {head}X-Request-Id: two\r\nContent-Length: 0\r\n\r\n\
             GET /nowhere HTTP/1.1\r\nHost: x\r\nX-Request-Id: three\r\n\r\n\
             {head}X-Request-Id: four\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
             HEAD /v1/coupons/coffee HTTP/1.1\r\nHost: x\r\nX-Request-Id: five\r\n\r\n\
             GET /readyz HTTP/1.1\r\nHost: x\r\nX-Request-Id: six\r\nConnection: close\r\n\r\n"
        );
        sale.raw(requests.as_bytes()).await
    };
    let (stalled, pipelined) = tokio::join!(stalled, pipelined);
    assert_eq!(statuses(&pipelined), ["200", "202", "404", "200", "200", "200"], "{pipelined}");
    let ids: Vec<_> = pipelined.lines().filter_map(|line| line.strip_prefix("x-request-id: ")).collect();
    assert_eq!(ids, ["one", "two", "three", "four", "five", "six"], "{pipelined}");
    assert_eq!(statuses(&stalled), ["408"], "{stalled}");
    assert!(stalled.contains("urn:seckill:problem:request-timeout"), "{stalled}");
}

#[tokio::test]
async fn a_thousand_idle_connections_and_a_flood_of_unknown_ids_cost_postgres_nothing() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let resident = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned()
    };
    let pid = sale.server().pid();
    let before = resident(pid);
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        let mut stream = sale.connect().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
        idle.push(stream);
    }
    println!("before 1,000 idle connections {before}, with them {}", resident(pid));

    let token = format!("Bearer {}", sale.token("alice"));
    let headers = [("authorization", token.as_str())];
    let unknown = transactions_of(&sale, async || {
        for n in 0..1_000 {
            let path = format!("/v1/coupons/nothing-{n}");
            sale.get(&path).await.assert_problem(404, "unknown-coupon");
            let claim = sale.send(Method::POST, &format!("{path}/claims"), &headers, None).await;
            claim.assert_problem(404, "unknown-coupon");
        }
    })
    .await;
    // One transaction for each id would be a thousand; the program's probes also make some.
    assert!(unknown < 500, "{unknown} transactions for 2,000 requests");
    // Checks that transactions of requests are counted: only then the count above proves something.
    let known = transactions_of(&sale, async || {
        for _ in 0..300 {
            assert_eq!(sale.send(Method::GET, "/v1/orders", &headers, None).await.status, 200);
        }
    })
    .await;
    assert!(known >= 300, "{known} transactions for 300 lists of orders");
    println!("{unknown} transactions for 2,000 unknown ids, {known} for 300 lists");
    drop(idle);
}

/// How many transactions the program makes during `work`, including those of its probes.
async fn transactions_of(sale: &Sale, work: impl AsyncFn()) -> i64 {
    let count =
        || sale.psql_number("select xact_commit from pg_stat_database where datname = current_database()");
    let ours = "from pg_stat_activity where application_name = 'seckill'";
    let before = count();
    work().await;
    // Ends the sessions, because a session reports its transactions at its end at the latest.
    let pids = sale.psql(&format!("select string_agg(pid::text, ',') {ours}"));
    sale.psql(&format!("select pg_terminate_backend(pid) {ours} and pid in ({pids})"));
    until("the program's sessions have ended", async || {
        (sale.psql_number(&format!("select count(*) {ours} and pid in ({pids})")) == 0).then_some(())
    })
    .await;
    let after = count();
    sale.until_ready().await;
    after - before
}

#[tokio::test]
async fn an_ambiguous_head_is_refused() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let token = sale.token("alice");
    let refused = async |head: &str, word: &str| {
        let answer = sale.raw(format!("{head}Connection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{head:?}: {answer}");
        assert!(
            answer.contains("urn:seckill:problem:bad-request") && answer.contains(word),
            "{head:?}: {answer}"
        );
        assert!(answer.contains("x-request-id: "), "{head:?}: {answer}");
    };
    for path in ["/v1/coupons", "/livez", "/readyz", "/nowhere"] {
        refused(&format!("GET {path} HTTP/1.1\r\n"), "Host").await;
        refused(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\n"), "Host").await;
        refused(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nHost: a\r\n"), "Host").await;
        refused(&format!("GET {path} HTTP/1.0\r\nHost: a\r\nHost: b\r\n"), "Host").await;
        for host in ["a b", "a/b", "user@a", "a:port", "a:99999", "a,b:", "[::1", "\u{e9}"] {
            refused(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n"), "Host").await;
        }
    }
    let claim =
        format!("POST /v1/coupons/coffee/claims HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n");
    refused(&format!("{claim}Authorization: Bearer {token}\r\n"), "Authorization").await;
    refused(&format!("{claim}Authorization: Basic YTpi\r\n"), "Authorization").await;
    let json = "Content-Type: application/json\r\n";
    refused(&format!("{claim}{json}Content-Type: text/plain\r\n"), "Content-Type").await;
    refused(&format!("{claim}Idempotency-Key: a\r\nIdempotency-Key: a\r\n"), "Idempotency-Key").await;
    refused("GET /v1/coupons?after=%FF HTTP/1.1\r\nHost: a\r\n", "UTF-8").await;
    refused("GET /v1/coupons/%zz HTTP/1.1\r\nHost: a\r\n", "percent sign").await;
    refused("GET /v1/coupons/%FF HTTP/1.1\r\nHost: a\r\n", "UTF-8").await;
    assert_eq!(sale.redis_stock("coffee"), 5, "nothing was claimed");

    // Unambiguous heads are accepted. If there are two body lengths, no byte becomes a second request.
    for accepted in [
        "GET /livez HTTP/1.0\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n",
        "GET http://other.example/livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ] {
        assert_eq!(statuses(&sale.raw(accepted.as_bytes()).await), ["200"], "{accepted:?}");
    }
    let smuggled = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n";
    let two_lengths = format!(
        "{claim}{json}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{smuggled}",
        12 + smuggled.len()
    );
    assert_eq!(statuses(&sale.raw(two_lengths.as_bytes()).await), ["202"]);
    let two_ids =
        "GET /livez HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\r\nX-Request-Id: b\r\nConnection: close\r\n\r\n";
    let answer = sale.raw(two_ids.as_bytes()).await;
    assert!(!answer.contains("x-request-id: a\r") && !answer.contains("x-request-id: b\r"), "{answer}");
}

#[tokio::test]
async fn a_loopback_client_with_a_mapped_address_counts_as_loopback() {
    let sale = Sale::start_with(&[("SECKILL_LISTEN", "[::]:0")]).await;
    let port = sale.url.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "[::1]"] {
        for path in ["metrics", "readyz?verbose"] {
            let answer = sale.client.get(format!("http://{host}:{port}/{path}")).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), 200, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn readiness_reports_for_each_store_only_its_own_trouble() {
    let sale = Sale::start().await;
    sale.create("coffee", 5).await;
    let reported = async |state: &str, is: &dyn Fn(&serde_json::Value) -> bool| {
        until(state, async || {
            let answer = sale.get("/readyz?verbose").await;
            is(&answer.body["stores"]).then_some(answer)
        })
        .await
    };
    // Sets the fence row as after a Postgres loss, which only the operator can end.
    sale.psql("update fence set postgres_lost = true");
    let lost = reported("the loss is reported", &|stores| stores["fence"] != "ok").await;
    lost.assert_problem(503, "unavailable");
    let stores = &lost.body["stores"];
    assert!(stores["fence"].as_str().unwrap().contains("Postgres has lost commits"), "{}", lost.text);
    assert_eq!(stores["redis"], "ok", "{}", lost.text);
    assert_eq!(stores["postgres"], "it has lost commits that Redis still knows", "{}", lost.text);
    sale.psql("update fence set postgres_lost = false");
    sale.until_ready().await;

    sale.redis_cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = reported("full memory is reported", &|stores| stores["redis"] != "ok").await;
    let stores = &full.body["stores"];
    assert!(stores["redis"].as_str().unwrap().contains("OOM"), "{}", full.text);
    assert_eq!((&stores["fence"], &stores["postgres"]), (&"ok".into(), &"ok".into()), "{}", full.text);
    sale.redis_cli(&["CONFIG", "SET", "maxmemory", "0"]);
    sale.until_ready().await;

    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    let down = reported("Redis is down", &|stores| stores["redis"] != "ok" && stores["fence"] != "ok").await;
    assert_eq!(down.body["stores"]["postgres"], "ok", "{}", down.text);
    signal(redis, Signal::SIGCONT);
    sale.until_ready().await;
}
