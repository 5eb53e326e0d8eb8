//! `stream status`: its output.

use crate::harness::FakeServer;

#[tokio::test(flavor = "multi_thread")]
async fn stream_status_shows_every_field_and_accepts_missing_ones() {
    let full = r#"{"stream":"seckill:{0}:orders","length":12,"first_entry_id":"1-0","last_entry_id":"9-0","group":"order-writers","backlog":3,"pending":2,"lag":1,"oldest_pending_ms":1500,"consumers":[{"name":"w-1","pending":2,"idle_ms":20}],"fence":{"state":"down","epoch":"building:7","reason":"Redis lost its data"},"groups":[{"name":"order-writers","consumers":1,"pending":2,"lag":null}]}"#;
    let server = FakeServer::start(vec![(200, full), (200, "{}")]).await;
    let expected = "\
stream   seckill:{0}:orders
entries  12, 1-0 to 9-0
group    order-writers
backlog  3 order events not recorded yet
pending  2 delivered and not acknowledged, the oldest for 1s 500ms
lag      1 not delivered yet
fence    down: claims wait, reason Redis lost its data, epoch building:7

CONSUMER  PENDING  IDLE
w-1       2        20ms

GROUP          CONSUMERS  PENDING  LAG  LAST DELIVERED
order-writers  1          2        -    -
";
    assert_eq!(server.run("stream status").stdout, expected);
    let run = server.run("stream status");
    assert!(run.status == 0 && run.stdout.contains("fence    -\n"), "{run:?}");
}
