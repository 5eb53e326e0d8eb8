//! The description, as JSON that clients get.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The codes of each method and path, such as `GET /v1/coupons/{}`.
pub fn operations() -> BTreeMap<String, BTreeSet<String>> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (row(method, path), codes(operation)))
    });
    operations.collect()
}

pub fn document() -> Value {
    serde_json::from_slice(&seckill::http::openapi::json()).unwrap()
}

/// A method and a path without the names of its parameters.
pub fn row(method: &str, path: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    format!("{} {}", method.to_uppercase(), segments.collect::<Vec<_>>().join("/"))
}

fn codes(operation: &Value) -> BTreeSet<String> {
    let responses = operation["responses"].as_object().unwrap().values();
    let problems = responses.filter_map(|response| {
        response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"]
            .as_array()
    });
    problems.flatten().map(|code| code.as_str().unwrap().to_owned()).collect()
}
