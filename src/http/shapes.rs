//! JSON Schemas of what clients send: what they describe is accepted. A schema counts characters and the program counts
//! bytes, so an id of a user has a narrower schema here than in answers.

use utoipa::openapi::schema::{AdditionalProperties, KnownFormat, Schema, SchemaFormat, SchemaType};
use utoipa::openapi::{Array, ObjectBuilder, RefOr, Type};

use crate::config;

/// Everything but control characters.
const PRINTABLE: &str = r"[^\u0000-\u001f\u007f-\u009f]";

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

pub fn integer(least: i64, most: i64) -> ObjectBuilder {
    let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(format))
        .minimum(Some(least))
        .maximum(Some(most))
}

/// The same schema, or null.
fn or_null(schema: ObjectBuilder, of: Type) -> ObjectBuilder {
    schema.schema_type(SchemaType::from_iter([of, Type::Null]))
}

/// A user's id: UTF-8 has at most four bytes for a character.
pub fn user() -> RefOr<Schema> {
    let most = config::USER_ID_MAX_BYTES;
    let pattern = format!("^([ -~]{{1,{most}}}|{PRINTABLE}{{1,{}}})$", most / 4);
    let description = format!(
        "The user: `sub` of the user's token. 1 to {most} bytes of UTF-8 without control characters."
    );
    text().pattern(Some(pattern)).description(Some(description)).examples(["alice"]).into()
}

fn title_text() -> ObjectBuilder {
    let most = config::TITLE_MAX_CHARS;
    text().min_length(Some(1)).max_length(Some(most)).pattern(Some(format!("^{PRINTABLE}+$")))
}

pub fn title() -> RefOr<Schema> {
    let schema = or_null(title_text(), Type::String).examples(["A free coffee"]);
    schema.description(Some("What buyers see. The default is the id.")).into()
}

pub fn total() -> RefOr<Schema> {
    let schema = integer(1, config::TOTAL_MAX_UNITS).examples([100]);
    schema.description(Some("Units for sale, with those that are held.")).into()
}

pub fn per_user_limit() -> RefOr<Schema> {
    let schema = or_null(integer(1, config::PER_USER_LIMIT_MAX), Type::Integer).examples([1]);
    let meaning =
        "Units that one user may hold. Above 1, each claim needs an `Idempotency-Key`. The default is 1.";
    schema.description(Some(meaning)).into()
}

pub fn spread() -> RefOr<Schema> {
    let most = i64::try_from(config::PARTITIONS_MAX).unwrap_or(i64::MAX);
    let schema = or_null(integer(1, most), Type::Integer).examples([1]);
    let meaning = "The number of partitions that get a share of the coupon, at most as many as there are. For a coupon that \
         needs more claims a second than one Redis can take. It cannot be changed later. The default is 1.";
    schema.description(Some(meaning)).into()
}

pub fn reserve_seconds() -> RefOr<Schema> {
    let schema = or_null(integer(1, config::RESERVE_MAX_SECONDS), Type::Integer).examples([900]);
    let meaning = "The time to pay. Without it, orders are confirmed at once.";
    schema.description(Some(meaning)).into()
}

/// A time, in a year that each offset leaves between 1971 and 9998.
fn time(meaning: &str, example: &str) -> RefOr<Schema> {
    let format = SchemaFormat::KnownFormat(KnownFormat::DateTime);
    let years = "^(197[1-9]|19[89][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])-";
    let schema = or_null(text().format(Some(format)).pattern(Some(years)), Type::String);
    let meaning =
        format!("{meaning} RFC 3339, with its offset from UTC; not before 1970. Cut to milliseconds.");
    schema.description(Some(meaning)).examples([example]).into()
}

pub fn starts_at() -> RefOr<Schema> {
    time("When the sale starts, by Redis's clock. Before `ends_at`. Null: at once.", "2026-12-24T10:00:00Z")
}

pub fn ends_at() -> RefOr<Schema> {
    time("When the sale ends, by Redis's clock. Null: never.", "2026-12-26T10:00:00Z")
}

pub fn paused() -> RefOr<Schema> {
    let schema = or_null(ObjectBuilder::new(), Type::Boolean);
    schema.description(Some("Whether claims are refused for now. Null is false.")).into()
}

pub fn reason() -> RefOr<Schema> {
    let schema = text().min_length(Some(1)).max_length(Some(config::REASON_MAX_CHARS));
    let schema = schema.pattern(Some(format!("^{PRINTABLE}+$"))).examples(["chargeback"]);
    schema.description(Some("Why. The user sees it.")).into()
}

pub fn idempotency_key() -> RefOr<Schema> {
    let pattern = format!("^[!-~]{{1,{}}}$", config::IDEMPOTENCY_KEY_MAX_BYTES);
    text().pattern(Some(pattern)).examples(["cart-7"]).into()
}

/// The id of an entry of the order stream.
pub fn entry_id() -> RefOr<Schema> {
    let number = "[0-9]{1,19}";
    text().pattern(Some(format!("^{number}-{number}$"))).examples(["1795528800318-0"]).into()
}

/// A list of an object's fields before or after a change.
pub fn fields() -> RefOr<Schema> {
    let any = AdditionalProperties::FreeForm(true);
    let schema = or_null(ObjectBuilder::new(), Type::Object).additional_properties(Some(any));
    schema.description(Some("Each changed field with its value.")).into()
}

/// `items` and, of a list in pages, `next`.
pub fn list(item: RefOr<Schema>, in_pages: bool) -> Schema {
    let list = ObjectBuilder::new().property("items", Array::new(item)).required("items");
    if !in_pages {
        return list.into();
    }
    let next = or_null(text(), Type::String);
    let next = next.description(Some("`after` of the next page; null on the last page."));
    list.property("next", next).required("next").into()
}
