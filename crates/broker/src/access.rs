//! The token call: a token that is valid now, with at most one read and no write where it is fresh.

use std::{sync::Arc, time::Duration};

use valetkey_core::{
    ApiKey, AuthMode, Connection, ConnectionId, Connector, ConnectorId, Fingerprint, FlowMode, Grant, KeyId, Label,
    Operation, Owner, PresentedKey, ReauthReason, Secret, Status, Timestamp, Trigger, UserId, allowed_roles,
};
use valetkey_store::{Access, StoredConnection};

use crate::{
    Broker, BrokerError, Fault, Resource, StartFlow, StartOffer, broker::caller_of, elsewhere::Attempted,
    refresh::RefreshEnd,
};

/// A flow to offer with a refusal.
#[derive(Debug, Clone)]
pub struct StartForToken {
    /// How the browser goes and comes.
    pub mode: FlowMode,
    /// A registered return URL.
    pub return_url: String,
    /// A registered origin, for a popup.
    pub origin: Option<String>,
}

/// What a connector asks for.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// Whose token, on a `per_user` connector.
    pub user_id: Option<UserId>,
    /// Which of the owner's accounts.
    pub label: Label,
    /// The least remaining life asked for.
    pub min_ttl: Option<Duration>,
    /// Scopes that the grant must have.
    pub scopes: Vec<String>,
    /// The fingerprint of a token that the upstream API refused.
    pub rejected: Option<Fingerprint>,
    /// A flow to offer if there is no token to give.
    pub start: Option<StartForToken>,
}

/// A token handed out.
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub access_token: Secret,
    /// Its name in the audit.
    pub fingerprint: Fingerprint,
    /// Seconds until its end, rounded down, if that is known.
    pub expires_in: Option<u64>,
    stored: Arc<StoredConnection>,
}

impl IssuedToken {
    /// The connection it comes from, in the state that it was read in.
    pub fn connection(&self) -> &Connection {
        &self.stored.connection
    }
}

/// Lets a proved key pass, or says how long it has to wait.
pub type Admit<'a> = dyn Fn(KeyId) -> Result<(), Duration> + Send + Sync + 'a;

/// How long a caller is asked to wait where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The same where asking again at once will do.
const MOMENT: Duration = Duration::from_secs(1);

/// The code of a circuit that is open because the provider asked for patience, not because it refuses the client.
pub(crate) const LIMITED: &str = "limited";

impl Broker {
    /// Hands out a token that is valid now.
    pub async fn access(
        &self,
        presented: &PresentedKey,
        connector: ConnectorId,
        request: &TokenRequest,
        admit: &Admit<'_>,
    ) -> Result<IssuedToken, BrokerError> {
        let answer = self.access_now(presented, connector, request, admit).await;
        match &answer {
            Ok(_) => self.inner.metrics.token_issued(),
            Err(error) => self.inner.metrics.token_refused(outcome_of(error)),
        }
        answer
    }

    async fn access_now(
        &self,
        presented: &PresentedKey,
        connector: ConnectorId,
        request: &TokenRequest,
        admit: &Admit<'_>,
    ) -> Result<IssuedToken, BrokerError> {
        let owner = match &request.user_id {
            Some(user) => Owner::User(user.clone()),
            None => Owner::Shared,
        };
        let Access { key, connector: found, connection } =
            self.store().access(presented.id, connector, &owner, &request.label).await?;
        let now = self.now();
        let matches = presented.matches(key.as_ref().map(|key| &key.secret_hash));
        let key = key.filter(|key| matches && key.is_valid(now)).ok_or(BrokerError::Unauthenticated)?;
        admit(key.id).map_err(|retry_after| {
            self.inner.metrics.limited("token-calls");
            BrokerError::Limited { limit: "token-calls", retry_after }
        })?;
        if !allowed_roles(Operation::TokenFetch).iter().any(|role| key.roles.contains(role)) {
            return Err(BrokerError::Forbidden(Operation::TokenFetch));
        }
        let exists = |found: &Arc<Connector>| key.connectors.as_ref().is_none_or(|named| named.contains(&found.id));
        let connector = found.filter(exists).ok_or(BrokerError::NotFound(Resource::Connector))?;
        check_owner(&connector, request)?;
        if let Some(stored) = &connection
            && self.is_fresh(stored, request, now)
        {
            self.refresh_overdue(&stored.connection, now);
            return self.hand_out(key.id, stored, now);
        }
        // Boxed: everything else is rare and large, and must not make every call's future so.
        let stored = Box::pin(self.make_fresh(&key, &connector, connection, request, now)).await?;
        self.hand_out(key.id, &stored, self.now())
    }

    /// Whether the token can be handed out as it is.
    fn is_fresh(&self, stored: &StoredConnection, request: &TokenRequest, now: Timestamp) -> bool {
        let connection = &stored.connection;
        connection.status == Status::Active
            && stored.fingerprint.is_some()
            && request.scopes.iter().all(|scope| connection.granted_scopes.contains(scope))
            && (request.rejected.is_none() || request.rejected != stored.fingerprint)
            && self.lives_long_enough(connection, request, now)
    }

    /// Finds, makes or refreshes what is to be handed out, or says why there is nothing.
    async fn make_fresh(
        &self,
        key: &ApiKey,
        connector: &Connector,
        connection: Option<Arc<StoredConnection>>,
        request: &TokenRequest,
        now: Timestamp,
    ) -> Result<Arc<StoredConnection>, BrokerError> {
        let stored = match connection {
            Some(stored) => stored,
            None if connector.grant == Grant::ClientCredentials => self.first_of_client(connector).await?,
            None => return Err(BrokerError::ConnectionNotFound(self.offer(key, connector, request, None).await)),
        };
        let stored = self.fresh(key, connector, stored, request, now).await?;
        // Compared with what is handed out: a refresh may have brought other scopes than the ones before it.
        self.check_scopes(key, connector, &stored.connection, request).await?;
        Ok(stored)
    }

    /// Looks at the connection's state and at its token's life, and refreshes if it must.
    async fn fresh(
        &self,
        key: &ApiKey,
        connector: &Connector,
        stored: Arc<StoredConnection>,
        request: &TokenRequest,
        now: Timestamp,
    ) -> Result<Arc<StoredConnection>, BrokerError> {
        let connection = &stored.connection;
        match connection.status {
            Status::Revoking | Status::Revoked if connector.grant == Grant::ClientCredentials => {
                let stored = self.first_of_client(connector).await?;
                return self.wait_for_refresh(key, connector, &stored, request, Trigger::Demand).await;
            }
            Status::Revoking | Status::Revoked => {
                return Err(BrokerError::ConnectionNotFound(self.offer(key, connector, request, None).await));
            }
            Status::NeedsReauth if !is_served_to_its_end(connection, request, &stored, now) => {
                return Err(self.reconnect(key, connector, connection, request).await);
            }
            Status::NeedsReauth => return Ok(stored),
            Status::Active => {}
        }
        self.check_scopes(key, connector, connection, request).await?;
        let is_rejected = request.rejected.is_some() && request.rejected == stored.fingerprint;
        if is_rejected {
            return self.replace_rejected(key, connector, &stored, request).await;
        }
        let has_token = stored.fingerprint.is_some();
        if has_token && self.lives_long_enough(connection, request, now) {
            self.refresh_overdue(connection, now);
            return Ok(stored);
        }
        if !connection.has_refresh_token && connector.grant == Grant::AuthorizationCode {
            if has_token && !connection.is_expired(now) {
                return Ok(stored);
            }
            self.mark_dead(connection, ReauthReason::NoRefreshToken, "expired").await?;
            return Err(self.reconnect(key, connector, connection, request).await);
        }
        self.wait_for_refresh(key, connector, &stored, request, Trigger::Demand).await
    }

    /// The least remaining life asked for, of which at most 30 % of the actual life counts.
    fn lives_long_enough(&self, connection: &Connection, request: &TokenRequest, now: Timestamp) -> bool {
        let (Some(remaining), Some(life)) = (connection.remaining(now), connection.life()) else { return true };
        let asked = request.min_ttl.unwrap_or(self.inner.parts.settings.refresh.default_min_ttl);
        remaining > Duration::ZERO && remaining >= asked.min(life.mul_f64(0.3))
    }

    /// The scheduler is behind, or the connection was dormant: its next caller starts the refresh and does not wait.
    fn refresh_overdue(&self, connection: &Connection, now: Timestamp) {
        const PATIENCE: Duration = Duration::from_secs(90);
        let is_overdue =
            connection.refreshing == valetkey_core::Refreshing::Ok && connection.needs_refresh(now.minus(PATIENCE));
        // Held back refreshes stay overdue for long: asking for one with each call would only cost.
        if is_overdue && !self.seems_held() {
            drop(self.join_flight(connection, Trigger::Demand));
        }
    }

    /// A caller waits for a bounded time, and a token that is still valid is handed out whatever became of the refresh.
    async fn wait_for_refresh(
        &self,
        key: &ApiKey,
        connector: &Connector,
        before: &Arc<StoredConnection>,
        request: &TokenRequest,
        trigger: Trigger,
    ) -> Result<Arc<StoredConnection>, BrokerError> {
        let stored = self.refreshed(before, trigger).await?;
        let Some(stored) = stored else {
            return Err(BrokerError::ConnectionNotFound(self.offer(key, connector, request, None).await));
        };
        let connection = &stored.connection;
        let now = self.now();
        match connection.status {
            Status::Revoking | Status::Revoked => {
                Err(BrokerError::ConnectionNotFound(self.offer(key, connector, request, None).await))
            }
            Status::NeedsReauth if !is_served_to_its_end(connection, request, &stored, now) => {
                Err(self.reconnect(key, connector, connection, request).await)
            }
            _ if stored.fingerprint.is_some() && !connection.is_expired(now) => Ok(stored),
            _ => Err(self.unavailable(connector).await?),
        }
    }

    /// Starts a refresh, or joins the one under way, and reads the row when it is over or the time is up.
    async fn refreshed(
        &self,
        before: &Arc<StoredConnection>,
        trigger: Trigger,
    ) -> Result<Option<Arc<StoredConnection>>, BrokerError> {
        let deadline = tokio::time::Instant::now() + self.inner.parts.settings.refresh.wait;
        let mut flight = self.join_flight(&before.connection, trigger);
        let landed = tokio::time::timeout_at(deadline, flight.landed()).await.ok();
        if let Some(end) = landed {
            let attempted = if end == RefreshEnd::Busy { Attempted::Elsewhere } else { Attempted::Here };
            let found = tokio::time::timeout_at(deadline, self.found_after(&before.connection, attempted)).await;
            if let Ok(Some(found)) = found {
                return Ok(found);
            }
        }
        self.reread(before.connection.id).await
    }

    /// Whether an attempt for this generation is at the provider now.
    pub(crate) async fn is_in_flight(&self, id: ConnectionId, generation: i64) -> Result<bool, BrokerError> {
        let attempt = self.store().find_attempt(id, generation).await?;
        let now = self.now();
        Ok(attempt.is_some_and(|attempt| {
            attempt.lease_until > now
                && matches!(attempt.state, valetkey_core::AttemptState::Sent | valetkey_core::AttemptState::Unsent)
        }))
    }

    /// The upstream API answered 401 to the current token: refresh it, at most once in a while.
    async fn replace_rejected(
        &self,
        key: &ApiKey,
        connector: &Connector,
        stored: &Arc<StoredConnection>,
        request: &TokenRequest,
    ) -> Result<Arc<StoredConnection>, BrokerError> {
        let connection = &stored.connection;
        if !connection.has_refresh_token && connector.grant == Grant::AuthorizationCode {
            return Err(BrokerError::RejectedNotRefreshable);
        }
        let now = self.now();
        let interval = self.inner.parts.settings.refresh.rejected_interval;
        if !self.store().claim_rejected(connection, now, now.minus(interval)).await? {
            let Some(current) = self.reread(connection.id).await? else {
                return Err(BrokerError::ConnectionNotFound(self.offer(key, connector, request, None).await));
            };
            if current.connection.generation != connection.generation && current.connection.is_live() {
                return Ok(current);
            }
            let since = current.connection.rejected_at.map_or(Duration::ZERO, |at| now.since(at));
            // Somebody said so of this very token a moment ago: that one refresh answers everybody.
            let of_this = current.connection.rejected_at.is_some_and(|at| at > current.connection.issued_at);
            if !of_this || since > self.inner.parts.settings.refresh.wait {
                let retry_after = interval.saturating_sub(since).max(Duration::from_secs(1));
                return Err(BrokerError::ProviderUnavailable { code: "rejected_recently", retry_after });
            }
        }
        let after = self.wait_for_refresh(key, connector, stored, request, Trigger::Rejected).await?;
        if after.connection.generation == connection.generation {
            if after.connection.has_refresh_token && after.connection.refresh_has_ended(self.now()) {
                return Err(BrokerError::RejectedNotRefreshable);
            }
            // Handing the rejected token out again would only bring the caller back.
            return Err(self.unavailable(connector).await?);
        }
        Ok(after)
    }

    async fn unavailable(&self, connector: &Connector) -> Result<BrokerError, BrokerError> {
        if let Some(hold) = self.hold_of(connector).await? {
            return Ok(BrokerError::InHold { since: hold.since, retry_after: crate::hold::RETRY_AFTER });
        }
        let Some(circuit) = self.store().find_circuit(connector.id).await? else {
            return Ok(BrokerError::ProviderUnavailable { code: "refresh_failed", retry_after: RETRY_AFTER });
        };
        let retry_after = circuit.next_probe_at.since(self.now()).max(Duration::from_secs(1));
        Ok(if circuit.code == LIMITED {
            BrokerError::ProviderUnavailable { code: LIMITED, retry_after }
        } else {
            BrokerError::ClientRefused { code: circuit.code, retry_after }
        })
    }

    /// The connection of a connector with client credentials is made by its first token call.
    async fn first_of_client(&self, connector: &Connector) -> Result<Arc<StoredConnection>, BrokerError> {
        let now = self.now();
        let new_id = ConnectionId::new(now, self.entropy());
        if !self.store().make_connection(connector, new_id, now).await? {
            // It was edited at the same moment, or deleted: the next call sees which.
            return Err(BrokerError::ProviderUnavailable { code: "connector_changed", retry_after: MOMENT });
        }
        let found = self.store().shared(&connector.space, connector.id).find(&Label::none()).await?;
        found.ok_or(BrokerError::NotFound(Resource::Connector))
    }

    async fn check_scopes(
        &self,
        key: &ApiKey,
        connector: &Connector,
        connection: &Connection,
        request: &TokenRequest,
    ) -> Result<(), BrokerError> {
        let missing: Vec<String> =
            request.scopes.iter().filter(|scope| !connection.granted_scopes.contains(scope)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut ask = connection.requested_scopes.clone();
        ask.extend(missing.iter().filter(|scope| !connection.requested_scopes.contains(scope)).cloned());
        let start = self.offer(key, connector, request, Some(ask)).await;
        Err(BrokerError::ScopesMissing { missing, start })
    }

    async fn reconnect(
        &self,
        key: &ApiKey,
        connector: &Connector,
        connection: &Connection,
        request: &TokenRequest,
    ) -> BrokerError {
        let current = self.reread(connection.id).await.ok().flatten();
        let known = current.as_ref().and_then(|stored| stored.connection.needs_reauth).or(connection.needs_reauth);
        let (reason, since) =
            known.map_or((ReauthReason::GrantRevoked, self.now()), |needs| (needs.reason, needs.since));
        let scopes = Some(connection.requested_scopes.clone());
        BrokerError::ReconnectRequired { reason, since, start: self.offer(key, connector, request, scopes).await }
    }

    /// A fresh flow, if one was asked for and the caller may start it; above a cap the answer comes without.
    async fn offer(
        &self,
        key: &ApiKey,
        connector: &Connector,
        request: &TokenRequest,
        scopes: Option<Vec<String>>,
    ) -> StartOffer {
        let start = request.start.as_ref()?;
        let user = request.user_id.clone()?;
        let caller = caller_of(key);
        if !caller.may(Operation::FlowStart) || connector.grant != Grant::AuthorizationCode {
            return None;
        }
        let known = |scope: &String| connector.scopes.contains(scope) || connector.optional_scopes.contains(scope);
        let flow = StartFlow {
            user_id: Some(user),
            actor: None,
            user_display: None,
            label: request.label.clone(),
            mode: start.mode,
            return_url: start.return_url.clone(),
            origin: start.origin.clone(),
            scopes: scopes.map(|scopes| scopes.into_iter().filter(known).collect()),
            login_hint: None,
            binding_challenge: None,
            allow_account_change: false,
        };
        self.start_flow_for(&caller, connector, &flow).await.ok().map(Box::new)
    }

    fn hand_out(&self, key: KeyId, stored: &Arc<StoredConnection>, now: Timestamp) -> Result<IssuedToken, BrokerError> {
        let connection = &stored.connection;
        let access_token = self.store().open_access_token(stored)?;
        let (Some(access_token), Some(fingerprint)) = (access_token, stored.fingerprint.clone()) else {
            return Err(BrokerError::ProviderUnavailable { code: "no_token", retry_after: RETRY_AFTER });
        };
        self.inner.issues.note(key, stored, now);
        let expires_in = connection.remaining(now).map(|left| left.as_secs());
        Ok(IssuedToken { access_token, fingerprint, expires_in, stored: Arc::clone(stored) })
    }
}

/// A grant that merely cannot be refreshed any more leaves an access token that is good to its end.
fn is_served_to_its_end(
    connection: &Connection,
    request: &TokenRequest,
    stored: &StoredConnection,
    now: Timestamp,
) -> bool {
    let refresh_only = connection
        .needs_reauth
        .is_some_and(|needs| matches!(needs.reason, ReauthReason::UnknownOutcome | ReauthReason::RefreshTokenExpired));
    let known_end = connection.expires_at.is_some() && !connection.is_expired(now);
    refresh_only && known_end && stored.fingerprint.is_some() && request.rejected != stored.fingerprint
}

/// `user_id` is required on a `per_user` connector and refused on a shared one.
fn check_owner(connector: &Connector, request: &TokenRequest) -> Result<(), BrokerError> {
    match (connector.auth_mode, &request.user_id) {
        (AuthMode::PerUser, Some(_)) | (AuthMode::Shared, None) => Ok(()),
        (AuthMode::PerUser, None) => {
            Err(BrokerError::Invalid(vec![Fault::new("user_id", "is required: this connector holds a grant per user")]))
        }
        (AuthMode::Shared, Some(_)) => {
            Err(BrokerError::Invalid(vec![Fault::new("user_id", "is refused: this connector's grant is shared")]))
        }
    }
}

/// The outcome's name in the metrics: a closed set.
fn outcome_of(error: &BrokerError) -> &'static str {
    match error {
        BrokerError::Unauthenticated => "unauthenticated",
        BrokerError::Forbidden(_) | BrokerError::SharedRoleRequired => "forbidden",
        BrokerError::ConnectionNotFound(_) => "connection_not_found",
        BrokerError::ReconnectRequired { .. } => "reconnect_required",
        BrokerError::ScopesMissing { .. } => "scopes_missing",
        BrokerError::RejectedNotRefreshable => "rejected_not_refreshable",
        BrokerError::InHold { .. } => "held",
        BrokerError::ProviderUnavailable { .. } | BrokerError::ClientRefused { .. } => "provider_unavailable",
        BrokerError::Limited { .. } => "limited",
        BrokerError::NotFound(_) => "not_found",
        BrokerError::Invalid(_) => "invalid",
        _ => "internal",
    }
}
