//! Connectors over the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey_broker::{ConnectorPatch, NewConnector};
use valetkey_core::{AuthMode, Binding, Connector, ConnectorId, Endpoints, Grant, RotationClass, Secret, Timestamp};

use super::Page;
use crate::extract::{object, optional_object};

/// A page of them.
pub(crate) type ConnectorPage = Page<ConnectorOut>;

/// Whose grants a connector holds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AuthMode)]
pub(crate) enum AuthModeWire {
    /// One grant for everybody.
    Shared,
    /// One grant per user.
    PerUser,
}

/// The OAuth grant type.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Grant)]
pub(crate) enum GrantWire {
    /// A user authorizes in a browser.
    #[default]
    AuthorizationCode,
    /// The client itself; shared connectors only.
    ClientCredentials,
}

/// How a flow is bound to the user who started it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Binding)]
pub(crate) enum BindingWire {
    /// The application's backend vouches for its user.
    #[default]
    Finish,
    /// A page asks the person at the browser; recorded as weakly bound.
    ConfirmPage,
}

/// What a provider does with a refresh token that was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RotationClass)]
pub(crate) enum RotationClassWire {
    /// It does not change.
    NonRotating,
    /// The old one stays valid, for good or until its successor is used.
    Soft,
    /// The old one stays valid for `grace_seconds`.
    Grace,
    /// A spent one ends its own grant.
    Strict,
    /// A spent one ends sibling grants as well.
    StrictWide,
}

/// What the operator says of rotation, where it depends on settings at the provider.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "RotationRead")]
#[schema(as = Rotation)]
pub(crate) struct RotationWire {
    /// The class.
    class: RotationClassWire,
    /// The grace, with class `grace` and no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_seconds: Option<u32>,
}

/// A rotation as it was read, unchecked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotationRead {
    class: RotationClassWire,
    #[serde(default)]
    grace_seconds: Option<u32>,
}

impl TryFrom<RotationRead> for RotationWire {
    type Error = &'static str;

    fn try_from(read: RotationRead) -> Result<Self, Self::Error> {
        match (read.class, read.grace_seconds) {
            (RotationClassWire::Grace, None | Some(0)) => Err("class grace needs grace_seconds"),
            (RotationClassWire::Grace, Some(_)) | (_, None) => {
                Ok(Self { class: read.class, grace_seconds: read.grace_seconds })
            }
            (_, Some(_)) => Err("grace_seconds goes with class grace"),
        }
    }
}

/// Endpoints given by the operator.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Endpoints)]
pub(crate) struct EndpointsWire {
    /// Authorization endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<String>,
    /// Token endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Revocation endpoint (RFC 7009).
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<String>,
    /// Userinfo endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    userinfo: Option<String>,
}

/// A connector to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewConnector)]
pub(crate) struct ConnectorIn {
    /// What people call it.
    #[schema(example = "GitHub")]
    name: String,
    /// The name of the provider's profile.
    #[schema(example = "github")]
    provider: String,
    /// Whose grants it holds.
    auth_mode: AuthModeWire,
    /// The grant type; `authorization_code` if absent.
    #[serde(default)]
    grant: GrantWire,
    /// The client id at the provider.
    #[schema(example = "the-client-id")]
    client_id: String,
    /// The client secrets, tried in order, so that one can be rolled over. Never shown again.
    #[serde(default)]
    #[schema(value_type = Vec<String>, write_only, example = json!(["the-client-secret"]))]
    client_secrets: Vec<Secret>,
    /// Scopes asked for in each flow.
    #[serde(default)]
    #[schema(example = json!(["repo"]))]
    scopes: Vec<String>,
    /// Scopes that a flow may ask for in addition.
    #[serde(default)]
    optional_scopes: Vec<String>,
    /// Values for the profile's placeholders.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// The issuer, for provider `oidc`: endpoints by discovery.
    #[serde(default)]
    issuer: Option<String>,
    /// Endpoints, for provider `oauth2` or to add what discovery lacks.
    #[serde(default, deserialize_with = "object")]
    endpoints: EndpointsWire,
    /// The rotation class, where it depends on settings at the provider.
    #[serde(default, deserialize_with = "optional_object")]
    rotation: Option<RotationWire>,
    /// How flows are bound; `finish` if absent.
    #[serde(default)]
    binding: BindingWire,
    /// Where browsers may be sent back to; exact matches.
    #[serde(default)]
    #[schema(example = json!(["https://app.example/connected"]))]
    return_urls: Vec<String>,
    /// Origins that may open a popup; exact matches.
    #[serde(default)]
    #[schema(example = json!(["https://app.example"]))]
    origins: Vec<String>,
}

/// An edit; absent fields stay as they are. What the connector is cannot change once a flow or connection exists.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ConnectorPatch)]
pub(crate) struct ConnectorPatchIn {
    /// The version that the editor saw: the edit is refused if there is a newer one.
    version: Option<i64>,
    /// What people call it.
    name: Option<String>,
    /// Fixed once a flow or connection exists.
    provider: Option<String>,
    /// Fixed once a flow or connection exists.
    auth_mode: Option<AuthModeWire>,
    /// Fixed once a flow or connection exists.
    grant: Option<GrantWire>,
    /// Fixed once a flow or connection exists.
    client_id: Option<String>,
    /// Replaces the whole list.
    #[schema(value_type = Option<Vec<String>>, write_only)]
    client_secrets: Option<Vec<Secret>>,
    /// Scopes asked for in each flow.
    scopes: Option<Vec<String>>,
    /// Scopes that a flow may ask for in addition.
    optional_scopes: Option<Vec<String>>,
    /// Fixed once a flow or connection exists.
    settings: Option<BTreeMap<String, String>>,
    /// Fixed once a flow or connection exists.
    issuer: Option<String>,
    /// Fixed once a flow or connection exists.
    #[serde(default, deserialize_with = "optional_object")]
    endpoints: Option<EndpointsWire>,
    /// The rotation class.
    #[serde(default, deserialize_with = "optional_object")]
    rotation: Option<RotationWire>,
    /// How flows are bound.
    binding: Option<BindingWire>,
    /// Where browsers may be sent back to.
    return_urls: Option<Vec<String>>,
    /// Origins that may open a popup.
    origins: Option<Vec<String>>,
}

/// A connector, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connector)]
pub(crate) struct ConnectorOut {
    /// Its id.
    #[schema(value_type = String, example = "ctr_06bc4jn7tg1hf0c9q2m8r5vk3o")]
    id: ConnectorId,
    /// What people call it.
    #[schema(example = "GitHub")]
    name: String,
    /// The name of the provider's profile.
    #[schema(example = "github")]
    provider: String,
    /// Whose grants it holds.
    auth_mode: AuthModeWire,
    /// The grant type.
    grant: GrantWire,
    /// The client id at the provider.
    client_id: String,
    /// How many client secrets are stored.
    client_secret_count: usize,
    /// Scopes asked for in each flow.
    scopes: Vec<String>,
    /// Scopes that a flow may ask for in addition.
    optional_scopes: Vec<String>,
    /// Values for the profile's placeholders.
    settings: BTreeMap<String, String>,
    /// The issuer.
    #[schema(required)]
    issuer: Option<String>,
    /// Endpoints given by the operator.
    endpoints: EndpointsWire,
    /// The rotation class, if the operator states one.
    #[schema(required)]
    rotation: Option<RotationWire>,
    /// How flows are bound.
    binding: BindingWire,
    /// Where browsers may be sent back to.
    return_urls: Vec<String>,
    /// Origins that may open a popup.
    origins: Vec<String>,
    /// The redirect URI to register at the provider.
    #[schema(example = "https://connect.example/oauth/callback/ctr_06bc4jn7tg1hf0c9q2m8r5vk3o")]
    redirect_uri: String,
    /// +1 for each edit.
    version: i64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last edited.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// A connector that is gone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeletedConnector)]
pub(crate) struct DeletedConnectorOut {
    /// Connections that were live, and are revoked now; their providers are being told.
    pub(crate) connections_revoked: u64,
}

impl ConnectorOut {
    /// Its id.
    pub(crate) fn id(&self) -> ConnectorId {
        self.id
    }

    /// A connector and the redirect URI to register for it.
    pub(crate) fn of(connector: Connector, redirect_uri: String) -> Self {
        Self {
            id: connector.id,
            name: connector.name,
            provider: connector.provider,
            auth_mode: connector.auth_mode.into(),
            grant: connector.grant.into(),
            client_id: connector.client_id,
            client_secret_count: connector.secret_count,
            scopes: connector.scopes,
            optional_scopes: connector.optional_scopes,
            settings: connector.settings,
            issuer: connector.issuer,
            endpoints: connector.endpoints.into(),
            rotation: connector.rotation.map(RotationWire::from),
            binding: connector.binding.into(),
            return_urls: connector.return_urls,
            origins: connector.origins,
            redirect_uri,
            version: connector.version,
            created_at: connector.created_at,
            updated_at: connector.updated_at,
        }
    }
}

impl From<ConnectorIn> for NewConnector {
    fn from(new: ConnectorIn) -> Self {
        Self {
            name: new.name,
            provider: new.provider,
            auth_mode: new.auth_mode.into(),
            grant: new.grant.into(),
            client_id: new.client_id,
            client_secrets: new.client_secrets,
            scopes: new.scopes,
            optional_scopes: new.optional_scopes,
            settings: new.settings,
            issuer: new.issuer,
            endpoints: new.endpoints.into(),
            rotation: new.rotation.map(RotationClass::from),
            binding: new.binding.into(),
            return_urls: new.return_urls,
            origins: new.origins,
        }
    }
}

impl From<ConnectorPatchIn> for ConnectorPatch {
    fn from(patch: ConnectorPatchIn) -> Self {
        Self {
            version: patch.version,
            name: patch.name,
            provider: patch.provider,
            auth_mode: patch.auth_mode.map(AuthMode::from),
            grant: patch.grant.map(Grant::from),
            client_id: patch.client_id,
            client_secrets: patch.client_secrets,
            scopes: patch.scopes,
            optional_scopes: patch.optional_scopes,
            settings: patch.settings,
            issuer: patch.issuer,
            endpoints: patch.endpoints.map(Endpoints::from),
            rotation: patch.rotation.map(RotationClass::from),
            binding: patch.binding.map(Binding::from),
            return_urls: patch.return_urls,
            origins: patch.origins,
        }
    }
}

/// Both ways between two enumerations of the same variants: a new one does not compile until it is on both sides.
macro_rules! mirror {
    ($wire:ident, $domain:ident: $($variant:ident),+) => {
        impl From<$wire> for $domain {
            fn from(value: $wire) -> Self {
                match value { $($wire::$variant => Self::$variant),+ }
            }
        }

        impl From<$domain> for $wire {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => Self::$variant),+ }
            }
        }
    };
}

mirror!(AuthModeWire, AuthMode: Shared, PerUser);
mirror!(GrantWire, Grant: AuthorizationCode, ClientCredentials);
mirror!(BindingWire, Binding: Finish, ConfirmPage);

impl From<EndpointsWire> for Endpoints {
    fn from(wire: EndpointsWire) -> Self {
        Self {
            authorization: wire.authorization,
            token: wire.token,
            revocation: wire.revocation,
            userinfo: wire.userinfo,
        }
    }
}

impl From<Endpoints> for EndpointsWire {
    fn from(endpoints: Endpoints) -> Self {
        Self {
            authorization: endpoints.authorization,
            token: endpoints.token,
            revocation: endpoints.revocation,
            userinfo: endpoints.userinfo,
        }
    }
}

impl From<RotationWire> for RotationClass {
    /// A grace always has its length: [`RotationRead`] is checked.
    fn from(wire: RotationWire) -> Self {
        match wire.class {
            RotationClassWire::NonRotating => Self::NonRotating,
            RotationClassWire::Soft => Self::Soft,
            RotationClassWire::Grace => Self::Grace { seconds: wire.grace_seconds.unwrap_or(0) },
            RotationClassWire::Strict => Self::Strict,
            RotationClassWire::StrictWide => Self::StrictWide,
        }
    }
}

impl From<RotationClass> for RotationWire {
    fn from(class: RotationClass) -> Self {
        let (class, grace_seconds) = match class {
            RotationClass::NonRotating => (RotationClassWire::NonRotating, None),
            RotationClass::Soft => (RotationClassWire::Soft, None),
            RotationClass::Grace { seconds } => (RotationClassWire::Grace, Some(seconds)),
            RotationClass::Strict => (RotationClassWire::Strict, None),
            RotationClass::StrictWide => (RotationClassWire::StrictWide, None),
        };
        Self { class, grace_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_class_survives_the_wire() {
        for class in [
            RotationClass::NonRotating,
            RotationClass::Soft,
            RotationClass::Grace { seconds: 30 },
            RotationClass::Strict,
            RotationClass::StrictWide,
        ] {
            let text = serde_json::to_string(&RotationWire::from(class)).expect("json");
            let read: RotationWire = serde_json::from_str(&text).expect("read");
            assert_eq!(RotationClass::from(read), class, "{text}");
        }
    }

    #[test]
    fn a_grace_has_a_length_and_nothing_else_has() {
        for bad in [r#"{"class":"grace"}"#, r#"{"class":"strict","grace_seconds":3}"#, r#"{"class":"grace","x":3}"#] {
            assert!(serde_json::from_str::<RotationWire>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_connector_needs_little_and_refuses_what_it_does_not_know() {
        let least = r#"{"name":"n","provider":"github","auth_mode":"per_user","client_id":"c"}"#;
        let new: ConnectorIn = serde_json::from_str(least).expect("read");
        let new = NewConnector::from(new);
        assert_eq!((new.grant, new.binding), (Grant::AuthorizationCode, Binding::Finish));
        let unknown = r#"{"name":"n","provider":"github","auth_mode":"per_user","client_id":"c","client_secret":"s"}"#;
        assert!(serde_json::from_str::<ConnectorIn>(unknown).is_err());
    }
}
