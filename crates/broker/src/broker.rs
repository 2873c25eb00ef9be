//! The broker and what it is made of.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio_util::task::TaskTracker;
use valetkey_core::{
    Action, Actor, AuditEvent, Caller, Clock, ConnectionId, ConnectorId, Entropy, EventId, Operation, PresentedKey,
    SpaceId, Subject, Timestamp,
};
use valetkey_providers::{AuthorizationServer, Catalogue};
use valetkey_store::TokenStore;

use crate::{
    Boundaries, Boundary, BrokerError, BrokerSettings, Metrics, elsewhere::Elsewhere, flights::Flights, hold::HoldSeen,
    issues::IssueLog, keyring::RotationPass, outage::Outage, refusals::Refusals, schedule::Pace,
};

/// What a broker is made of.
#[derive(Debug, Clone)]
pub struct BrokerParts {
    /// The token store.
    pub store: TokenStore,
    /// What is known of providers, for those who make connectors.
    pub catalogue: Arc<Catalogue>,
    /// The providers.
    pub authorization_server: Arc<dyn AuthorizationServer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// What the operator set.
    pub settings: BrokerSettings,
    /// Who is told where a refresh stands: nobody, but for proofs.
    pub boundaries: Boundaries,
}

/// The use cases of Valetkey. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) parts: BrokerParts,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) issues: IssueLog,
    pub(crate) pace: Pace,
    pub(crate) flights: Arc<Flights>,
    pub(crate) elsewhere: Elsewhere,
    pub(crate) outage: Outage,
    pub(crate) hold: HoldSeen,
    pub(crate) refusals: Refusals,
    /// Held by whoever goes on with a rotation of the data keys.
    pub(crate) rotation: tokio::sync::Mutex<RotationPass>,
    /// Redemptions and refreshes: they outlive their callers.
    pub(crate) tasks: TaskTracker,
    /// Set once at shutdown.
    pub(crate) stops_claiming: AtomicBool,
    /// Names this process in leases.
    pub(crate) holder: String,
}

impl Broker {
    /// Puts a broker together.
    pub fn new(parts: BrokerParts) -> Self {
        let holder = data_encoding::HEXLOWER.encode(&parts.entropy.bytes32()[..8]);
        let flights = Flights::observed(parts.boundaries.clone());
        let pace = Pace::new(&parts.settings.refresh);
        Self {
            inner: Arc::new(Inner {
                parts,
                metrics: Arc::new(Metrics::new()),
                issues: IssueLog::new(),
                pace,
                flights: Arc::new(flights),
                elsewhere: Elsewhere::default(),
                outage: Outage::default(),
                hold: HoldSeen::default(),
                refusals: Refusals::default(),
                rotation: tokio::sync::Mutex::default(),
                tasks: TaskTracker::new(),
                stops_claiming: AtomicBool::new(false),
                holder,
            }),
        }
    }

    /// The numbers for `/metrics`.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// The settings in force.
    pub fn settings(&self) -> &BrokerSettings {
        &self.inner.parts.settings
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), BrokerError> {
        Ok(self.store().ping().await?)
    }

    /// Proves a caller by its key.
    pub async fn authenticate(&self, presented: &PresentedKey) -> Result<Caller, BrokerError> {
        let key = self.store().key_cached(presented.id).await?;
        let matches = presented.matches(key.as_ref().map(|key| &key.secret_hash));
        match key {
            Some(key) if matches && key.is_valid(self.now()) => {
                self.inner.issues.note_key(key.id, self.now());
                Ok(caller_of(&key))
            }
            _ => Err(BrokerError::Unauthenticated),
        }
    }

    /// How many quotas this process has in memory.
    pub fn quotas_in_memory(&self) -> usize {
        self.store().quotas_in_memory()
    }

    /// The redirect URI to register at the provider.
    pub fn redirect_uri(&self, connector: ConnectorId) -> String {
        self.public(&format!("oauth/callback/{connector}"))
    }

    /// Waits until redemptions and refreshes in flight are over, at most `limit`; false if some were not. Writes what
    /// was gathered.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.inner.tasks.close();
        let drained = tokio::time::timeout(limit, self.inner.tasks.wait()).await.is_ok();
        if let Err(error) = self.write_issues_now(true).await {
            tracing::error!(error = &error as &dyn std::error::Error, "issue events could not be written at shutdown");
        }
        if let Err(error) = self.leave_keyring().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "other replicas were not told of the end");
        }
        drained
    }
}

/// The caller that a key makes.
pub(crate) fn caller_of(key: &valetkey_core::ApiKey) -> Caller {
    Caller {
        kind: valetkey_core::CallerKind::Key(key.id),
        space: key.space.clone(),
        roles: key.roles.clone(),
        connectors: key.connectors.clone(),
    }
}

impl Broker {
    pub(crate) fn store(&self) -> &TokenStore {
        &self.inner.parts.store
    }

    pub(crate) fn provider(&self) -> &dyn AuthorizationServer {
        &*self.inner.parts.authorization_server
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.parts.clock.now()
    }

    pub(crate) fn reached(&self, boundary: Boundary, connection: ConnectionId) {
        self.inner.parts.boundaries.reached(boundary, connection);
    }

    pub(crate) fn entropy(&self) -> &dyn Entropy {
        &*self.inner.parts.entropy
    }

    /// An address of ours as browsers reach it.
    pub(crate) fn public(&self, path: &str) -> String {
        format!("{}/{path}", self.inner.parts.settings.public_url.as_str().trim_end_matches('/'))
    }

    pub(crate) fn event(&self, space: &SpaceId, actor: Actor, action: Action, subject: Subject) -> AuditEvent {
        let now = self.now();
        AuditEvent {
            id: EventId::new(now, self.entropy()),
            space: space.clone(),
            at: now,
            actor,
            action,
            subject,
            detail: serde_json::Value::Null,
            request_id: crate::audit::request_id(),
        }
    }
}

/// Refuses a caller whose roles do not allow the operation.
pub(crate) fn require(caller: &Caller, operation: Operation) -> Result<(), BrokerError> {
    if caller.may(operation) { Ok(()) } else { Err(BrokerError::Forbidden(operation)) }
}
