//! Health, metrics, sign-in of a demo, and the pages.

use serde_json::json;
use utoipa::openapi::ObjectBuilder;

use super::super::problem::Code;
use super::super::sign_in::{SignIn, SignInView, SignedIn};
use super::operation::{Operation, Success};
use super::parts::{of, text};
use crate::fence::store_status::StoreStatus;

pub const TAG: &str = "Service";

pub fn operations() -> Vec<Operation> {
    let live = ObjectBuilder::new().property("status", text().enum_values(Some(["ok"]))).required("status");
    let ready = ObjectBuilder::new()
        .property("status", text().enum_values(Some(["ready"])))
        .property("epoch", text().description(Some("With `verbose`.")))
        .property("stores", of::<StoreStatus>())
        .required("status");
    let metrics = "# HELP seckill_fence_up Whether claims are accepted\n# TYPE seckill_fence_up gauge\nseckill_fence_up 1\n";
    vec![
        Operation::get("/livez", "live", TAG)
            .text(
                "Whether every task of the program works",
                "Does not depend on the stores. 503 names the `task`: restart the program.",
            )
            .answers(Success::of_schema(200, "It works.", live.into(), json!({"status": "ok"})))
            .codes(&[Code::Unavailable]),
        Operation::get("/readyz", "ready", TAG)
            .text(
                "Whether claims are accepted",
                "With several partitions: of at least one of them. `verbose` adds the state of each store, also to the 503; off loopback it needs the admin token.",
            )
            .by_admin_or_loopback()
            .in_query("verbose", text(), "With any value or none: each store.")
            .answers(
                Success::of_schema(200, "Claims are accepted.", ready.into(), json!({"status": "ready"}))
                    .known::<StoreStatus>(),
            ),
        Operation::get("/metrics", "metrics", TAG)
            .text("Metrics for Prometheus", "Off loopback it needs the admin token.")
            .by_admin_or_loopback()
            .answers(Success::text("text/plain; version=0.0.4; charset=utf-8", "Metrics as text.", metrics)),
        Operation::get("/v1/sign-in", "show_sign_in", TAG)
            .text("Whether this is a demo", "In a demo the storefront offers these users.")
            .of_api()
            .answers(Success::json::<SignInView>(
                200,
                "How visitors sign in.",
                json!({"demo": true, "users": ["alice", "bob", "carol"]}),
            )),
        Operation::post("/v1/sign-in", "sign_in", TAG)
            .text("A token for any user of a demo", "404 if this is no demo: your own sign-in makes the tokens.")
            .of_api()
            .body::<SignIn>(&["application/json"], json!({"user": "alice"}))
            .answers(Success::json::<SignedIn>(
                200,
                "The token.",
                json!({"user": "alice", "token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"}),
            ))
            .codes(&[Code::NotFound]),
        page("/", "storefront", "The storefront"),
        page("/admin", "operations_page", "The operations page"),
        page("/docs", "docs", "This description as a page"),
        Operation::get("/openapi.json", "openapi", TAG)
            .text("This description", "OpenAPI 3.1, generated from the program.")
            .answers(
                Success::of_schema(200, "The description.", ObjectBuilder::new().into(), json!({"openapi": "3.1.0"}))
                    .with_header("ETag", "Changes with the program."),
            )
            .or_not_modified(),
        page("/assets/{file}", "asset", "A file of the pages")
            .in_path("file", text().examples(["style.css"]).into(), "The file's name; it may have slashes.")
            .codes(&[Code::NotFound]),
    ]
}

fn page(path: &'static str, id: &str, summary: &str) -> Operation {
    let html = Success::text(if id == "asset" { "*/*" } else { "text/html" }, "The file.", "<!doctype html>");
    Operation::get(path, id, TAG)
        .text(summary, "Part of the program; it is there while the stores start.")
        .answers(html.with_header("ETag", "Changes with the file."))
        .or_not_modified()
}
