//! What the broker asks of authorization servers, and the answers it gets.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use async_trait::async_trait;
use url::Url;
use valetkey_core::{Connector, Lives, Reach, ReauthReason, RotationClass, Secret, TokenKind, TokenSet};

use crate::{ClockSkew, ProviderError};

/// An authorization server as the broker sees it: every provider behind one face.
///
/// Calls send at most one request that a provider may process, each within one deadline: nothing is repeated here. The
/// one exception is the next client secret after `invalid_client`, which belongs to the same call.
#[async_trait]
pub trait AuthorizationServer: Send + Sync + Debug {
    /// Every fault of a connector that can be seen without asking anybody: settings, addresses, grant.
    fn validate(&self, connector: &Connector) -> Result<(), Vec<ProviderError>>;

    /// What is known of this connector's provider: profile, the connector's own settings and cached discovery.
    async fn facts(&self, connector: &Connector) -> Result<ProviderFacts, ProviderError>;

    /// The address of the provider's consent page (RFC 6749, section 4.1.1; RFC 7636, section 4.3).
    async fn authorization_url(
        &self,
        connector: &Connector,
        request: &AuthorizationRequest<'_>,
    ) -> Result<Url, ProviderError>;

    /// Redeems a code (RFC 6749, section 4.1.3).
    async fn exchange(&self, connector: &Connector, secrets: &[Secret], request: &CodeExchange<'_>) -> TokenOutcome;

    /// Presents a refresh token once (RFC 6749, section 6).
    async fn refresh(&self, connector: &Connector, secrets: &[Secret], request: &RefreshRequest<'_>) -> TokenOutcome;

    /// Asks for a token of the client's own (RFC 6749, section 4.4).
    async fn client_credentials(&self, connector: &Connector, secrets: &[Secret], scopes: &[String]) -> TokenOutcome;

    /// Tells the provider that a token is to end (RFC 7009, or the profile's own style).
    async fn revoke(&self, connector: &Connector, secrets: &[Secret], token: &Secret, kind: TokenKind)
    -> RevokeOutcome;

    /// How far the clocks of providers were from ours when they last answered, one for each provider.
    fn clock_skews(&self) -> Vec<ClockSkew> {
        Vec::new()
    }
}

/// What a consent page is asked with.
#[derive(Debug, Clone, Copy)]
pub struct AuthorizationRequest<'a> {
    /// The connector's redirect URI.
    pub redirect_uri: &'a str,
    /// The flow's state.
    pub state: &'a Secret,
    /// The PKCE verifier, 43 to 128 characters; only its challenge is sent.
    pub verifier: &'a Secret,
    /// The nonce that an id_token must repeat; sent when `openid` is among the scopes.
    pub nonce: &'a Secret,
    /// The scopes asked for.
    pub scopes: &'a [String],
    /// Whom the sign-in page should suggest.
    pub login_hint: Option<&'a str>,
}

/// What a code is redeemed with.
#[derive(Debug, Clone, Copy)]
pub struct CodeExchange<'a> {
    /// The code.
    pub code: &'a Secret,
    /// The redirect URI that the authorization request named.
    pub redirect_uri: &'a str,
    /// The PKCE verifier.
    pub verifier: &'a Secret,
    /// The nonce of the authorization request.
    pub nonce: &'a Secret,
    /// The callback's parameters that [`ProviderFacts::keep`] names, by parameter.
    pub kept: &'a BTreeMap<String, String>,
}

/// What a refresh token is presented with.
#[derive(Debug, Clone, Copy)]
pub struct RefreshRequest<'a> {
    /// The refresh token.
    pub refresh_token: &'a Secret,
    /// The connector's redirect URI; some providers want it again.
    pub redirect_uri: &'a str,
    /// The granted scopes; sent only where the provider wants them.
    pub scopes: &'a [String],
}

/// How a token request ended.
#[derive(Debug)]
pub enum TokenOutcome {
    /// Tokens. At a refresh, `refresh_token`, `scopes`, `account` and `reconnect_by` are absent where nothing new is
    /// known: keep what is stored.
    Granted(Box<TokenSet>),
    /// Tokens that must not be stored: revoke them.
    GrantedButUnusable {
        /// The tokens.
        tokens: Box<TokenSet>,
        /// Why.
        code: &'static str,
    },
    /// Surely nothing reached the provider.
    NotSent(NotSent),
    /// The provider asks for patience and has processed nothing.
    Limited {
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// The provider may have processed the request.
    Unknown {
        /// What was seen.
        cause: UnknownOutcome,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// The grant (or the code) is dead.
    Dead {
        /// What its owner needs to know.
        reason: ReauthReason,
        /// Which rule said so.
        code: &'static str,
    },
    /// The provider does not accept our client: no connection is to blame.
    Client {
        /// Which error.
        code: &'static str,
    },
    /// Another definite error; nothing was processed.
    Refused {
        /// Which error.
        code: &'static str,
    },
}

impl TokenOutcome {
    /// A stable short text for logs, metrics and audit; never the provider's own.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::NotSent(cause) => cause.code(),
            Self::Limited { .. } => "limited",
            Self::Unknown { cause, .. } => cause.code(),
            Self::GrantedButUnusable { code, .. }
            | Self::Dead { code, .. }
            | Self::Client { code }
            | Self::Refused { code } => code,
        }
    }
}

/// Why nothing reached the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotSent {
    /// The name did not resolve.
    Dns,
    /// No connection within the time, or it was refused.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The address, or every address of the name, is one that we do not speak to.
    AddressRefused,
    /// The deadline passed before the request was begun.
    Deadline,
    /// The provider's metadata could not be got.
    Discovery,
    /// The connector or the profile lacks something.
    Misconfigured,
}

impl NotSent {
    /// A stable short text.
    pub fn code(self) -> &'static str {
        match self {
            Self::Dns => "dns_failed",
            Self::Connect => "connect_failed",
            Self::Tls => "tls_failed",
            Self::AddressRefused => "address_refused",
            Self::Deadline => "deadline_before_send",
            Self::Discovery => "discovery_failed",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// Whether trying again later may help without anybody changing anything.
    pub fn may_pass(self) -> bool {
        !matches!(self, Self::AddressRefused | Self::Misconfigured)
    }
}

/// Why it is not known whether the provider processed the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownOutcome {
    /// A status of the 500s, or one that says nothing about the request.
    ServerError,
    /// No whole answer within the deadline.
    Timeout,
    /// The connection broke before an answer began.
    ConnectionLost,
    /// The answer broke off.
    Truncated,
    /// The answer was larger than we read.
    TooLarge,
    /// The answer was neither JSON nor a form.
    Unreadable,
    /// A success without a usable access token.
    NoAccessToken,
    /// A success whose refresh token cannot be used: the one that was presented may be spent.
    UnusableRefreshToken,
    /// A redirect, which is not followed.
    Redirect,
    /// A failure without an error code.
    NoErrorCode,
    /// The profile says that this error leaves it open.
    SaidSo,
}

impl UnknownOutcome {
    /// A stable short text.
    pub fn code(self) -> &'static str {
        match self {
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::ConnectionLost => "connection_lost",
            Self::Truncated => "truncated",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::NoAccessToken => "no_access_token",
            Self::UnusableRefreshToken => "unusable_refresh_token",
            Self::Redirect => "redirect",
            Self::NoErrorCode => "no_error_code",
            Self::SaidSo => "outcome_open",
        }
    }
}

impl From<UnknownOutcome> for TokenOutcome {
    fn from(cause: UnknownOutcome) -> Self {
        Self::Unknown { cause, retry_after: None }
    }
}

/// How telling the provider ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeOutcome {
    /// The token is dead at the provider.
    Confirmed,
    /// The provider has no way to be told, of this kind of token or at all.
    Unsupported,
    /// Worth another try.
    Retry {
        /// Why.
        code: &'static str,
        /// How long the provider asked to wait.
        retry_after: Option<Duration>,
    },
    /// No use trying again.
    Failed {
        /// Why.
        code: &'static str,
    },
}

impl RevokeOutcome {
    /// A stable short text for logs, metrics and audit; never the provider's own.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Unsupported => "unsupported",
            Self::Retry { code, .. } | Self::Failed { code } => code,
        }
    }
}

/// What the broker needs to know of a connector's provider.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each with a name of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderFacts {
    /// The class in force: the connector's own, else the profile's, else what the answers have shown.
    pub rotation: RotationClass,
    /// A refresh kills the old access token at once: refresh late, never serve the old one afterwards.
    pub access_dies_on_refresh: bool,
    /// Lives where the answers are silent.
    pub lives: Lives,
    /// How long a code can be redeemed.
    pub code_life: Duration,
    /// The issuer that `iss` in a callback must equal, byte for byte, when it is sent (RFC 9207).
    pub issuer: Option<String>,
    /// Whether a callback without `iss` is to be refused.
    pub iss_required: bool,
    /// How far a revocation reaches.
    pub reach: Reach,
    /// Whether the provider can be told of a revocation at all.
    pub revocable: bool,
    /// The kinds of token it can be told of.
    pub revocable_kinds: Vec<TokenKind>,
    /// Where users remove access themselves.
    pub manual_url: Option<String>,
    /// The provider refuses to refresh earlier than this before the end.
    pub not_before_expiry: Option<Duration>,
    /// Callback parameters to hand to [`CodeExchange::kept`].
    pub keep: Vec<KeptParam>,
    /// PKCE is used; a profile that switches it off is to be audited with the flow.
    pub pkce: bool,
}

impl Default for ProviderFacts {
    /// The cautious reading of a provider of which nothing is known.
    fn default() -> Self {
        Self {
            rotation: RotationClass::StrictWide,
            access_dies_on_refresh: false,
            lives: Lives::default(),
            code_life: Duration::from_secs(60),
            issuer: None,
            iss_required: false,
            reach: Reach::UserClient,
            revocable: false,
            revocable_kinds: Vec::new(),
            manual_url: None,
            not_before_expiry: None,
            keep: Vec::new(),
            pkce: true,
        }
    }
}

/// A parameter of the callback that the exchange needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptParam {
    /// Its name.
    pub param: String,
    /// Whether a callback without it is of no use.
    pub required: bool,
}
