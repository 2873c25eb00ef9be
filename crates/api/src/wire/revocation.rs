//! Revocations over the wire.

use serde::Serialize;
use utoipa::ToSchema;
use valetkey_broker::RevocationFilter;
use valetkey_core::{
    ConnectionId, ConnectorId, Revocation, RevocationId, RevocationReason, RevocationState, Timestamp, TokenKind,
};

use super::{Page, PageParams};
use crate::extract::{FromPairs, Pairs};

/// A page of them.
pub(crate) type RevocationPage = Page<RevocationOut>;

/// What a provider is told of one token, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Revocation)]
pub(crate) struct RevocationOut {
    /// Its id.
    #[schema(value_type = String, example = "rev_06bc4k0a881hf0c9q2m8r5vk3o")]
    id: RevocationId,
    /// The connection it ends.
    #[schema(value_type = String, example = "cxn_06bc4jq1v81hf0c9q2m8r5vk3o")]
    connection_id: ConnectionId,
    /// The connector.
    #[schema(value_type = String, example = "ctr_06bc4jn7tg1hf0c9q2m8r5vk3o")]
    connector_id: ConnectorId,
    /// `refresh` or `access`.
    #[schema(value_type = String, example = "refresh")]
    token_kind: TokenKind,
    /// Why it was queued.
    #[schema(value_type = String, example = "disconnect")]
    reason: RevocationReason,
    /// `queued`, `confirmed`, `unsupported`, `superseded` or `failed`.
    #[schema(value_type = String, example = "queued")]
    state: RevocationState,
    /// What the last try ended with.
    #[schema(required)]
    outcome: Option<String>,
    /// Tries so far.
    tries: i64,
    /// When the next try is due.
    #[schema(value_type = Option<String>, format = DateTime, required)]
    next_try_at: Option<Timestamp>,
    /// When it was queued.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<Revocation> for RevocationOut {
    fn from(revocation: Revocation) -> Self {
        Self {
            id: revocation.id,
            connection_id: revocation.connection_id,
            connector_id: revocation.connector_id,
            token_kind: revocation.token_kind,
            reason: revocation.reason,
            state: revocation.state,
            outcome: revocation.outcome,
            tries: revocation.tries,
            next_try_at: revocation.next_try_at,
            created_at: revocation.created_at,
            updated_at: revocation.updated_at,
        }
    }
}

/// Which revocations to list.
#[derive(Debug)]
pub(crate) struct RevocationParams {
    /// The filter.
    pub(crate) filter: RevocationFilter,
    /// The page.
    pub(crate) page: PageParams<RevocationId>,
}

impl FromPairs for RevocationParams {
    fn from_pairs(pairs: &mut Pairs) -> Self {
        let states: Vec<_> = RevocationState::ALL.iter().map(|state| state.as_str()).collect();
        let filter = RevocationFilter {
            state: pairs.take_one_of("state", &states),
            connector_id: pairs.take("connector_id"),
            connection_id: pairs.take("connection_id"),
            only: None,
        };
        Self { filter, page: PageParams::from_pairs(pairs) }
    }
}
