//! What the operator of this machine may ask for beyond the API: through the socket, or in this process.

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::post};
use serde::Deserialize;
use serde_json::json;
use valetkey_api::{Api, as_command_line};
use valetkey_broker::Broker;

/// Deletes what is over.
pub(crate) const PURGE: &str = "/v1/purge";

/// The API as the command line sees it, with what is the operator's alone.
pub(crate) fn router(api: &Api, broker: Broker, keyring: Router) -> Router {
    let beyond = Router::new().route(PURGE, post(purge)).with_state(broker);
    api.local_router().merge(beyond).merge(keyring).layer(as_command_line())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    dry_run: bool,
}

async fn purge(State(broker): State<Broker>, Json(asked): Json<Purge>) -> impl IntoResponse {
    match broker.purge(asked.dry_run).await {
        Ok(report) => Json(report).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the purge failed");
            let problem = json!({ "title": "The purge failed; the log names the cause", "code": "internal-error" });
            (StatusCode::INTERNAL_SERVER_ERROR, Json(problem)).into_response()
        }
    }
}
