//! The fields of each answer: one that is always there is required, also if it may be null; one that may be left out is
//! not. And each example of the description has the required fields.

use serde_json::Value;
use syn::{Attribute, ItemStruct};

use support::description::fits;

use crate::described::document;
use crate::sources::{Sources, last_name};

/// The text of the attributes with this name.
fn attributes(of: &[Attribute], name: &str) -> String {
    let named = of.iter().filter(|attribute| attribute.path().is_ident(name));
    let lists = named.filter_map(|attribute| attribute.meta.require_list().ok());
    lists.map(|list| list.tokens.to_string()).collect::<Vec<_>>().join(", ")
}

/// The name of the schema, for a struct that is sent.
fn schema_of_sent(item: &ItemStruct) -> Option<String> {
    let derived = attributes(&item.attrs, "derive");
    if !["Serialize", "ToSchema"].iter().all(|name| derived.split(", ").any(|word| word.trim() == *name)) {
        return None;
    }
    let schema = attributes(&item.attrs, "schema");
    let named = schema.split("as = ").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    Some(named.map_or_else(|| item.ident.to_string(), str::to_owned))
}

/// Whether the schema, or one of its parts, has and requires the field.
fn requires(schema: &Value, field: &str) -> Option<bool> {
    if schema["properties"].get(field).is_some() {
        let required = schema["required"].as_array();
        return Some(required.is_some_and(|names| names.iter().any(|name| name == field)));
    }
    schema["allOf"].as_array()?.iter().find_map(|part| requires(part, field))
}

#[test]
fn a_field_is_required_exactly_if_it_is_in_every_answer() {
    let (document, sources) = (document(), Sources::read());
    let schemas = &document["components"]["schemas"];
    let mut optional = 0;
    for item in sources.structs() {
        let Some(name) = schema_of_sent(item) else { continue };
        let Some(schema) = schemas.get(&name) else { continue };
        for field in &item.fields {
            let serde = attributes(&field.attrs, "serde");
            let Some(ident) = field.ident.as_ref().filter(|_| !serde.contains("flatten")) else { continue };
            let is_left_out = serde.contains("skip_serializing_if");
            let required = requires(schema, ident.to_string().trim_start_matches("r#"));
            assert_eq!(required, Some(!is_left_out), "{name}.{ident} of {}", item.ident);
            optional += usize::from(last_name(&field.ty) == "Option");
        }
    }
    assert!(optional > 40, "only {optional} fields that may be null or absent");
}

#[test]
fn each_example_of_an_answer_has_the_required_fields() {
    let document = document();
    let mut examples = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                for content in response["content"].as_object().into_iter().flat_map(|kinds| kinds.values()) {
                    if content["example"].is_object() {
                        let place = format!("{method} {path} {status}");
                        assert_eq!(fits(&content["schema"], &content["example"]), Ok(()), "{place}");
                        examples += 1;
                    }
                }
            }
        }
    }
    assert!(examples > 40, "only {examples} examples");
}
