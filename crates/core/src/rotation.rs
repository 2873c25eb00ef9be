//! What a provider does with a refresh token once it was used.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The rotation class: what presenting a spent refresh token does (RFC 9700, section 4.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RotationClass {
    /// N: the refresh token does not change.
    NonRotating,
    /// S: the old one stays valid, for good or until its successor is used.
    Soft,
    /// G: the old one stays valid for a grace.
    Grace {
        /// The grace in seconds.
        seconds: u32,
    },
    /// X: a spent token ends its own grant.
    Strict,
    /// W: a spent token ends sibling grants of the same client and user as well.
    StrictWide,
}

impl RotationClass {
    /// The letter of the class, for logs, metrics and tables.
    pub fn letter(self) -> &'static str {
        match self {
            Self::NonRotating => "N",
            Self::Soft => "S",
            Self::Grace { .. } => "G",
            Self::Strict => "X",
            Self::StrictWide => "W",
        }
    }

    /// Whether a spent token may be presented again at any time without harm.
    pub fn repeats_freely(self) -> bool {
        matches!(self, Self::NonRotating | Self::Soft)
    }

    /// The share of the grace in which a repeat is safe: 80 %.
    pub fn safe_repeat(self) -> Option<Duration> {
        match self {
            Self::Grace { seconds } => Some(Duration::from_millis(u64::from(seconds) * 800)),
            _ => None,
        }
    }
}
