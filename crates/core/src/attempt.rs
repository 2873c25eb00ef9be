//! An attempt: the durable record written before a refresh token is presented.

use std::time::Duration;

use crate::{AttemptId, ConnectionId, Fingerprint, Timestamp, connection::text_enum};

text_enum!(
    /// Where an attempt stands.
    AttemptState {
        /// Recorded, and surely not sent.
        Unsent => "unsent",
        /// Sent, or about to be: with its lease over, the outcome is unknown.
        Sent => "sent",
        /// The same refresh token may be presented again once `next_try_at` is reached.
        RepeatAllowed => "repeat_allowed",
        /// A new token set is stored.
        Settled => "settled",
        /// The provider said that the grant is dead.
        Dead => "dead",
        /// The outcome is unknown and must not be tried again.
        Stopped => "stopped",
    }
);

text_enum!(
    /// What asked for a refresh.
    Trigger {
        /// The due point came.
        Early => "early",
        /// A caller needed a token.
        Demand => "demand",
        /// A caller said that the upstream API refused the token.
        Rejected => "rejected",
        /// The refresh token must not lie idle.
        Idle => "idle",
    }
);

/// One presentation, or a bounded series of them, of one generation's refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its id; also names it in the log.
    pub id: AttemptId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The generation whose refresh token is presented; unique with the connection.
    pub generation: i64,
    /// Where it stands.
    pub state: AttemptState,
    /// How often it was sent, this time included.
    pub send_no: i64,
    /// Whose lease: a random number of the process.
    pub holder: String,
    /// Until when its holder may act.
    pub lease_until: Timestamp,
    /// Not to be repeated before this.
    pub next_try_at: Timestamp,
    /// When the first presentation may have left.
    pub first_sent_at: Option<Timestamp>,
    /// The fingerprint of what is presented, to join our log with the provider's.
    pub fingerprint: Fingerprint,
    /// The last outcome, a short code.
    pub outcome: Option<String>,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Attempt {
    /// How long a holder may act on an attempt: more than twice the request's deadline.
    pub const LEASE: Duration = Duration::from_secs(45);

    /// The request's deadline; the send gate wants more lease than this left.
    pub const DEADLINE: Duration = Duration::from_secs(20);
}
