//! Recovery: attempts and redemptions whose process died.

use std::time::Duration;

use valetkey_core::{Attempt, AttemptState, Connection, Connector, ReauthReason, Timestamp};
use valetkey_providers::ProviderFacts;
use valetkey_store::Stopped;

use crate::{Boundary, Broker, BrokerError, attempt::OpenSend, hold::refreshes_despite_hold};

/// Older leftovers were resolved long ago, or belong to generations that are over.
const LOOK_BACK: Duration = Duration::from_secs(30 * 86_400);

/// The code of an attempt whose end nobody wrote.
const ABANDONED: &str = "process_died";

impl Broker {
    /// Decides how attempts go on whose holder died after it may have sent; answers with their number.
    pub async fn recover_attempts(&self, limit: i64) -> Result<u64, BrokerError> {
        let now = self.now();
        let mut resolved = 0;
        let found = self.store().abandoned_attempts(now, now.minus(LOOK_BACK), limit).await;
        let abandoned = found.inspect_err(|error| self.note_outage(error))?;
        if self.was_cut_off() {
            return Ok(0);
        }
        self.hold().await?;
        for attempt in abandoned {
            let Some(stored) = self.reread(attempt.connection_id).await? else { continue };
            let connection = &stored.connection;
            let Some(connector) = self.store().find_connector_any(connection.connector_id).await? else { continue };
            // What cannot be found out is not guessed: the next run tries again.
            let Ok(facts) = self.provider().facts(&connector).await else { continue };
            if self.resolve(&attempt, connection, &connector, &facts).await? {
                resolved += 1;
            }
        }
        Ok(resolved)
    }

    /// Ends redemptions whose process died: their codes cannot be redeemed twice.
    pub async fn recover_flows(&self) -> Result<u64, BrokerError> {
        // Whoever redeemed a code during an outage is about to write down what it brought.
        if self.was_cut_off() {
            return Ok(0);
        }
        let now = self.now();
        Ok(self.store().fail_interrupted_flows(now, now.minus(Duration::from_secs(86_400))).await?)
    }

    /// A caller that finds the attempt abandoned need not wait for the scheduler.
    pub(crate) async fn resolve_if_abandoned(
        &self,
        connection: &Connection,
        connector: &Connector,
        facts: &ProviderFacts,
    ) -> Result<(), BrokerError> {
        let Some(attempt) = self.store().find_attempt(connection.id, connection.generation).await? else {
            return Ok(());
        };
        if attempt.state == AttemptState::Sent && attempt.lease_until <= self.now() && !self.was_cut_off() {
            self.resolve(&attempt, connection, connector, facts).await?;
        }
        Ok(())
    }

    async fn resolve(
        &self,
        attempt: &Attempt,
        connection: &Connection,
        connector: &Connector,
        facts: &ProviderFacts,
    ) -> Result<bool, BrokerError> {
        // What became of it is decided when it may be presented again: a restored attempt may be long over elsewhere.
        if self.seems_held() && !refreshes_despite_hold(connector, facts) && self.hold().await?.is_some() {
            return Ok(false);
        }
        let first_sent_at: Timestamp = attempt.first_sent_at.unwrap_or(attempt.created_at);
        let send = OpenSend { send_no: attempt.send_no, first_sent_at, asked: None };
        let go_on = self.decide(&self.unknown_case(connection, connector, facts, send).await?);
        self.reached(Boundary::BeforeRecoveryWrite, connection.id);
        let stops = go_on.state == AttemptState::Stopped;
        let resolved = if stops {
            self.stop(attempt, connection).await?
        } else {
            // First the connection, conditional on its generation: if this process dies too, the next one comes by again.
            self.go_on(connection, go_on, ABANDONED).await?;
            let next_try_at = go_on.next_try_at;
            self.store().resolve_abandoned(attempt, go_on.state, ABANDONED, next_try_at, self.now()).await?
        };
        if resolved {
            self.inner.metrics.attempt_ended("abandoned");
            tracing::warn!(connection.id = %connection.id, attempt.id = %attempt.id, fingerprint = %attempt.fingerprint, state = go_on.state.as_str(), "attempt {} was abandoned by its process", attempt.id);
        }
        self.reached(Boundary::AfterRecoveryWrite, connection.id);
        if resolved && !stops {
            // Another replica that found it too may have planned another time meanwhile.
            self.go_on(connection, go_on, ABANDONED).await?;
        }
        Ok(resolved)
    }

    /// Ends a grant for an attempt of which nothing is known: both in one step, because its holder may come back and say
    /// what became of it at this very moment.
    async fn stop(&self, attempt: &Attempt, connection: &Connection) -> Result<bool, BrokerError> {
        const REASON: ReauthReason = ReauthReason::UnknownOutcome;
        let event = self.death_of(connection, REASON, ABANDONED);
        let stopped = self.store().stop_abandoned(attempt, REASON, ABANDONED, self.now(), &event).await?;
        if stopped == Stopped::WithItsGrant {
            self.tell_death(connection, REASON);
        }
        Ok(stopped != Stopped::NotAtAll)
    }
}
