//! The state of the sale for the admin, its repair, and the audit log.

use serde_json::json;
use utoipa::openapi::schema::{AnyOfBuilder, OneOfBuilder};
use utoipa::openapi::{Array, ObjectBuilder, Type};

use super::super::admin::Reconcile;
use super::super::audit::ChangeView;
use super::super::shapes;
use super::coupons::RESUME;
use super::operation::{Operation, Success};
use super::parts::{of, text};
use crate::domain::{CouponId, OrderId};
use crate::fence::rebuild::Report;
use crate::live::{Point, Status};
use crate::orders::stream_entries::EntryView;
use crate::orders::stream_status::{FenceView, StreamView};
use crate::reconcile::ComparisonReport;

pub const TAG: &str = "Admin: operations";

pub fn operations() -> Vec<Operation> {
    let stream = json!({
        "stream": "seckill:{0}:orders", "partition": 0, "length": 1, "first_entry_id": "1795528800318-0",
        "last_entry_id": "1795528800318-0", "group": "order-writers", "backlog": 0, "pending": 0, "lag": 0,
        "oldest_pending_ms": null, "oldest_unread_ms": null, "consumers": [{"name": "host-7-1", "pending": 0, "idle_ms": 112}],
        "groups": [{"name": "order-writers", "consumers": 1, "pending": 0, "lag": 0,
            "last_delivered_id": "1795528800318-0", "entries_read": 1}],
        "fence": {"state": "up", "epoch": "1-5d1c1a7e"}
    });
    let entry = json!({
        "entry": "1795528800318-0", "at": "2026-11-24T14:00:00.318Z", "state": "acknowledged",
        "order": "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d", "coupon": "coffee", "user": "alice", "slot": 1, "error": null,
        "status": "confirmed", "recorded_at": "2026-11-24T14:00:00.329115Z", "consumer": null, "deliveries": null,
        "idle_ms": null
    });
    let compared = json!({
        "coupons": 3, "claims": 61, "in_flight": 0, "lost_events": 0, "missed_releases": 0, "missing_claims": 0,
        "foreign_fields": 0, "deleted_entries": 0, "stock_drift": 0, "definition_drift": 0, "waitlist_drift": 0, "fixed": 0, "fenced": false,
        "named": []
    });
    let change = json!({
        "id": 2, "at": "2026-11-24T14:02:10.114207Z", "actor": "admin", "action": "restock", "coupon": "coffee",
        "order": null, "request_id": "2b6f0cc904d137be2e1730235f5664b8", "old": {"total": 100}, "new": {"total": 200}
    });
    let down = ObjectBuilder::new().property("fence", of::<FenceView>()).required("fence");
    // A body with everything is also one with a fence.
    let status = AnyOfBuilder::new().item(of::<StreamView>()).item(down);
    let report = OneOfBuilder::new().item(of::<ComparisonReport>()).item(of::<Report>());
    let history = ObjectBuilder::new().property("points", Array::new(of::<Point>())).required("points");
    vec![
        Operation::get("/v1/admin/stream", "show_stream", TAG)
            .text("How far recording is", "The order stream and its readers. While the fence is down, only its reason.")
            .by_admin()
            .in_query("partition", partition(), "Whose stream; default 0.")
            .answers(Success::of_schema(200, "The state of the stream.", status.into(), stream).known::<StreamView>()),
        Operation::get("/v1/admin/stream/entries", "list_entries", TAG)
            .text(
                "The order events, each with what has become of it",
                "Oldest first. With `newest` the newest ones, without a next page; then `after` must be absent.",
            )
            .by_admin()
            .in_query("newest", ObjectBuilder::new().schema_type(Type::Boolean), "Whether to show the newest ones.")
            .in_query("partition", partition(), "Of whose stream; default 0.")
            .in_pages(shapes::entry_id())
            .answers(Success::list::<EntryView>(
                "A page of entries.",
                true,
                json!({"items": [entry], "next": null}),
            )),
        Operation::post("/v1/admin/reconcile", "reconcile", TAG)
            .text(
                "Compare both stores, repair, rebuild",
                "Compares while claims continue; with `fix` repairs what may be repaired then. `rebuild` takes the fence \
                 down (claims get 503) and rebuilds Redis, also from a Postgres that was restored from an older copy. \
                 Send one of them, or none. Can take minutes with millions of claims.",
            )
            .by_admin()
            .body::<Reconcile>(&["application/json"], json!({"fix": true}))
            .answers(
                Success::of_schema(200, "The report of the comparison or of the rebuild.", report.into(), compared)
                    .known::<ComparisonReport>()
                    .known::<Report>(),
            ),
        Operation::get("/v1/admin/audit", "list_changes", TAG)
            .text("Who changed what", "One row for each change by an admin or a repair, newest first. Rows are never removed.")
            .by_admin()
            .in_query("coupon", of::<CouponId>(), "Only changes of this coupon.")
            .in_query("order", of::<OrderId>(), "Only changes of this order.")
            .known::<CouponId>()
            .known::<OrderId>()
            .in_pages(shapes::integer(0, i64::MAX))
            .answers(Success::list::<ChangeView>("A page of changes.", true, json!({"items": [change], "next": "2"}))),
        Operation::get("/v1/admin/events", "follow_sale", TAG)
            .text("The state of the sale, once a second", EVENTS)
            .by_admin()
            .header("Last-Event-ID", text(), RESUME)
            .answers(Success::events([("history", history.into()), ("status", of::<Status>())], EXAMPLE).known::<Status>()),
    ]
}

const EVENTS: &str = "First `history`: `{\"points\": [HistoryPoint, …]}`, the last five minutes second by second. Then \
    `status` once a second, a `SaleStatus`; a part that cannot be read is null.";

const EXAMPLE: &str = "id: 5f0c2a11-1795528800\nevent: history\ndata: {\"points\":[{\"t\":1795528800,\"accepted\":1,\
    \"repeated\":0,\"refused\":0,\"unavailable\":0,\"recorded\":1,\"backlog\":0,\"stock\":{\"coffee\":99}}]}\n\n";

fn partition() -> ObjectBuilder {
    shapes::integer(0, i16::MAX.into())
}
