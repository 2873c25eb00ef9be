//! The record: how one secret looks where it is stored.
//!
//! | Offset | Length | Field |
//! |---|---|---|
//! | 0 | 1 | format, 1 |
//! | 1 | 1 | suite, 1: HKDF-SHA-256, AES-256-GCM, key commitment |
//! | 2 | 4 | data key id, big endian |
//! | 6 | 32 | salt, random for each record |
//! | 38 | 32 | commitment |
//! | 70 | n | ciphertext |
//! | 70 + n | 16 | tag |
//!
//! HKDF (RFC 5869) over data key, salt and domain gives each record a key, a nonce and a commitment of its own: no
//! nonce is ever drawn under a shared key, and a record opens under one data key only.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use valetkey_core::constant_time_eq;
use zeroize::Zeroizing;

use crate::associated::{Domain, associated_data};

const FORMAT: u8 = 1;
const SUITE: u8 = 1;
const KEY: usize = 32;
const NONCE: usize = 12;
const SALT: usize = 32;
const COMMITMENT: usize = 32;
const HEADER: usize = 6 + SALT + COMMITMENT;
const TAG: usize = 16;

/// What a record is longer than its plaintext, in bytes.
pub const OVERHEAD: usize = HEADER + TAG;

/// The longest plaintext, in bytes.
pub const PLAINTEXT_MAX: usize = 64 * 1024;

/// 32 bytes that other keys are derived from: a data key or a key-encryption key.
pub(crate) type RootKey = Zeroizing<[u8; KEY]>;

/// Why a secret could not be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The plaintext is longer than [`PLAINTEXT_MAX`].
    #[error("a secret of {length} bytes cannot be sealed: the limit is {PLAINTEXT_MAX}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The cipher failed, which it does not within that limit.
    #[error("the cipher refused to seal a secret")]
    Cipher,
}

/// Why a record did not open. None of these is ever answered by trying something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter or longer than any record.
    #[error("{length} bytes cannot be a sealed record")]
    Length {
        /// Its length in bytes.
        length: usize,
    },
    /// A format or suite that this version does not know.
    #[error("a sealed record of format {format} and suite {suite} is not known to this version")]
    Unknown {
        /// The first byte.
        format: u8,
        /// The second byte.
        suite: u8,
    },
    /// The data key that the record names is not among ours.
    #[error("a sealed record names data key {key_id}, which is not in the key table")]
    UnknownKey {
        /// The id in the record.
        key_id: u32,
    },
    /// The record was not sealed with the data key it names, or its header is damaged.
    #[error("a sealed record does not belong to data key {key_id}, or its header is damaged")]
    WrongKey {
        /// The id in the record.
        key_id: u32,
    },
    /// The record is damaged, or was sealed for another row, column, owner or generation.
    #[error("a sealed record is damaged or belongs elsewhere")]
    Refused,
    /// What was sealed is not UTF-8, and text was asked for.
    #[error("a sealed record holds no text")]
    NotText,
}

/// Seals `plaintext` under `key`. Whoever gives a `salt` twice under one key breaks the cipher: it must be random.
pub(crate) fn seal(
    domain: Domain,
    (key_id, key): (u32, &RootKey),
    salt: &[u8; SALT],
    parts: &[&[u8]],
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    if plaintext.len() > PLAINTEXT_MAX {
        return Err(SealError::TooLong { length: plaintext.len() });
    }
    let derived = Derived::new(domain, key, salt).ok_or(SealError::Cipher)?;
    let mut record = Vec::with_capacity(OVERHEAD + plaintext.len());
    record.extend_from_slice(&[FORMAT, SUITE]);
    record.extend_from_slice(&key_id.to_be_bytes());
    record.extend_from_slice(salt);
    record.extend_from_slice(&derived.commitment);
    record.extend_from_slice(plaintext);
    let (header, body) = record.split_at_mut(HEADER);
    let associated = associated_data(domain, header, parts);
    let tag = derived
        .cipher
        .encrypt_inout_detached(&derived.nonce.into(), &associated, body.into())
        .map_err(|_| SealError::Cipher)?;
    record.extend_from_slice(&tag);
    Ok(record)
}

/// Which data key `record` names, once it has the shape of a record.
pub(crate) fn key_id(record: &[u8]) -> Result<u32, OpenError> {
    if !(OVERHEAD..=OVERHEAD + PLAINTEXT_MAX).contains(&record.len()) {
        return Err(OpenError::Length { length: record.len() });
    }
    match *record {
        [FORMAT, SUITE, a, b, c, d, ..] => Ok(u32::from_be_bytes([a, b, c, d])),
        [format, suite, ..] => Err(OpenError::Unknown { format, suite }),
        _ => Err(OpenError::Length { length: record.len() }),
    }
}

/// Opens what [`seal`] made with the same key, domain and parts.
pub(crate) fn open(
    domain: Domain,
    key: &RootKey,
    parts: &[&[u8]],
    record: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let key_id = key_id(record)?;
    let (header, body) = record.split_at(HEADER);
    let (salt, commitment) = header[6..].split_at(SALT);
    let derived = Derived::new(domain, key, salt).ok_or(OpenError::Refused)?;
    if !constant_time_eq(&derived.commitment, commitment) {
        return Err(OpenError::WrongKey { key_id });
    }
    let (ciphertext, tag) = body.split_at(body.len() - TAG);
    let tag: &Tag = tag.try_into().map_err(|_| OpenError::Refused)?;
    let associated = associated_data(domain, header, parts);
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    derived
        .cipher
        .decrypt_inout_detached(&derived.nonce.into(), &associated, plaintext.as_mut_slice().into(), tag)
        .map_err(|_| OpenError::Refused)?;
    Ok(plaintext)
}

/// What one record has to itself.
struct Derived {
    cipher: Aes256Gcm,
    nonce: [u8; NONCE],
    commitment: [u8; COMMITMENT],
}

impl Derived {
    /// `None` only where HKDF or the cipher refused lengths that are fixed here.
    fn new(domain: Domain, key: &RootKey, salt: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; KEY + NONCE + COMMITMENT]);
        Hkdf::<Sha256>::new(Some(salt), key.as_slice())
            .expand_multi_info(&[domain.label(), &[SUITE]], bytes.as_mut_slice())
            .ok()?;
        let (key, rest) = bytes.split_at(KEY);
        let (nonce, commitment) = rest.split_at(NONCE);
        Some(Self {
            cipher: Aes256Gcm::new_from_slice(key).ok()?,
            nonce: nonce.try_into().ok()?,
            commitment: commitment.try_into().ok()?,
        })
    }
}
