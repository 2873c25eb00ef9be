//! Ids: a UUIDv7 in lower-case base32hex behind a prefix, sortable by time of creation.

use std::{fmt, str::FromStr};

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Entropy, Timestamp};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind} id: it starts with `{prefix}_` and goes on with 26 characters of 0-9 and a-v")]
pub struct IdError {
    kind: &'static str,
    prefix: &'static str,
}

/// Three letters, an underscore and 26 characters.
const TEXT_LENGTH: usize = 30;

/// Lower-case base32hex without padding: keeps the order of the bytes.
pub(crate) fn base32() -> &'static Encoding {
    static ENCODING: std::sync::LazyLock<Encoding> = std::sync::LazyLock::new(|| {
        let mut specification = Specification::new();
        specification.symbols.push_str("0123456789abcdefghijklmnopqrstuv");
        // The alphabet is a constant of 32 distinct symbols, so this cannot fail; the fallback keeps the type honest.
        specification.encoding().unwrap_or(data_encoding::BASE32HEX_NOPAD)
    });
    &ENCODING
}

pub(crate) fn parse_base32_16(text: &str) -> Option<[u8; 16]> {
    if text.len() != 26 {
        return None;
    }
    base32().decode(text.as_bytes()).ok()?.try_into().ok()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A new id that sorts after all earlier ones, to the millisecond.
            pub fn new(now: Timestamp, entropy: &dyn Entropy) -> Self {
                let mut random = [0_u8; 10];
                entropy.fill(&mut random);
                let millis = u64::try_from(now.as_millis()).unwrap_or(0);
                Self(*uuid::Builder::from_unix_timestamp_millis(millis, &random).as_uuid().as_bytes())
            }

            /// The id with these bytes.
            pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its text, written where no allocation is needed: every answer and every sealed record names ids.
            fn text<'a>(&self, text: &'a mut [u8; TEXT_LENGTH]) -> &'a str {
                let (prefix, rest) = text.split_at_mut($prefix.len() + 1);
                prefix.copy_from_slice(concat!($prefix, "_").as_bytes());
                base32().encode_mut(&self.0, rest);
                str::from_utf8(text).unwrap_or_default()
            }

            /// The 16 bytes of the UUID.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; TEXT_LENGTH];
                f.write_str(self.text(&mut text))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(parse_base32_16)
                    .map(Self::from_bytes)
                    .ok_or(IdError { kind: $kind, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.text(&mut [0; TEXT_LENGTH]))
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

id!(
    /// Names a connector.
    ConnectorId, "ctr", "connector"
);
id!(
    /// Names a connection.
    ConnectionId, "cxn", "connection"
);
id!(
    /// Names a flow.
    FlowId, "flw", "flow"
);
id!(
    /// Names an API key.
    KeyId, "key", "key"
);
id!(
    /// Names a revocation.
    RevocationId, "rev", "revocation"
);
id!(
    /// Names an attempt.
    AttemptId, "att", "attempt"
);
id!(
    /// Names an audit event.
    EventId, "evt", "event"
);
id!(
    /// Names a plan to revoke many connections.
    PlanId, "pln", "plan"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemEntropy;

    #[test]
    fn an_id_survives_text_and_back() {
        let id = ConnectorId::new(Timestamp::from_millis(1_800_000_000_000), &SystemEntropy);
        let text = id.to_string();
        assert_eq!(text.len(), 30);
        assert_eq!(text.parse::<ConnectorId>().unwrap(), id);
    }

    #[test]
    fn later_ids_sort_later_as_text() {
        let early = FlowId::new(Timestamp::from_millis(1_000), &SystemEntropy).to_string();
        let late = FlowId::new(Timestamp::from_millis(2_000), &SystemEntropy).to_string();
        assert!(early < late);
    }

    #[test]
    fn another_kind_of_id_is_refused() {
        let id = FlowId::new(Timestamp::from_millis(1), &SystemEntropy).to_string();
        assert!(id.parse::<ConnectorId>().is_err());
        for bad in ["", "ctr_", "ctr_zzzzzzzzzzzzzzzzzzzzzzzzzz", "ctr_0123"] {
            assert!(bad.parse::<ConnectorId>().is_err(), "{bad}");
        }
    }
}
