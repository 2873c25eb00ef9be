//! Keys over the wire; the key's text is shown once.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey_broker::{CreatedKey, NewKey};
use valetkey_core::{ApiKey, ConnectorId, KeyId, Role, Timestamp};

use super::Page;

/// A page of them.
pub(crate) type KeyPage = Page<KeyOut>;

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewKey)]
pub(crate) struct KeyIn {
    /// What people call it.
    #[schema(example = "workflow engine")]
    name: String,
    /// What it may do: of `connector`, `app`, `shared`, `operator`, `admin`.
    #[schema(value_type = Vec<String>, example = json!(["app"]))]
    roles: Vec<Role>,
    /// The only connectors that exist for it; all of the space if absent. The role `connector` needs at least one.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    connectors: Option<Vec<ConnectorId>>,
    /// When it ends, if it does.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

impl From<KeyIn> for NewKey {
    fn from(new: KeyIn) -> Self {
        Self { name: new.name, roles: new.roles, connectors: new.connectors, expires_at: new.expires_at }
    }
}

/// A key, without its text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyOut {
    /// Its id, the middle part of its text.
    #[schema(value_type = String, example = "key_06bc4jm2cg1hf0c9q2m8r5vk3o")]
    id: KeyId,
    /// What people call it.
    #[schema(example = "workflow engine")]
    name: String,
    /// What it may do.
    #[schema(value_type = Vec<String>, example = json!(["app"]))]
    roles: Vec<Role>,
    /// The only connectors that exist for it; null for all of the space.
    #[schema(value_type = Option<Vec<String>>, required)]
    connectors: Option<Vec<ConnectorId>>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it ends, if it does.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_used_at: Option<Timestamp>,
}

impl From<ApiKey> for KeyOut {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            roles: key.roles,
            connectors: key.connectors,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
        }
    }
}

/// A new key, with its text for this one time.
#[derive(Serialize, ToSchema)]
#[schema(as = CreatedKey)]
pub(crate) struct CreatedKeyOut {
    #[serde(flatten)]
    about: KeyOut,
    /// The text to present as `Authorization: Bearer`; never shown again.
    #[schema(example = "vk_06bc4jm2cg1hf0c9q2m8r5vk3o_…")]
    key: String,
}

impl From<CreatedKey> for CreatedKeyOut {
    fn from(created: CreatedKey) -> Self {
        Self { about: created.key.into(), key: created.text.into_exposed() }
    }
}
