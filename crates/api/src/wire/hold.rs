//! The hold over the wire.

use serde::{Deserialize, Serialize};
use valetkey_core::Hold;

/// A hold to begin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HoldIn {
    /// What the operator notes for others.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// The hold in force.
#[derive(Debug, Serialize)]
pub(crate) struct HoldOut {
    /// It.
    pub(crate) hold: Hold,
}

/// The hold that was ended, if one was in force.
#[derive(Debug, Serialize)]
pub(crate) struct ReleasedOut {
    /// It.
    pub(crate) released: Option<Hold>,
}
