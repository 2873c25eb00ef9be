//! A revocation: a queued obligation to tell the provider.

use serde::{Deserialize, Serialize};

use crate::{ConnectionId, ConnectorId, RevocationId, SpaceId, Timestamp, connection::text_enum};

text_enum!(
    /// Which token is to be revoked.
    TokenKind {
        /// The refresh token: first.
        Refresh => "refresh",
        /// The access token.
        Access => "access",
    }
);

text_enum!(
    /// Where a revocation stands.
    RevocationState {
        /// Waiting for its next try.
        Queued => "queued",
        /// The provider confirmed it.
        Confirmed => "confirmed",
        /// The provider has no way to be told.
        Unsupported => "unsupported",
        /// Not sent: it would have ended another live connection too.
        Superseded => "superseded",
        /// Given up, with a reason.
        Failed => "failed",
    }
);

impl RevocationState {
    /// Whether nothing more will be tried.
    pub fn is_terminal(self) -> bool {
        self != Self::Queued
    }
}

text_enum!(
    /// Why a revocation was queued.
    RevocationReason {
        /// The user took the grant back.
        Disconnect => "disconnect",
        /// An operator took it back.
        Operator => "operator",
        /// Many at once, by filter.
        Bulk => "bulk",
        /// Its connector was deleted.
        ConnectorDeleted => "connector_deleted",
        /// A purge of unused connections.
        Purge => "purge",
        /// Tokens that arrived for a connection revoked meanwhile.
        LateTokens => "late_tokens",
        /// A flow failed after the code had been redeemed.
        FlowFailed => "flow_failed",
        /// Replaced by a reconnect.
        Replaced => "replaced",
    }
);

/// How far a revocation at the provider reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The token alone, or the token and what came from it.
    Token,
    /// The whole grant.
    Grant,
    /// Every grant of the same user and client.
    UserClient,
}

/// A queued obligation to tell the provider. The token is kept apart, sealed, until the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Its id.
    pub id: RevocationId,
    /// The space it belongs to.
    pub space: SpaceId,
    /// The connection it ends.
    pub connection_id: ConnectionId,
    /// The connector, which stays readable for this even when deleted.
    pub connector_id: ConnectorId,
    /// Which token.
    pub token_kind: TokenKind,
    /// Why.
    pub reason: RevocationReason,
    /// Where it stands.
    pub state: RevocationState,
    /// What the last try ended with, a short code.
    pub outcome: Option<String>,
    /// Tries so far.
    pub tries: i64,
    /// When the next try is due.
    pub next_try_at: Option<Timestamp>,
    /// When it was queued.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
