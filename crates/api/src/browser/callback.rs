//! `/oauth/callback/{connector_id}`: the provider's answer.

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use valetkey_broker::{CallbackEnd, PageFailure};
use valetkey_core::{ConnectorId, Flow, Secret};

use super::{
    home::{Leaving, go_home},
    internal,
    query::callback_query,
    turned_away,
};
use crate::{
    Api,
    client_address::ClientAddress,
    cookies::RequestCookies,
    extract::PathParam,
    pages::{ConfirmView, FailurePage, confirm_page},
};

/// Takes the provider's answer, checks it, and sends the browser home or asks the person.
pub(crate) async fn callback(
    State(api): State<Api>,
    address: ClientAddress,
    PathParam(connector): PathParam<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Ok(connector) = connector.parse::<ConnectorId>() else {
        api.broker().refuse_unknown(None);
        return turned_away(&api, address, PageFailure::NotFound);
    };
    let query = callback_query(query.as_deref().unwrap_or_default());
    let cookies = RequestCookies::of(&headers);
    match api.broker().callback(connector, &query, &|name: &str| cookies.get(name)).await {
        Ok(CallbackEnd::Home(home)) => go_home(&api, &home, Leaving::Redirect).await,
        Ok(CallbackEnd::Confirm { flow, token }) => ask(&api, &flow, &token).await,
        Ok(CallbackEnd::Page(failure)) => turned_away(&api, address, failure),
        Err(error) => internal(error),
    }
}

async fn ask(api: &Api, flow: &Flow, token: &Secret) -> Response {
    match api.broker().confirm_view(flow).await {
        Ok(Some(view)) => confirm_page(&ConfirmView {
            connector: &view.connector_name,
            provider: &view.provider,
            space: view.space.as_str(),
            user_display: view.user_display.as_deref(),
            action: &format!("/oauth/confirm/{}", view.flow_id),
            token,
        }),
        Ok(None) => super::told(FailurePage::ConnectorChanged),
        Err(error) => internal(error),
    }
}
