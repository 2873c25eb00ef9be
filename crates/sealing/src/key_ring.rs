//! The key ring: the key-encryption keys of one instance, outside its database.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use valetkey_core::{Entropy, KeyWrapper, Secret, Timestamp, constant_time_eq};
use zeroize::Zeroizing;

use crate::{
    KeyRingError, LocalKeyWrapper,
    ring_file::{create, read, replace},
};

const FORMAT: u32 = 1;

/// The key-encryption keys of one instance: from a file, or a single one from the configuration.
pub struct KeyRing {
    file: Option<RingFile>,
    active: Arc<LocalKeyWrapper>,
    others: Vec<Arc<LocalKeyWrapper>>,
}

struct RingFile {
    path: PathBuf,
    instance_id: String,
    epoch: u64,
}

/// The file, field for field. It is text that this module wrote and nobody edits: read back, it must give the same
/// bytes, so that no change stays unseen.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<'a> {
    format: u32,
    instance_id: &'a str,
    epoch: u64,
    #[serde(borrow)]
    keys: Vec<ContentKey<'a>>,
    /// HMAC-SHA-256 of this text with an empty `mac`, by a key derived from the active key.
    mac: &'a str,
}

/// What a key of the ring may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RingKeyState {
    /// Wraps and unwraps; there is exactly one.
    Active,
    /// Unwraps what it wrapped before.
    DecryptOnly,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentKey<'a> {
    id: &'a str,
    key: &'a str,
    state: RingKeyState,
    created_at: Timestamp,
}

/// What every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

impl KeyRing {
    /// Reads the file and checks all of it.
    pub fn load(path: &Path) -> Result<Self, KeyRingError> {
        Self::parse(path, &read(path)?)
    }

    /// Checks the text of the file at `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, KeyRingError> {
        let damaged = |detail: String| KeyRingError::Damaged { path: path.to_owned(), detail };
        let any: AnyFormat = serde_json::from_str(text).map_err(|error| damaged(without_content(&error)))?;
        if any.format != FORMAT {
            return Err(KeyRingError::UnknownFormat { path: path.to_owned(), format: any.format });
        }
        let content: Content<'_> = serde_json::from_str(text).map_err(|error| damaged(without_content(&error)))?;
        let (active, others) = wrappers(&content).map_err(|detail| damaged(detail.to_owned()))?;
        let file =
            RingFile { path: path.to_owned(), instance_id: content.instance_id.to_owned(), epoch: content.epoch };
        let written = to_text(&active, content).map_err(|error| damaged(without_content(&error)))?;
        if !constant_time_eq(&written, text.as_bytes()) {
            return Err(damaged("its content is not what was written".to_owned()));
        }
        Ok(Self { file: Some(file), active, others })
    }

    /// Makes a new instance id and a first key and writes them to `path`, which must not be there yet.
    pub fn create(path: &Path, entropy: &dyn Entropy, now: Timestamp) -> Result<Self, KeyRingError> {
        let key = Zeroizing::new(entropy.bytes32());
        let encoded = Zeroizing::new(BASE64.encode(key.as_slice()));
        let wrapper = LocalKeyWrapper::new(key);
        let instance_id = new_instance_id(entropy);
        let content = Content {
            format: FORMAT,
            instance_id: &instance_id,
            epoch: 0,
            keys: vec![ContentKey { id: wrapper.id(), key: &encoded, state: RingKeyState::Active, created_at: now }],
            mac: "",
        };
        let text = to_text(&wrapper, content)
            .map_err(|error| KeyRingError::Write { path: path.to_owned(), source: error.into() })?;
        create(path, &text, entropy)?;
        let file = RingFile { path: path.to_owned(), instance_id, epoch: 0 };
        Ok(Self { file: Some(file), active: Arc::new(wrapper), others: Vec::new() })
    }

    /// Adds a new key to the file at `path`, which from now on wraps; the others unwrap what they wrapped.
    ///
    /// The file changes as a whole or not at all. Each replica has a file of its own, and needs the new one before it
    /// starts again.
    pub fn add_key(path: &Path, entropy: &dyn Entropy, now: Timestamp) -> Result<Self, KeyRingError> {
        let key = Zeroizing::new(entropy.bytes32());
        let encoded = Zeroizing::new(BASE64.encode(key.as_slice()));
        let wrapper = LocalKeyWrapper::new(key);
        let added = ContentKey { id: wrapper.id(), key: &encoded, state: RingKeyState::Active, created_at: now };
        rewrite(path, entropy, Some(added), |_| true)
    }

    /// Takes out of the file at `path` the keys that only unwrap and that are not in `needed`.
    pub fn drop_keys(path: &Path, needed: &BTreeSet<String>, entropy: &dyn Entropy) -> Result<Self, KeyRingError> {
        rewrite(path, entropy, None, |id| needed.contains(id))
    }

    /// A ring of one key, in memory alone; the instance id is then the database's.
    pub fn from_key(key: Zeroizing<[u8; 32]>) -> Self {
        Self { file: None, active: Arc::new(LocalKeyWrapper::new(key)), others: Vec::new() }
    }

    /// A ring of one key that was given as base64 of 32 bytes; white space around it is ignored.
    pub fn from_base64(text: &Secret) -> Result<Self, KeyRingError> {
        decode_key(text.expose().trim()).map(Self::from_key).ok_or(KeyRingError::NotAKey)
    }

    /// The instance that the file belongs to; `None` without a file.
    pub fn instance_id(&self) -> Option<&str> {
        self.file.as_ref().map(|file| file.instance_id.as_str())
    }

    /// The highest epoch of the database that the file has noted; 0 without a file.
    pub fn epoch(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.epoch)
    }

    /// Refuses the key ring of another instance than the database's; without a file there is nothing to compare.
    pub fn check_instance(&self, database: &str) -> Result<(), KeyRingError> {
        match &self.file {
            Some(file) if file.instance_id != database => Err(KeyRingError::ForeignInstance {
                path: file.path.clone(),
                ring: file.instance_id.clone(),
                database: database.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Every key as a wrapper. The first is the active one, which wraps new data keys.
    pub fn wrappers(&self) -> Vec<Arc<dyn KeyWrapper>> {
        let all = std::iter::once(&self.active).chain(&self.others);
        all.map(|wrapper| Arc::clone(wrapper) as Arc<dyn KeyWrapper>).collect()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("path", &self.file.as_ref().map(|file| &file.path))
            .field("instance_id", &self.instance_id())
            .field("active", &self.active)
            .field("others", &self.others)
            .finish()
    }
}

/// 16 unpredictable bytes in hexadecimal.
pub fn new_instance_id(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    HEXLOWER.encode(&bytes)
}

/// Writes a ring in place of the one at `path` and reads it back: with one more key, which is then the active one, and
/// with those of the others that `keep` wants.
fn rewrite(
    path: &Path,
    entropy: &dyn Entropy,
    added: Option<ContentKey<'_>>,
    keep: impl Fn(&str) -> bool,
) -> Result<KeyRing, KeyRingError> {
    KeyRing::load(path)?;
    let text = read(path)?;
    let failed = |error: serde_json::Error| KeyRingError::Write { path: path.to_owned(), source: error.into() };
    let mut content: Content<'_> = serde_json::from_str(&text).map_err(failed)?;
    if let Some(added) = added {
        for key in &mut content.keys {
            key.state = RingKeyState::DecryptOnly;
        }
        content.keys.push(added);
    }
    content.keys.retain(|key| key.state == RingKeyState::Active || keep(key.id));
    let (active, _) = wrappers(&content)
        .map_err(|detail| KeyRingError::Damaged { path: path.to_owned(), detail: detail.to_owned() })?;
    let text = to_text(&active, content).map_err(failed)?;
    replace(path, &text, entropy)?;
    KeyRing::load(path)
}

/// The active key of a file and the others.
fn wrappers(content: &Content<'_>) -> Result<(Arc<LocalKeyWrapper>, Vec<Arc<LocalKeyWrapper>>), &'static str> {
    let mut active = None;
    let mut others: Vec<Arc<LocalKeyWrapper>> = Vec::new();
    let mut ids = BTreeSet::new();
    for key in &content.keys {
        let bytes = decode_key(key.key).ok_or("a key is not base64 of 32 bytes")?;
        let wrapper = Arc::new(LocalKeyWrapper::new(bytes));
        if wrapper.id() != key.id {
            return Err("a key does not belong to its id");
        }
        if !ids.insert(key.id) {
            return Err("a key is there twice");
        }
        match key.state {
            RingKeyState::DecryptOnly => others.push(wrapper),
            RingKeyState::Active if active.is_none() => active = Some(wrapper),
            RingKeyState::Active => return Err("two keys are active"),
        }
    }
    Ok((active.ok_or("no key is active")?, others))
}

fn decode_key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

/// The text of the file, with the `mac` that belongs to the rest of `content`.
fn to_text(active: &LocalKeyWrapper, content: Content<'_>) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let unsigned = Content { mac: "", ..content };
    let mac = active.derive(b"valetkey ring mac", &[&to_json(&unsigned)?]);
    to_json(&Content { mac: &HEXLOWER.encode(mac.as_slice()), ..unsigned })
}

fn to_json(content: &Content<'_>) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    // Room for all, because a vector that grows leaves a copy of the keys behind.
    let mut out = Zeroizing::new(Vec::with_capacity(1024 + 512 * content.keys.len()));
    serde_json::to_writer_pretty(&mut *out, content)?;
    out.push(b'\n');
    Ok(out)
}

/// What a parser says, less what it quotes: a damaged file may have a key where a name should be.
fn without_content(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let names_a_field = error.is_data()
        && ["unknown field `", "missing field `", "duplicate field `"].iter().any(|start| text.starts_with(start));
    if names_a_field { text } else { format!("it cannot be read at line {} column {}", error.line(), error.column()) }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// Loads a file of keys that are all one byte each.
    fn load(keys: &[(u8, RingKeyState)]) -> Result<KeyRing, KeyRingError> {
        let made: Vec<_> = keys
            .iter()
            .map(|(byte, _)| {
                let key = Zeroizing::new([*byte; 32]);
                (BASE64.encode(key.as_slice()), LocalKeyWrapper::new(key))
            })
            .collect();
        let content = Content {
            format: FORMAT,
            instance_id: "4f0c",
            epoch: 12,
            keys: made
                .iter()
                .zip(keys)
                .map(|((key, wrapper), (_, state))| ContentKey {
                    id: wrapper.id(),
                    key,
                    state: *state,
                    created_at: Timestamp::from_millis(0),
                })
                .collect(),
            mac: "",
        };
        let signer = keys.iter().position(|(_, state)| *state == RingKeyState::Active).unwrap_or(0);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        fs::write(&path, to_text(&made[signer].1, content).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        KeyRing::load(&path)
    }

    #[test]
    fn the_active_key_comes_first_wherever_it_stands() {
        use RingKeyState::{Active, DecryptOnly};

        let ring = load(&[(1, DecryptOnly), (2, Active), (3, DecryptOnly)]).unwrap();
        let ids: Vec<_> = ring.wrappers().iter().map(|wrapper| wrapper.id().to_owned()).collect();
        let expected = [2, 1, 3].map(|byte| {
            let wrapper = LocalKeyWrapper::new(Zeroizing::new([byte; 32]));
            wrapper.id().to_owned()
        });
        assert_eq!(ids, expected);
        assert_eq!(ring.epoch(), 12);
    }

    #[test]
    fn a_ring_with_two_active_keys_or_one_key_twice_is_refused() {
        use RingKeyState::{Active, DecryptOnly};

        for (keys, reason) in [
            (&[(1, Active), (2, Active)][..], "two keys are active"),
            (&[(1, Active), (1, DecryptOnly)], "a key is there twice"),
            (&[(1, DecryptOnly)], "no key is active"),
        ] {
            let text = load(keys).unwrap_err().to_string();
            assert!(text.contains(reason), "{text}");
        }
    }
}
