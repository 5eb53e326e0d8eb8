//! `seckill audit`: requests, output and exit status.

use crate::harness::{FakeServer, Sandbox};

const RECEIPT: &str = r#"{"coupon":"coffee","title":"Coffee","total":9,"stock":4,"returning":1,"accepted":1,"reserved":2,"confirmed":2,"returned":3,"rejected":0,"adds_up":true,"off_by":0,"server_time":"2026-11-11T20:00:00Z","exceptions":[],"exceptions_found":0}"#;
const WRONG: &str = r#"{"coupon":"coffee","title":"Coffee","total":9,"stock":4,"returning":0,"accepted":0,"reserved":2,"confirmed":2,"returned":3,"rejected":0,"adds_up":false,"off_by":1,"server_time":"2026-11-11T20:00:00Z","exceptions":[{"kind":"lost_event","user":"alice","order":"01a20ddb-383c-73ca-9e44-c5cfc51aaa8d","why":"no row"}],"exceptions_found":1}"#;
const FIRST: &str = r#"{"items":[{"order":"01a20ddb-383c-73ca-9e44-c5cfc51aaa8d","user":"=1+1, \"x\"","slot":1,"status":"confirmed","claimed_at":"2026-11-24T14:00:00Z","recorded_at":"2026-11-24T14:00:01Z","reserved_until":null,"confirmed_at":null}],"next":"01a20ddb-383c-73ca-9e44-c5cfc51aaa8d"}"#;
const LAST: &str = r#"{"items":[{"order":"01a20ddb-383c-73ca-9e44-c5cfc51aaa8e","user":"bob","slot":2,"status":"reserved","claimed_at":"2026-11-24T14:00:00Z","recorded_at":"2026-11-24T14:00:01Z","reserved_until":"2026-11-24T14:15:01Z","confirmed_at":null}],"next":null}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_adds_up_is_printed_with_status_0() {
    let server = FakeServer::start(vec![(200, RECEIPT), (200, RECEIPT)]).await;
    let run = server.run("audit coffee");
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{run:?}");
    assert!(run.stdout.starts_with("receipt of coffee (Coffee) at 2026-11-11T20:00:00Z\ntotal "), "{run:?}");
    assert!(run.stdout.contains("\nstock      4  1 of them on their way back\n"), "{run:?}");
    assert!(run.stdout.ends_with("no exceptions\n"), "{run:?}");
    assert_eq!(server.run("audit coffee --json").stdout, format!("{RECEIPT}\n"));
    assert_eq!(server.requests()[0].line, "GET /v1/admin/coupons/coffee/receipt");
    assert_eq!(server.requests()[0].headers["authorization"], "Bearer let-me-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_that_does_not_add_up_is_printed_with_status_1() {
    let server = FakeServer::start(vec![(200, WRONG), (200, WRONG)]).await;
    let run = server.run("audit coffee");
    assert_eq!(run.status, 1, "{run:?}");
    assert_eq!(run.stderr, "seckill: coupon coffee does not add up: off by 1, exceptions: 1\n");
    assert!(run.stdout.contains("DOES NOT ADD UP"), "{run:?}");
    assert!(
        run.stdout.contains("lost_event  alice  01a20ddb-383c-73ca-9e44-c5cfc51aaa8d  no row\n"),
        "{run:?}"
    );
    let run = server.run("audit coffee --json");
    assert_eq!((run.status, run.stdout), (1, format!("{WRONG}\n")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_winners_are_written_as_rfc_4180_page_by_page_with_their_users_unchanged() {
    let server = FakeServer::start(vec![(200, RECEIPT), (200, FIRST), (200, LAST)]).await;
    let run = server.run("audit coffee --csv");
    assert_eq!(run.status, 0, "{run:?}");
    let expected = "order,user,slot,status,claimed_at,recorded_at,reserved_until,confirmed_at\r\n\
        01a20ddb-383c-73ca-9e44-c5cfc51aaa8d,\"=1+1, \"\"x\"\"\",1,confirmed,2026-11-24T14:00:00Z,2026-11-24T14:00:01Z,,\r\n\
        01a20ddb-383c-73ca-9e44-c5cfc51aaa8e,bob,2,reserved,2026-11-24T14:00:00Z,2026-11-24T14:00:01Z,2026-11-24T14:15:01Z,\r\n";
    assert_eq!(run.stdout, expected);
    let requests = server.requests();
    assert_eq!(requests[1].line, "GET /v1/admin/coupons/coffee/winners?limit=200");
    assert!(
        requests[2].line.ends_with("&after=01a20ddb-383c-73ca-9e44-c5cfc51aaa8d"),
        "{}",
        requests[2].line
    );
}

#[test]
fn a_coupon_or_a_log_is_required_and_only_one_of_them() {
    for line in ["audit", "audit coffee --aof data", "audit coffee --csv --json", "audit --csv --aof data"] {
        let run = Sandbox::new().run(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((run.status, run.stdout.as_str()), (2, ""), "{line}: {run:?}");
    }
}
