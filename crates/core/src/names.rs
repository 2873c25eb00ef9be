//! Names that people and applications choose, checked where they come in.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text cannot be such a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A space's name is out of bounds.
    #[error("a space is named by 1 to 63 of a-z, 0-9 and `-`, starting with a letter or digit")]
    Space,
    /// A user id is out of bounds.
    #[error("a user id has 1 to 256 bytes and no control characters")]
    User,
    /// A label is out of bounds.
    #[error("a label has at most 64 bytes and no control characters")]
    Label,
    /// A provider's name is out of bounds.
    #[error("a provider is named by 1 to 63 of a-z, 0-9 and `-`")]
    Provider,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.to_owned())) } else { Err($error) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// Names a space, the isolation boundary; it never changes.
    SpaceId,
    NameError::Space,
    |text| {
        (1..=63).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }
);

name!(
    /// The application's own id of a user, taken from its session and opaque to us.
    UserId,
    NameError::User,
    |text| (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
);

name!(
    /// Tells apart several accounts of one owner at one connector; empty for the first.
    Label,
    NameError::Label,
    |text| text.len() <= 64 && !text.chars().any(char::is_control)
);

name!(
    /// Names a provider's profile, whether there is one or not.
    ProviderName,
    NameError::Provider,
    |text| {
        (1..=63).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }
);

impl SpaceId {
    /// The space that exists from the start.
    pub fn default_space() -> Self {
        Self("default".to_owned())
    }
}

impl Label {
    /// The empty label.
    pub fn none() -> Self {
        Self(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold() {
        assert!("default".parse::<SpaceId>().is_ok());
        for bad in ["", "-a", "A", "a_b", "a/b"] {
            assert!(bad.parse::<SpaceId>().is_err(), "{bad}");
        }
        assert!("x".repeat(256).parse::<UserId>().is_ok());
        for bad in [String::new(), "x".repeat(257), "a\nb".to_owned(), "a\u{0}".to_owned(), "\u{85}".to_owned()] {
            assert!(bad.parse::<UserId>().is_err(), "{bad:?}");
        }
        assert!("oauth2".parse::<ProviderName>().is_ok() && "-".parse::<ProviderName>().is_ok());
        for bad in [String::new(), "GitHub".to_owned(), "a\u{0}".to_owned(), "x".repeat(64)] {
            assert!(bad.parse::<ProviderName>().is_err(), "{bad:?}");
        }
        assert!("".parse::<Label>().is_ok());
        assert!("x".repeat(65).parse::<Label>().is_err());
    }
}
