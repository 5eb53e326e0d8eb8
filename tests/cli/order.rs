//! `seckill order`: requests and output.

use serde_json::json;

use crate::harness::{FakeServer, Sandbox};

const ID: &str = "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d";
const ORDER: &str = r#"{"order":"01a20ddb-383c-73ca-9e44-c5cfc51aaa8d","coupon":"coffee","user":"alice","status":"confirmed","claimed_at":"2026-11-24T14:00:00.316Z","recorded_at":"2026-11-24T14:00:00.329Z","reserved_until":null,"ended_at":null,"reason":null}"#;
const EXPIRED: &str = r#"{"type":"urn:seckill:problem:order-expired","title":"Order expired","status":409,"detail":"the time to pay is over","code":"order-expired","refund_due":true}"#;

#[tokio::test(flavor = "multi_thread")]
async fn each_command_sends_its_request_as_the_admin_and_prints_one_sentence() {
    let server = FakeServer::start(vec![(200, ORDER); 4]).await;
    let sentence = format!("order {ID} of alice for coffee is confirmed\n");
    assert_eq!(server.run(&format!("order confirm {ID}")).stdout, sentence);
    assert_eq!(server.run(&format!("order cancel {ID}")).stdout, sentence);
    assert_eq!(server.run(&format!("order revoke {ID} --reason fraud --withdraw-unit")).stdout, sentence);
    server.run(&format!("order revoke {ID} --reason fraud --return-unit"));
    let requests = server.requests();
    let lines: Vec<&str> = requests.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines[0], format!("POST /v1/orders/{ID}/confirm"));
    assert_eq!(lines[1], format!("POST /v1/orders/{ID}/cancel"));
    assert_eq!(
        lines[2..],
        [format!("POST /v1/admin/orders/{ID}/revoke"), format!("POST /v1/admin/orders/{ID}/revoke")]
    );
    assert_eq!(requests[2].json(), json!({"reason": "fraud", "return_unit": false}));
    assert_eq!(requests[3].json(), json!({"reason": "fraud", "return_unit": true}));
    assert_eq!(requests[0].headers["authorization"], "Bearer let-me-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn show_prints_every_field_or_the_servers_own_document() {
    let server = FakeServer::start(vec![(200, ORDER), (200, ORDER)]).await;
    let run = server.run(&format!("order show {ID}"));
    assert!(run.stdout.contains("\nstatus          confirmed\n"), "{run:?}");
    assert!(run.stdout.ends_with("\nreason          -\n"), "{run:?}");
    assert_eq!(server.run(&format!("order show {ID} --json")).stdout, format!("{ORDER}\n"));
    assert_eq!(server.requests()[0].line, format!("GET /v1/orders/{ID}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_one_line_and_status_1() {
    let server = FakeServer::start(vec![(409, EXPIRED)]).await;
    server.run(&format!("order confirm {ID}")).refused_with("the time to pay is over [order-expired]");
}

#[test]
fn a_revocation_needs_a_reason_and_either_return_or_withdraw() {
    for line in [
        format!("order revoke {ID} --reason fraud"),
        format!("order revoke {ID} --return-unit"),
        format!("order revoke {ID} --reason fraud --return-unit --withdraw-unit"),
        "order confirm coffee".to_owned(),
    ] {
        let run = Sandbox::new().run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((run.status, run.stdout.as_str()), (2, ""), "{line}: {run:?}");
    }
}
