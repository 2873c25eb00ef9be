//! What unlocks the database: key-encryption keys from a ring, a file, the environment or a transit service. A key ring is
//! made only where nothing was ever sealed.

use std::{path::Path, sync::Arc};

use valetkey_core::{Entropy, KeyWrapper, Timestamp};
use valetkey_providers::TransitError;
use valetkey_sealing::{KeyRing, KeyRingError};
use valetkey_store::Unlock;

use crate::config::{Config, KeyringConfig, read_secret_file};

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
    #[error("the key in {file} cannot be used: {what}; {mend}")]
    KeyFile {
        /// The file.
        file: String,
        /// What is wrong.
        what: String,
        /// What would be right.
        mend: &'static str,
    },
    /// The transit service cannot be spoken to.
    #[error(transparent)]
    Transit(#[from] TransitError),
}

/// Reads the key-encryption keys, or makes the key ring. Asks nothing of any service.
pub(crate) fn unlock(
    config: &Config,
    sealed: Sealed,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Result<Unlock, UnlockError> {
    let (instance, wrappers) = match &config.keyring {
        KeyringConfig::File(path) if sealed == Sealed::Nothing && is_absent(path) => {
            let ring = KeyRing::create(path, entropy, now)?;
            tracing::info!("made a key ring at {}: back it up, apart from the database", path.display());
            of_ring(&ring)
        }
        source => read(source)?,
    };
    let mut unlock = Unlock { instance, wrappers };
    add_previous(config, &mut unlock)?;
    Ok(unlock)
}

/// Adds the keys that only unwrap. Those of a ring that is the instance's speak for the instance too.
fn add_previous(config: &Config, unlock: &mut Unlock) -> Result<(), UnlockError> {
    for source in &config.previous_keys {
        let (instance, wrappers) = read(source)?;
        unlock.instance = unlock.instance.take().or(instance);
        for wrapper in wrappers {
            if unlock.wrappers.iter().all(|known| known.id() != wrapper.id()) {
                unlock.wrappers.push(wrapper);
            }
        }
    }
    Ok(())
}

/// The keys of the configuration with those of `ring` in place of the ones that wrap.
pub(crate) fn wrappers_with(config: &Config, ring: &KeyRing) -> Result<Vec<Arc<dyn KeyWrapper>>, UnlockError> {
    let (instance, wrappers) = of_ring(ring);
    let mut unlock = Unlock { instance, wrappers };
    add_previous(config, &mut unlock)?;
    Ok(unlock.wrappers)
}

type Read = (Option<String>, Vec<Arc<dyn KeyWrapper>>);

fn read(source: &KeyringConfig) -> Result<Read, UnlockError> {
    Ok(match source {
        KeyringConfig::Key(key) => of_ring(&KeyRing::from_base64(key)?),
        KeyringConfig::KeyFile(path) => {
            let file = path.display();
            let key = read_secret_file(path).map_err(|(what, mend)| UnlockError::KeyFile {
                file: file.to_string(),
                what,
                mend,
            })?;
            of_ring(&KeyRing::from_base64(&key)?)
        }
        KeyringConfig::File(path) => of_ring(&KeyRing::load(path)?),
        KeyringConfig::Transit(transit) => (None, vec![Arc::new(transit.wrapper()?)]),
    })
}

fn of_ring(ring: &KeyRing) -> Read {
    (ring.instance_id().map(ToOwned::to_owned), ring.wrappers())
}

/// Whether nothing has this name; a link that leads nowhere is something.
fn is_absent(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
