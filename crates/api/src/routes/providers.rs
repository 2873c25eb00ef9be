//! The provider catalogue.

use axum::extract::State;

use crate::{
    Api,
    answer::{Answered, ok},
    auth::{Permit, op},
    extract::PathParam,
    wire::{Page, ProviderOut, ProviderPage},
};

/// List the providers that connectors can use.
#[utoipa::path(get, path = "/v1/providers", operation_id = "list_providers", tag = "providers",
    responses((status = OK, description = "All of them", body = ProviderPage)))]
pub(super) async fn list_providers(permit: Permit<op::ProviderRead>, State(api): State<Api>) -> Answered<ProviderPage> {
    let providers = api.broker().list_providers(&permit.caller)?;
    ok(Page { items: providers.into_iter().map(ProviderOut::from).collect(), next: None })
}

/// Show a provider.
#[utoipa::path(get, path = "/v1/providers/{name}", operation_id = "show_provider", tag = "providers",
    params(("name" = String, Path, description = "The profile's name")),
    responses((status = OK, description = "The provider", body = ProviderOut)))]
pub(super) async fn show_provider(
    permit: Permit<op::ProviderRead>,
    State(api): State<Api>,
    PathParam(name): PathParam<String>,
) -> Answered<ProviderOut> {
    ok(api.broker().show_provider(&permit.caller, &name)?.into())
}
