//! What an answer means for its connection, its attempt and its connector: the outcome table, carried out.

use std::time::Duration;

use serde_json::json;
use valetkey_core::{
    Action, Actor, AttemptState, AuditEvent, Connection, Connector, Grant, ReauthReason, RevocationId, RotationClass,
    Timestamp, TokenSet,
};
use valetkey_providers::{ProviderFacts, TokenOutcome};
use valetkey_store::{EndAttempt, Settle, Settled};

use crate::{
    Boundary, Broker, BrokerError,
    access::LIMITED,
    attempt::{GoOn, OpenSend, UnknownCase, after_unknown, patience},
    refresh::{Held, Job, RefreshEnd},
    schedule::{self, backoff},
};

impl Broker {
    /// Carries out what an outcome means.
    pub(crate) async fn receive(
        &self,
        job: &Job,
        held: &Held,
        outcome: TokenOutcome,
    ) -> Result<RefreshEnd, BrokerError> {
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
                let pause = patience(retry_after.unwrap_or_else(|| self.pause(held)));
                let end = self.not_sent(job, held, code, Some(now.plus(pause))).await?;
                self.store().open_circuit(job.connector.id, code, now, now.plus(pause)).await?;
                Ok(end)
            }
            TokenOutcome::Unknown { retry_after, .. } => self.unknown(job, held, code, retry_after).await,
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
        let stays = tokens.refresh_token.is_none();
        if stays {
            tokens.refresh_token.clone_from(&job.refresh_token);
        }
        schedule::complete_lives(&mut tokens, &job.facts);
        if stays {
            // Its use has moved an end that is counted from there. Any other one was stated for it and holds.
            tokens.refresh_expires_at = tokens.refresh_expires_at.or(job.connection.refresh_expires_at);
        }
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
        // They exist nowhere else.
        let space = &job.connection.space;
        self.write_surely(job.connection.id, || self.store().revoke_unstored(space, &unstored, now)).await?;
        self.dead(job, ReauthReason::InteractionRequired, code).await
    }

    pub(crate) async fn not_sent(
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

    pub(crate) async fn unknown(
        &self,
        job: &Job,
        held: &Held,
        code: &'static str,
        asked: Option<Duration>,
    ) -> Result<RefreshEnd, BrokerError> {
        let first_sent_at = held.attempt.first_sent_at.unwrap_or_else(|| self.now());
        let send = OpenSend { send_no: held.attempt.send_no, first_sent_at, asked };
        let case = self.unknown_case(&job.connection, &job.connector, &job.facts, send).await?;
        let (go_on, patience) = (self.decide(&case), case.patience());
        // First the connection, then the attempt, as for a dead grant.
        let end = self.go_on(&job.connection, go_on, code).await?;
        self.reached(Boundary::BetweenFailureWrites, job.connection.id);
        self.end(&job.connection, go_on.state, code, go_on.next_try_at).await?;
        if !patience.is_zero() {
            // The service is away, it says, and not for this connection alone: what is presented now is left open too.
            let now = self.now();
            self.store().open_circuit(job.connector.id, LIMITED, now, now.plus(patience)).await?;
        }
        Ok(end)
    }

    /// What is known of a send whose outcome is not.
    pub(crate) async fn unknown_case<'a>(
        &self,
        connection: &'a Connection,
        connector: &Connector,
        facts: &ProviderFacts,
        send: OpenSend,
    ) -> Result<UnknownCase<'a>, BrokerError> {
        let siblings = match facts.rotation {
            RotationClass::StrictWide => self.store().count_siblings(connector, connection).await?,
            _ => 0,
        };
        // Client credentials present nothing that could be spent.
        let class = match connector.grant {
            Grant::ClientCredentials => RotationClass::NonRotating,
            Grant::AuthorizationCode => facts.rotation,
        };
        Ok(UnknownCase { connection, class, send, siblings, now: self.now() })
    }

    /// Asks the rotation class how an unknown outcome goes on.
    pub(crate) fn decide(&self, case: &UnknownCase<'_>) -> GoOn {
        after_unknown(case, &self.inner.parts.settings.refresh, self.entropy())
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
        // What was said is known here alone.
        let event = self.death_of(&job.connection, reason, code);
        let now = self.now();
        let mark = || self.store().mark_dead(&job.connection, reason, code, now, &event);
        let marked = self.write_surely(job.connection.id, mark).await?;
        if marked {
            self.tell_death(&job.connection, reason);
        }
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
        let event = self.death_of(connection, reason, code);
        let marked = self.store().mark_dead(connection, reason, code, self.now(), &event).await?;
        if marked {
            self.tell_death(connection, reason);
        }
        Ok(marked)
    }

    pub(crate) fn death_of(&self, connection: &Connection, reason: ReauthReason, code: &str) -> AuditEvent {
        let mut event = self.connection_event(connection, Actor::System, Action::ConnectionNeedsReauth);
        event.detail = json!({ "reason": reason, "outcome": code, "generation": connection.generation });
        event
    }

    pub(crate) fn tell_death(&self, connection: &Connection, reason: ReauthReason) {
        self.inner.metrics.reauth_needed(reason.as_str());
        tracing::warn!(connection.id = %connection.id, reason = reason.as_str(), "connection {} needs its owner: {reason}", connection.id);
    }

    async fn end(
        &self,
        connection: &Connection,
        state: AttemptState,
        outcome: &str,
        next_try_at: Timestamp,
    ) -> Result<(), BrokerError> {
        let end = EndAttempt { state, outcome, next_try_at, now: self.now() };
        let holder = &self.inner.holder;
        // That a token was not spent is known here alone.
        let ended = self.write_surely(connection.id, || self.store().end_attempt(connection, holder, end)).await?;
        if ended || state != AttemptState::Unsent {
            return Ok(());
        }
        // Another replica may have given this process up, and with it a grant whose token never left.
        let mut event = self.connection_event(connection, Actor::System, Action::ConnectionRecovered);
        event.detail = json!({ "outcome": outcome, "generation": connection.generation });
        if self.write_surely(connection.id, || self.store().take_back_stop(connection, holder, end, &event)).await? {
            tracing::warn!(connection.id = %connection.id, outcome, "connection {} does not need its owner after all: its refresh token never left", connection.id);
        }
        Ok(())
    }
}
