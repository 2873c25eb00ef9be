//! Random token values, and the fingerprints by which the ledger names them.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a token; tokens themselves are never kept.
pub(crate) type Digest = [u8; 32];

pub(crate) fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

/// The name of a token in the ledger and in every view: standard base64 of its SHA-256.
pub fn fingerprint(token: &str) -> String {
    BASE64.encode(&digest(token))
}

pub(crate) fn name_of(digest: &Digest) -> String {
    BASE64.encode(digest)
}

/// A fresh value with 256 random bits, filled up to `length` characters with more of them.
pub(crate) fn mint(prefix: &str, length: usize) -> String {
    let mut value = String::with_capacity(length.max(prefix.len() + 43));
    value.push_str(prefix);
    loop {
        BASE64URL_NOPAD.encode_append(&random_bytes(), &mut value);
        if value.len() >= length {
            break;
        }
    }
    if length >= prefix.len() + 43 {
        value.truncate(length);
    }
    value
}

#[expect(
    clippy::disallowed_methods,
    reason = "the sandbox plays a foreign party: this is the one home of its randomness"
)]
fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the operating system gives no random bytes: {error}");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_value_has_its_prefix_and_at_least_its_length() {
        let short = mint("sbx_at_", 0);
        assert!(short.starts_with("sbx_at_"));
        assert_eq!(short.len(), 50);
        assert_eq!(mint("sbx_at_", 4096).len(), 4096);
        assert_ne!(mint("", 0), mint("", 0));
    }
}
