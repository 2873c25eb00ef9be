//! What can go wrong in a use case, named for what the caller can do next.

use std::time::Duration;

use valetkey_core::{FlowId, FlowStatus, Operation, ReauthReason, Timestamp};
use valetkey_providers::ProviderError;
use valetkey_store::StoreError;

use crate::StartedFlow;

/// What was asked for and is not there, or not for this caller: the two answer alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A connector.
    Connector,
    /// A connection.
    Connection,
    /// A flow.
    Flow,
    /// A key.
    Key,
    /// A provider's profile.
    Provider,
    /// A plan to revoke many.
    Plan,
    /// A space.
    Space,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field, dotted.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Fault {
    /// A fault of a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// A fresh flow that an answer carries along, if one was asked for and could be started.
pub type StartOffer = Option<Box<StartedFlow>>;

/// A use case that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No valid key was presented.
    #[error("no valid key was presented")]
    Unauthenticated,
    /// The key's roles do not allow this.
    #[error("the caller may not {0}")]
    Forbidden(Operation),
    /// A shared grant needs the role `shared` as well.
    #[error("a shared connection needs the role shared")]
    SharedRoleRequired,
    /// Nothing of that id exists for this caller.
    #[error("there is no such {0:?}")]
    NotFound(Resource),
    /// The request is well-formed and wrong.
    #[error("the request has {} faults", .0.len())]
    Invalid(Vec<Fault>),
    /// A flow or connection exists, so that these fields can no longer be edited.
    #[error("the connector is in use: {0:?} cannot be edited")]
    ConnectorInUse(Vec<&'static str>),
    /// The connector was edited meanwhile.
    #[error("the connector is at version {current}")]
    VersionConflict {
        /// Where it is now.
        current: i64,
    },
    /// A space of that name exists.
    #[error("the space exists")]
    SpaceExists,
    /// Nobody has connected, or it was revoked.
    #[error("nobody has connected")]
    ConnectionNotFound(StartOffer),
    /// The grant is dead.
    #[error("the grant is dead: {reason}")]
    ReconnectRequired {
        /// Why.
        reason: ReauthReason,
        /// Since when.
        since: Timestamp,
        /// A fresh flow.
        start: StartOffer,
    },
    /// The grant lacks scopes that the caller needs.
    #[error("the grant lacks scopes")]
    ScopesMissing {
        /// Which.
        missing: Vec<String>,
        /// A fresh flow that asks for them.
        start: StartOffer,
    },
    /// The upstream API refused the token, and nothing can be refreshed.
    #[error("the rejected token cannot be replaced")]
    RejectedNotRefreshable,
    /// The token has ended and the provider gives no new one now.
    #[error("the provider is unavailable: {code}")]
    ProviderUnavailable {
        /// What was seen.
        code: &'static str,
        /// When to ask again.
        retry_after: Duration,
    },
    /// The token has ended, and a hold keeps its refresh back: an operator must act.
    #[error("a hold keeps the refresh back")]
    InHold {
        /// Since when.
        since: Timestamp,
        /// When to ask again.
        retry_after: Duration,
    },
    /// Our registration at the provider is refused: an operator must act.
    #[error("the provider refuses this client: {code}")]
    ClientRefused {
        /// What was seen.
        code: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// Too many calls.
    #[error("the limit {limit} is reached")]
    Limited {
        /// Which limit.
        limit: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// The flow does not stand where this call needs it.
    #[error("the flow is {0}")]
    FlowNotReady(FlowStatus),
    /// The handle is unknown, was used, or has lapsed.
    #[error("the handle does not fit")]
    HandleRefused,
    /// Someone else than the user who started the flow; the flow is over and its code erased.
    #[error("flow {0} belongs to someone else")]
    FinishMismatch(FlowId),
    /// The flow failed while it was finished.
    #[error("the flow failed: {0}")]
    FlowFailed(valetkey_core::FlowFailure),
    /// An active connection is there and `replace` was not said.
    #[error("an active connection exists")]
    ConnectionExists,
    /// The plan no longer fits: connect events made the set grow, or the count differs.
    #[error("the plan is stale")]
    PlanStale {
        /// What was planned.
        planned: i64,
        /// What would be revoked now.
        now: i64,
    },
    /// The plan was used, or its time is over.
    #[error("the plan is over")]
    PlanOver,
    /// The connector's description does not lead to a provider.
    #[error("the provider cannot be used")]
    Provider(#[source] ProviderError),
    /// The database failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The process is shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

impl From<ProviderError> for BrokerError {
    fn from(error: ProviderError) -> Self {
        match error {
            // The issuer is away or answers nonsense: waiting may help, an edit does not.
            ProviderError::Discovery { .. } => {
                Self::ProviderUnavailable { code: "discovery", retry_after: Duration::from_secs(10) }
            }
            other => Self::Provider(other),
        }
    }
}
