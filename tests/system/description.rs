//! The API's description against the running server: each address answers exactly the methods that are described, the
//! description and its page are there before the stores, and the page may load only what this server sends.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use support::Sale;

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"];

/// A path with a value for each parameter.
fn example(template: &str) -> String {
    template
        .replace("{coupon}", "coffee")
        .replace("{order}", "01a20ddb-383c-73ca-9e44-c5cfc51aaa8d")
        .replace("{id}", "1")
        .replace("{file}", "style.css")
        .replace("{user}", "alice")
}

#[tokio::test]
async fn each_address_answers_exactly_the_methods_that_are_described() {
    let sale = Sale::start().await;
    let description = sale.get("/openapi.json").await.body;
    let paths = description["paths"].as_object().unwrap();
    assert!(paths.len() > 30, "only {} paths", paths.len());
    for (template, methods) in paths {
        let path = example(template);
        assert!(!path.contains('{'), "the test has no value for {template}");
        let mut described: BTreeSet<String> =
            methods.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        if described.contains("GET") {
            described.insert("HEAD".into());
        }
        for method in METHODS {
            let method: Method = method.parse().unwrap();
            if path.ends_with("/events") && described.contains(method.as_str()) && method == Method::GET {
                // The answer has no end; tests/system/event_streams.rs reads it.
                continue;
            }
            let answer = sale.send(method.clone(), &path, &[], None).await;
            if described.contains(method.as_str()) {
                assert_ne!(answer.status, 405, "{method} {path}");
                assert_ne!(answer.body["detail"], "there is nothing at this address", "{method} {path}");
                continue;
            }
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            let allowed: BTreeSet<String> = answer.header("allow").split(", ").map(str::to_owned).collect();
            assert_eq!(allowed, described, "{method} {path}");
        }
        for unknown in [format!("{path}/x"), format!("{path}/")] {
            // Another described address, or the root itself.
            if unknown == "//" || path == "/" || path.starts_with("/assets/") || is_described(paths, &unknown)
            {
                continue;
            }
            let answer = sale.get(&unknown).await;
            answer.assert_problem(404, "not-found");
        }
    }
}

fn is_described(paths: &serde_json::Map<String, Value>, path: &str) -> bool {
    let asked: Vec<&str> = path.split('/').collect();
    paths.keys().any(|template| {
        let known: Vec<&str> = template.split('/').collect();
        known.len() == asked.len()
            && known
                .iter()
                .zip(&asked)
                .all(|(known, asked)| known == asked || (known.starts_with('{') && !asked.is_empty()))
    })
}

#[tokio::test]
async fn the_description_and_its_page_are_there_before_the_stores() {
    // A port without a Redis: the stores are never there.
    let mut sale = Sale::without_server(&[
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("DATABASE_URL", "postgres://seckill@127.0.0.1:1/none"),
        ("SECKILL_ADMIN_TOKEN", "the-admin-token-of-a-test"),
        ("SECKILL_JWT_SECRET", "a-secret-of-a-test-with-32-bytes-or-more"),
    ]);
    sale.start_server_unready().await;
    assert_eq!(sale.get("/readyz").await.status, 503);
    let description = sale.get("/openapi.json").await;
    assert_eq!((description.status, description.header("content-type")), (200, "application/json"));
    assert_eq!(description.body["openapi"], "3.1.0");
    assert_eq!(description.body["info"]["version"], env!("CARGO_PKG_VERSION"));
    let tag = description.header("etag");
    let again = sale.send(Method::GET, "/openapi.json", &[("if-none-match", tag)], None).await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));

    let page = sale.get("/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    for weak in ["unsafe", "http:", "https:", "*", "blob:"] {
        assert!(!policy.contains(weak), "{policy}");
    }
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "), "{policy}");
    let files = page.text.split('"').filter(|text| text.starts_with("/assets/"));
    let mut count = 0;
    for file in files {
        assert_eq!(sale.get(file).await.status, 200, "{file}");
        count += 1;
    }
    assert!(count >= 5, "only {count} files");
    assert!(!page.text.contains("http"), "the page names another server");
}
