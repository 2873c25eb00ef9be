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
            BrokerError::InHold { since, retry_after } => {
                Self::with(ProblemCode::ProviderUnavailable, "A hold keeps refreshes back until an operator ends it.")
                    .member("reason", "hold")
                    .member("since", json!(since))
                    .retry_after(retry_after)
            }
            BrokerError::ClientRefused { retry_after, .. } => {
                Self::new(ProblemCode::ClientRefused).retry_after(retry_after)
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;
    use serde_json::Value;
    use valetkey_broker::StartedFlow;
    use valetkey_core::{Operation, ReauthReason, Secret, Timestamp};

    fn body(error: BrokerError) -> Value {
        serde_json::from_slice(&Problem::from(error).write(None)).expect("json")
    }

    fn offer() -> StartedFlow {
        StartedFlow {
            flow_id: "flw_00000000000000000000000000".parse().expect("an id"),
            start_url: Secret::from("https://connect.example/connect/t"),
            expires_at: Timestamp::from_millis(1_700_000_600_000),
        }
    }

    #[test]
    fn the_refusals_of_a_token_call_say_what_to_do_next() {
        let since = Timestamp::from_millis(1_700_000_000_000);
        let reason = ReauthReason::GrantRevoked;
        let dead = body(BrokerError::ReconnectRequired { reason, since, start: Some(Box::new(offer())) });
        assert_eq!((&dead["status"], &dead["code"]), (&json!(409), &json!("reconnect-required")));
        assert_eq!(dead["reason"], "grant_revoked");
        assert_eq!(dead["since"], "2023-11-14T22:13:20.000Z");
        assert_eq!(dead["start"]["start_url"], "https://connect.example/connect/t");
        assert_eq!(dead["start"].as_object().map(serde_json::Map::len), Some(3));
        let absent = body(BrokerError::ConnectionNotFound(None));
        assert_eq!((&absent["status"], &absent["code"]), (&json!(404), &json!("connection-not-found")));
        assert!(absent.get("start").is_none());
        let missing = vec!["repo".to_owned()];
        let scopes = body(BrokerError::ScopesMissing { missing, start: None });
        assert_eq!((&scopes["status"], &scopes["missing_scopes"]), (&json!(403), &json!(["repo"])));
    }

    #[test]
    fn whoever_must_wait_is_told_how_long() {
        let wait = Duration::from_millis(2_500);
        for error in [
            BrokerError::Limited { limit: "starts", retry_after: wait },
            BrokerError::ProviderUnavailable { code: "timeout", retry_after: wait },
            BrokerError::ClientRefused { code: "planted".to_owned(), retry_after: wait },
            BrokerError::InHold { since: Timestamp::from_millis(1_700_000_000_000), retry_after: wait },
        ] {
            let response = Problem::from(error).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], "3");
        }
        assert!(Problem::from(BrokerError::ShuttingDown).into_response().headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn what_a_provider_said_is_not_passed_on() {
        let refused = BrokerError::ClientRefused { code: "planted".to_owned(), retry_after: SOON };
        assert!(!body(refused).to_string().contains("planted"));
    }

    #[test]
    fn whoever_has_no_key_is_asked_for_one_and_whoever_may_not_is_told_what() {
        let response = Problem::from(BrokerError::Unauthenticated).into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        let forbidden = body(BrokerError::Forbidden(Operation::AuditRead));
        assert_eq!((&forbidden["status"], &forbidden["operation"]), (&json!(403), &json!("audit_read")));
    }

    #[test]
    fn each_end_of_a_flow_has_a_code_of_its_own() {
        let code = |error| body(error)["code"].as_str().unwrap_or_default().to_owned();
        assert_eq!(code(BrokerError::FlowNotReady(FlowStatus::Expired)), "flow-expired");
        assert_eq!(code(BrokerError::FlowNotReady(FlowStatus::Cancelled)), "flow-cancelled");
        assert_eq!(code(BrokerError::FlowNotReady(FlowStatus::Pending)), "flow-not-ready");
        assert_eq!(code(BrokerError::FlowFailed(FlowFailure::HandleExpired)), "handle-expired");
        let failed = body(BrokerError::FlowFailed(FlowFailure::AccountChanged));
        assert_eq!((&failed["code"], &failed["flow_code"]), (&json!("flow-failed"), &json!("account-changed")));
    }
}
