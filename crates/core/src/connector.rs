//! A connector: one OAuth client registration at one provider, in one space.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ConnectorId, RotationClass, SpaceId, Timestamp};

/// Whose grants a connector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// One grant for everybody.
    Shared,
    /// One grant per user.
    PerUser,
}

/// The OAuth grant type that a connector uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// Authorization code with PKCE and, where the provider gives one, a refresh token (RFC 6749, section 4.1).
    AuthorizationCode,
    /// Client credentials (RFC 6749, section 4.4): shared connectors only, no flows.
    ClientCredentials,
}

/// How a flow is bound to the user who started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// The application's backend vouches for its signed-in user before the code is redeemed.
    Finish,
    /// A page of ours asks the person at the browser; recorded as weakly bound.
    ConfirmPage,
}

/// Endpoints that the operator gives: whole for provider `oauth2`, or what discovery lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Endpoints {
    /// Authorization endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
    /// Token endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Revocation endpoint (RFC 7009).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<String>,
    /// Userinfo endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userinfo: Option<String>,
}

impl Endpoints {
    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the operator says of rotation where it depends on the provider's settings.
pub type RotationSetting = Option<RotationClass>;

/// What this connector's answers have shown about rotation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedRotation {
    /// A refresh brought a new refresh token at least once; never taken back.
    pub rotated: bool,
    /// Refreshes in a row that brought none.
    pub unrotated_in_a_row: i64,
}

/// One OAuth client registration. Its client secrets are kept apart, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Its id, part of its redirect URI.
    pub id: ConnectorId,
    /// The space it belongs to.
    pub space: SpaceId,
    /// What people call it.
    pub name: String,
    /// The name of the provider's profile.
    pub provider: String,
    /// Whose grants it holds.
    pub auth_mode: AuthMode,
    /// The grant type.
    pub grant: Grant,
    /// The client id at the provider.
    pub client_id: String,
    /// How many client secrets there are.
    pub secret_count: usize,
    /// Scopes asked for in each flow.
    pub scopes: Vec<String>,
    /// Scopes that a flow may ask for in addition.
    pub optional_scopes: Vec<String>,
    /// Values for the profile's placeholders.
    pub settings: BTreeMap<String, String>,
    /// The issuer, for discovery and for checking `iss`.
    pub issuer: Option<String>,
    /// Endpoints given by the operator.
    pub endpoints: Endpoints,
    /// The rotation class, if the operator states one.
    pub rotation: RotationSetting,
    /// What the answers have shown about rotation.
    pub observed_rotation: ObservedRotation,
    /// How flows are bound.
    pub binding: Binding,
    /// Where browsers may be sent back to; exact matches.
    pub return_urls: Vec<String>,
    /// Origins that may open a popup; exact matches.
    pub origins: Vec<String>,
    /// +1 for each edit.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last edited.
    pub updated_at: Timestamp,
    /// When it was deleted: absent to everyone, kept until its revocations are over.
    pub deleted_at: Option<Timestamp>,
}
