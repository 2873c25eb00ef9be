//! What the control shows of grants and tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A grant with the state of its tokens, which are named by fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// The grant's name.
    pub id: String,
    /// The client that holds it.
    pub client_id: String,
    /// The user who gave it.
    pub user: String,
    /// What was granted.
    pub scopes: Vec<String>,
    /// Whether it lives.
    pub alive: bool,
    /// Why it does not.
    pub ended: Option<GrantEnd>,
    /// When it was given, in milliseconds since the epoch.
    pub created_at_ms: i64,
    /// How many refreshes succeeded.
    pub refresh_count: u32,
    /// Fingerprint of the refresh token issued last.
    pub current_refresh: Option<String>,
    /// Fingerprints of all refresh tokens that are neither spent nor expired, oldest first.
    pub live_refresh: Vec<String>,
    /// Its access tokens, oldest first; dead ones may be dropped from a long list.
    pub access: Vec<AccessView>,
}

/// One access token of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessView {
    /// Its fingerprint.
    pub fingerprint: String,
    /// Whether the protected resource accepts it now.
    pub live: bool,
    /// When it ends, in milliseconds since the epoch.
    pub expires_at_ms: Option<i64>,
}

/// Why a grant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantEnd {
    /// A spent refresh token of its own was presented.
    TokenReused,
    /// A spent refresh token of another grant of the same client and user was presented.
    SiblingTokenReused,
    /// Its authorization code was presented twice.
    CodeReused,
    /// The client revoked it.
    RevokedByClient,
    /// The user took it back at the provider.
    RevokedByUser,
    /// Newer grants of the same client and user took its place.
    Displaced,
    /// Its life was over.
    Lapsed,
}

/// A grant that was made without a browser.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeededGrant {
    /// The grant's name.
    pub grant: String,
    /// The user.
    pub user: String,
    /// The access token.
    pub access_token: String,
    /// The refresh token, unless the client gets none.
    pub refresh_token: Option<String>,
    /// Life of the access token in seconds.
    pub expires_in: Option<u64>,
    /// What was granted.
    pub scopes: Vec<String>,
}

impl fmt::Debug for SeededGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeededGrant").field("grant", &self.grant).field("user", &self.user).finish_non_exhaustive()
    }
}

/// How far the whole provider is out of order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outage {
    /// It works.
    #[default]
    None,
    /// Every request is answered 503 and processed by nobody.
    Unavailable,
    /// Every connection is reset once a request has been read.
    Drop,
}
