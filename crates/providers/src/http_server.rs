//! The authorization server behind HTTP: what really calls.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use valetkey_core::{Clock, Connector, Secret, Timestamp, TokenKind, TokenSet};

use crate::{
    AuthorizationRequest, AuthorizationServer, Catalogue, ClockSkew, CodeExchange, DEADLINE, NotSent, OutboundError,
    OutboundSettings, ProviderError, ProviderFacts, RefreshRequest, RevokeOutcome, TokenOutcome, UnknownOutcome,
    account::{IdTokenInvalid, Looking},
    answer::{has_unusable_refresh_token, token_set},
    classify::{Reading, read, wants_next_secret},
    discovery::DiscoveryCache,
    outbound::{Outbound, SendFault},
    profile::{Call, Discovery},
    request::{Asked, Identity, authorization_url, token_request},
    resolve::{Resolved, issuer},
    revoke::Revoking,
    skew::Skews,
    validate::validate,
};

/// How long naming the account behind a new grant may take.
const USERINFO_DEADLINE: Duration = Duration::from_secs(5);

/// Every provider of the catalogue, spoken to over HTTP.
#[derive(Debug)]
pub struct HttpAuthorizationServer {
    catalogue: Arc<Catalogue>,
    outbound: Outbound,
    discovery: DiscoveryCache,
    skews: Skews,
    clock: Arc<dyn Clock>,
    deadline: Duration,
}

/// A token endpoint's success, before it is believed.
#[derive(Debug)]
struct Success {
    members: Value,
    sent_at: Timestamp,
}

impl HttpAuthorizationServer {
    /// One for a catalogue, with the operator's exceptions.
    pub fn new(
        catalogue: Arc<Catalogue>,
        outbound: OutboundSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OutboundError> {
        let outbound = Outbound::new(outbound)?;
        let discovery = DiscoveryCache::new(outbound.clone(), clock.clone());
        Ok(Self { catalogue, outbound, discovery, skews: Skews::default(), clock, deadline: DEADLINE })
    }

    /// The same with a shorter deadline for each call. It never grows: leases are made for [`DEADLINE`].
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(DEADLINE);
        self
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    async fn resolve<'a>(&'a self, connector: &'a Connector, deadline: Instant) -> Result<Resolved<'a>, ProviderError> {
        let profile = self.catalogue.find(&connector.provider).ok_or_else(|| unknown(connector))?;
        let mut resolved = Resolved { profile, connector, metadata: None, guard: self.outbound.guard() };
        let kind = profile.endpoints.discovery;
        if kind != Discovery::None {
            let issuer =
                issuer(profile, connector, |template| resolved.fill(template))?.ok_or(ProviderError::MissingIssuer)?;
            let metadata = self.discovery.metadata(&issuer, kind, deadline).await;
            resolved.metadata = Some(metadata.map_err(|cause| ProviderError::Discovery { cause })?);
        }
        Ok(resolved)
    }

    /// Sends a token request once with each client secret until one is accepted.
    async fn ask(
        &self,
        resolved: &Resolved<'_>,
        secrets: &[Secret],
        asked: Asked<'_>,
        deadline: Instant,
    ) -> Result<Success, TokenOutcome> {
        let call = match asked {
            Asked::Exchange(_) => Call::Exchange,
            Asked::Refresh(_) => Call::Refresh,
            Asked::ClientCredentials(_) => Call::ClientCredentials,
        };
        let mut tries: Vec<Option<&Secret>> = secrets.iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut refused = None;
        for secret in tries {
            let sent_at = self.clock.now();
            let answer = match self.ask_once(resolved, secret, asked, deadline).await {
                Ok(answer) => answer,
                // Nothing of this try was sent, but an earlier one was answered: that answer stands.
                Err(TokenOutcome::NotSent(_)) if refused.is_some() => break,
                Err(outcome) => return Err(outcome),
            };
            let received_at = self.clock.now();
            self.skews.note(resolved.connector, &answer.headers, sent_at, received_at);
            match read(resolved.profile, call, &answer, received_at) {
                Reading::Success(members) => return Ok(Success { members, sent_at }),
                Reading::Failure(outcome) if wants_next_secret(&outcome) => refused = Some(outcome),
                Reading::Failure(outcome) => return Err(outcome),
            }
        }
        Err(refused.unwrap_or(TokenOutcome::NotSent(NotSent::Misconfigured)))
    }

    async fn ask_once(
        &self,
        resolved: &Resolved<'_>,
        secret: Option<&Secret>,
        asked: Asked<'_>,
        deadline: Instant,
    ) -> Result<crate::outbound::Answer, TokenOutcome> {
        let built = || {
            let endpoint = match asked {
                Asked::Refresh(_) => resolved.refresh()?,
                _ => resolved.token()?,
            };
            let identity = Identity {
                client_id: &resolved.connector.client_id,
                secret,
                authentication: resolved.authentication()?,
            };
            token_request(resolved.profile, endpoint, identity, asked)
        };
        let request = built().map_err(|error| not_sent(resolved.connector, &error))?;
        self.outbound.send(request, deadline).await.map_err(|fault| match fault {
            SendFault::NotSent(cause) => TokenOutcome::NotSent(cause),
            SendFault::Unknown(cause) => cause.into(),
        })
    }

    async fn try_exchange(
        &self,
        connector: &Connector,
        secrets: &[Secret],
        request: &CodeExchange<'_>,
    ) -> Result<TokenOutcome, TokenOutcome> {
        let deadline = Instant::now() + self.deadline;
        let resolved = self.resolved(connector, deadline).await?;
        let mut keep = resolved.profile.callback.keep.iter();
        if keep.any(|keep| keep.required && !request.kept.contains_key(&keep.param)) {
            return Err(TokenOutcome::Refused { code: "callback_parameter_missing" });
        }
        let success = self.ask(&resolved, secrets, Asked::Exchange(request), deadline).await?;
        let mut tokens = tokens(&resolved, &success)?;
        tokens.reconnect_by =
            resolved.lives().refresh_absolute_s.map(|life| success.sent_at.plus(Duration::from_secs(life)));
        let askable: Vec<String> = resolved.askable_scopes().cloned().collect();
        let looking = Looking {
            resolved: &resolved,
            exchange: request,
            answer: &success.members,
            access_token: &tokens.access_token,
            scopes: tokens.scopes.as_deref().unwrap_or(&askable),
            now: self.clock.now(),
        };
        let until = deadline.min(Instant::now() + USERINFO_DEADLINE);
        match looking.account(&self.outbound, until).await {
            Ok(account) => {
                tokens.account = account;
                Ok(TokenOutcome::Granted(Box::new(tokens)))
            }
            Err(IdTokenInvalid) => {
                Ok(TokenOutcome::GrantedButUnusable { tokens: Box::new(tokens), code: "id_token_invalid" })
            }
        }
    }

    async fn try_refresh(
        &self,
        connector: &Connector,
        secrets: &[Secret],
        request: &RefreshRequest<'_>,
    ) -> Result<TokenOutcome, TokenOutcome> {
        let deadline = Instant::now() + self.deadline;
        let resolved = self.resolved(connector, deadline).await?;
        let success = self.ask(&resolved, secrets, Asked::Refresh(request), deadline).await?;
        if has_unusable_refresh_token(&success.members, &resolved.profile.answer) {
            // Keeping the old one as if none had come would present it again without asking the rotation class.
            return Err(UnknownOutcome::UnusableRefreshToken.into());
        }
        tokens(&resolved, &success).map(|tokens| TokenOutcome::Granted(Box::new(tokens)))
    }

    async fn try_client_credentials(
        &self,
        connector: &Connector,
        secrets: &[Secret],
        scopes: &[String],
    ) -> Result<TokenOutcome, TokenOutcome> {
        let deadline = Instant::now() + self.deadline;
        let resolved = self.resolved(connector, deadline).await?;
        let success = self.ask(&resolved, secrets, Asked::ClientCredentials(scopes), deadline).await?;
        let mut tokens = tokens(&resolved, &success)?;
        // RFC 6749, section 4.4.3: there is none to be had; a server that sends one gets it no second time.
        tokens.refresh_token = None;
        tokens.refresh_expires_at = None;
        Ok(TokenOutcome::Granted(Box::new(tokens)))
    }

    async fn resolved<'a>(&'a self, connector: &'a Connector, deadline: Instant) -> Result<Resolved<'a>, TokenOutcome> {
        self.resolve(connector, deadline).await.map_err(|error| not_sent(connector, &error))
    }
}

fn unknown(connector: &Connector) -> ProviderError {
    ProviderError::UnknownProvider { provider: connector.provider.clone() }
}

/// Nothing can be sent: the log says why, the outcome says whether waiting helps.
fn not_sent(connector: &Connector, error: &ProviderError) -> TokenOutcome {
    tracing::warn!(connector.id = %connector.id, %error, "no request to the provider of {}", connector.id);
    TokenOutcome::NotSent(match error {
        ProviderError::Discovery { .. } => NotSent::Discovery,
        ProviderError::AddressRefused { .. } => NotSent::AddressRefused,
        _ => NotSent::Misconfigured,
    })
}

fn tokens(resolved: &Resolved<'_>, success: &Success) -> Result<TokenSet, TokenOutcome> {
    token_set(&success.members, resolved.profile, success.sent_at).ok_or(UnknownOutcome::NoAccessToken.into())
}

fn either(result: Result<TokenOutcome, TokenOutcome>) -> TokenOutcome {
    match result {
        Ok(outcome) | Err(outcome) => outcome,
    }
}

#[async_trait]
impl AuthorizationServer for HttpAuthorizationServer {
    fn validate(&self, connector: &Connector) -> Result<(), Vec<ProviderError>> {
        let faults = match self.catalogue.find(&connector.provider) {
            Some(profile) => validate(profile, connector, self.outbound.guard()),
            None => vec![unknown(connector)],
        };
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    async fn facts(&self, connector: &Connector) -> Result<ProviderFacts, ProviderError> {
        let deadline = Instant::now() + self.deadline;
        self.resolve(connector, deadline).await?.facts()
    }

    async fn authorization_url(
        &self,
        connector: &Connector,
        request: &AuthorizationRequest<'_>,
    ) -> Result<Url, ProviderError> {
        let deadline = Instant::now() + self.deadline;
        let resolved = self.resolve(connector, deadline).await?;
        authorization_url(&resolved, request)
    }

    async fn exchange(&self, connector: &Connector, secrets: &[Secret], request: &CodeExchange<'_>) -> TokenOutcome {
        either(self.try_exchange(connector, secrets, request).await)
    }

    async fn refresh(&self, connector: &Connector, secrets: &[Secret], request: &RefreshRequest<'_>) -> TokenOutcome {
        either(self.try_refresh(connector, secrets, request).await)
    }

    async fn client_credentials(&self, connector: &Connector, secrets: &[Secret], scopes: &[String]) -> TokenOutcome {
        either(self.try_client_credentials(connector, secrets, scopes).await)
    }

    fn clock_skews(&self) -> Vec<ClockSkew> {
        self.skews.farthest()
    }

    async fn revoke(
        &self,
        connector: &Connector,
        secrets: &[Secret],
        token: &Secret,
        kind: TokenKind,
    ) -> RevokeOutcome {
        let deadline = Instant::now() + self.deadline;
        let resolved = match self.resolve(connector, deadline).await {
            Ok(resolved) => resolved,
            Err(ProviderError::Discovery { .. }) => {
                return RevokeOutcome::Retry { code: NotSent::Discovery.code(), retry_after: None };
            }
            Err(error) => {
                tracing::warn!(connector.id = %connector.id, %error, "no revocation at the provider of {}", connector.id);
                return RevokeOutcome::Failed { code: NotSent::Misconfigured.code() };
            }
        };
        let revoking =
            Revoking { resolved: &resolved, secrets, outbound: &self.outbound, clock: self.clock.as_ref(), deadline };
        if !revoking.wants_refresh_first(kind) {
            return revoking.revoke(token, kind).await;
        }
        let request = RefreshRequest { refresh_token: token, redirect_uri: "", scopes: &[] };
        match self.try_refresh(connector, secrets, &request).await {
            Ok(TokenOutcome::Granted(tokens)) => revoking.revoke(&tokens.access_token, TokenKind::Access).await,
            Ok(outcome) | Err(outcome) => Revoking::after_refresh(&outcome),
        }
    }
}
