//! Refresh one connection: the one path for callers, the scheduler and forced refreshes.
//!
//! Record, gate, send, settle. The record is durable before the refresh token leaves and unique for its generation; the
//! exchange runs in a task of its own; a success is stored before anything else is done with it.

use std::{sync::Arc, time::Duration};

use valetkey_core::{
    Action, Actor, Attempt, AttemptId, AttemptState, Connection, ConnectionId, Connector, Fingerprint, Grant,
    RotationClass, Secret, Status, Subject, Trigger,
};
use valetkey_providers::{ProviderFacts, RefreshRequest, TokenOutcome};
use valetkey_store::{HeldAttempt, NewAttempt, Prepared, StoredConnection};

use crate::{
    Boundary, Broker, BrokerError,
    attempt::{OpenSend, UnknownCase, comes_after_grace},
    attempt_end::{AttemptEnd, class_of},
    hold::refreshes_despite_hold,
    schedule::backoff,
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
pub(crate) struct Job {
    pub(crate) connection: Connection,
    pub(crate) connector: Connector,
    pub(crate) facts: ProviderFacts,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) trigger: Trigger,
    /// [`TokenStore::circuit_changes`](valetkey_store::TokenStore::circuit_changes) when no circuit was open.
    pub(crate) circuits_seen: Option<u64>,
}

/// An attempt that this process holds, since when.
pub(crate) struct Held {
    pub(crate) attempt: HeldAttempt,
    pub(crate) taken: Duration,
    /// What became of an earlier send of this generation is not known.
    pub(crate) repeats_unknown: bool,
}

impl Held {
    /// What a send leaves behind that the provider surely did not process.
    pub(crate) fn unprocessed(&self) -> AttemptState {
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
            return self.unknown(job, &held, "grace_over", None).await;
        }
        if !self.may_send(&held) {
            return self.gate_closed(job, &held, &new.fingerprint).await;
        }
        if two_marks {
            self.reached(Boundary::BeforeSecondMark, job.connection.id);
            let marked = match self.mark_attempt_sent(&new).await {
                Ok(marked) => marked,
                Err(error) => {
                    // The mark may be written all the same. That nothing was sent is known here alone: left to itself,
                    // the attempt would count as one of which nobody knows.
                    self.not_sent(job, &held, "not_marked", None).await?;
                    return Err(error);
                }
            };
            if !marked || !self.may_send(&held) {
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
        let (connection, class) = (&job.connection, job.facts.rotation);
        let first_sent_at = held.attempt.first_sent_at.unwrap_or(now);
        let send = OpenSend { send_no: held.attempt.send_no, first_sent_at, asked: None };
        comes_after_grace(&UnknownCase { connection, class, send, siblings: 0, now })
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
