//! API keys: `vk_<id>_<secret>`, recognisable by scanners, stored as a hash.

use sha2::{Digest, Sha256};

use crate::{
    ConnectorId, Entropy, KeyId, Role, Secret, SpaceId, Timestamp, constant_time_eq,
    ids::{base32, parse_base32_16},
    sha256,
};

/// SHA-256 of a key's secret part.
pub type SecretHash = [u8; 32];

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id, the middle part of its text.
    pub id: KeyId,
    /// The space it belongs to.
    pub space: SpaceId,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// The connectors that it names; `None` for all of the space.
    pub connectors: Option<Vec<ConnectorId>>,
    /// The hash that a presented secret must have.
    pub secret_hash: SecretHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, if it does.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it opens anything at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }
}

/// A key as a caller presents it: its id and the hash of its secret.
#[derive(Debug, Clone)]
pub struct PresentedKey {
    /// The id part.
    pub id: KeyId,
    hash: SecretHash,
}

/// The length of the secret's 52 characters and of the checksum's 7.
const SECRET_LENGTH: usize = 52;
const CHECKSUM_LENGTH: usize = 7;

impl PresentedKey {
    /// Makes a new key: what its owner is shown once, and what is stored.
    pub fn generate(id: KeyId, entropy: &dyn Entropy) -> (Secret, SecretHash) {
        let secret = base32().encode(&entropy.bytes32());
        let id_text = base32().encode(id.as_bytes());
        let text = format!("vk_{id_text}_{secret}{}", checksum(&id_text, &secret));
        (Secret::from(text), sha256(secret.as_bytes()))
    }

    /// Reads `vk_<id>_<secret>`; `None` if the form or the checksum is off.
    pub fn parse(text: &str) -> Option<Self> {
        let (id_text, rest) = text.strip_prefix("vk_")?.split_once('_')?;
        if rest.len() != SECRET_LENGTH + CHECKSUM_LENGTH || !rest.is_ascii() {
            return None;
        }
        let (secret, sum) = rest.split_at(SECRET_LENGTH);
        if checksum(id_text, secret) != sum {
            return None;
        }
        let id = KeyId::from_bytes(parse_base32_16(id_text)?);
        Some(Self { id, hash: sha256(secret.as_bytes()) })
    }

    /// Whether the stored hash is this key's, in constant time. A miss compares against a dummy all the same.
    pub fn matches(&self, stored: Option<&SecretHash>) -> bool {
        const DUMMY: SecretHash = [0x5a; 32];
        let equal = constant_time_eq(&self.hash, stored.unwrap_or(&DUMMY));
        equal && stored.is_some()
    }
}

fn checksum(id_text: &str, secret: &str) -> String {
    let mut hasher = Sha256::new();
    for part in ["valetkey key ", id_text, " ", secret] {
        hasher.update(part.as_bytes());
    }
    base32().encode(&hasher.finalize()[..4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemEntropy;

    fn key() -> (KeyId, Secret, SecretHash) {
        let id = KeyId::new(Timestamp::from_millis(1), &SystemEntropy);
        let (text, hash) = PresentedKey::generate(id, &SystemEntropy);
        (id, text, hash)
    }

    #[test]
    fn a_generated_key_is_read_back_and_matches_its_hash() {
        let (id, text, hash) = key();
        let presented = PresentedKey::parse(text.expose()).unwrap();
        assert_eq!(presented.id, id);
        assert!(presented.matches(Some(&hash)));
        assert!(!presented.matches(None));
        assert!(!presented.matches(Some(&[0; 32])));
    }

    #[test]
    fn a_changed_character_breaks_the_checksum() {
        let (_, text, _) = key();
        for position in [5, 40, text.expose().len() - 1] {
            let mut bytes = text.expose().as_bytes().to_vec();
            bytes[position] = if bytes[position] == b'0' { b'1' } else { b'0' };
            assert!(PresentedKey::parse(std::str::from_utf8(&bytes).unwrap()).is_none(), "{position}");
        }
    }

    #[test]
    fn other_texts_are_not_keys() {
        for bad in ["", "vk_", "vk_a_b", "Bearer x", "vk__", "vk_é_é"] {
            assert!(PresentedKey::parse(bad).is_none(), "{bad}");
        }
    }
}
