//! Providers over the wire.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use valetkey_broker::ProviderSummary;

use super::Page;

/// A page of them.
pub(crate) type ProviderPage = Page<ProviderOut>;

/// A setting that a connector must or may supply.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProviderSetting)]
pub(crate) struct SettingOut {
    /// Its name.
    name: String,
    /// What it is.
    title: String,
    /// Whether a connector must supply it.
    required: bool,
    /// Its value where a connector supplies none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    default: Option<String>,
    /// Values that fit as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed: Vec<String>,
}

/// What the provider can be told of a revocation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProviderRevocation)]
pub(crate) struct RevocationSupportOut {
    /// Whether it can be told at all.
    supported: bool,
    /// How far it reaches: `token`, `grant` or `user_client`.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Option<String>)]
    reach: Value,
}

/// What a scope opens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScopeMeaning)]
pub(crate) struct ScopeOut {
    /// The scope.
    name: String,
    /// What it opens.
    means: String,
}

/// What people who choose a provider want to know of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Provider)]
pub(crate) struct ProviderOut {
    /// The name that connectors use.
    #[schema(example = "github")]
    name: String,
    /// What people call it.
    #[schema(example = "GitHub")]
    title: String,
    /// Its own documentation.
    docs: String,
    /// When the profile was last compared with that documentation.
    reviewed_on: String,
    /// What a connector must or may supply.
    settings: Vec<SettingOut>,
    /// How metadata is found.
    #[schema(value_type = String)]
    discovery: Value,
    /// The connector names issuer or endpoints.
    endpoints_from_connector: bool,
    /// The grants on offer.
    #[schema(value_type = Vec<String>)]
    grants: Value,
    /// The letter of the rotation class: N, S, G, X or W; `unknown` counts as W.
    rotation: &'static str,
    /// The letter once an answer has brought a new refresh token, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    rotation_when_rotating: Option<&'static str>,
    /// What the provider can be told of a revocation.
    revocation: RevocationSupportOut,
    /// Where users remove access themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    manual_url: Option<String>,
    /// PKCE is used.
    pkce: bool,
    /// What its scopes mean.
    scopes: Vec<ScopeOut>,
}

/// An enumeration of a lower room as its text.
fn text(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

impl From<ProviderSummary> for ProviderOut {
    fn from(summary: ProviderSummary) -> Self {
        Self {
            discovery: text(&summary.discovery),
            grants: text(&summary.grants),
            name: summary.name,
            title: summary.title,
            docs: summary.docs,
            reviewed_on: summary.reviewed_on,
            settings: summary
                .settings
                .into_iter()
                .map(|setting| SettingOut {
                    name: setting.name,
                    title: setting.title,
                    required: setting.required,
                    default: setting.default,
                    allowed: setting.allowed,
                })
                .collect(),
            endpoints_from_connector: summary.endpoints_from_connector,
            rotation: summary.rotation,
            rotation_when_rotating: summary.rotation_when_rotating,
            revocation: RevocationSupportOut {
                supported: summary.revocation.supported,
                reach: text(&summary.revocation.reach),
            },
            manual_url: summary.manual_url,
            pkce: summary.pkce,
            scopes: summary.scopes.into_iter().map(|scope| ScopeOut { name: scope.name, means: scope.means }).collect(),
        }
    }
}
