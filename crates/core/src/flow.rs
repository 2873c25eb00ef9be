//! A flow: one started authorization.

use crate::{
    ConnectionId, ConnectorId, FlowId, KeyId, Label, Owner, SpaceId, Timestamp, UserId, connection::text_enum,
};

text_enum!(
    /// How the browser goes out and comes home.
    FlowMode {
        /// A window of its own, opened by the application's page.
        Popup => "popup",
        /// The whole page.
        Redirect => "redirect",
    }
);

text_enum!(
    /// Where a flow stands.
    FlowStatus {
        /// Started; nobody has come back yet.
        Pending => "pending",
        /// The callback passed; our page asks the person.
        AwaitingConfirm => "awaiting_confirm",
        /// The callback passed; the application must finish.
        AwaitingFinish => "awaiting_finish",
        /// The code is being redeemed.
        Finishing => "finishing",
        /// A connection was stored.
        Connected => "connected",
        /// It ended without one.
        Failed => "failed",
        /// The application or the person called it off.
        Cancelled => "cancelled",
        /// Its ten minutes are over.
        Expired => "expired",
    }
);

impl FlowStatus {
    /// Whether nothing more can happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Connected | Self::Failed | Self::Cancelled | Self::Expired)
    }
}

text_enum!(
    /// Why a flow failed. The codes are part of the API and of the pages.
    FlowFailure {
        /// The person said no at the provider.
        AccessDenied => "access_denied",
        /// The provider answered with another error.
        ProviderError => "provider_error",
        /// The provider refused our client registration or request.
        ClientRefused => "client_refused",
        /// The provider could not be reached, or answered nonsense.
        ProviderUnavailable => "provider_unavailable",
        /// The answer named another issuer, or none where one is promised (RFC 9207).
        IssuerMismatch => "issuer_mismatch",
        /// The provider refused the code.
        CodeRefused => "code_refused",
        /// The id_token did not fit this flow.
        IdTokenInvalid => "id_token_invalid",
        /// Another account than the one connected before.
        AccountChanged => "account_changed",
        /// Someone other than the user who started the flow tried to finish it.
        UserMismatch => "user_mismatch",
        /// The binding verifier does not fit the challenge.
        BindingMismatch => "binding_mismatch",
        /// The handle lapsed before the application finished.
        HandleExpired => "handle_expired",
        /// The connector was deleted, or its return target was removed, in mid-flow.
        ConnectorChanged => "connector_changed",
        /// The process ended while it redeemed the code.
        Interrupted => "interrupted",
    }
);

/// One started authorization: state, PKCE verifier, browser binding, one use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Its id.
    pub id: FlowId,
    /// The space it belongs to.
    pub space: SpaceId,
    /// The connector that it authorizes.
    pub connector_id: ConnectorId,
    /// The key that started it.
    pub started_by: KeyId,
    /// Whose grant it will be.
    pub owner: Owner,
    /// The administrator who connects a shared grant, as the application knows them.
    pub actor: Option<UserId>,
    /// How the confirm page names the user.
    pub user_display: Option<String>,
    /// Which of the owner's accounts.
    pub label: Label,
    /// How the browser goes and comes.
    pub mode: FlowMode,
    /// Where the browser comes home to.
    pub return_url: String,
    /// The origin that opened the popup.
    pub origin: Option<String>,
    /// The scopes asked for.
    pub scopes: Vec<String>,
    /// Whom the provider's sign-in page should suggest.
    pub login_hint: Option<String>,
    /// Base64url SHA-256 of a verifier that only the application's session knows.
    pub binding_challenge: Option<String>,
    /// Another account may take the place of the one connected before.
    pub allow_account_change: bool,
    /// Where it stands.
    pub status: FlowStatus,
    /// Why it failed.
    pub failure: Option<FlowFailure>,
    /// The connection it made.
    pub connection_id: Option<ConnectionId>,
    /// When it started.
    pub created_at: Timestamp,
    /// When its life ends.
    pub expires_at: Timestamp,
    /// When the handle lapses, once there is one.
    pub handle_expires_at: Option<Timestamp>,
}

impl Flow {
    /// Where it stands at `now`: a flow whose life is over counts as expired even before a purge says so.
    pub fn status_at(&self, now: Timestamp) -> FlowStatus {
        let waiting =
            matches!(self.status, FlowStatus::Pending | FlowStatus::AwaitingConfirm | FlowStatus::AwaitingFinish);
        if waiting && self.expires_at <= now { FlowStatus::Expired } else { self.status }
    }

    /// The person whom `finish` must name: the owner, or the actor of a shared flow.
    pub fn bound_person(&self) -> Option<&UserId> {
        self.owner.user_id().or(self.actor.as_ref())
    }
}
