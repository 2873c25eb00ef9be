//! Refresh one connection: the one path for callers, the scheduler and forced refreshes.
//!
//! Record, gate, send, settle. The record is durable before the refresh token leaves and unique for its generation; the
//! exchange runs in a task of its own; a success is stored before anything else is done with it.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use valetkey_core::{
    Action, Actor, Attempt, AttemptId, AttemptState, Connection, ConnectionId, Connector, Fingerprint, Grant,
    ReauthReason, RevocationId, RotationClass, Secret, Status, Subject, Timestamp, TokenSet, Trigger,
};
use valetkey_providers::{ProviderFacts, RefreshRequest, TokenOutcome};
use valetkey_store::{EndAttempt, HeldAttempt, NewAttempt, Settle, Settled, StoredConnection};

use crate::{
    Broker, BrokerError,
    attempt::{GoOn, UnknownCase, after_unknown},
    schedule::{self, backoff},
};

/// How a refresh ended, for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshEnd {
    /// New tokens are stored.
    Settled,
    /// The grant is dead, or was found to be.
    Dead,
    /// Somebody else is at it, or the next try is not due yet.
    Busy,
    /// It failed; the next try is planned.
    Failed(&'static str),
    /// There is nothing to present.
    Nothing,
    /// Another refresh or a reconnect came first: what was to be replaced is gone.
    Superseded,
}

/// Everything one refresh works with.
struct Job {
    connection: Connection,
    connector: Connector,
    facts: ProviderFacts,
    secrets: Vec<Secret>,
    refresh_token: Option<Secret>,
    trigger: Trigger,
}

/// An attempt that this process holds, since when.
struct Held {
    attempt: HeldAttempt,
    taken: Duration,
}

impl Broker {
    /// Refreshes, and logs what went wrong on our side: nobody may be waiting any more.
    pub(crate) async fn refresh_logged(&self, id: ConnectionId, generation: i64, trigger: Trigger) -> RefreshEnd {
        match self.refresh(id, generation, trigger).await {
            Ok(end) => end,
            Err(error) => {
                tracing::error!(connection.id = %id, error = &error as &dyn std::error::Error, "refreshing connection {id} failed");
                RefreshEnd::Failed("internal")
            }
        }
    }

    /// Refreshes what the caller saw, and nothing that came after it.
    async fn refresh(&self, id: ConnectionId, generation: i64, trigger: Trigger) -> Result<RefreshEnd, BrokerError> {
        let Some(stored) = self.store().read_stored(id).await? else { return Ok(RefreshEnd::Nothing) };
        let connection = stored.connection.clone();
        if connection.generation != generation {
            return Ok(RefreshEnd::Superseded);
        }
        if connection.status != Status::Active {
            return Ok(if connection.status == Status::NeedsReauth { RefreshEnd::Dead } else { RefreshEnd::Nothing });
        }
        let Some(connector) = self.store().find_connector_any(connection.connector_id).await? else {
            return Ok(RefreshEnd::Nothing);
        };
        if connector.deleted_at.is_some() {
            return Ok(RefreshEnd::Nothing);
        }
        if let Some(end) = self.before_circuit(&connection, &connector).await? {
            return Ok(end);
        }
        let facts = match self.provider().facts(&connector).await {
            Ok(facts) => facts,
            Err(error) => {
                tracing::warn!(connector.id = %connector.id, error = &error as &dyn std::error::Error, "provider of {} cannot be resolved", connector.id);
                let next = self.now().plus(backoff(&self.inner.parts.settings.refresh, 4, self.entropy()));
                self.store().mark_failing(&connection, "provider_unresolved", Some(next), self.now()).await?;
                return Ok(RefreshEnd::Failed("provider_unresolved"));
            }
        };
        let refresh_token = self.store().refresh_token(&connection).await?;
        if refresh_token.is_none() && connector.grant == Grant::AuthorizationCode {
            // One that was there a moment ago belongs to a generation that is over.
            return Ok(if connection.has_refresh_token { RefreshEnd::Superseded } else { RefreshEnd::Nothing });
        }
        let secrets = self.store().connector_secrets(&connector).await?;
        self.present(&Job { connection, connector, facts, secrets, refresh_token, trigger }).await
    }

    /// While a connector's circuit is open only one probe goes through, once its time has come.
    async fn before_circuit(
        &self,
        connection: &Connection,
        connector: &Connector,
    ) -> Result<Option<RefreshEnd>, BrokerError> {
        let Some(circuit) = self.store().find_circuit(connector.id).await? else { return Ok(None) };
        let now = self.now();
        let probe_again = now.plus(Attempt::LEASE);
        if circuit.next_probe_at <= now && self.store().claim_probe(connector.id, now, probe_again).await? {
            return Ok(None);
        }
        let jitter = Duration::from_millis(500).mul_f64(self.entropy().fraction());
        let next = circuit.next_probe_at.max(now).plus(Duration::from_secs(1)).plus(jitter);
        self.store().move_due(connection.id, Some(next)).await?;
        Ok(Some(RefreshEnd::Failed("circuit_open")))
    }

    /// Records the attempt, checks the send gate, sends, and stores what comes.
    async fn present(&self, job: &Job) -> Result<RefreshEnd, BrokerError> {
        let two_marks = job.facts.rotation == RotationClass::StrictWide;
        let now = self.now();
        let taken = self.inner.parts.clock.monotonic();
        let new = NewAttempt {
            id: AttemptId::new(now, self.entropy()),
            connection_id: job.connection.id,
            generation: job.connection.generation,
            state: if two_marks { AttemptState::Unsent } else { AttemptState::Sent },
            holder: self.inner.holder.clone(),
            lease_until: now.plus(Attempt::LEASE),
            fingerprint: presented(job.refresh_token.as_ref(), &job.connector),
            now,
        };
        let Some(attempt) = self.store().record_attempt(&new).await? else {
            self.resolve_if_abandoned(&job.connection, &job.connector, &job.facts).await?;
            return Ok(RefreshEnd::Busy);
        };
        let held = Held { attempt, taken };
        if !self.may_send(&held) {
            return self.not_sent(job, &held, "gate_closed", None).await;
        }
        if two_marks {
            let (id, generation) = (job.connection.id, job.connection.generation);
            if !self.store().mark_attempt_sent(id, generation, &self.inner.holder, self.now()).await?
                || !self.may_send(&held)
            {
                return self.not_sent(job, &held, "gate_closed", None).await;
            }
        }
        let started = self.inner.parts.clock.monotonic();
        let outcome = self.send(job).await;
        let took = self.inner.parts.clock.monotonic().saturating_sub(started);
        let code = outcome.code();
        self.inner.metrics.refreshed(&job.connection.provider, code, job.trigger, took);
        let end = self.receive(job, &held, outcome).await;
        tracing::info!(
            connection.id = %job.connection.id,
            attempt.id = %held.attempt.id,
            generation = job.connection.generation,
            send_no = held.attempt.send_no,
            trigger = job.trigger.as_str(),
            outcome = code,
            fingerprint = %new.fingerprint,
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "attempt {} for connection {} ended: {code}", held.attempt.id, job.connection.id
        );
        end
    }

    /// What is left of the lease must exceed the request's deadline, by the monotonic clock.
    fn may_send(&self, held: &Held) -> bool {
        let elapsed = self.inner.parts.clock.monotonic().saturating_sub(held.taken);
        Attempt::LEASE.saturating_sub(elapsed) > Attempt::DEADLINE
    }

    async fn send(&self, job: &Job) -> TokenOutcome {
        match &job.refresh_token {
            Some(refresh_token) => {
                let redirect_uri = self.redirect_uri(job.connector.id);
                let request = RefreshRequest {
                    refresh_token,
                    redirect_uri: &redirect_uri,
                    scopes: &job.connection.granted_scopes,
                };
                self.provider().refresh(&job.connector, &job.secrets, &request).await
            }
            None => self.provider().client_credentials(&job.connector, &job.secrets, &job.connector.scopes).await,
        }
    }

    async fn receive(&self, job: &Job, held: &Held, outcome: TokenOutcome) -> Result<RefreshEnd, BrokerError> {
        let code = outcome.code();
        match outcome {
            TokenOutcome::Granted(tokens) => self.settle(job, held, *tokens).await,
            TokenOutcome::GrantedButUnusable { tokens, .. } => self.refuse_tokens(job, &tokens, code).await,
            TokenOutcome::NotSent(_) | TokenOutcome::Refused { .. } => self.not_sent(job, held, code, None).await,
            // A client's own grant has no owner who could connect again.
            TokenOutcome::Dead { .. } if job.connector.grant == Grant::ClientCredentials => {
                self.not_sent(job, held, code, None).await
            }
            TokenOutcome::Limited { retry_after } => {
                let now = self.now();
                let pause = retry_after.unwrap_or_else(|| self.pause(held)).min(Duration::from_secs(3_600));
                let end = self.not_sent(job, held, code, Some(now.plus(pause))).await?;
                self.store().open_circuit(job.connector.id, code, now, now.plus(pause)).await?;
                Ok(end)
            }
            TokenOutcome::Unknown(_) => self.unknown(job, held, code).await,
            TokenOutcome::Dead { reason, .. } => self.dead(job, reason, code).await,
            TokenOutcome::Client { .. } => {
                let now = self.now();
                let pause = self.pause(held).max(Duration::from_secs(30));
                self.end(&job.connection, AttemptState::Unsent, code, now.plus(pause)).await?;
                self.store().open_circuit(job.connector.id, code, now, now.plus(pause)).await?;
                tracing::warn!(connector.id = %job.connector.id, code, "the provider refuses the client of {}: no connection is touched", job.connector.id);
                self.store().move_due(job.connection.id, Some(now.plus(pause))).await?;
                Ok(RefreshEnd::Failed(code))
            }
        }
    }

    fn pause(&self, held: &Held) -> Duration {
        backoff(&self.inner.parts.settings.refresh, held.attempt.send_no, self.entropy())
    }

    /// Settle first: nothing else is done with a success before it is stored.
    async fn settle(&self, job: &Job, held: &Held, mut tokens: TokenSet) -> Result<RefreshEnd, BrokerError> {
        let rotated = match (&tokens.refresh_token, &job.refresh_token) {
            (Some(new), Some(old)) => new != old,
            _ => false,
        };
        if tokens.refresh_token.is_none() {
            tokens.refresh_token.clone_from(&job.refresh_token);
            tokens.refresh_expires_at = tokens.refresh_expires_at.or(job.connection.refresh_expires_at);
        }
        schedule::complete_lives(&mut tokens, &job.facts);
        let granted = tokens.scopes.clone().unwrap_or_else(|| job.connection.granted_scopes.clone());
        let due_at = match job.connector.grant {
            Grant::AuthorizationCode => schedule::due_at(&tokens, &job.facts, self.entropy()),
            Grant::ClientCredentials => schedule::due_without_refresh_token(&tokens, &job.facts, self.entropy()),
        };
        let now = self.now();
        let settle = Settle {
            connection: &job.connection,
            attempt: held.attempt.id,
            tokens: &tokens,
            granted_scopes: &granted,
            due_at,
            late_ids: (RevocationId::new(now, self.entropy()), RevocationId::new(now, self.entropy())),
            now,
        };
        let mut event = self.connection_event(&job.connection, Actor::System, Action::ConnectionRefreshed);
        event.detail = json!({
            "attempt": held.attempt.id,
            "generation": job.connection.generation + 1,
            "trigger": job.trigger,
            "rotated": rotated,
            "fingerprint": tokens.access_token.fingerprint(),
        });
        let settled = self.settle_surely(&settle, &event).await?;
        if self.store().find_circuit(job.connector.id).await?.is_some() {
            self.store().close_circuit(job.connector.id).await?;
        }
        self.observe_rotation(job, rotated).await?;
        Ok(match settled {
            Settled::Stored => RefreshEnd::Settled,
            Settled::Late => RefreshEnd::Superseded,
        })
    }

    /// The tokens exist nowhere else: a database that is away for a moment must not lose them.
    async fn settle_surely(
        &self,
        settle: &Settle<'_>,
        event: &valetkey_core::AuditEvent,
    ) -> Result<Settled, BrokerError> {
        let mut pause = Duration::from_millis(50);
        let mut tries = 0;
        loop {
            match self.store().settle(settle, event).await {
                Ok(settled) => return Ok(settled),
                Err(error) if tries < 12 => {
                    tries += 1;
                    tracing::error!(connection.id = %settle.connection.id, tries, error = &error as &dyn std::error::Error, "refreshed tokens of {} could not be stored yet", settle.connection.id);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(3));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn observe_rotation(&self, job: &Job, rotated: bool) -> Result<(), BrokerError> {
        let seen = job.connector.observed_rotation;
        // Twice in a row is all that is ever asked; counting on would write a row for each refresh.
        let news = if rotated { !seen.rotated } else { !seen.rotated && seen.unrotated_in_a_row < 2 };
        if job.refresh_token.is_some() && news {
            self.store().observe_rotation(job.connector.id, rotated).await?;
        }
        Ok(())
    }

    /// Tokens for somebody else, or damaged: not stored, and taken back.
    async fn refuse_tokens(&self, job: &Job, tokens: &TokenSet, code: &'static str) -> Result<RefreshEnd, BrokerError> {
        let now = self.now();
        let unstored = valetkey_store::Unstored {
            connector: job.connector.id,
            connection: job.connection.id,
            owner: &job.connection.owner,
            label: &job.connection.label,
            tokens,
            ids: (RevocationId::new(now, self.entropy()), RevocationId::new(now, self.entropy())),
        };
        self.store().revoke_unstored(&job.connection.space, &unstored, now).await?;
        self.dead(job, ReauthReason::InteractionRequired, code).await
    }

    async fn not_sent(
        &self,
        job: &Job,
        held: &Held,
        code: &'static str,
        next_try_at: Option<Timestamp>,
    ) -> Result<RefreshEnd, BrokerError> {
        let next = next_try_at.unwrap_or_else(|| self.now().plus(self.pause(held)));
        self.end(&job.connection, AttemptState::Unsent, code, next).await?;
        self.store().mark_failing(&job.connection, code, Some(next), self.now()).await?;
        Ok(RefreshEnd::Failed(code))
    }

    async fn unknown(&self, job: &Job, held: &Held, code: &'static str) -> Result<RefreshEnd, BrokerError> {
        let go_on = self
            .decide(
                &job.connection,
                &job.connector,
                &job.facts,
                held.attempt.send_no,
                held.attempt.first_sent_at.unwrap_or_else(|| self.now()),
            )
            .await?;
        // First the connection, then the attempt, as for a dead grant.
        let end = self.go_on(&job.connection, go_on, code).await?;
        self.end(&job.connection, go_on.state, code, go_on.next_try_at).await?;
        Ok(end)
    }

    /// Asks the rotation class how an unknown outcome goes on.
    pub(crate) async fn decide(
        &self,
        connection: &Connection,
        connector: &Connector,
        facts: &ProviderFacts,
        send_no: i64,
        first_sent_at: Timestamp,
    ) -> Result<GoOn, BrokerError> {
        let siblings = match facts.rotation {
            RotationClass::StrictWide => self.store().count_siblings(connector, connection).await?,
            _ => 0,
        };
        // Client credentials present nothing that could be spent.
        let class = match connector.grant {
            Grant::ClientCredentials => RotationClass::NonRotating,
            Grant::AuthorizationCode => facts.rotation,
        };
        let case = UnknownCase { connection, class, send_no, first_sent_at, siblings, now: self.now() };
        Ok(after_unknown(&case, &self.inner.parts.settings.refresh, self.entropy()))
    }

    /// Carries out a decision on the connection.
    pub(crate) async fn go_on(
        &self,
        connection: &Connection,
        go_on: GoOn,
        code: &'static str,
    ) -> Result<RefreshEnd, BrokerError> {
        if go_on.state == AttemptState::Stopped {
            self.mark_dead(connection, ReauthReason::UnknownOutcome, code).await?;
            return Ok(RefreshEnd::Dead);
        }
        self.store().mark_failing(connection, code, Some(go_on.next_try_at), self.now()).await?;
        Ok(RefreshEnd::Failed(code))
    }

    async fn dead(&self, job: &Job, reason: ReauthReason, code: &'static str) -> Result<RefreshEnd, BrokerError> {
        // Conditional on the generation: another attempt that settled meanwhile makes this error mean nothing. First the
        // connection, then the attempt: a process that dies in between leaves one that somebody looks after.
        let marked = self.mark_dead(&job.connection, reason, code).await?;
        self.end(&job.connection, AttemptState::Dead, code, self.now()).await?;
        Ok(if marked { RefreshEnd::Dead } else { RefreshEnd::Busy })
    }

    pub(crate) async fn mark_dead(
        &self,
        connection: &Connection,
        reason: ReauthReason,
        code: &str,
    ) -> Result<bool, BrokerError> {
        let mut event = self.connection_event(connection, Actor::System, Action::ConnectionNeedsReauth);
        event.detail = json!({ "reason": reason, "outcome": code, "generation": connection.generation });
        let marked = self.store().mark_dead(connection, reason, code, self.now(), &event).await?;
        if marked {
            self.inner.metrics.reauth_needed(reason.as_str());
            tracing::warn!(connection.id = %connection.id, reason = reason.as_str(), "connection {} needs its owner: {reason}", connection.id);
        }
        Ok(marked)
    }

    async fn end(
        &self,
        connection: &Connection,
        state: AttemptState,
        outcome: &str,
        next_try_at: Timestamp,
    ) -> Result<(), BrokerError> {
        let end = EndAttempt { state, outcome, next_try_at, now: self.now() };
        self.store().end_attempt(connection, &self.inner.holder, end).await?;
        Ok(())
    }

    pub(crate) fn connection_event(
        &self,
        connection: &Connection,
        actor: Actor,
        action: Action,
    ) -> valetkey_core::AuditEvent {
        let subject = Subject {
            connector_id: Some(connection.connector_id),
            connection_id: Some(connection.id),
            flow_id: None,
            key_id: None,
            owner: Some(connection.owner.clone()),
        };
        self.event(&connection.space, actor, action, subject)
    }

    /// Reads the connection again, surely from the database.
    pub(crate) async fn reread(&self, id: ConnectionId) -> Result<Option<Arc<StoredConnection>>, BrokerError> {
        Ok(self.store().read_stored(id).await?)
    }
}

/// Names what is presented: the refresh token, or for client credentials the client itself.
fn presented(refresh_token: Option<&Secret>, connector: &Connector) -> Fingerprint {
    match refresh_token {
        Some(token) => token.fingerprint(),
        None => Fingerprint::from_text(format!("client {}", connector.id)),
    }
}
