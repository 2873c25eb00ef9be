//! Why a person's way ended on a page of ours.

use axum::http::StatusCode;
use valetkey_core::FlowFailure;

/// A failure that has a page. The codes are stable; those of a failed flow are the ones its status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailurePage {
    /// The person said no at the provider.
    AccessDenied,
    /// The provider answered with another error.
    ProviderError,
    /// The provider refused our registration or request.
    ClientRefused,
    /// The provider could not be reached, or answered nonsense.
    ProviderUnavailable,
    /// The answer named another issuer, or none where one is promised.
    IssuerMismatch,
    /// The provider refused the code.
    CodeRefused,
    /// The provider's statement about the account did not fit this flow.
    IdTokenInvalid,
    /// Another account than the one connected before.
    AccountChanged,
    /// Someone other than the user who started it tried to finish.
    UserMismatch,
    /// The application could not prove that it started this flow.
    BindingMismatch,
    /// The application took too long to finish.
    HandleExpired,
    /// The connector was deleted, or its return target removed, in mid-flow.
    ConnectorChanged,
    /// The process ended while it redeemed the code.
    Interrupted,
    /// A permission that the connector needs was not given.
    ScopesMissing,
    /// The flow's life is over.
    FlowExpired,
    /// The application or the person called it off.
    FlowCancelled,
    /// The start link or the provider's answer was used before.
    LinkUsed,
    /// This browser is not the one that opened the start link, or it kept no cookie.
    WrongBrowser,
    /// Too many tries from this address.
    TooManyTries,
    /// There is no such link.
    LinkNotFound,
    /// The flow ended well before; nothing is left to do.
    AlreadyFinished,
    /// The address lacks what a provider's answer must have, or has it twice.
    CallbackInvalid,
    /// The confirmation did not come from the page we showed.
    ConfirmInvalid,
    /// Our own fault.
    Internal,
}

impl FailurePage {
    /// Every failure, in the order above.
    pub(crate) const ALL: [Self; 24] = [
        Self::AccessDenied,
        Self::ProviderError,
        Self::ClientRefused,
        Self::ProviderUnavailable,
        Self::IssuerMismatch,
        Self::CodeRefused,
        Self::IdTokenInvalid,
        Self::AccountChanged,
        Self::UserMismatch,
        Self::BindingMismatch,
        Self::HandleExpired,
        Self::ConnectorChanged,
        Self::Interrupted,
        Self::ScopesMissing,
        Self::FlowExpired,
        Self::FlowCancelled,
        Self::LinkUsed,
        Self::WrongBrowser,
        Self::TooManyTries,
        Self::LinkNotFound,
        Self::AlreadyFinished,
        Self::CallbackInvalid,
        Self::ConfirmInvalid,
        Self::Internal,
    ];

    /// The stable code that the page shows and that goes home to the application.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::AccessDenied => "access-denied",
            Self::ProviderError => "provider-error",
            Self::ClientRefused => "client-refused",
            Self::ProviderUnavailable => "provider-unavailable",
            Self::IssuerMismatch => "issuer-mismatch",
            Self::CodeRefused => "code-refused",
            Self::IdTokenInvalid => "id-token-invalid",
            Self::AccountChanged => "account-changed",
            Self::UserMismatch => "user-mismatch",
            Self::BindingMismatch => "binding-mismatch",
            Self::HandleExpired => "handle-expired",
            Self::ConnectorChanged => "connector-changed",
            Self::Interrupted => "interrupted",
            Self::ScopesMissing => "scopes-missing",
            Self::FlowExpired => "flow-expired",
            Self::FlowCancelled => "flow-cancelled",
            Self::LinkUsed => "link-used",
            Self::WrongBrowser => "wrong-browser",
            Self::TooManyTries => "too-many-tries",
            Self::LinkNotFound => "link-not-found",
            Self::AlreadyFinished => "already-finished",
            Self::CallbackInvalid => "callback-invalid",
            Self::ConfirmInvalid => "confirm-invalid",
            Self::Internal => "internal-error",
        }
    }

    /// The status that the page is served with. A choice that a person made is no error.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::AccessDenied | Self::FlowCancelled | Self::AlreadyFinished => StatusCode::OK,
            Self::ProviderError | Self::ClientRefused | Self::CodeRefused => StatusCode::BAD_GATEWAY,
            Self::ProviderUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::IssuerMismatch | Self::IdTokenInvalid | Self::CallbackInvalid => StatusCode::BAD_REQUEST,
            Self::AccountChanged | Self::ConnectorChanged => StatusCode::CONFLICT,
            Self::UserMismatch
            | Self::BindingMismatch
            | Self::ScopesMissing
            | Self::WrongBrowser
            | Self::ConfirmInvalid => StatusCode::FORBIDDEN,
            Self::HandleExpired | Self::FlowExpired | Self::LinkUsed => StatusCode::GONE,
            Self::TooManyTries => StatusCode::TOO_MANY_REQUESTS,
            Self::LinkNotFound => StatusCode::NOT_FOUND,
            Self::Interrupted | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether nothing went wrong: the person chose this, or it is done already.
    pub(super) const fn is_calm(self) -> bool {
        matches!(self, Self::AccessDenied | Self::FlowCancelled | Self::AlreadyFinished)
    }
}

impl From<FlowFailure> for FailurePage {
    fn from(failure: FlowFailure) -> Self {
        match failure {
            FlowFailure::AccessDenied => Self::AccessDenied,
            FlowFailure::ProviderError => Self::ProviderError,
            FlowFailure::ClientRefused => Self::ClientRefused,
            FlowFailure::ProviderUnavailable => Self::ProviderUnavailable,
            FlowFailure::IssuerMismatch => Self::IssuerMismatch,
            FlowFailure::CodeRefused => Self::CodeRefused,
            FlowFailure::IdTokenInvalid => Self::IdTokenInvalid,
            FlowFailure::AccountChanged => Self::AccountChanged,
            FlowFailure::UserMismatch => Self::UserMismatch,
            FlowFailure::BindingMismatch => Self::BindingMismatch,
            FlowFailure::HandleExpired => Self::HandleExpired,
            FlowFailure::ConnectorChanged => Self::ConnectorChanged,
            FlowFailure::Interrupted => Self::Interrupted,
        }
    }
}
