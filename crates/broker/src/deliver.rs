//! Deliver revocations: the provider is told, with backoff, and each ends with a truthful outcome.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use valetkey_core::{
    Action, Actor, Attempt, Connection, Connector, Reach, Revocation, RevocationState, Subject, TokenKind,
};
use valetkey_providers::{ProviderFacts, RevokeOutcome};
use valetkey_store::ClaimedRevocation;

use crate::{Broker, BrokerError, schedule::backoff};

/// After this long a provider that does not answer is given up, with its reason.
const PATIENCE: Duration = Duration::from_secs(7 * 86_400);

/// Deliveries at once.
const CONCURRENCY: usize = 16;

/// What one run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryReport {
    /// Tried now.
    pub claimed: u64,
    /// Ended, in whatever way.
    pub ended: u64,
    /// To be tried again.
    pub retried: u64,
}

impl Broker {
    /// Tells providers of up to `limit` revocations that are due; of none during a hold.
    pub async fn deliver_revocations(&self, limit: i64) -> Result<DeliveryReport, BrokerError> {
        // A database that may be out of date must not end grants that another one uses.
        if self.hold().await?.is_some() {
            return Ok(DeliveryReport::default());
        }
        let now = self.now();
        let claimed = self.store().claim_revocations(now, now.plus(Attempt::LEASE), limit).await?;
        let mut report = DeliveryReport { claimed: u64::try_from(claimed.len()).unwrap_or(0), ..Default::default() };
        let ends: Vec<Result<bool, BrokerError>> = futures::stream::iter(claimed)
            .map(|claimed| {
                let broker = self.clone();
                async move { broker.deliver(claimed).await }
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for end in ends {
            if end? {
                report.ended += 1;
            } else {
                report.retried += 1;
            }
        }
        Ok(report)
    }

    async fn deliver(&self, claimed: ClaimedRevocation) -> Result<bool, BrokerError> {
        let ClaimedRevocation { revocation, token } = claimed;
        let Some(connector) = self.store().find_connector_any(revocation.connector_id).await? else {
            return self.end_revocation(&revocation, RevocationState::Failed, "connector_gone").await;
        };
        let Ok(facts) = self.provider().facts(&connector).await else {
            return self.try_later(&revocation, "provider_unresolved", None).await;
        };
        if !facts.revocable || !facts.revocable_kinds.contains(&revocation.token_kind) {
            return self.end_revocation(&revocation, RevocationState::Unsupported, "no_way_to_tell").await;
        }
        if self.would_end_another(&revocation, &connector, &facts).await? {
            return self.end_revocation(&revocation, RevocationState::Superseded, "shared_grant").await;
        }
        let secrets = self.store().connector_secrets(&connector).await?;
        match self.provider().revoke(&connector, &secrets, &token, revocation.token_kind).await {
            RevokeOutcome::Confirmed => self.end_revocation(&revocation, RevocationState::Confirmed, "confirmed").await,
            RevokeOutcome::Unsupported => {
                self.end_revocation(&revocation, RevocationState::Unsupported, "unsupported").await
            }
            RevokeOutcome::Failed { code } => self.end_revocation(&revocation, RevocationState::Failed, code).await,
            RevokeOutcome::Retry { code, retry_after } => self.try_later(&revocation, code, retry_after).await,
        }
    }

    /// A revocation that reaches further than its token must not end another live connection's grant.
    async fn would_end_another(
        &self,
        revocation: &Revocation,
        connector: &Connector,
        facts: &ProviderFacts,
    ) -> Result<bool, BrokerError> {
        if facts.reach == Reach::Token {
            return Ok(false);
        }
        let Some(stored) = self.reread(revocation.connection_id).await? else { return Ok(false) };
        let connection: &Connection = &stored.connection;
        // Reconnected meanwhile: the grant that this would end may be the one in use.
        Ok(connection.is_live() || self.store().count_siblings(connector, connection).await? > 0)
    }

    async fn try_later(
        &self,
        revocation: &Revocation,
        code: &'static str,
        retry_after: Option<Duration>,
    ) -> Result<bool, BrokerError> {
        let now = self.now();
        if now.since(revocation.created_at) > PATIENCE {
            return self.end_revocation(revocation, RevocationState::Failed, code).await;
        }
        let pause = backoff(&self.inner.parts.settings.refresh, revocation.tries, self.entropy());
        let next = now.plus(retry_after.map_or(pause, |asked| asked.max(pause)));
        self.store().retry_revocation(revocation.id, code, next, now).await?;
        Ok(false)
    }

    async fn end_revocation(
        &self,
        revocation: &Revocation,
        state: RevocationState,
        outcome: &'static str,
    ) -> Result<bool, BrokerError> {
        let subject = Subject {
            connector_id: Some(revocation.connector_id),
            connection_id: Some(revocation.connection_id),
            ..Subject::default()
        };
        let mut event = self.event(&revocation.space, Actor::System, Action::RevocationEnded, subject);
        event.detail = json!({
            "revocation": revocation.id,
            "token": token_name(revocation.token_kind),
            "state": state,
            "outcome": outcome,
            "tries": revocation.tries,
        });
        if self.store().end_revocation(revocation, state, outcome, self.now(), &event).await? {
            self.inner.metrics.revocation_ended(state.as_str());
        }
        Ok(true)
    }
}

fn token_name(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Refresh => "refresh_token",
        TokenKind::Access => "access_token",
    }
}
