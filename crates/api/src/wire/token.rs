//! The token call over the wire.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey_broker::{BrokerError, Fault, IssuedToken, StartForToken, TokenRequest};
use valetkey_core::{Fingerprint, FlowMode, Label, Timestamp, UserId};

use crate::extract::optional_object;

/// A flow to offer if there is no token to give.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StartForToken)]
pub(crate) struct StartForTokenIn {
    /// `popup` or `redirect`.
    #[schema(value_type = String, example = "redirect")]
    mode: FlowMode,
    /// One of the connector's return URLs.
    #[schema(example = "https://app.example/connected")]
    return_url: String,
    /// One of the connector's origins, for a popup.
    #[serde(default)]
    origin: Option<String>,
}

/// Which token, and how good it must be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenRequest)]
pub(crate) struct TokenIn {
    /// Whose, on a `per_user` connector.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "u-17")]
    user_id: Option<UserId>,
    /// Which of the owner's accounts.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    label: Option<Label>,
    /// The least remaining life asked for, in seconds; 60 if absent. At most 30 % of the token's life counts.
    #[serde(default)]
    #[schema(example = 60)]
    min_ttl: Option<u32>,
    /// Scopes that the grant must have. Checks, never narrows.
    #[serde(default)]
    scopes: Vec<String>,
    /// The `fingerprint` of a token that the upstream API answered 401 to.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    rejected: Option<Fingerprint>,
    /// Adds a fresh flow to the answers 403, 404 and 409; needs the permission to start flows.
    #[serde(default, deserialize_with = "optional_object")]
    start: Option<StartForTokenIn>,
}

/// The length of a SHA-256 in padded base64.
const FINGERPRINT_LENGTH: usize = 44;

impl TryFrom<TokenIn> for TokenRequest {
    type Error = BrokerError;

    fn try_from(wanted: TokenIn) -> Result<Self, BrokerError> {
        if wanted.rejected.as_ref().is_some_and(|rejected| rejected.as_str().len() != FINGERPRINT_LENGTH) {
            let message = "is the fingerprint that came with the token, never the token itself";
            return Err(BrokerError::Invalid(vec![Fault::new("rejected", message)]));
        }
        Ok(Self {
            user_id: wanted.user_id,
            label: wanted.label.unwrap_or_else(Label::none),
            min_ttl: wanted.min_ttl.map(|seconds| Duration::from_secs(u64::from(seconds))),
            scopes: wanted.scopes,
            rejected: wanted.rejected,
            start: wanted.start.map(|start| StartForToken {
                mode: start.mode,
                return_url: start.return_url,
                origin: start.origin,
            }),
        })
    }
}

/// A token that is valid now. Keep it until shortly before `expires_at` and nowhere but in memory.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(crate) struct TokenOut<'a> {
    /// The token.
    #[schema(example = "the-access-token")]
    access_token: &'a str,
    /// Its type.
    #[schema(example = "Bearer")]
    token_type: &'a str,
    /// When it ends; null if the provider does not say.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<Timestamp>,
    /// Seconds until then, as of this answer.
    #[schema(required, example = 3540)]
    expires_in: Option<u64>,
    /// The scopes granted.
    #[schema(example = json!(["repo"]))]
    scopes: &'a [String],
    /// The connection it comes from.
    #[schema(value_type = String, example = "cxn_06bc4jq1v81hf0c9q2m8r5vk3o")]
    connection_id: valetkey_core::ConnectionId,
    /// +1 for each token set.
    #[schema(example = 4)]
    generation: i64,
    /// Its name in the audit: base64 of its SHA-256. Send it as `rejected` if the upstream API refuses the token.
    #[schema(value_type = String, example = "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=")]
    fingerprint: &'a Fingerprint,
}

impl<'a> From<&'a IssuedToken> for TokenOut<'a> {
    fn from(issued: &'a IssuedToken) -> Self {
        let connection = issued.connection();
        Self {
            access_token: issued.access_token.expose(),
            token_type: &connection.token_type,
            expires_at: connection.expires_at,
            expires_in: issued.expires_in,
            scopes: &connection.granted_scopes,
            connection_id: connection.id,
            generation: connection.generation,
            fingerprint: &issued.fingerprint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<TokenRequest, BrokerError> {
        serde_json::from_str::<TokenIn>(body).expect("well-formed").try_into()
    }

    #[test]
    fn nothing_is_required() {
        let request = read("{}").expect("good");
        assert!(request.user_id.is_none() && request.min_ttl.is_none() && request.start.is_none());
        assert_eq!(request.label, Label::none());
    }

    #[test]
    fn a_token_in_the_place_of_its_fingerprint_is_refused_and_not_repeated() {
        let error = read(r#"{"rejected":"gho_planted"}"#).expect_err("refused");
        assert!(!format!("{error:?}").contains("planted"));
    }

    #[test]
    fn an_issued_token_is_written_with_all_its_fields() {
        let token = valetkey_core::Secret::from("at-1");
        let scopes = vec!["a".to_owned()];
        let value = serde_json::to_value(TokenOut {
            access_token: token.expose(),
            token_type: "Bearer",
            expires_at: Some(Timestamp::from_millis(1_700_000_000_000)),
            expires_in: Some(60),
            scopes: &scopes,
            connection_id: "cxn_00000000000000000000000000".parse().expect("an id"),
            generation: 7,
            fingerprint: &token.fingerprint(),
        });
        let value = value.expect("json");
        assert_eq!(value["access_token"], "at-1");
        assert_eq!(value["expires_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!(value["expires_in"], 60);
        assert_eq!(value["generation"], 7);
        assert_eq!(value.as_object().expect("an object").len(), 8);
    }
}
