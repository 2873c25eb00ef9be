//! A key-encryption key in this process.

use std::fmt;

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use sha2::Sha256;
use valetkey_core::{KeyWrapper, WrapContext, WrapError};
use zeroize::Zeroizing;

use crate::{
    associated::Domain,
    seal::{self, RootKey},
};

/// Wraps data keys with 32 bytes that are held here: from the key ring, the environment or a systemd credential.
///
/// Its id is derived from the key, so the same key has the same name wherever it comes from.
#[derive(Clone)]
pub struct LocalKeyWrapper {
    id: String,
    key: RootKey,
}

impl LocalKeyWrapper {
    /// From 32 unpredictable bytes.
    pub fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let name = derive(&key, b"valetkey key id", &[]);
        let id = format!("local-{}", HEXLOWER.encode(&name[..8]));
        Self { id, key }
    }

    /// A keyed digest of `input`, for another purpose than wrapping.
    pub(crate) fn derive(&self, label: &[u8], input: &[&[u8]]) -> RootKey {
        derive(&self.key, label, input)
    }
}

/// HMAC-SHA-256 of label and input by a key that comes from `key`: HKDF (RFC 5869) without salt, one block of output.
/// Labels are constants of this crate and none begins with another.
fn derive(key: &RootKey, label: &[u8], input: &[&[u8]]) -> RootKey {
    let mut out = Zeroizing::new([0; 32]);
    let mut info = vec![label];
    info.extend_from_slice(input);
    // Refused only above 255 blocks (RFC 5869, section 2.3).
    let _ = Hkdf::<Sha256>::new(None, key.as_slice()).expand_multi_info(&info, out.as_mut_slice());
    out
}

#[async_trait]
impl KeyWrapper for LocalKeyWrapper {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wrap(&self, context: &WrapContext, key: &[u8; 32]) -> Result<Vec<u8>, WrapError> {
        // The salt is a keyed digest of all that is sealed: equal only where the whole input is equal, so it
        // needs no randomness of its own.
        let key_id = context.key_id.to_be_bytes();
        let input: [&[u8]; 3] = [key, &key_id, context.instance.as_bytes()];
        let salt = self.derive(b"valetkey wrap salt", &input);
        let parts: [&[u8]; 2] = [context.instance.as_bytes(), self.id.as_bytes()];
        seal::seal(Domain::DataKey, (context.key_id, &self.key), &salt, &parts, key).map_err(|_| WrapError::Refused)
    }

    async fn unwrap(&self, context: &WrapContext, wrapped: &[u8]) -> Result<[u8; 32], WrapError> {
        let parts: [&[u8]; 2] = [context.instance.as_bytes(), self.id.as_bytes()];
        if seal::key_id(wrapped) != Ok(context.key_id) {
            return Err(WrapError::Refused);
        }
        let key = seal::open(Domain::DataKey, &self.key, &parts, wrapped).map_err(|_| WrapError::Refused)?;
        key.as_slice().try_into().map_err(|_| WrapError::Refused)
    }
}

impl fmt::Debug for LocalKeyWrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalKeyWrapper").field(&self.id).finish()
    }
}
