//! What unlocks the database: a key ring, made only where nothing was ever sealed.

use std::path::Path;

use valetkey_core::{Entropy, Timestamp};
use valetkey_sealing::{KeyRing, KeyRingError};
use valetkey_store::Unlock;

use crate::config::{KeyringConfig, read_secret_file};

/// Whether there may be something sealed already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    /// Surely not: a key ring that is not there is made.
    Nothing,
    /// There may be: a key ring that is not there refuses the start.
    Perhaps,
}

/// Why nothing could be unlocked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The key ring cannot be used.
    #[error(transparent)]
    KeyRing(#[from] KeyRingError),
    /// The key file cannot be used.
    #[error("keyring.key_file: {what}; {mend}")]
    KeyFile {
        /// What is wrong.
        what: String,
        /// What would be right.
        mend: &'static str,
    },
}

/// Reads the key ring, or makes it.
pub(crate) fn unlock(
    keyring: &KeyringConfig,
    sealed: Sealed,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Result<Unlock, UnlockError> {
    let ring = match keyring {
        KeyringConfig::Key(key) => KeyRing::from_base64(key)?,
        KeyringConfig::KeyFile(path) => {
            let key = read_secret_file(path).map_err(|(what, mend)| UnlockError::KeyFile { what, mend })?;
            KeyRing::from_base64(&key)?
        }
        KeyringConfig::File(path) if sealed == Sealed::Nothing && is_absent(path) => {
            let ring = KeyRing::create(path, entropy, now)?;
            tracing::info!("made a key ring at {}: back it up, apart from the database", path.display());
            ring
        }
        KeyringConfig::File(path) => KeyRing::load(path)?,
    };
    Ok(Unlock { instance: ring.instance_id().map(ToOwned::to_owned), wrappers: ring.wrappers() })
}

/// Whether nothing has this name; a link that leads nowhere is something.
fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
