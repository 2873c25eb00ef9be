//! Chance: bytes from an injected source.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;

use crate::Secret;

/// Where randomness comes from.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `out` with unpredictable bytes.
    fn fill(&self, out: &mut [u8]);
}

impl dyn Entropy + '_ {
    /// 32 unpredictable bytes.
    pub fn bytes32(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.fill(&mut bytes);
        bytes
    }

    /// 256 bits as 43 characters of URL-safe base64: states, verifiers, handles, cookies.
    pub fn token(&self) -> Secret {
        Secret::from(BASE64URL_NOPAD.encode(&self.bytes32()))
    }

    /// A number in `0.0..1.0`, for jitter and for spreading due points.
    pub fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

/// The operating system's random source.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's random source")]
    #[expect(clippy::panic, reason = "without randomness no secret can be made, and nothing may go on")]
    fn fill(&self, out: &mut [u8]) {
        if let Err(error) = getrandom::fill(out) {
            panic!("the operating system gives no random bytes: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Always the same byte.
    #[derive(Debug)]
    struct Constant(u8);

    impl Entropy for Constant {
        fn fill(&self, out: &mut [u8]) {
            out.fill(self.0);
        }
    }

    #[test]
    fn fractions_stay_below_one() {
        let highest: &dyn Entropy = &Constant(0xff);
        let lowest: &dyn Entropy = &Constant(0);
        assert!(highest.fraction() < 1.0);
        assert!(lowest.fraction().abs() < f64::EPSILON);
    }

    #[test]
    fn tokens_are_43_characters_and_differ() {
        let entropy: &dyn Entropy = &SystemEntropy;
        let token = entropy.token();
        assert_eq!(token.expose().len(), 43);
        assert_ne!(token.expose(), entropy.token().expose());
    }
}
