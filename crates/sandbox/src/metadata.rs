//! Metadata documents (OpenID Connect Discovery 1.0, RFC 8414) and the key set.

use std::sync::Arc;

use axum::extract::State as AxumState;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::state::Shared;

pub(crate) async fn openid_configuration(AxumState(shared): AxumState<Arc<Shared>>) -> Response {
    let enabled = shared.lock().settings.discovery.openid;
    document(&shared, enabled)
}

pub(crate) async fn authorization_server(AxumState(shared): AxumState<Arc<Shared>>) -> Response {
    let enabled = shared.lock().settings.discovery.oauth;
    document(&shared, enabled)
}

/// Empty: ID tokens are signed with the client secret.
pub(crate) async fn jwks() -> Response {
    Answer::json(200, json!({ "keys": [] })).into_response()
}

fn document(shared: &Shared, enabled: bool) -> Response {
    if !enabled {
        return Answer::error(404, "not_found").into_response();
    }
    let state = shared.lock();
    let base = &shared.base_url;
    let settings = &state.settings.discovery;
    let issuer = settings.issuer.clone().unwrap_or_else(|| shared.issuer(&state));
    let mut document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{base}/authorize"),
        "token_endpoint": format!("{base}/token"),
        "revocation_endpoint": format!("{base}/revoke"),
        "introspection_endpoint": format!("{base}/introspect"),
        "userinfo_endpoint": format!("{base}/userinfo"),
        "jwks_uri": format!("{base}/jwks"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["HS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["openid", "offline_access", "profile", "email", "read", "write"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
    });
    if settings.advertise_iss {
        document["authorization_response_iss_parameter_supported"] = Value::Bool(true);
    }
    if let Some(members) = document.as_object_mut() {
        for name in &settings.omit {
            members.remove(name);
        }
        members.extend(settings.extra.clone());
    }
    Answer::json(200, document).into_response()
}
