//! A hold: the state in which a database that may be a restored or a copied one spends nothing.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, connection::text_enum};

text_enum!(
    /// Why a hold began.
    HoldReason {
        /// The database is older than what its witness saw.
        BehindWitness => "behind_witness",
        /// The witness saw another instance.
        ForeignWitness => "foreign_witness",
        /// The witness is there and cannot be read.
        UnreadableWitness => "unreadable_witness",
        /// An operator asked for it.
        Operator => "operator",
    }
);

/// While it lasts, unexpired tokens are served, the rotation classes N and S refresh, and everything else waits for an
/// operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why it began.
    pub reason: HoldReason,
    /// What the operator noted, for other operators.
    pub note: Option<String>,
    /// Since when.
    pub since: Timestamp,
}
