//! Why the service could not start.

use std::{fmt::Write, io, net::SocketAddr, path::PathBuf};

use valetkey_broker::BrokerError;
use valetkey_jobs::JobsError;
use valetkey_providers::{CatalogueError, OutboundError};
use valetkey_store::StoreError;

use crate::{data_dir::DataDirError, unlock::UnlockError, witness::WitnessError};

/// Why the service could not start. What was there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The key ring.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// The database's file.
    #[error("the database {path} cannot be opened; check that it belongs to the user that runs the service")]
    DatabaseFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database.
    #[error("the database cannot be used")]
    Database(#[from] StoreError),
    /// Provider profiles.
    #[error("providers.directory: some profiles cannot be used")]
    Catalogue(#[from] CatalogueError),
    /// The outbound rule.
    #[error("outbound: no provider can be reached like this")]
    Outbound(#[from] OutboundError),
    /// The address to listen at.
    #[error("cannot listen at {address}; is another server running there? server.listen takes another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The operator's socket.
    #[error("cannot listen at the socket {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The witness of the restore guard.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The restore guard could not raise the epoch.
    #[error("the restore guard cannot use the database")]
    Guard(#[source] BrokerError),
    /// The scheduled work.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// The threads of the scheduled work.
    #[error("the threads of the scheduled work do not start")]
    Background(#[source] io::Error),
    /// The address that was listened at makes no public one.
    #[error("http://{address} is no public address")]
    PublicUrl {
        /// Where the service listens.
        address: SocketAddr,
    },
}

impl StartError {
    /// Whether the same may work later: somebody else has what is needed, or does not answer.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::DataDir(error) => matches!(error, DataDirError::Held { .. }),
            Self::Database(error) => error.is_unavailable() || is_key_service_away(error),
            _ => false,
        }
    }
}

/// Whether a key service did not answer, which it may do later.
fn is_key_service_away(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unlock(valetkey_sealing::UnlockError::Unavailable { .. })
            | StoreError::Wrap(valetkey_core::WrapError::Unavailable(_))
    )
}

/// An error and its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}
