//! Event streams: what they send, how they resume, what they cost, and how they end.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::events::{Event, EventReader};
use support::{Sale, signal, until};

use crate::slow_clients::is_port_held;

const LIST: &str = "/v1/events";

fn coupons(events: &[Event]) -> Vec<&str> {
    let coupons = events.iter().filter(|event| event.name == "coupon");
    let mut ids: Vec<&str> = coupons.map(|event| event.data["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_stream_sends_everything_at_its_start_and_then_what_changes() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    sale.create("tea", 5).await;
    sale.create_with("hidden", json!({"total": 3, "unlisted": true})).await;
    let mut listed = EventReader::open(&sale, LIST, &[]).await;
    let first = listed.until_named("current").await;
    assert_eq!(first[0].name, "reset");
    assert_eq!(coupons(&first), ["coffee", "tea"]);
    assert_eq!(first.last().unwrap().data["coupons"], 2);
    let shown = sale.get("/v1/coupons/coffee").await.body;
    let mut sent = first.iter().find(|event| event.data["id"] == "coffee").unwrap().data.clone();
    sent["server_time"] = shown["server_time"].clone();
    assert_eq!(sent, shown, "the event has what the address has");

    let mut hidden = EventReader::open(&sale, "/v1/coupons/hidden/events", &[]).await;
    assert_eq!(coupons(&hidden.until_named("current").await), ["hidden"]);

    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    let changed = listed.until("a claim", |event| event.data["stock"] == 99).await;
    assert_eq!(coupons(&changed), ["coffee"]);
    assert_eq!(sale.claim("hidden", "alice").await.status, 202);
    hidden.until("a claim", |event| event.data["stock"] == 2).await;

    let pause = Some(json!({"paused": true}));
    assert_eq!(sale.admin(Method::PATCH, "/v1/admin/coupons/tea", pause).await.status, 200);
    listed.until("a pause", |event| event.data["id"] == "tea" && event.data["state"] == "paused").await;
    sale.create("juice", 7).await;
    let seen = listed.until("a new coupon", |event| event.data["id"] == "juice").await;
    assert!(!coupons(&seen).contains(&"hidden"), "{seen:?}");
}

#[tokio::test]
async fn a_stream_without_changes_says_that_it_is_current() {
    let sale = Sale::start().await;
    let mut events = EventReader::open(&sale, LIST, &[]).await;
    let first = events.until_named("current").await;
    assert_eq!(first.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["reset", "current"]);
    for _ in 0..2 {
        assert_eq!(events.next().await.unwrap().name, "current");
    }
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_and_starts_over_after_an_unknown_one() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    sale.create("tea", 5).await;
    let mut before = EventReader::open(&sale, LIST, &[]).await;
    let last = before.until_named("current").await.pop().unwrap().id;
    drop(before);
    assert_eq!(sale.claim("tea", "alice").await.status, 202);
    let mut resumed = EventReader::open(&sale, LIST, &[("last-event-id", &last)]).await;
    let missed = resumed.until("the missed claim", |event| event.data["stock"] == 4).await;
    assert_eq!(coupons(&missed), ["tea"], "only what has changed");
    assert!(missed.iter().all(|event| event.name != "reset"));
    for unknown in ["00000000-1", "nonsense", &last.replace('-', "-9")] {
        let mut over = EventReader::open(&sale, LIST, &[("last-event-id", unknown)]).await;
        let all = over.until_named("current").await;
        assert_eq!((all[0].name.as_str(), coupons(&all)), ("reset", vec!["coffee", "tea"]), "{unknown}");
    }
}

#[tokio::test]
async fn a_stream_says_that_its_numbers_are_stale_while_redis_gives_no_answer() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let mut events = EventReader::open(&sale, LIST, &[]).await;
    events.until_named("current").await;
    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    let told = events.until_named("stale").await.pop().unwrap();
    assert!(told.data["why"].as_str().is_some_and(|why| !why.is_empty()), "{told:?}");
    assert!(told.data["since"].is_string(), "{told:?}");
    // A stream that opens now shows what was last read, and says the same.
    let mut late = EventReader::open(&sale, LIST, &[]).await;
    assert_eq!(coupons(&late.until_named("stale").await), ["coffee"]);
    signal(redis, Signal::SIGCONT);
    events.until_named("current").await;
    late.until_named("current").await;
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let mut sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let token = format!("Bearer {}", sale.admin_token());
    let mut listed = EventReader::open(&sale, LIST, &[]).await;
    let mut admin = EventReader::open(&sale, "/v1/admin/events", &[("authorization", &token)]).await;
    listed.until_named("current").await;
    admin.until_named("status").await;
    sale.signal_server(Signal::SIGTERM);
    while listed.next().await.is_some() {}
    while admin.next().await.is_some() {}
    let log = sale.stop_and_read();
    assert!(!log.contains("some requests had not ended"), "{log}");
}

#[tokio::test]
async fn half_of_the_connections_stay_free_for_claims() {
    let mut sale = Sale::without_server(&[]);
    let program = sale.command();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 1000 && exec \"$0\" serve"]).arg(program.get_program());
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = sale.spawn_as("serve", shell);
    sale.use_as_server(server).await;
    sale.until_ready().await;
    sale.create("coffee", 100).await;
    // 1,000 files less 512 for all else leave 488 connections.
    let mut streams = Vec::new();
    for _ in 0..244 {
        streams.push(EventReader::open(&sale, LIST, &[]).await);
    }
    let refused = sale.get(LIST).await;
    refused.assert_problem(503, "unavailable");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(sale.claim("coffee", "alice").await.status, 202);
    drop(streams.pop());
    until("a place is free", async || {
        let request = sale.client.get(format!("{}{LIST}", sale.url)).send().await.unwrap();
        (request.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_streams_cost_no_more_reads_than_one() {
    let sale = Sale::start().await;
    sale.create("coffee", 100).await;
    let calls = || -> u64 {
        let stats = sale.redis_cli(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut events = EventReader::open(&sale, LIST, &[]).await;
        events.until_named("current").await;
        streams.push(events);
    }
    let (before, started) = (calls(), Instant::now());
    // The last one has nothing unread.
    let events = streams.last_mut().unwrap();
    for _ in 0..3 {
        events.until_named("current").await;
    }
    // At most one read in 200 ms, and a few by other tasks.
    let most = started.elapsed().as_millis() / 200 + 10;
    let read = u128::from(calls() - before);
    assert!((1..=most).contains(&read), "{read} reads, at most {most} expected");
}

#[tokio::test]
async fn the_stream_of_a_client_that_has_gone_is_closed() {
    let sale = Sale::start().await;
    let mut client = sale.connect().await;
    client.write_all(format!("GET {LIST} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    client.read_u8().await.unwrap();
    let port = client.local_addr().unwrap().port();
    assert!(is_port_held(&sale, port));
    drop(client);
    until("the server has closed its end", async || (!is_port_held(&sale, port)).then_some(())).await;
}

#[tokio::test]
async fn the_admin_stream_has_the_state_of_the_sale_and_its_last_minutes() {
    let sale = Sale::start().await;
    sale.create("coffee", 2).await;
    sale.create_with("hidden", json!({"total": 3, "unlisted": true})).await;
    sale.get("/v1/admin/events").await.assert_problem(401, "unauthorized");
    let token = format!("Bearer {}", sale.admin_token());
    let mut events = EventReader::open(&sale, "/v1/admin/events", &[("authorization", &token)]).await;
    assert_eq!(events.next().await.unwrap().name, "history");
    let status = events.until_named("status").await.pop().unwrap().data;
    assert_eq!(status["fence"]["state"], "up");
    assert_eq!(status["fence"]["epoch"], sale.epoch().as_str());
    assert_eq!((&status["redis"]["state"], &status["postgres"]["state"]), (&json!("ok"), &json!("ok")));
    assert_eq!(status["redis"]["appendfsync_always"], true);
    assert_eq!(status["dead_letters"]["open"], 0);
    assert_eq!(status["reclaim_after_ms"], 5_000);
    assert_eq!(status["consumers"].as_array().unwrap().len(), 1);
    let ids: Vec<_> = status["coupons"].as_array().unwrap().iter().map(|coupon| &coupon["id"]).collect();
    assert_eq!(ids, ["coffee", "hidden"]);

    for (user, answer) in [("alice", 202), ("bob", 202), ("carol", 409), ("alice", 200)] {
        assert_eq!(sale.claim("coffee", user).await.status, answer);
    }
    let (mut seen, mut last) = ([0; 4], String::new());
    while seen != [2, 2, 1, 1] {
        let event = events.until_named("status").await.pop().unwrap();
        for (sum, name) in seen.iter_mut().zip(["accepted", "recorded", "refused", "repeated"]) {
            *sum += event.data["point"][name].as_u64().unwrap_or(0);
        }
        last = event.id;
    }
    // The history of a stream that opens now has the same numbers; a resumed stream gets only later points.
    let mut again = EventReader::open(&sale, "/v1/admin/events", &[("authorization", &token)]).await;
    let history = again.next().await.unwrap().data;
    let accepted =
        history["points"].as_array().unwrap().iter().map(|point| point["accepted"].as_u64().unwrap());
    assert_eq!(accepted.sum::<u64>(), 2);
    let headers = [("authorization", token.as_str()), ("last-event-id", last.as_str())];
    let mut resumed = EventReader::open(&sale, "/v1/admin/events", &headers).await;
    let points = resumed.next().await.unwrap().data["points"].as_array().unwrap().clone();
    let since: i64 = last.split_once('-').unwrap().1.parse().unwrap();
    assert!(points.iter().all(|point| point["t"].as_i64().unwrap() > since), "{points:?} after {since}");

    let redis = sale.redis_pid();
    signal(redis, Signal::SIGSTOP);
    let down = events.until("the fence is down", |event| event.data["fence"]["state"] == "down").await;
    let fence = &down.last().unwrap().data["fence"];
    assert!(fence["reason"].is_string());
    assert_ne!(fence["since"], status["fence"]["since"], "it is down since a later time");
    signal(redis, Signal::SIGCONT);
    events.until("the fence is up", |event| event.data["fence"]["state"] == "up").await;
}

#[tokio::test]
async fn event_addresses_answer_head_and_refuse_other_methods() {
    let sale = Sale::start().await;
    sale.create("coffee", 2).await;
    for path in [LIST, "/v1/coupons/coffee/events"] {
        let head = sale.client.head(format!("{}{path}", sale.url)).timeout(Duration::from_secs(20));
        let head = head.send().await.unwrap();
        assert_eq!(
            (head.status().as_u16(), &head.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        let post = sale.client.post(format!("{}{path}", sale.url)).send().await.unwrap();
        assert_eq!((post.status().as_u16(), &post.headers()["allow"]), (405, &"GET, HEAD".parse().unwrap()));
    }
    sale.get("/v1/coupons/nothing/events").await.assert_problem(404, "unknown-coupon");
}
