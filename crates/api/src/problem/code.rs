//! Every way in which the API fails: code, status, title.

use axum::http::StatusCode;

/// A kind of problem. Its code is stable, and `docs/problems.md` tells its cause and remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemCode {
    /// No valid key.
    Unauthenticated,
    /// The roles do not allow it.
    Forbidden,
    /// A shared grant needs one more role.
    SharedRoleRequired,
    /// No such address.
    NotFound,
    /// The address knows other methods.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body is not JSON by its type.
    UnsupportedMediaType,
    /// The body is too large.
    BodyTooLarge,
    /// The body is not JSON.
    MalformedJson,
    /// A field that nobody knows.
    UnknownField,
    /// A field that must be there is missing.
    MissingField,
    /// A field of another type.
    WrongType,
    /// A part of the path is no id.
    InvalidPath,
    /// A query parameter is unknown, doubled or wrong.
    InvalidQuery,
    /// Well-formed and wrong.
    InvalidRequest,
    /// No such connector.
    ConnectorNotFound,
    /// Nobody has connected, or no such connection.
    ConnectionNotFound,
    /// No such flow.
    FlowNotFound,
    /// No such key.
    KeyNotFound,
    /// No such provider.
    ProviderNotFound,
    /// No such plan.
    PlanNotFound,
    /// No such space.
    SpaceNotFound,
    /// These fields are fixed once the connector is used.
    ConnectorInUse,
    /// Edited meanwhile.
    VersionConflict,
    /// The connector's description leads to no provider.
    ConnectorUnusable,
    /// The space is there.
    SpaceExists,
    /// The grant is dead.
    ReconnectRequired,
    /// The grant lacks scopes.
    ScopesMissing,
    /// The rejected token cannot be replaced.
    RejectedNotRefreshable,
    /// The provider gives no token now.
    ProviderUnavailable,
    /// The provider refuses our registration.
    ClientRefused,
    /// Too many calls.
    LimitReached,
    /// The flow stands elsewhere.
    FlowNotReady,
    /// The flow's life is over.
    FlowExpired,
    /// The flow was called off.
    FlowCancelled,
    /// The flow failed.
    FlowFailed,
    /// The handle lapsed.
    HandleExpired,
    /// The handle does not fit.
    HandleRefused,
    /// Someone else than who started it.
    FinishMismatch,
    /// An active connection is there.
    ConnectionExists,
    /// The set grew, or the count differs.
    PlanStale,
    /// The plan was used or is too old.
    PlanOver,
    /// This process is not ready.
    NotReady,
    /// The database does not answer.
    StorageUnavailable,
    /// This process ends.
    ShuttingDown,
    /// Our own fault.
    InternalError,
}

impl ProblemCode {
    /// Every code.
    pub const ALL: [Self; 46] = [
        Self::Unauthenticated,
        Self::Forbidden,
        Self::SharedRoleRequired,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::UnsupportedMediaType,
        Self::BodyTooLarge,
        Self::MalformedJson,
        Self::UnknownField,
        Self::MissingField,
        Self::WrongType,
        Self::InvalidPath,
        Self::InvalidQuery,
        Self::InvalidRequest,
        Self::ConnectorNotFound,
        Self::ConnectionNotFound,
        Self::FlowNotFound,
        Self::KeyNotFound,
        Self::ProviderNotFound,
        Self::PlanNotFound,
        Self::SpaceNotFound,
        Self::ConnectorInUse,
        Self::VersionConflict,
        Self::ConnectorUnusable,
        Self::SpaceExists,
        Self::ReconnectRequired,
        Self::ScopesMissing,
        Self::RejectedNotRefreshable,
        Self::ProviderUnavailable,
        Self::ClientRefused,
        Self::LimitReached,
        Self::FlowNotReady,
        Self::FlowExpired,
        Self::FlowCancelled,
        Self::FlowFailed,
        Self::HandleExpired,
        Self::HandleRefused,
        Self::FinishMismatch,
        Self::ConnectionExists,
        Self::PlanStale,
        Self::PlanOver,
        Self::NotReady,
        Self::StorageUnavailable,
        Self::ShuttingDown,
        Self::InternalError,
    ];

    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        self.about().1
    }

    /// The `type` of the problem: an address under the public one that explains it (RFC 9457, section 3.1.1).
    pub fn type_uri(self) -> String {
        format!("/problems/{}", self.as_str())
    }

    /// The status it is answered with.
    pub const fn status(self) -> StatusCode {
        self.about().0
    }

    /// What people read first.
    pub const fn title(self) -> &'static str {
        self.about().2
    }

    /// The one table of statuses. A new failure has its line here, or it does not compile.
    const fn about(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", "No valid key was presented"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The caller's roles do not allow this"),
            Self::SharedRoleRequired => {
                (StatusCode::FORBIDDEN, "shared-role-required", "A shared connection needs the role shared")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is nothing at this address"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "This address knows other methods")
            }
            Self::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request did not arrive in time")
            }
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body's type is not the one needed")
            }
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large"),
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed-json", "The body is not JSON"),
            Self::UnknownField => (StatusCode::UNPROCESSABLE_ENTITY, "unknown-field", "The body has an unknown field"),
            Self::MissingField => (StatusCode::UNPROCESSABLE_ENTITY, "missing-field", "The body lacks a field"),
            Self::WrongType => (StatusCode::UNPROCESSABLE_ENTITY, "wrong-type", "A field has the wrong type"),
            Self::InvalidPath => {
                (StatusCode::BAD_REQUEST, "invalid-path", "A part of the path is not what it should be")
            }
            Self::InvalidQuery => (StatusCode::BAD_REQUEST, "invalid-query", "The query is not what it should be"),
            Self::InvalidRequest => (StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", "The request is wrong"),
            Self::ConnectorNotFound => (StatusCode::NOT_FOUND, "connector-not-found", "There is no such connector"),
            Self::ConnectionNotFound => (StatusCode::NOT_FOUND, "connection-not-found", "There is no such connection"),
            Self::FlowNotFound => (StatusCode::NOT_FOUND, "flow-not-found", "There is no such flow"),
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "key-not-found", "There is no such key"),
            Self::ProviderNotFound => (StatusCode::NOT_FOUND, "provider-not-found", "There is no such provider"),
            Self::PlanNotFound => (StatusCode::NOT_FOUND, "plan-not-found", "There is no such plan"),
            Self::SpaceNotFound => (StatusCode::NOT_FOUND, "space-not-found", "There is no such space"),
            Self::ConnectorInUse => {
                (StatusCode::CONFLICT, "connector-in-use", "The connector is in use and cannot be changed like this")
            }
            Self::VersionConflict => (StatusCode::CONFLICT, "version-conflict", "The connector was edited meanwhile"),
            Self::ConnectorUnusable => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "connector-unusable",
                "The connector's description leads to no provider",
            ),
            Self::SpaceExists => (StatusCode::CONFLICT, "space-exists", "The space exists already"),
            Self::ReconnectRequired => (StatusCode::CONFLICT, "reconnect-required", "The grant is dead"),
            Self::ScopesMissing => (StatusCode::FORBIDDEN, "scopes-missing", "The grant lacks scopes"),
            Self::RejectedNotRefreshable => {
                (StatusCode::CONFLICT, "rejected-not-refreshable", "The rejected token cannot be replaced")
            }
            Self::ProviderUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "provider-unavailable", "The provider gives no token now")
            }
            Self::ClientRefused => {
                (StatusCode::SERVICE_UNAVAILABLE, "client-refused", "The provider refuses the connector's registration")
            }
            Self::LimitReached => (StatusCode::TOO_MANY_REQUESTS, "limit-reached", "Too many calls"),
            Self::FlowNotReady => {
                (StatusCode::CONFLICT, "flow-not-ready", "The flow does not stand where this call needs it")
            }
            Self::FlowExpired => (StatusCode::GONE, "flow-expired", "The flow's time is over"),
            Self::FlowCancelled => (StatusCode::GONE, "flow-cancelled", "The flow was cancelled"),
            Self::FlowFailed => (StatusCode::CONFLICT, "flow-failed", "The flow failed"),
            Self::HandleExpired => (StatusCode::GONE, "handle-expired", "The handle's time is over"),
            Self::HandleRefused => (StatusCode::FORBIDDEN, "handle-refused", "The handle does not fit this flow"),
            Self::FinishMismatch => (StatusCode::FORBIDDEN, "finish-mismatch", "The flow was started for someone else"),
            Self::ConnectionExists => {
                (StatusCode::CONFLICT, "connection-exists", "An active connection exists already")
            }
            Self::PlanStale => (StatusCode::CONFLICT, "plan-stale", "The plan no longer fits"),
            Self::PlanOver => (StatusCode::CONFLICT, "plan-over", "The plan was used or is too old"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", "This process is not ready"),
            Self::StorageUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "storage-unavailable", "The database does not answer")
            }
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting-down", "This process is shutting down"),
            Self::InternalError => (StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "Something went wrong here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_listed_once_and_reads_like_a_code() {
        let codes: BTreeSet<_> = ProblemCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), ProblemCode::ALL.len());
        // The last variant's number says how many there are: a new one that is not listed is found here.
        assert_eq!(ProblemCode::InternalError as usize + 1, ProblemCode::ALL.len());
        for code in codes {
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
        }
    }

    #[test]
    fn every_status_is_a_failure() {
        for code in ProblemCode::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error(), "{}", code.as_str());
        }
    }
}
