//! What a proof tells a broker process, one line of JSON each.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use valetkey_core::{ConnectionId, ConnectorId, RotationClass};

/// What a broker process is started with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServeSettings {
    pub(crate) data_dir: PathBuf,
    /// Another engine than SQLite in the data directory.
    pub(crate) postgres: Option<String>,
    /// How far its clock is ahead of the machine's.
    pub(crate) offset_ms: u64,
    /// A file that says so instead, to all replicas at once; also to one that is frozen.
    pub(crate) clock_file: Option<PathBuf>,
    /// Whether the scheduled work runs by itself; otherwise it is ordered.
    pub(crate) jobs: bool,
}

/// What a broker process says once it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
}

/// An order. Each is answered by one line: the JSON that it asked for, or `{"error": …}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Moves the clock forward.
    Advance { ms: u64 },
    /// Makes a connector at the provider. Answers with its id.
    MakeConnector(NewClient),
    /// Makes a key of these roles. Answers with its text.
    MakeKey { roles: Vec<String>, connectors: Option<Vec<ConnectorId>> },
    /// Imports grants. Answers with the ids of their connections, in order.
    Import(Vec<NewGrant>),
    /// The process kills itself when one of these connections gets to a boundary for the time after `passes` times.
    Arm { boundary: String, connections: Vec<ConnectionId>, passes: u64 },
    /// The process freezes itself when this connection gets to a boundary for the first time after this.
    FreezeAt { boundary: String, connection: ConnectionId },
    /// Tells providers of revocations.
    Deliver,
    /// Refreshes everything that is due.
    Refresh,
    /// Decides about attempts of dead processes.
    Recover,
}

/// A client at the provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewClient {
    pub(crate) provider: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: String,
    pub(crate) rotation: RotationClass,
}

/// A grant to import.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NewGrant {
    pub(crate) connector: ConnectorId,
    pub(crate) user: String,
    pub(crate) label: String,
    pub(crate) access_token: String,
    pub(crate) refresh_token: Option<String>,
    pub(crate) expires_at_ms: Option<i64>,
}
