//! API keys.

use axum::extract::State;
use valetkey_core::KeyId;

use crate::{
    Api,
    answer::{Answered, created, ok},
    auth::{Permit, op},
    extract::{JsonBody, PathParam, QueryParams},
    wire::{CreatedKeyOut, KeyIn, KeyOut, KeyPage, PageParams},
};

/// Make a key.
///
/// Its text is in this answer alone. A key with the role `connector` fetches token values: making one is audited.
#[utoipa::path(post, path = "/v1/keys", operation_id = "create_key", tag = "keys",
    request_body = KeyIn, responses((status = CREATED, description = "The key, with its text", body = CreatedKeyOut)))]
pub(super) async fn create_key(
    permit: Permit<op::KeyCreate>,
    State(api): State<Api>,
    JsonBody(new): JsonBody<KeyIn>,
) -> Answered<CreatedKeyOut> {
    created(api.broker().create_key(&permit.caller, new.into()).await?.into())
}

/// List keys.
#[utoipa::path(get, path = "/v1/keys", operation_id = "list_keys", tag = "keys",
    params(
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 200, 50 if absent"),
    ),
    responses((status = OK, description = "A page", body = KeyPage)))]
pub(super) async fn list_keys(
    permit: Permit<op::KeyList>,
    State(api): State<Api>,
    QueryParams(page): QueryParams<PageParams<KeyId>>,
) -> Answered<KeyPage> {
    let found = api.broker().list_keys(&permit.caller, page.after, page.probe()).await?;
    ok(page.page(found, |key| key.id.to_string()))
}

/// Revoke a key.
#[utoipa::path(delete, path = "/v1/keys/{id}", operation_id = "revoke_key", tag = "keys",
    params(("id" = String, Path, description = "The key")),
    responses((status = OK, description = "The key, which opens nothing any more", body = KeyOut)))]
pub(super) async fn revoke_key(
    permit: Permit<op::KeyRevoke>,
    State(api): State<Api>,
    PathParam(id): PathParam<KeyId>,
) -> Answered<KeyOut> {
    ok(api.broker().revoke_key(&permit.caller, id).await?.into())
}
