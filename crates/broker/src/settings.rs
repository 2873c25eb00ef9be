//! What an operator can set, with the defaults of DESIGN.md, section 11.

use std::time::Duration;

use url::Url;

/// How the broker behaves.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Where browsers reach Valetkey; redirect URIs and start links are built from this alone.
    pub public_url: Url,
    /// Limits.
    pub limits: Limits,
    /// Refreshing.
    pub refresh: RefreshSettings,
    /// How long things are kept.
    pub retention: Retention,
    /// The keys that everything is sealed under.
    pub keyring: KeyringSettings,
}

/// The keys that everything is sealed under.
#[derive(Debug, Clone)]
pub struct KeyringSettings {
    /// The age at which the active data key is replaced; `None` for never by itself.
    pub rotate_after: Option<Duration>,
}

impl Default for KeyringSettings {
    fn default() -> Self {
        Self { rotate_after: Some(Duration::from_secs(365 * DAY)) }
    }
}

/// Limits on flows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The life of a flow.
    pub flow_life: Duration,
    /// The life of a handle, at most.
    pub handle_life: Duration,
    /// Started flows per user and hour.
    pub starts_per_hour_and_user: u32,
    /// Started flows per user and minute.
    pub starts_per_minute_and_user: u32,
    /// Open flows per key.
    pub open_flows_per_caller: i64,
    /// Open flows per user.
    pub open_flows_per_user: i64,
    /// Open flows in all.
    pub open_flows_total: i64,
}

/// How tokens are refreshed.
#[derive(Debug, Clone)]
pub struct RefreshSettings {
    /// The least remaining life that a caller gets if it names none.
    pub default_min_ttl: Duration,
    /// How long a caller waits for a refresh.
    pub wait: Duration,
    /// Refreshes per second and connector.
    pub per_second_and_connector: u32,
    /// Refreshes at once in this process.
    pub concurrency: usize,
    /// After how long without a caller a connection is refreshed for its next caller only.
    pub dormant_after: Duration,
    /// The first pause after a failed refresh.
    pub first_backoff: Duration,
    /// The longest pause between tries.
    pub longest_backoff: Duration,
    /// How soon after one `rejected` another may start a refresh.
    pub rejected_interval: Duration,
}

/// How long things are kept once they are over.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Ended flows.
    pub flows: Duration,
    /// Revoked connections.
    pub revoked_connections: Duration,
    /// Connections that nobody uses and nothing can refresh.
    pub unused_connections: Duration,
    /// Settled attempts.
    pub attempts: Duration,
    /// Ended revocations.
    pub revocations: Duration,
    /// Audit events.
    pub audit: Duration,
}

const DAY: u64 = 86_400;

impl BrokerSettings {
    /// The defaults at a public address.
    pub fn at(public_url: Url) -> Self {
        Self {
            public_url,
            limits: Limits::default(),
            refresh: RefreshSettings::default(),
            retention: Retention::default(),
            keyring: KeyringSettings::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flow_life: Duration::from_secs(600),
            handle_life: Duration::from_secs(60),
            starts_per_hour_and_user: 100,
            starts_per_minute_and_user: 10,
            open_flows_per_caller: 10_000,
            open_flows_per_user: 20,
            open_flows_total: 100_000,
        }
    }
}

impl Default for RefreshSettings {
    fn default() -> Self {
        Self {
            default_min_ttl: Duration::from_secs(60),
            wait: Duration::from_secs(5),
            per_second_and_connector: 50,
            concurrency: 64,
            dormant_after: Duration::from_secs(7 * DAY),
            first_backoff: Duration::from_secs(2),
            longest_backoff: Duration::from_secs(900),
            rejected_interval: Duration::from_secs(60),
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            flows: Duration::from_secs(DAY),
            revoked_connections: Duration::from_secs(30 * DAY),
            unused_connections: Duration::from_secs(90 * DAY),
            attempts: Duration::from_secs(7 * DAY),
            revocations: Duration::from_secs(30 * DAY),
            audit: Duration::from_secs(400 * DAY),
        }
    }
}
