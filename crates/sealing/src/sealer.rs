//! Sealing and opening with the data keys of this process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use valetkey_core::{Entropy, KeyWrapper, Secret, WrapError, constant_time_eq};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    DataKeyRow, DataKeyState, OpenError, RecordIdentity, SealError, UnlockError,
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
    /// Keys of the table that could not be unwrapped and that nothing is sealed with, with the reason.
    pub(crate) missing: BTreeMap<u32, String>,
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

    /// Whether a data key is here.
    pub fn has_key(&self, key_id: u32) -> bool {
        self.keys().by_id.contains_key(&key_id)
    }

    /// The highest id among the data keys that are here.
    pub fn newest_key(&self) -> u32 {
        self.keys().by_id.last_key_value().map_or(0, |(id, _)| *id)
    }

    /// Keys of the table that are not here, with the reason. Nothing is sealed with them.
    pub fn missing_keys(&self) -> BTreeMap<u32, String> {
        self.keys().missing.clone()
    }

    /// Whether the key table holds something that is not here yet.
    pub fn is_behind(&self, rows: &[DataKeyRow]) -> bool {
        let keys = self.keys();
        rows.iter().any(|row| {
            !keys.by_id.contains_key(&row.id) || (row.state == DataKeyState::Active && row.id != keys.active)
        })
    }

    /// Whether the data key that `record` names is here. What is no record is not said to lack one.
    pub fn can_open(&self, record: &[u8]) -> bool {
        seal::key_id(record).map_or(true, |key_id| self.has_key(key_id))
    }

    /// Wraps a data key once more, by another key-encryption key, and sees that it can be had back.
    pub async fn wrap_again(&self, key_id: u32, wrapper: &dyn KeyWrapper) -> Result<Vec<u8>, WrapError> {
        let key = self.keys().by_id.get(&key_id).map(Arc::clone).ok_or(WrapError::Refused)?;
        let context = data_key::context(&self.shared.instance, key_id);
        let row = wrapper.wrap(&context, &key).await?;
        let back = Zeroizing::new(wrapper.unwrap(&context, &row).await?);
        if constant_time_eq(back.as_slice(), key.as_slice()) { Ok(row) } else { Err(WrapError::Refused) }
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
