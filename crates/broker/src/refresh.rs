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
use valetkey_store::{EndAttempt, HeldAttempt, NewAttempt, Prepared, Settle, Settled, StoredConnection};

use crate::{
    Boundary, Broker, BrokerError,
    attempt::{GoOn, UnknownCase, after_unknown, comes_after_grace},
    attempt_end::{AttemptEnd, class_of},
    hold::refreshes_despite_hold,
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
    /// A hold keeps it back.
    Held,
    /// The refresh token's stated end has come, and the access token lives on.
    Ended,
}

/// Everything one refresh works with.
struct Job {
    connection: Connection,
    connector: Connector,
    facts: ProviderFacts,
    secrets: Vec<Secret>,
    refresh_token: Option<Secret>,
    trigger: Trigger,
    /// [`TokenStore::circuit_changes`](valetkey_store::TokenStore::circuit_changes) when no circuit was open.
    circuits_seen: Option<u64>,
}

/// An attempt that this process holds, since when.
struct Held {
    attempt: HeldAttempt,
    taken: Duration,
    /// What became of an earlier send of this generation is not known.
    repeats_unknown: bool,
}

impl Held {
    /// What a send leaves behind that the provider surely did not process.
    fn unprocessed(&self) -> AttemptState {
        if self.repeats_unknown { AttemptState::RepeatAllowed } else { AttemptState::Unsent }
    }
}

impl Broker {
    /// Refreshes, and logs what went wrong on our side: nobody may be waiting any more.
    pub(crate) async fn refresh_logged(
        &self,
        id: ConnectionId,
        generation: i64,
        trigger: Trigger,
        prepared: Option<Box<Prepared>>,
    ) -> RefreshEnd {
        let end = match self.refresh(id, generation, trigger, prepared).await {
            Ok(end) => end,
            Err(error) => {
                tracing::error!(connection.id = %id, error = &error as &dyn std::error::Error, "refreshing connection {id} failed");
                RefreshEnd::Failed("internal")
            }
        };
        self.announce(id, end);
        end
    }

    /// Refreshes what the caller saw, and nothing that came after it. What was read a moment ago need not be read again:
    /// the attempt is recorded only if it still holds.
    async fn refresh(
        &self,
        id: ConnectionId,
        generation: i64,
        trigger: Trigger,
        prepared: Option<Box<Prepared>>,
    ) -> Result<RefreshEnd, BrokerError> {
        let prepared = match prepared {
            Some(prepared) => *prepared,
            None => match self.store().prepare(&[id]).await?.pop() {
                Some(prepared) => prepared,
                None => return Ok(RefreshEnd::Nothing),
            },
        };
        let connection = &prepared.connection;
        if connection.generation != generation {
            return Ok(RefreshEnd::Superseded);
        }
        if connection.status != Status::Active {
            return Ok(if connection.status == Status::NeedsReauth { RefreshEnd::Dead } else { RefreshEnd::Nothing });
        }
        if let Some(end) = self.has_ended(connection, self.now()).await? {
            return Ok(end);
        }
        let client = self.store().client_of(&prepared).await?;
        let Some((connector, secrets)) = client.filter(|(connector, _)| connector.deleted_at.is_none()) else {
            return Ok(RefreshEnd::Nothing);
        };
        if let Some(end) = self.before_circuit(&prepared).await? {
            return Ok(end);
        }
        let facts = match self.provider().facts(&connector).await {
            Ok(facts) => facts,
            Err(error) => {
                tracing::warn!(connector.id = %connector.id, error = &error as &dyn std::error::Error, "provider of {} cannot be resolved", connector.id);
                let next = self.now().plus(backoff(&self.inner.parts.settings.refresh, 4, self.entropy()));
                self.store().mark_failing(connection, "provider_unresolved", Some(next), self.now()).await?;
                return Ok(RefreshEnd::Failed("provider_unresolved"));
            }
        };
        if let Some(end) = self.too_early(connection, &facts).await? {
            return Ok(end);
        }
        if let Some(end) = self.held_back(connection, &connector, &facts).await? {
            return Ok(end);
        }
        let refresh_token = self.store().open_refresh_token(&prepared)?;
        if refresh_token.is_none() && connector.grant == Grant::AuthorizationCode {
            return Ok(RefreshEnd::Nothing);
        }
        let Prepared { connection, circuit, circuit_changes, .. } = prepared;
        let circuits_seen = circuit.is_none().then_some(circuit_changes);
        self.present(&Job { connection, connector, facts, secrets, refresh_token, trigger, circuits_seen }).await
    }

    /// A provider that refuses to refresh early is not asked early, whoever asks.
    async fn too_early(
        &self,
        connection: &Connection,
        facts: &ProviderFacts,
    ) -> Result<Option<RefreshEnd>, BrokerError> {
        let opens_at = facts.not_before_expiry.and_then(|window| connection.expires_at.map(|end| end.minus(window)));
        let Some(opens_at) = opens_at.filter(|at| *at > self.now()) else { return Ok(None) };
        let due_at = connection.refresh_due_at.map_or(opens_at, |due| due.max(opens_at));
        self.store().move_due(connection.id, Some(due_at)).await?;
        Ok(Some(RefreshEnd::Failed("too_early")))
    }

    /// While a connector's circuit is open only one probe goes through, once its time has come.
    async fn before_circuit(&self, prepared: &Prepared) -> Result<Option<RefreshEnd>, BrokerError> {
        let connection = &prepared.connection;
        let connector_id = connection.connector_id;
        let circuit = if prepared.circuit_changes == self.store().circuit_changes() {
            prepared.circuit.clone()
        } else {
            self.store().find_circuit(connector_id).await?
        };
        let Some(circuit) = circuit else { return Ok(None) };
        let now = self.now();
        let probe_again = now.plus(Attempt::LEASE);
        if circuit.next_probe_at <= now && self.store().claim_probe(connector_id, now, probe_again).await? {
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
            despite_hold: refreshes_despite_hold(&job.connector, &job.facts),
            now,
        };
        self.reached(Boundary::BeforeRecord, job.connection.id);
        let Some(attempt) = self.record_attempt(&new).await? else {
            if let Some(end) = self.held_back_surely(&job.connection, &job.connector, &job.facts).await? {
                return Ok(end);
            }
            self.resolve_if_abandoned(&job.connection, &job.connector, &job.facts).await?;
            return Ok(RefreshEnd::Busy);
        };
        self.reached(Boundary::AfterRecord, job.connection.id);
        let repeats_unknown = attempt.first_sent_at.is_some_and(|first| first < now);
        let held = Held { attempt, taken, repeats_unknown };
        if held.repeats_unknown && self.comes_after_grace(job, &held) {
            return self.unknown(job, &held, "grace_over").await;
        }
        if !self.may_send(&held) {
            return self.gate_closed(job, &held, &new.fingerprint).await;
        }
        if two_marks {
            self.reached(Boundary::BeforeSecondMark, job.connection.id);
            if !self.mark_attempt_sent(&new).await? || !self.may_send(&held) {
                return self.gate_closed(job, &held, &new.fingerprint).await;
            }
            self.reached(Boundary::AfterSecondMark, job.connection.id);
        }
        self.reached(Boundary::BeforeSend, job.connection.id);
        let started = self.inner.parts.clock.monotonic();
        let outcome = self.send(job).await;
        self.reached(Boundary::AnswerRead, job.connection.id);
        let took = self.inner.parts.clock.monotonic().saturating_sub(started);
        let (class, code) = (class_of(&outcome), outcome.code());
        let end = self.receive(job, &held, outcome).await;
        self.tell_end_of(job, &held, &new.fingerprint, class, code, took);
        end
    }

    fn tell_end_of(
        &self,
        job: &Job,
        held: &Held,
        fingerprint: &Fingerprint,
        class: &'static str,
        code: &'static str,
        took: Duration,
    ) {
        let (connection, attempt, trigger) = (&job.connection, &held.attempt, job.trigger);
        self.tell_end(&AttemptEnd { connection, attempt, fingerprint, trigger, class, code, took });
    }

    /// So much of the lease is gone that the request could outlive it.
    async fn gate_closed(&self, job: &Job, held: &Held, fingerprint: &Fingerprint) -> Result<RefreshEnd, BrokerError> {
        const CODE: &str = "gate_closed";
        self.tell_end_of(job, held, fingerprint, "not_sent", CODE, Duration::ZERO);
        self.not_sent(job, held, CODE, None).await
    }

    fn comes_after_grace(&self, job: &Job, held: &Held) -> bool {
        let now = self.now();
        let (connection, class, send_no) = (&job.connection, job.facts.rotation, held.attempt.send_no);
        let first_sent_at = held.attempt.first_sent_at.unwrap_or(now);
        comes_after_grace(&UnknownCase { connection, class, send_no, first_sent_at, siblings: 0, now })
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
                self.end(&job.connection, held.unprocessed(), code, now.plus(pause)).await?;
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
            kept_refresh_token: tokens.refresh_token == job.refresh_token,
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
        self.reached(Boundary::BeforeSettle, job.connection.id);
        // The tokens exist nowhere else.
        let settled = self.write_surely(job.connection.id, || self.store().settle(&settle, &event)).await?;
        self.reached(Boundary::AfterSettle, job.connection.id);
        self.close_circuit(job).await?;
        self.observe_rotation(job, rotated).await?;
        Ok(match settled {
            Settled::Stored => RefreshEnd::Settled,
            Settled::Late => RefreshEnd::Superseded,
        })
    }

    /// Whoever answers as it should has accepted the client. Looked up only if a circuit was open, or may be since.
    async fn close_circuit(&self, job: &Job) -> Result<(), BrokerError> {
        let store = self.store();
        if job.circuits_seen != Some(store.circuit_changes()) && store.find_circuit(job.connector.id).await?.is_some() {
            store.close_circuit(job.connector.id).await?;
        }
        Ok(())
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
        self.end(&job.connection, held.unprocessed(), code, next).await?;
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
        self.reached(Boundary::BetweenFailureWrites, job.connection.id);
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
        self.reached(Boundary::BetweenDeathWrites, job.connection.id);
        // Whoever judges a grant has accepted the client that presented it.
        self.close_circuit(job).await?;
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
        // That a token was not spent is known here alone.
        self.write_surely(connection.id, || self.store().end_attempt(connection, &self.inner.holder, end)).await?;
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
