//! Spaces.

use serde_json::json;
use valetkey_core::SpaceId;

use super::Context;
use crate::cli::{
    failure::Failure,
    table::{Column, Kind},
};

const COLUMNS: &[Column] = &[("SPACE", "id", Kind::Plain), ("CREATED", "created_at", Kind::Time)];

pub(super) async fn create(context: &Context, name: &SpaceId) -> Result<(), Failure> {
    let mut client = context.client("spaces create").await?;
    let made = client.post("/v1/spaces", &json!({ "id": name })).await;
    client.close().await;
    let made = made?;
    context.output.show_value(&made, name.as_str())
}

pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let mut client = context.client("spaces list").await?;
    let listed = client.list("/v1/spaces", &[], context.output.listing(COLUMNS)).await;
    client.close().await;
    listed
}
