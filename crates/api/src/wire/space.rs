//! Spaces over the local socket.

use serde::{Deserialize, Serialize};
use valetkey_core::{SpaceId, Timestamp};

/// A space to make.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SpaceIn {
    /// Its name, for good.
    pub(crate) id: SpaceId,
}

/// A space.
#[derive(Debug, Serialize)]
pub(crate) struct SpaceOut {
    /// Its name.
    pub(crate) id: SpaceId,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<Timestamp>,
}

impl From<(SpaceId, Timestamp)> for SpaceOut {
    fn from((id, created_at): (SpaceId, Timestamp)) -> Self {
        Self { id, created_at: Some(created_at) }
    }
}
