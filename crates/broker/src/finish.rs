//! Finish a flow: the application vouches for its signed-in user, and only then is the code redeemed.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio::sync::oneshot;
use valetkey_core::{
    Action, Actor, Attempt, AuditEvent, Caller, Connection, ConnectionId, Connector, Flow, FlowFailure, FlowId,
    FlowStatus, Operation, Owner, RevocationId, Role, Secret, TokenSet, UserId, constant_time_eq,
};
use valetkey_providers::{CodeExchange, ProviderFacts, TokenOutcome};
use valetkey_store::{Connect, Connected, FlowRecord, Proof, Redemption, StoreError, Unstored};

use crate::{
    Broker, BrokerError, Resource,
    audit::{request_id, with_this_request_id},
    broker::require,
    schedule,
    start::{fits_challenge, subject_of},
};

/// What the application's backend presents.
#[derive(Debug, Clone)]
pub struct Finish {
    /// The handle that came home with the browser.
    pub handle: Secret,
    /// The user of its own session.
    pub user_id: Option<UserId>,
    /// The administrator of its own session, for a shared flow.
    pub actor: Option<UserId>,
    /// The verifier of `binding_challenge`.
    pub binding_verifier: Option<Secret>,
}

impl Broker {
    /// A flow of the caller's space, if its connector exists for the caller.
    pub async fn show_flow(&self, caller: &Caller, id: FlowId) -> Result<Flow, BrokerError> {
        require(caller, Operation::FlowShow)?;
        Ok(self.visible_flow(caller, id).await?.flow)
    }

    pub(crate) async fn visible_flow(&self, caller: &Caller, id: FlowId) -> Result<FlowRecord, BrokerError> {
        let record = self.store().find_flow(id).await?;
        let visible =
            record.filter(|record| record.flow.space == caller.space && caller.sees(record.flow.connector_id));
        if visible.is_none() {
            // No event: in the flow's space it would tell of a stranger, in the caller's it would tell that the flow exists.
            self.inner.metrics.flow_call_refused("not_found");
        }
        visible.ok_or(BrokerError::NotFound(Resource::Flow))
    }

    /// Redeems the code of a flow for the user who started it. Saying it again with the same handle and user answers
    /// with the same connection until the flow's life ends.
    pub async fn finish_flow(&self, caller: &Caller, id: FlowId, finish: &Finish) -> Result<Connection, BrokerError> {
        require(caller, Operation::FlowFinish)?;
        let record = self.visible_flow(caller, id).await?;
        let flow = record.flow.clone();
        if flow.owner == Owner::Shared && !caller.has(Role::Shared) {
            self.refuse_finish(&flow, caller, "shared_role").await?;
            return Err(BrokerError::SharedRoleRequired);
        }
        let fits = record.handle_hash.as_deref().is_some_and(|hash| constant_time_eq(hash, &finish.handle.digest()));
        if !fits {
            self.refuse_finish(&flow, caller, "handle").await?;
            return Err(match flow.status_at(self.now()) {
                FlowStatus::AwaitingFinish | FlowStatus::Connected | FlowStatus::Finishing => {
                    BrokerError::HandleRefused
                }
                other => not_ready(&flow, other),
            });
        }
        self.check_person(&flow, finish, caller).await?;
        self.check_binding(&flow, finish, caller).await?;
        match flow.status_at(self.now()) {
            FlowStatus::AwaitingFinish => {}
            FlowStatus::Connected if flow.expires_at > self.now() => return self.connection_of(&flow).await,
            FlowStatus::Finishing => return self.wait_for_finish(flow.id).await,
            other => return Err(not_ready(&flow, other)),
        }
        let proof = finish.handle.digest();
        match self.redeem(&flow, Proof::Handle(&proof), caller.actor(), false).await? {
            Some(connection) => Ok(connection),
            None => self.after_lost_race(&flow, caller).await,
        }
    }

    /// Somebody else finished first, or the handle lapsed between two reads.
    async fn after_lost_race(&self, flow: &Flow, caller: &Caller) -> Result<Connection, BrokerError> {
        let record = self.visible_flow(caller, flow.id).await?;
        let lapsed = record.flow.handle_expires_at.is_some_and(|at| at <= self.now());
        match record.flow.status_at(self.now()) {
            FlowStatus::AwaitingFinish if lapsed => {
                self.fail(flow, FlowStatus::AwaitingFinish, FlowFailure::HandleExpired, caller.actor(), "").await?;
                Err(BrokerError::FlowFailed(FlowFailure::HandleExpired))
            }
            FlowStatus::Connected => self.connection_of(&record.flow).await,
            FlowStatus::Finishing => self.wait_for_finish(flow.id).await,
            other => Err(not_ready(&record.flow, other)),
        }
    }

    async fn check_person(&self, flow: &Flow, finish: &Finish, caller: &Caller) -> Result<(), BrokerError> {
        let named = match flow.owner {
            Owner::User(_) => finish.user_id.as_ref(),
            Owner::Shared => finish.actor.as_ref(),
        };
        let surplus = match flow.owner {
            Owner::User(_) => finish.actor.is_some(),
            Owner::Shared => finish.user_id.is_some(),
        };
        if !surplus && named.is_some() && named == flow.bound_person() {
            return Ok(());
        }
        self.end_mismatch(flow, FlowFailure::UserMismatch, caller).await
    }

    async fn check_binding(&self, flow: &Flow, finish: &Finish, caller: &Caller) -> Result<(), BrokerError> {
        let fits = match (&flow.binding_challenge, &finish.binding_verifier) {
            (None, None) => true,
            (Some(challenge), Some(verifier)) => fits_challenge(challenge, verifier),
            _ => false,
        };
        if fits { Ok(()) } else { self.end_mismatch(flow, FlowFailure::BindingMismatch, caller).await }
    }

    /// Someone else presents the handle: the flow ends, its code is erased, nothing was redeemed.
    async fn end_mismatch(&self, flow: &Flow, failure: FlowFailure, caller: &Caller) -> Result<(), BrokerError> {
        if !self.fail(flow, FlowStatus::AwaitingFinish, failure, caller.actor(), "").await? {
            // The flow was over, or is being redeemed for the right person: it stays so.
            self.refuse_finish(flow, caller, failure.as_str()).await?;
        }
        Err(BrokerError::FinishMismatch(flow.id))
    }

    async fn refuse_finish(&self, flow: &Flow, caller: &Caller, reason: &'static str) -> Result<(), BrokerError> {
        self.inner.metrics.flow_call_refused(reason);
        self.record_refusal(flow, caller.actor(), Action::FlowFinishRefused, reason).await
    }

    pub(crate) async fn connection_of(&self, flow: &Flow) -> Result<Connection, BrokerError> {
        let stored = match flow.connection_id {
            Some(id) => self.store().find_stored(id).await?,
            None => None,
        };
        stored.map(|stored| stored.connection.clone()).ok_or(BrokerError::FlowNotReady(flow.status))
    }

    /// Another call redeems the code: its end is this call's answer.
    async fn wait_for_finish(&self, id: FlowId) -> Result<Connection, BrokerError> {
        for _ in 0..100 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let Some(record) = self.store().find_flow(id).await? else {
                return Err(BrokerError::NotFound(Resource::Flow));
            };
            match record.flow.status {
                FlowStatus::Finishing => {}
                FlowStatus::Connected => return self.connection_of(&record.flow).await,
                FlowStatus::Failed => {
                    return Err(BrokerError::FlowFailed(record.flow.failure.unwrap_or(FlowFailure::Interrupted)));
                }
                other => return Err(BrokerError::FlowNotReady(other)),
            }
        }
        Err(BrokerError::FlowNotReady(FlowStatus::Finishing))
    }

    /// Redeems the code in a task of its own, so that a caller who hangs up changes nothing. `None`: the proof was used
    /// or has lapsed.
    pub(crate) async fn redeem(
        &self,
        flow: &Flow,
        proof: Proof<'_>,
        actor: Actor,
        weakly_bound: bool,
    ) -> Result<Option<Connection>, BrokerError> {
        let now = self.now();
        let lease_until = now.plus(Attempt::LEASE);
        let Some(redemption) = self.store().begin_redemption(flow, proof, now, lease_until).await? else {
            return Ok(None);
        };
        let (broker, flow) = (self.clone(), flow.clone());
        let span = tracing::Span::current();
        let (late, is_late) = oneshot::channel();
        let finishing = Finishing { actor, weakly_bound, late };
        let work = async move { broker.redeem_now(&flow, &redemption, finishing).await };
        let work = with_this_request_id(request_id(), work);
        let task = self.inner.tasks.spawn(tracing::Instrument::instrument(work, span));
        tokio::select! {
            biased;
            done = task => done.map_err(|_| BrokerError::ShuttingDown)?.map(Some),
            Ok(error) = is_late => Err(error.into()),
        }
    }

    async fn redeem_now(
        &self,
        flow: &Flow,
        redemption: &Redemption,
        finishing: Finishing,
    ) -> Result<Connection, BrokerError> {
        let from = FlowStatus::Finishing;
        let actor = finishing.actor.clone();
        let Some(connector) = self.store().find_connector(&flow.space, flow.connector_id).await? else {
            self.fail(flow, from, FlowFailure::ConnectorChanged, actor, "").await?;
            return Err(BrokerError::FlowFailed(FlowFailure::ConnectorChanged));
        };
        let facts = match self.provider().facts(&connector).await {
            Ok(facts) => facts,
            Err(error) => {
                self.fail(flow, from, FlowFailure::ProviderUnavailable, actor, "facts").await?;
                return Err(error.into());
            }
        };
        let secrets = self.store().connector_secrets(&connector).await?;
        let request = CodeExchange {
            code: &redemption.code,
            redirect_uri: &self.redirect_uri(connector.id),
            verifier: &redemption.verifier,
            nonce: &redemption.nonce,
            kept: &redemption.kept,
        };
        let outcome = self.provider().exchange(&connector, &secrets, &request).await;
        let code = outcome.code();
        let failure = match outcome {
            TokenOutcome::Granted(tokens) => {
                return self.store_redeemed(flow, &connector, &facts, *tokens, finishing).await;
            }
            TokenOutcome::GrantedButUnusable { tokens, .. } => {
                self.revoke_redeemed(flow, &tokens).await?;
                FlowFailure::IdTokenInvalid
            }
            TokenOutcome::NotSent(_) | TokenOutcome::Limited { .. } | TokenOutcome::Unknown { .. } => {
                FlowFailure::ProviderUnavailable
            }
            TokenOutcome::Dead { .. } | TokenOutcome::Refused { .. } => FlowFailure::CodeRefused,
            TokenOutcome::Client { .. } => FlowFailure::ClientRefused,
        };
        self.fail(flow, from, failure, actor, code).await?;
        Err(BrokerError::FlowFailed(failure))
    }

    async fn store_redeemed(
        &self,
        flow: &Flow,
        connector: &Connector,
        facts: &ProviderFacts,
        mut tokens: TokenSet,
        finishing: Finishing,
    ) -> Result<Connection, BrokerError> {
        let Finishing { actor, weakly_bound, late } = finishing;
        let granted = tokens.scopes.clone().unwrap_or_else(|| flow.scopes.clone());
        schedule::complete_lives(&mut tokens, facts);
        let now = self.now();
        let connect = Connect {
            flow: Some(flow.id),
            new_id: ConnectionId::new(now, self.entropy()),
            connector,
            owner: &flow.owner,
            label: &flow.label,
            tokens: &tokens,
            requested_scopes: &flow.scopes,
            granted_scopes: &granted,
            due_at: schedule::due_at(&tokens, facts, self.entropy()),
            weakly_bound,
            allow_account_change: flow.allow_account_change,
            replace_active: true,
            revoke_replaced: schedule::may_revoke_replaced(facts).then(|| RevocationId::new(now, self.entropy())),
            now,
        };
        let mut event = self.event(&flow.space, actor.clone(), Action::ConnectionConnected, subject_of(flow));
        event.detail = json!({
            "granted": granted,
            "weakly_bound": weakly_bound,
            "actor": flow.actor,
            "fingerprint": tokens.access_token.fingerprint(),
        });
        let (connected, in_doubt) = self.connect_surely(&connect, &event, late).await?;
        match connected {
            Connected::Stored(connection) => {
                self.inner.metrics.flow_ended("connected");
                tracing::info!(flow.id = %flow.id, connection.id = %connection.id, "flow {} connected {}", flow.id, connection.id);
                Ok(*connection)
            }
            Connected::FlowOver if in_doubt && let Some(connection) = self.connected_already(flow, &tokens).await? => {
                Ok(connection)
            }
            Connected::AccountChanged => {
                self.revoke_redeemed(flow, &tokens).await?;
                self.fail(flow, FlowStatus::Finishing, FlowFailure::AccountChanged, actor, "").await?;
                Err(BrokerError::FlowFailed(FlowFailure::AccountChanged))
            }
            Connected::FlowOver | Connected::Occupied | Connected::ConnectorChanged => {
                self.revoke_redeemed(flow, &tokens).await?;
                Err(BrokerError::FlowFailed(FlowFailure::ConnectorChanged))
            }
        }
    }

    /// What a code brought exists nowhere else: it is written whenever the database is back, and who waits for it hears
    /// that it is late. Says too whether a try before may have been the one that was written.
    async fn connect_surely(
        &self,
        connect: &Connect<'_>,
        event: &AuditEvent,
        late: oneshot::Sender<StoreError>,
    ) -> Result<(Connected, bool), BrokerError> {
        let late = Mutex::new(Some(late));
        let take = || late.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connected = self.write_surely(connect.new_id, || async {
            self.store().connect(connect, event.clone()).await.map_err(|error| {
                let error = Arc::new(error);
                if let Some(late) = take() {
                    // Nobody may be waiting any more.
                    drop(late.send(StoreError::Shared(Arc::clone(&error))));
                }
                StoreError::Shared(error)
            })
        });
        let connected = connected.await?;
        Ok((connected, take().is_none()))
    }

    /// The connection of a flow, if it holds these very tokens: the end of a commit was not heard, but it took place.
    async fn connected_already(&self, flow: &Flow, tokens: &TokenSet) -> Result<Option<Connection>, BrokerError> {
        let Some(record) = self.store().find_flow(flow.id).await? else { return Ok(None) };
        let Some(id) = record.flow.connection_id else { return Ok(None) };
        let stored = self.store().find_stored(id).await?;
        let fingerprint = Some(tokens.access_token.fingerprint());
        Ok(stored.filter(|stored| stored.fingerprint == fingerprint).map(|stored| stored.connection.clone()))
    }

    /// Tokens that were redeemed and cannot be stored must not live on at the provider.
    async fn revoke_redeemed(&self, flow: &Flow, tokens: &TokenSet) -> Result<(), BrokerError> {
        let now = self.now();
        let unstored = Unstored {
            connector: flow.connector_id,
            connection: flow.connection_id.unwrap_or_else(|| ConnectionId::new(now, self.entropy())),
            owner: &flow.owner,
            label: &flow.label,
            tokens,
            ids: (RevocationId::new(now, self.entropy()), RevocationId::new(now, self.entropy())),
        };
        Ok(self.store().revoke_unstored(&flow.space, &unstored, now).await?)
    }

    pub(crate) async fn fail(
        &self,
        flow: &Flow,
        from: FlowStatus,
        failure: FlowFailure,
        actor: Actor,
        outcome: &str,
    ) -> Result<bool, BrokerError> {
        let mut event = self.event(&flow.space, actor, Action::FlowFailed, subject_of(flow));
        event.detail = json!({ "code": failure, "outcome": outcome });
        let failed = self.store().fail_flow(flow.id, from, failure, self.now(), &event).await?;
        if failed {
            self.inner.metrics.flow_ended(failure.as_str());
            tracing::info!(flow.id = %flow.id, code = failure.as_str(), outcome, "flow {} failed: {failure}", flow.id);
        }
        Ok(failed)
    }
}

/// On whose behalf a code is redeemed.
struct Finishing {
    actor: Actor,
    weakly_bound: bool,
    /// Hears why what was redeemed could not be stored at once.
    late: oneshot::Sender<StoreError>,
}

/// A flow that failed says why; any other says where it stands.
fn not_ready(flow: &Flow, status: FlowStatus) -> BrokerError {
    match flow.failure {
        Some(failure) if status == FlowStatus::Failed => BrokerError::FlowFailed(failure),
        _ => BrokerError::FlowNotReady(status),
    }
}
