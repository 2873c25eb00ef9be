//! A provider in the same process: it rotates its refresh tokens and says in the journal what it was presented with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use url::Url;
use valetkey_core::{Connector, Secret, Timestamp, TokenKind, TokenSet};
use valetkey_providers::{
    AuthorizationRequest, AuthorizationServer, CodeExchange, NotSent, ProviderError, ProviderFacts, RefreshRequest,
    RevokeOutcome, TokenOutcome,
};

use super::{marks::Marks, promises::Mark};

/// Far enough away that no token ends while the proof runs.
pub(crate) fn never() -> Timestamp {
    Timestamp::from_millis(0).plus(Duration::from_secs(4_000_000_000))
}

/// The tokens of a user: `access` and `refresh`, each with a number of their own.
pub(crate) fn token(kind: &str, user: &str, number: u64) -> Secret {
    Secret::from(format!("{kind}.{user}.{number}"))
}

/// Without marks it cannot be reached.
#[derive(Debug)]
pub(crate) struct Rotating {
    marks: Option<Arc<Marks>>,
    number: AtomicU64,
}

impl Rotating {
    pub(crate) fn saying(marks: Arc<Marks>, first: u64) -> Self {
        Self { marks: Some(marks), number: AtomicU64::new(first) }
    }

    pub(crate) fn unreachable() -> Self {
        Self { marks: None, number: AtomicU64::new(0) }
    }
}

#[async_trait]
impl AuthorizationServer for Rotating {
    fn validate(&self, _: &Connector) -> Result<(), Vec<ProviderError>> {
        Ok(())
    }

    async fn facts(&self, _: &Connector) -> Result<ProviderFacts, ProviderError> {
        // The strictest class: it has two commits before it sends.
        Ok(ProviderFacts::default())
    }

    async fn authorization_url(&self, _: &Connector, _: &AuthorizationRequest<'_>) -> Result<Url, ProviderError> {
        Err(ProviderError::NoEndpoint { which: "authorization" })
    }

    async fn exchange(&self, _: &Connector, _: &[Secret], _: &CodeExchange<'_>) -> TokenOutcome {
        TokenOutcome::NotSent(NotSent::Misconfigured)
    }

    async fn refresh(&self, _: &Connector, _: &[Secret], request: &RefreshRequest<'_>) -> TokenOutcome {
        let Some(marks) = &self.marks else { return TokenOutcome::NotSent(NotSent::Connect) };
        let user = request.refresh_token.expose().split('.').nth(1).unwrap_or_default().to_owned();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let access_token = token("access", &user, number);
        let said = marks
            .say(&Mark::Presented { fingerprint: request.refresh_token.fingerprint() })
            .and_then(|()| marks.say(&Mark::Offered { user: user.clone(), fingerprint: access_token.fingerprint() }));
        if said.is_err() {
            return TokenOutcome::NotSent(NotSent::Misconfigured);
        }
        TokenOutcome::Granted(Box::new(TokenSet {
            access_token,
            token_type: "Bearer".to_owned(),
            refresh_token: Some(token("refresh", &user, number)),
            scopes: None,
            issued_at: Timestamp::from_millis(0),
            expires_at: Some(never()),
            refresh_expires_at: None,
            reconnect_by: None,
            account: None,
        }))
    }

    async fn client_credentials(&self, _: &Connector, _: &[Secret], _: &[String]) -> TokenOutcome {
        TokenOutcome::NotSent(NotSent::Misconfigured)
    }

    async fn revoke(&self, _: &Connector, _: &[Secret], _: &Secret, _: TokenKind) -> RevokeOutcome {
        RevokeOutcome::Unsupported
    }
}
