//! What the sandbox as a whole can be told, at start and while it runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::client::ClientSettings;

/// Settings of the whole sandbox; every field has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxSettings {
    /// The port on 127.0.0.1; 0 takes a free one. Read at start only.
    pub port: u16,
    /// Where the clock starts, in milliseconds since the epoch; `None` is now. Read at start only.
    pub start_at_ms: Option<i64>,
    /// The clock stands still unless it is moved. Read at start only.
    pub frozen_clock: bool,
    /// The registered clients. Read at start only: later through the control.
    pub clients: Vec<ClientSettings>,
    /// The issuer that metadata, answers and ID tokens name; `None` is the base URL.
    pub issuer: Option<String>,
    /// The accounts that the consent page offers.
    pub accounts: Vec<Account>,
    /// Redirects at once, without a page; `login_hint=deny` then denies.
    pub auto_consent: bool,
    /// In automatic mode an unknown `login_hint` is an account of its own, not the first listed one.
    pub any_account: bool,
    /// The authorization endpoint's behaviour.
    pub authorize: AuthorizeSettings,
    /// What the metadata documents say.
    pub discovery: DiscoverySettings,
    /// What the ledger keeps.
    pub ledger: LedgerSettings,
}

/// A user of the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// The subject, and what `login_hint` names.
    pub id: String,
    /// What the consent page shows.
    pub name: String,
}

/// The authorization endpoint's behaviour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizeSettings {
    /// The `iss` parameter of the answer (RFC 9207).
    pub iss: IssParameter,
    /// Answers every request with this error code instead of consent.
    pub error: Option<String>,
    /// The `error_description` beside any error.
    pub error_description: Option<String>,
    /// Leaves `state` out of the answer.
    pub omit_state: bool,
    /// Answers with another `state`.
    pub wrong_state: bool,
    /// Names of answer parameters that are sent twice.
    pub doubled: Vec<String>,
    /// Further answer parameters.
    pub extra: BTreeMap<String, String>,
    /// Milliseconds of real time to wait before the page or the redirect.
    pub delay_ms: u64,
    /// The page's cross-origin opener policy.
    pub coop: Coop,
}

/// The `iss` parameter of an authorization answer (RFC 9207).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IssParameter {
    /// The issuer.
    #[default]
    Correct,
    /// Not sent.
    Absent,
    /// This value.
    Other(String),
}

/// A `Cross-Origin-Opener-Policy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coop {
    /// No header.
    #[default]
    None,
    /// Cuts every opener of another origin.
    SameOrigin,
    /// Keeps popups that the page itself opens, and cuts its own opener.
    SameOriginAllowPopups,
}

impl Coop {
    pub(crate) fn header(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::SameOrigin => Some("same-origin"),
            Self::SameOriginAllowPopups => Some("same-origin-allow-popups"),
        }
    }
}

/// What the metadata documents say (OpenID Connect Discovery 1.0, RFC 8414).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverySettings {
    /// Promises the `iss` parameter (RFC 9207, section 3).
    pub advertise_iss: bool,
    /// Whether `/.well-known/openid-configuration` exists.
    pub openid: bool,
    /// Whether `/.well-known/oauth-authorization-server` exists.
    pub oauth: bool,
    /// Another `issuer` than the one used everywhere else.
    pub issuer: Option<String>,
    /// Members that are left out.
    pub omit: Vec<String>,
    /// Members that are added or replaced.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// What the ledger keeps. Counters are always kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerSettings {
    /// Every event.
    #[default]
    Full,
    /// The newest events.
    Capped {
        /// How many.
        events: usize,
    },
    /// No events.
    Off,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            advertise_iss: true,
            openid: true,
            oauth: true,
            issuer: None,
            omit: Vec::new(),
            extra: serde_json::Map::new(),
        }
    }
}

impl Default for SandboxSettings {
    fn default() -> Self {
        let account = |id: &str, name: &str| Account { id: id.to_owned(), name: name.to_owned() };
        Self {
            port: 0,
            start_at_ms: None,
            frozen_clock: false,
            clients: vec![ClientSettings::default()],
            issuer: None,
            accounts: vec![account("user-a", "User A"), account("user-b", "User B")],
            auto_consent: false,
            any_account: false,
            authorize: AuthorizeSettings::default(),
            discovery: DiscoverySettings::default(),
            ledger: LedgerSettings::default(),
        }
    }
}

impl SandboxSettings {
    /// The default settings without a consent page: what most tests want.
    pub fn automatic() -> Self {
        Self { auto_consent: true, ..Self::default() }
    }

    /// The same settings with this one client.
    #[must_use]
    pub fn client(mut self, client: ClientSettings) -> Self {
        self.clients = vec![client];
        self
    }
}
