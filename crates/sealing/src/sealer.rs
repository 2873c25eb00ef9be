//! Sealing and opening with the data keys of this process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use valetkey_core::{Entropy, KeyWrapper, Secret};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    DataKeyRow, OpenError, RecordIdentity, SealError, UnlockError,
    associated::Domain,
    data_key,
    seal::{self, RootKey},
};

/// Seals and opens secrets; clones share their keys.
///
/// The key is chosen by the id in the record alone: there is no trial decryption and no plaintext fallback.
#[derive(Clone)]
pub struct Sealer {
    shared: Arc<Shared>,
}

struct Shared {
    instance: String,
    entropy: Arc<dyn Entropy>,
    // Replaced as a whole, so a reader holds the lock for the copy of one pointer.
    keys: RwLock<Arc<Keys>>,
}

/// The data keys, unwrapped.
pub(crate) struct Keys {
    pub(crate) active: u32,
    pub(crate) by_id: BTreeMap<u32, Arc<RootKey>>,
}

impl Sealer {
    /// Unwraps the data keys of the key table and opens the canary of each.
    ///
    /// One that cannot be had refuses the whole: records that are sealed with it could not be opened.
    pub async fn unlock(
        instance: &str,
        rows: &[DataKeyRow],
        wrappers: &[Arc<dyn KeyWrapper>],
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, UnlockError> {
        let keys = data_key::unlock(instance, rows, wrappers, None).await?;
        Ok(Self {
            shared: Arc::new(Shared { instance: instance.to_owned(), entropy, keys: RwLock::new(Arc::new(keys)) }),
        })
    }

    /// Takes over the key table as it is now, in all clones; unwraps only what is new.
    ///
    /// After an error everything is as it was.
    pub async fn reload(&self, rows: &[DataKeyRow], wrappers: &[Arc<dyn KeyWrapper>]) -> Result<(), UnlockError> {
        let known = self.keys();
        let keys = data_key::unlock(&self.shared.instance, rows, wrappers, Some(&known)).await?;
        *self.shared.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// The data key that seals.
    pub fn active_key(&self) -> u32 {
        self.keys().active
    }

    /// Seals `plaintext` for the place that `identity` names; [`OVERHEAD`](crate::OVERHEAD) bytes longer.
    pub fn seal(&self, identity: &RecordIdentity<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let keys = self.keys();
        let key = keys.by_id.get(&keys.active).ok_or(SealError::Cipher)?;
        let salt = self.shared.entropy.bytes32();
        identity.with_parts(&self.shared.instance, |parts| {
            seal::seal(Domain::Record, (keys.active, key), &salt, parts, plaintext)
        })
    }

    /// Opens a record that was sealed for the place that `identity` names.
    pub fn open(&self, identity: &RecordIdentity<'_>, record: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let key_id = seal::key_id(record)?;
        let keys = self.keys();
        let key = keys.by_id.get(&key_id).ok_or(OpenError::UnknownKey { key_id })?;
        identity.with_parts(&self.shared.instance, |parts| seal::open(Domain::Record, key, parts, record))
    }

    /// Seals a secret.
    pub fn seal_secret(&self, identity: &RecordIdentity<'_>, secret: &Secret) -> Result<Vec<u8>, SealError> {
        self.seal(identity, secret.expose().as_bytes())
    }

    /// Opens what [`Sealer::seal_secret`] made, without leaving a copy.
    pub fn open_secret(&self, identity: &RecordIdentity<'_>, record: &[u8]) -> Result<Secret, OpenError> {
        let mut plaintext = self.open(identity, record)?;
        match String::from_utf8(std::mem::take(&mut *plaintext)) {
            Ok(text) => Ok(Secret::from(text)),
            Err(error) => {
                error.into_bytes().zeroize();
                Err(OpenError::NotText)
            }
        }
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.shared.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys();
        f.debug_struct("Sealer")
            .field("instance", &self.shared.instance)
            .field("active", &keys.active)
            .field("keys", &keys.by_id.keys())
            .finish_non_exhaustive()
    }
}
