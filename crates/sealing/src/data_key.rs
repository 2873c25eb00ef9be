//! Data keys: made once, kept wrapped in a table, unwrapped when a process starts.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use valetkey_core::{Entropy, KeyWrapper, Timestamp, WrapContext, WrapError};
use zeroize::Zeroizing;

use crate::{
    OVERHEAD, OpenError,
    associated::Domain,
    seal::{self, RootKey},
    sealer::Keys,
};

/// What a key may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKeyState {
    /// Seals and opens; there is exactly one.
    Active,
    /// Opens what it sealed before.
    DecryptOnly,
    /// Made, and not used before every replica holds it.
    Pending,
    /// Nothing is left that it sealed. Kept, because a row of an old backup may still name it.
    Retired,
}

/// A text that names no state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a data key is `active`, `decrypt_only`, `pending` or `retired`")]
pub struct UnknownState;

impl DataKeyState {
    /// The text in the database and in the key ring.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt_only",
            Self::Pending => "pending",
            Self::Retired => "retired",
        }
    }

    /// Whether something may be sealed with a key in this state, so that nothing works without it.
    pub fn is_needed(self) -> bool {
        matches!(self, Self::Active | Self::DecryptOnly)
    }
}

impl FromStr for DataKeyState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        match text {
            "active" => Ok(Self::Active),
            "decrypt_only" => Ok(Self::DecryptOnly),
            "pending" => Ok(Self::Pending),
            "retired" => Ok(Self::Retired),
            _ => Err(UnknownState),
        }
    }
}

/// A data key as the key table keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKeyRow {
    /// The id that records name.
    pub id: u32,
    /// What it may still do.
    pub state: DataKeyState,
    /// Which key-encryption key wrapped it.
    pub wrapper: String,
    /// The wrapped key.
    pub wrapped: Vec<u8>,
    /// The instance it was made for, and an empty record that only the right key opens.
    pub canary: Vec<u8>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl fmt::Debug for DataKeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKeyRow")
            .field("id", &self.id)
            .field("state", &self.state)
            .field("wrapper", &self.wrapper)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}

/// Why the data keys could not be had. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// No key may seal.
    #[error("the key table has no active data key; restore the table from the backup that the other tables come from")]
    NoActiveKey,
    /// Two keys may seal.
    #[error("the key table has two active data keys, {first} and {second}; set the older one to `decrypt_only`")]
    SeveralActiveKeys {
        /// One of them.
        first: u32,
        /// Another.
        second: u32,
    },
    /// Two rows have one id.
    #[error("the key table has data key {key_id} twice; restore it from the backup")]
    DuplicateKey {
        /// The id.
        key_id: u32,
    },
    /// The key-encryption key is not here.
    #[error(
        "data key {key_id} is wrapped by the key-encryption key `{wrapper}`, which is not here (there is: {present}); \
         bring back the key ring or the key setting that this database was used with"
    )]
    UnknownWrapper {
        /// The data key.
        key_id: u32,
        /// What wrapped it.
        wrapper: String,
        /// What we have instead.
        present: String,
    },
    /// The key-encryption key is at a service that does not answer.
    #[error("data key {key_id} cannot be unwrapped now; start again when the key service answers")]
    Unavailable {
        /// The data key.
        key_id: u32,
        /// What the wrapper said.
        #[source]
        source: WrapError,
    },
    /// The database belongs to another instance than the key ring.
    #[error(
        "data key {key_id} was made for instance `{found}`, and this is instance `{expected}`; \
         use the key ring and the database of one instance together"
    )]
    ForeignInstance {
        /// The data key.
        key_id: u32,
        /// The instance in the key table.
        found: String,
        /// The instance that starts.
        expected: String,
    },
    /// The wrapped key does not open, though its key-encryption key is here.
    #[error(
        "data key {key_id} does not open with the key-encryption key `{wrapper}`: its row in the key table is damaged; \
         restore the row from a backup"
    )]
    Damaged {
        /// The data key.
        key_id: u32,
        /// What wrapped it.
        wrapper: String,
        /// What the wrapper said.
        #[source]
        source: WrapError,
    },
    /// The wrapper gave a key, and it is not the one that was made.
    #[error(
        "data key {key_id} was unwrapped, but its canary does not open: its row in the key table is damaged; \
         restore the row from a backup"
    )]
    Canary {
        /// The data key.
        key_id: u32,
        /// Why the canary did not open.
        #[source]
        source: OpenError,
    },
}

/// Makes an active data key, wrapped by `wrapper` and bound to `instance` and `id`.
///
/// An id is never used twice, and the row is stored before anything is sealed with it.
pub async fn new_data_key(
    instance: &str,
    id: u32,
    wrapper: &dyn KeyWrapper,
    entropy: &dyn Entropy,
    now: Timestamp,
) -> Result<DataKeyRow, WrapError> {
    let key = Zeroizing::new(entropy.bytes32());
    let parts: [&[u8]; 1] = [instance.as_bytes()];
    let record =
        seal::seal(Domain::Canary, (id, &key), &entropy.bytes32(), &parts, b"").map_err(|_| WrapError::Refused)?;
    Ok(DataKeyRow {
        id,
        state: DataKeyState::Active,
        wrapper: wrapper.id().to_owned(),
        wrapped: wrapper.wrap(&context(instance, id), &key).await?,
        canary: [instance.as_bytes(), &record].concat(),
        created_at: now,
    })
}

/// Unwraps and checks every row; keys that `known` has are taken from there. A key that nothing is sealed with may be
/// missing.
pub(crate) async fn unlock(
    instance: &str,
    rows: &[DataKeyRow],
    wrappers: &[Arc<dyn KeyWrapper>],
    known: Option<&Keys>,
) -> Result<Keys, UnlockError> {
    let mut active = None;
    let mut by_id = BTreeMap::new();
    let mut missing = BTreeMap::new();
    for row in rows {
        if row.state == DataKeyState::Active
            && let Some(first) = active.replace(row.id)
        {
            return Err(UnlockError::SeveralActiveKeys { first, second: row.id });
        }
        let key = match known.and_then(|keys| keys.by_id.get(&row.id)) {
            Some(key) => Arc::clone(key),
            None => match unlock_row(instance, row, wrappers).await {
                Ok(key) => Arc::new(key),
                Err(error) if !row.state.is_needed() => {
                    missing.insert(row.id, error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        if by_id.insert(row.id, key).is_some() {
            return Err(UnlockError::DuplicateKey { key_id: row.id });
        }
    }
    let active = active.ok_or(UnlockError::NoActiveKey)?;
    Ok(Keys { active, by_id, missing })
}

async fn unlock_row(
    instance: &str,
    row: &DataKeyRow,
    wrappers: &[Arc<dyn KeyWrapper>],
) -> Result<RootKey, UnlockError> {
    let key_id = row.id;
    let (made_for, canary) = row
        .canary
        .split_last_chunk::<OVERHEAD>()
        .ok_or(UnlockError::Canary { key_id, source: OpenError::Length { length: row.canary.len() } })?;
    // Said first, because a foreign instance would otherwise look like damage.
    if made_for != instance.as_bytes() {
        return Err(UnlockError::ForeignInstance {
            key_id,
            found: String::from_utf8_lossy(made_for).into_owned(),
            expected: instance.to_owned(),
        });
    }
    let wrapper = wrappers.iter().find(|wrapper| wrapper.id() == row.wrapper).ok_or_else(|| {
        let present: Vec<_> = wrappers.iter().map(|wrapper| wrapper.id()).collect();
        UnlockError::UnknownWrapper {
            key_id,
            wrapper: row.wrapper.clone(),
            present: if present.is_empty() { "none".to_owned() } else { present.join(", ") },
        }
    })?;
    let unwrapped = wrapper.unwrap(&context(instance, key_id), &row.wrapped).await;
    let key = Zeroizing::new(unwrapped.map_err(|source| match source {
        WrapError::Unavailable(_) => UnlockError::Unavailable { key_id, source },
        WrapError::Refused => UnlockError::Damaged { key_id, wrapper: row.wrapper.clone(), source },
    })?);
    let parts: [&[u8]; 1] = [instance.as_bytes()];
    seal::open(Domain::Canary, &key, &parts, canary).map_err(|source| UnlockError::Canary { key_id, source })?;
    Ok(key)
}

pub(crate) fn context(instance: &str, key_id: u32) -> WrapContext {
    WrapContext { instance: instance.to_owned(), key_id }
}
