//! The configuration: a file, variables that win over it, and rules that hold between settings.
//!
//! Reading it has no effect on anything, and gives either a [`Config`] or every fault at once.

mod fault;
mod keyring;
mod load;
mod raw;
mod reader;
mod rules;
mod sections;
mod setting;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net};
use url::Url;
use valetkey_broker::{KeyringSettings, Limits, RefreshSettings, Retention};
use valetkey_core::Secret;
use valetkey_providers::OutboundSettings;

pub use fault::{ConfigFault, ConfigFaults};
pub use keyring::{KeyringConfig, TransitConfig, TransitTokenConfig};
#[cfg(feature = "fuzzing")]
pub(crate) use load::load_text;
pub use load::{LoadedConfig, Sources};
pub use reader::{Origin, SettingInForce};
pub(crate) use sections::read_secret_file;

/// Everything an operator can set, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is that this process writes; absolute.
    pub data_dir: PathBuf,
    /// How the service is reached.
    pub server: ServerConfig,
    /// Where things are stored.
    pub database: DatabaseConfig,
    /// How many connections to PostgreSQL are opened.
    pub max_connections: u32,
    /// How many bytes of sealed rows are kept in memory, on SQLite.
    pub cache_bytes: u64,
    /// What unlocks the database.
    pub keyring: KeyringConfig,
    /// Keys that only unwrap, while one is changed for another.
    pub previous_keys: Vec<KeyringConfig>,
    /// When data keys are replaced.
    pub rotation: KeyringSettings,
    /// Exceptions to the outbound rule.
    pub outbound: OutboundSettings,
    /// A directory of provider profiles beside the embedded ones.
    pub providers_directory: Option<PathBuf>,
    /// Limits on flows.
    pub limits: Limits,
    /// Limits on calls, per process.
    pub calls: CallLimits,
    /// Whether this process runs the scheduled work; only tests that call it themselves say no.
    pub jobs: bool,
    /// How tokens are refreshed.
    pub refresh: RefreshSettings,
    /// How long things are kept.
    pub retention: Retention,
    /// What recognises a database that was restored.
    pub guard: GuardConfig,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// How the service is reached.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// The address of browsers and providers; `None` is `listen` over plain HTTP, on loopback only.
    pub public_url: Option<Url>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// A proxy in front speaks HTTPS.
    pub tls_terminated: bool,
}

/// Where things are stored.
#[derive(Debug, Clone)]
pub enum DatabaseConfig {
    /// One file, one process.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A server that replicas share.
    Postgres {
        /// `postgres://…`, with its password.
        url: Secret,
    },
}

impl DatabaseConfig {
    /// Whether it is SQLite, which only one process at a time may open.
    pub fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite { .. })
    }
}

/// Limits on calls, kept by each process for itself.
#[derive(Debug, Clone)]
pub struct CallLimits {
    /// Token calls per second and key.
    pub token_calls_per_second_and_key: u32,
    /// Callbacks per minute and address that fail the check of state or cookie.
    pub failing_callbacks_per_minute: u32,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self { token_calls_per_second_and_key: 1000, failing_callbacks_per_minute: 60 }
    }
}

/// What recognises a database that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardConfig {
    /// Where this process keeps its witness; `None` switches the guard off.
    pub witness_dir: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged, as `info` or `info,valetkey_broker=debug`.
    pub level: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// The file's name in the data directory.
pub(crate) const DATABASE_FILE: &str = "valetkey.db";
/// The file's name in the data directory.
pub(crate) const KEYRING_FILE: &str = "keyring.json";

const MIB: u64 = 1024 * 1024;

impl Config {
    /// SQLite in a directory, on a free port of 127.0.0.1, with providers on loopback allowed: for tests and
    /// demonstrations. Change what should differ.
    pub fn local(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        Self {
            server: ServerConfig {
                listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
                public_url: None,
                trusted_proxies: Vec::new(),
                tls_terminated: false,
            },
            database: DatabaseConfig::Sqlite { path: data_dir.join(DATABASE_FILE) },
            max_connections: 8,
            cache_bytes: 64 * MIB,
            keyring: KeyringConfig::File(data_dir.join(KEYRING_FILE)),
            previous_keys: Vec::new(),
            rotation: KeyringSettings::default(),
            outbound: OutboundSettings {
                allow_networks: vec![loopback.into()],
                allow_http_hosts: vec!["127.0.0.1".to_owned()],
                ca_files: Vec::new(),
            },
            providers_directory: None,
            limits: Limits::default(),
            calls: CallLimits::default(),
            jobs: true,
            refresh: RefreshSettings::default(),
            retention: Retention::default(),
            guard: GuardConfig { witness_dir: Some(data_dir.clone()) },
            log: LogConfig { format: LogFormat::Text, level: "info".to_owned() },
            data_dir,
        }
    }

    /// The same on PostgreSQL. `key` is what replicas share: base64 of 32 bytes.
    pub fn local_postgres(data_dir: impl Into<PathBuf>, url: impl Into<Secret>, key: impl Into<Secret>) -> Self {
        Self {
            database: DatabaseConfig::Postgres { url: url.into() },
            keyring: KeyringConfig::Key(key.into()),
            guard: GuardConfig { witness_dir: None },
            ..Self::local(data_dir)
        }
    }
}
