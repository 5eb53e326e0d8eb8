//! Checks each answer that a test gets against the API's description: the status, the code, the type of the body, the
//! members of a JSON body, and the headers that clients use. So the description is compared with whatever the tests make
//! the server answer. It does not see answers that a test reads from the socket itself.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use reqwest::Method;
use serde_json::{Map, Value};

use crate::answer::Answer;

static DESCRIPTION: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_slice(&seckill::http::openapi::json()).unwrap());

/// Headers that a client acts on.
const HEADERS: [&str; 6] = ["allow", "etag", "location", "retry-after", "www-authenticate", "x-request-id"];

/// Fails for an answer that is not described.
#[track_caller]
pub fn assert_describes(method: &Method, target: &str, answer: &Answer) {
    if let Err(why) = check(method, target, answer) {
        panic!("{method} {target} got an answer that the API's description does not have: {why}\n{answer:?}");
    }
}

/// Fails for an event that is not described.
#[track_caller]
pub fn assert_describes_event(target: &str, name: &str, data: &Value) {
    let path = target.split('?').next().unwrap_or_default();
    let response = described_path(path).map(|methods| &methods["get"]["responses"]["200"]);
    let events = response.map(|response| &response["content"]["text/event-stream"]["itemSchema"]["oneOf"]);
    let mut events = events.and_then(Value::as_array).into_iter().flatten();
    let event = events.find(|event| event["properties"]["event"]["enum"][0] == name);
    let event = event.unwrap_or_else(|| panic!("{target}: the event {name} is not described"));
    if let Err(why) = check_members("", &[&event["properties"]["data"]["contentSchema"]], data) {
        panic!("{target}: the event {name} is not as the API's description says: {why}\n{data:#}");
    }
}

/// Whether a document has the members that a schema of the description has.
pub fn fits(schema: &Value, document: &Value) -> Result<(), String> {
    check_members("", &[schema], document)
}

fn check(method: &Method, target: &str, answer: &Answer) -> Result<(), String> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let described = described_path(path);
    let is_head = *method == Method::HEAD;
    let name = if is_head { "get".to_owned() } else { method.as_str().to_lowercase() };
    let Some(operation) = described.and_then(|methods| methods.get(&name)) else {
        let refused = match described {
            Some(methods) => {
                let allowed: BTreeSet<&str> = answer.header("allow").split(", ").collect();
                answer.status == 405 && allowed == allowed_methods(methods)
            }
            None => answer.status == 404,
        };
        // A head that is no valid request is refused before the address is read, and all requests while stores start.
        let is_early = [400, 503].contains(&answer.status);
        return if refused || is_early { Ok(()) } else { Err("the address is not described".into()) };
    };
    let response = &operation["responses"][answer.status.to_string()];
    if response.is_null() {
        return Err(format!("no status {}", answer.status));
    }
    for header in HEADERS {
        let described = response["headers"].as_object().into_iter().flat_map(Map::keys);
        if answer.headers.contains_key(header)
            && !described.into_iter().any(|name| name.eq_ignore_ascii_case(header))
        {
            return Err(format!("no header {header}"));
        }
    }
    if is_head || answer.text.is_empty() {
        return Ok(());
    }
    let kind = answer.header("content-type");
    let contents = response["content"].as_object().ok_or("no body")?;
    let essence = |kind: &str| kind.split(';').next().unwrap_or_default().trim().to_owned();
    let content = contents.iter().find(|(known, _)| *known == "*/*" || essence(known) == essence(kind));
    let (_, content) = content.ok_or_else(|| format!("no body of type {kind}"))?;
    if essence(kind) == "application/problem+json" {
        return check_code(&content["schema"], answer);
    }
    check_members("", &[&content["schema"]], &answer.body)
}

/// The methods of the described path that matches; a path without parameters comes first.
fn described_path(path: &str) -> Option<&'static Map<String, Value>> {
    let paths = DESCRIPTION["paths"].as_object()?;
    if path.starts_with("/assets/") {
        return paths["/assets/{file}"].as_object();
    }
    let matches = |template: &str| {
        let (ours, theirs): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        ours.len() == theirs.len()
            && ours
                .iter()
                .zip(&theirs)
                .all(|(ours, theirs)| ours == theirs || (ours.starts_with('{') && !theirs.is_empty()))
    };
    let mut found: Vec<_> = paths.iter().filter(|(template, _)| matches(template)).collect();
    found.sort_by_key(|(template, _)| template.matches('{').count());
    found.first().and_then(|(_, methods)| methods.as_object())
}

fn allowed_methods(methods: &Map<String, Value>) -> BTreeSet<&'static str> {
    let known = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"];
    let of = |method: &&str| if *method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
    known.into_iter().filter(|method| methods.contains_key(&of(method))).collect()
}

fn check_code(schema: &Value, answer: &Answer) -> Result<(), String> {
    let codes = schema["allOf"][1]["properties"]["code"]["enum"].as_array().ok_or("no codes")?;
    let is_known = codes.iter().any(|code| code == answer.code());
    if is_known { Ok(()) } else { Err(format!("no code {}", answer.code())) }
}

/// Whether each member of the objects in a body is described, and each member that is always there is there.
fn check_members(place: &str, schemas: &[&Value], body: &Value) -> Result<(), String> {
    let mut parts = Vec::new();
    for schema in schemas {
        collect(schema, true, &mut parts);
    }
    match body {
        Value::Array(items) => {
            let of_items: Vec<&Value> = parts.iter().map(|(part, _)| &part["items"]).collect();
            items.iter().try_for_each(|item| check_members(place, &of_items, item))
        }
        Value::Object(members) if parts.iter().any(|(part, _)| part["properties"].is_object()) => {
            for (part, is_certain) in &parts {
                let required = part["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                if let Some(missing) =
                    required.into_iter().find(|name| *is_certain && !members.contains_key(*name))
                {
                    return Err(format!("{place}.{missing} is missing"));
                }
            }
            members.iter().try_for_each(|(name, value)| {
                let of_member: Vec<&Value> = parts
                    .iter()
                    .filter_map(|(part, _)| part["properties"].get(name).or(part.get("additionalProperties")))
                    .collect();
                let place = format!("{place}.{name}");
                if of_member.is_empty() {
                    Err(format!("no member {place}"))
                } else {
                    check_members(&place, &of_member, value)
                }
            })
        }
        _ => Ok(()),
    }
}

/// The parts of a schema, with those that it names, and whether a body certainly fits each one.
fn collect<'a>(schema: &'a Value, is_certain: bool, parts: &mut Vec<(&'a Value, bool)>) {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.trim_start_matches('#');
        return collect(DESCRIPTION.pointer(pointer).unwrap_or(&Value::Null), is_certain, parts);
    }
    parts.push((schema, is_certain));
    for (word, is_certain) in [("allOf", is_certain), ("oneOf", false), ("anyOf", false)] {
        for part in schema[word].as_array().into_iter().flatten() {
            collect(part, is_certain, parts);
        }
    }
}
