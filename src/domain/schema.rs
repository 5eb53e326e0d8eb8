//! How the API's description shows ids: their JSON Schema.

use std::borrow::Cow;

use utoipa::openapi::schema::{KnownFormat, Schema, SchemaFormat};
use utoipa::openapi::{ObjectBuilder, RefOr, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{CouponId, OrderId, UserId};
use crate::config;

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

impl PartialSchema for CouponId {
    fn schema() -> RefOr<Schema> {
        let pattern = format!("^[A-Za-z0-9][A-Za-z0-9_-]{{0,{}}}$", config::COUPON_ID_MAX_BYTES - 1);
        let schema =
            text().pattern(Some(pattern)).description(Some("The coupon's id, which the admin chooses."));
        schema.examples(["coffee"]).into()
    }
}

impl PartialSchema for UserId {
    fn schema() -> RefOr<Schema> {
        let most = config::USER_ID_MAX_BYTES;
        let description =
            format!("The user: `sub` of the token. 1 to {most} bytes of UTF-8 without control characters.");
        let schema = text().min_length(Some(1)).max_length(Some(most)).description(Some(description));
        schema.examples(["alice"]).into()
    }
}

impl PartialSchema for OrderId {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Uuid);
        let schema = text().format(Some(format)).description(Some("The order's id, a UUIDv7."));
        schema.examples(["01a20ddb-383c-73ca-9e44-c5cfc51aaa8d"]).into()
    }
}

macro_rules! named {
    ($($type:ident),*) => {$(
        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                stringify!($type).into()
            }
        }
    )*};
}
named!(CouponId, UserId, OrderId);
