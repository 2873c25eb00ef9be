//! What the sandbox knows about one registered client, and how it treats that client's tokens.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// One client registration together with the token behaviour that it sees.
///
/// The default is `sandbox-client` with the secret `sandbox-secret` and any loopback redirect URI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in a settings file")]
pub struct ClientSettings {
    /// The client identifier.
    pub client_id: String,
    /// The name that the consent page shows.
    pub name: String,
    /// Accepted secrets; several while one is being rolled over.
    pub secrets: Vec<String>,
    /// How the client must authenticate.
    pub auth: ClientAuth,
    /// Redirect URIs that match exactly.
    pub redirect_uris: Vec<String>,
    /// Accepts every `http` redirect URI on a loopback address or `localhost`.
    pub any_loopback_redirect_uri: bool,
    /// Accepts every redirect URI.
    pub any_redirect_uri: bool,
    /// Refuses authorization requests without an S256 challenge.
    pub require_pkce: bool,
    /// Whether the client may use the client credentials grant.
    pub client_credentials: bool,
    /// What becomes of a refresh token that was used.
    pub rotation: Rotation,
    /// A refresh ends the grant's earlier access tokens at once.
    pub access_dies_on_refresh: bool,
    /// Life of an access token in seconds; `None` never ends.
    pub access_life_seconds: Option<u64>,
    /// Life of each refresh token in seconds from its issue; `None` never ends.
    pub refresh_life_seconds: Option<u64>,
    /// Seconds without use after which a refresh token ends.
    pub refresh_idle_seconds: Option<u64>,
    /// Seconds after consent at which the grant ends, however often it was refreshed.
    pub grant_life_seconds: Option<u64>,
    /// Life of an authorization code in seconds.
    pub code_life_seconds: u64,
    /// How the answer states the access token's life.
    pub expires_in: ExpiresIn,
    /// Name of the field that states the refresh token's remaining life, if one is sent.
    pub refresh_expires_in_field: Option<String>,
    /// Whether a code is redeemed for a refresh token at all.
    pub issue_refresh_token: bool,
    /// Whether a refresh that rotates nothing repeats the same refresh token in its answer.
    pub echo_refresh_token: bool,
    /// Scopes the user can grant; what else is asked for is silently left out.
    pub grantable_scopes: Option<Vec<String>>,
    /// When the answer names the scopes.
    pub scope_answer: ScopeAnswer,
    /// What separates scopes in answers.
    pub scope_separator: String,
    /// The shape of token answers.
    pub answer: AnswerShape,
    /// The `token_type` of answers; `None` leaves it out.
    pub token_type: Option<String>,
    /// Length of access tokens in characters; short values mean about 50.
    pub access_token_length: usize,
    /// Status of the answer to a dead or unknown refresh token.
    pub dead_grant_status: u16,
    /// Error code of the answer to a dead or unknown refresh token.
    pub dead_grant_error: String,
    /// How many grants of one user live at once; the oldest ends beyond that.
    pub max_live_grants: Option<usize>,
    /// What a revocation ends.
    pub revocation: RevocationReach,
    /// What is wrong with the ID token, if anything.
    pub id_token: IdToken,
    /// Whether a refresh answers with an ID token too.
    pub id_token_on_refresh: bool,
    /// Further members of every successful token answer.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// How a client must authenticate at the token endpoint (RFC 6749, section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// HTTP Basic only.
    Basic,
    /// `client_id` and `client_secret` in the body only.
    Body,
    /// Basic or body, but not both at once.
    Either,
    /// A public client: `client_id` alone, no secret.
    None,
}

/// What becomes of a refresh token that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// The same refresh token works on.
    NonRotating,
    /// A new one each time; all old ones work on.
    Soft,
    /// A new one each time; the old one works until its successor is used.
    SoftUntilSuccessorUsed,
    /// A spent token yields another successor for a while; later it ends its grant.
    Grace {
        /// How long after its first use a spent token is forgiven.
        seconds: u64,
    },
    /// A spent token ends its grant.
    Strict,
    /// A spent token ends all grants of the same client and user.
    StrictWide,
}

/// How a token answer states the access token's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiresIn {
    /// As a JSON number.
    Number,
    /// As a JSON string of digits.
    Text,
    /// Not at all.
    Absent,
    /// As `null`.
    Null,
    /// As zero.
    Zero,
    /// As a negative number.
    Negative,
    /// As a number that overflows a 64-bit integer.
    Huge,
    /// As this number of seconds, whatever the token's life is.
    Stated {
        /// What the answer says.
        seconds: i64,
    },
}

/// When a token answer names the granted scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScopeAnswer {
    /// Always.
    Always,
    /// Only when they differ from what was asked (RFC 6749, section 5.1).
    WhenChanged,
    /// Never.
    Never,
}

/// The shape of a token answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerShape {
    /// A flat JSON object (RFC 6749, section 5.1).
    Json,
    /// The same members as a form.
    Form,
    /// `ok` at the top and the tokens inside `authed_user`.
    Nested,
}

/// What a revocation request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReach {
    /// Only the token that was presented.
    Token,
    /// A refresh token ends its grant, an access token only itself (RFC 7009, section 2.1).
    RefreshEndsGrant,
    /// Either token ends its grant.
    Grant,
    /// Either token ends all grants of the same client and user.
    UserClient,
}

/// What is wrong with an ID token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdToken {
    /// Nothing.
    Correct,
    /// It is not sent although `openid` was granted.
    Absent,
    /// `iss` names another issuer.
    WrongIssuer,
    /// `aud` names another client.
    WrongAudience,
    /// `nonce` is another one.
    WrongNonce,
    /// `nonce` is missing.
    NoNonce,
    /// `sub` is missing.
    NoSubject,
    /// `exp` has passed.
    Expired,
    /// It is not a JWT.
    Malformed,
    /// It is an unsigned JWT (`alg` is `none`).
    Unsigned,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            client_id: "sandbox-client".to_owned(),
            name: "Example application".to_owned(),
            secrets: vec!["sandbox-secret".to_owned()],
            auth: ClientAuth::Either,
            redirect_uris: Vec::new(),
            any_loopback_redirect_uri: true,
            any_redirect_uri: false,
            require_pkce: false,
            client_credentials: true,
            rotation: Rotation::Strict,
            access_dies_on_refresh: false,
            access_life_seconds: Some(3600),
            refresh_life_seconds: None,
            refresh_idle_seconds: None,
            grant_life_seconds: None,
            code_life_seconds: 60,
            expires_in: ExpiresIn::Number,
            refresh_expires_in_field: None,
            issue_refresh_token: true,
            echo_refresh_token: false,
            grantable_scopes: None,
            scope_answer: ScopeAnswer::Always,
            scope_separator: " ".to_owned(),
            answer: AnswerShape::Json,
            token_type: Some("Bearer".to_owned()),
            access_token_length: 0,
            dead_grant_status: 400,
            dead_grant_error: "invalid_grant".to_owned(),
            max_live_grants: None,
            revocation: RevocationReach::RefreshEndsGrant,
            id_token: IdToken::Correct,
            id_token_on_refresh: false,
            extra: serde_json::Map::new(),
        }
    }
}

impl ClientSettings {
    /// A client with this identifier and secret, and the default behaviour.
    pub fn new(client_id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { client_id: client_id.into(), secrets: vec![secret.into()], ..Self::default() }
    }

    /// The same client with another rotation class.
    #[must_use]
    pub fn rotation(mut self, rotation: Rotation) -> Self {
        self.rotation = rotation;
        self
    }

    pub(crate) fn accepts_redirect_uri(&self, redirect_uri: &str) -> bool {
        let Ok(url) = Url::parse(redirect_uri) else {
            return false;
        };
        self.any_redirect_uri
            || self.redirect_uris.iter().any(|registered| registered == redirect_uri)
            || (self.any_loopback_redirect_uri && is_loopback(&url))
    }

    /// The part of the requested scopes that a user can grant.
    pub(crate) fn grantable(&self, requested: &[String]) -> Vec<String> {
        match &self.grantable_scopes {
            None => requested.to_vec(),
            Some(limit) => requested.iter().filter(|scope| limit.contains(scope)).cloned().collect(),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    if url.scheme() != "http" {
        return false;
    }
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

impl std::str::FromStr for Rotation {
    type Err = String;

    /// Reads a class from its snake case name; grace is written `grace:SECONDS`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "non_rotating" => Ok(Self::NonRotating),
            "soft" => Ok(Self::Soft),
            "soft_until_successor_used" => Ok(Self::SoftUntilSuccessorUsed),
            "strict" => Ok(Self::Strict),
            "strict_wide" => Ok(Self::StrictWide),
            other => other
                .strip_prefix("grace:")
                .and_then(|seconds| seconds.parse().ok())
                .map(|seconds| Self::Grace { seconds })
                .ok_or_else(|| format!("there is no rotation class {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_client_takes_loopback_redirects_only() {
        let client = ClientSettings::default();
        for good in ["http://127.0.0.1:9/cb", "http://localhost:1/x", "http://[::1]/cb"] {
            assert!(client.accepts_redirect_uri(good), "{good}");
        }
        for bad in ["https://app.example/cb", "http://127.0.0.1.example/cb", "javascript:alert(1)", "/cb"] {
            assert!(!client.accepts_redirect_uri(bad), "{bad}");
        }
    }

    #[test]
    fn every_class_has_a_name_on_the_command_line() {
        assert_eq!("grace:30".parse(), Ok(Rotation::Grace { seconds: 30 }));
        assert_eq!("strict_wide".parse(), Ok(Rotation::StrictWide));
        assert!("grace".parse::<Rotation>().is_err());
    }
}
