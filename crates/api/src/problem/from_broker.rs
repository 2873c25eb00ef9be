//! What each failure of a use case is to a caller.

use std::time::Duration;

use axum::http::{HeaderValue, header};
use serde_json::json;
use valetkey_broker::{BrokerError, Fault, Resource};
use valetkey_core::{FlowFailure, FlowStatus};

use crate::pages::FailurePage;

use super::{Problem, ProblemCode};

/// How long to wait for a database that does not answer, or for another process.
const SOON: Duration = Duration::from_secs(2);

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Unauthenticated => unauthenticated(),
            BrokerError::Forbidden(operation) => Self::with(
                ProblemCode::Forbidden,
                format!("None of the caller's roles allows the operation {operation}."),
            )
            .member("operation", operation.as_str()),
            BrokerError::SharedRoleRequired => Self::new(ProblemCode::SharedRoleRequired),
            BrokerError::NotFound(resource) => Self::new(absent(resource)),
            BrokerError::Invalid(faults) => Self::new(ProblemCode::InvalidRequest).faults(&faults),
            BrokerError::ConnectorInUse(fields) => {
                let faults: Vec<Fault> = fields
                    .into_iter()
                    .map(|field| Fault::new(field, "is fixed since a flow or connection exists: make a new connector"))
                    .collect();
                Self::new(ProblemCode::ConnectorInUse).faults(&faults)
            }
            BrokerError::VersionConflict { current } => {
                Self::new(ProblemCode::VersionConflict).member("current_version", current)
            }
            BrokerError::SpaceExists => Self::new(ProblemCode::SpaceExists),
            BrokerError::ConnectionNotFound(start) => Self::with(
                ProblemCode::ConnectionNotFound,
                "Nobody has connected, or the connection was revoked: start a flow.",
            )
            .offering(start.as_deref()),
            BrokerError::ReconnectRequired { reason, since, start } => {
                Self::with(ProblemCode::ReconnectRequired, "Its owner must connect again: start a flow.")
                    .member("reason", reason.as_str())
                    .member("since", json!(since))
                    .offering(start.as_deref())
            }
            BrokerError::ScopesMissing { missing, start } => {
                Self::with(ProblemCode::ScopesMissing, "Its owner must grant more: start a flow that asks for them.")
                    .member("missing_scopes", missing)
                    .offering(start.as_deref())
            }
            BrokerError::RejectedNotRefreshable => Self::new(ProblemCode::RejectedNotRefreshable),
            BrokerError::ProviderUnavailable { retry_after, .. } => {
                Self::new(ProblemCode::ProviderUnavailable).retry_after(retry_after)
            }
            BrokerError::ClientRefused { retry_after, .. } => {
                Self::new(ProblemCode::ClientRefused).retry_after(retry_after).caused_by(error)
            }
            BrokerError::Limited { limit, retry_after } => {
                Self::new(ProblemCode::LimitReached).member("limit", limit).retry_after(retry_after)
            }
            BrokerError::FlowNotReady(status) => not_ready(status),
            BrokerError::HandleRefused => Self::new(ProblemCode::HandleRefused),
            BrokerError::FinishMismatch(_) => Self::with(
                ProblemCode::FinishMismatch,
                "The flow has ended and its code is erased: start a new one for the user of your session.",
            ),
            BrokerError::FlowFailed(failure) => flow_failed(failure),
            BrokerError::ConnectionExists => Self::new(ProblemCode::ConnectionExists),
            BrokerError::PlanStale { planned, now } => {
                Self::new(ProblemCode::PlanStale).member("planned", planned).member("now", now)
            }
            BrokerError::PlanOver => Self::new(ProblemCode::PlanOver),
            BrokerError::Provider(provider) => {
                Self::with(ProblemCode::ConnectorUnusable, sentence(&provider.to_string()))
            }
            BrokerError::Store(ref store) if store.is_unavailable() => {
                Self::new(ProblemCode::StorageUnavailable).retry_after(SOON).caused_by(error)
            }
            BrokerError::Store(_) => Self::internal(error),
            BrokerError::ShuttingDown => Self::new(ProblemCode::ShuttingDown).retry_after(SOON),
        }
    }
}

/// The answer to a caller without a valid key (RFC 6750, section 3).
pub(crate) fn unauthenticated() -> Problem {
    Problem::new(ProblemCode::Unauthenticated).header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

fn absent(resource: Resource) -> ProblemCode {
    match resource {
        Resource::Connector => ProblemCode::ConnectorNotFound,
        Resource::Connection => ProblemCode::ConnectionNotFound,
        Resource::Flow => ProblemCode::FlowNotFound,
        Resource::Key => ProblemCode::KeyNotFound,
        Resource::Provider => ProblemCode::ProviderNotFound,
        Resource::Plan => ProblemCode::PlanNotFound,
        Resource::Space => ProblemCode::SpaceNotFound,
    }
}

fn not_ready(status: FlowStatus) -> Problem {
    let code = match status {
        FlowStatus::Expired => ProblemCode::FlowExpired,
        FlowStatus::Cancelled => ProblemCode::FlowCancelled,
        FlowStatus::Failed => ProblemCode::FlowFailed,
        FlowStatus::Pending
        | FlowStatus::AwaitingConfirm
        | FlowStatus::AwaitingFinish
        | FlowStatus::Finishing
        | FlowStatus::Connected => ProblemCode::FlowNotReady,
    };
    Problem::new(code).member("flow_status", status.as_str())
}

fn flow_failed(failure: FlowFailure) -> Problem {
    let code = match failure {
        FlowFailure::HandleExpired => ProblemCode::HandleExpired,
        FlowFailure::AccessDenied
        | FlowFailure::ProviderError
        | FlowFailure::ClientRefused
        | FlowFailure::ProviderUnavailable
        | FlowFailure::IssuerMismatch
        | FlowFailure::CodeRefused
        | FlowFailure::IdTokenInvalid
        | FlowFailure::AccountChanged
        | FlowFailure::UserMismatch
        | FlowFailure::BindingMismatch
        | FlowFailure::ConnectorChanged
        | FlowFailure::Interrupted => ProblemCode::FlowFailed,
    };
    Problem::new(code).member("flow_code", FailurePage::from(failure).code())
}

/// An error's text as a sentence.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", chars.as_str())
}
