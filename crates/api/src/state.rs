//! What the handlers share, and the routers that are made of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::HeaderMap};
use ipnet::IpNet;
use url::Url;
use valetkey_broker::Broker;
use valetkey_core::{Clock, Entropy, KeyId, Timestamp};
use valetkey_limiter::{Bound, KeyedLimiter};

use crate::{client_address::AddressKey, hot::Network, problem::ProblemCode, request_id::RequestIds, routes};

/// How many addresses the limit of failing callbacks keeps in mind.
const ADDRESSES: usize = 100_000;

/// What the operator set for the API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Where browsers reach Valetkey.
    pub public_url: Url,
    /// Peers whose `Forwarded` or `X-Forwarded-For` names the client.
    pub trusted_proxies: Vec<IpNet>,
    /// Token calls that a key may make in a second, in this process.
    pub token_calls_per_second_and_key: u32,
    /// Callbacks that may fail in a minute from one address, in this process.
    pub failing_callbacks_per_minute: u32,
}

impl ApiSettings {
    /// The defaults at a public address.
    pub fn at(public_url: Url) -> Self {
        Self {
            public_url,
            trusted_proxies: Vec::new(),
            token_calls_per_second_and_key: 1_000,
            failing_callbacks_per_minute: 60,
        }
    }
}

/// The HTTP surface. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    broker: Broker,
    settings: ApiSettings,
    clock: Arc<dyn Clock>,
    ids: Arc<RequestIds>,
    token_calls: KeyedLimiter<KeyId>,
    failing_callbacks: KeyedLimiter<AddressKey>,
    is_draining: AtomicBool,
}

impl Api {
    /// Puts the surface together.
    pub fn new(broker: Broker, settings: ApiSettings, clock: Arc<dyn Clock>, entropy: &dyn Entropy) -> Self {
        let second = Duration::from_secs(1);
        let minute = Duration::from_secs(60);
        let per_key = settings.token_calls_per_second_and_key;
        let per_address = settings.failing_callbacks_per_minute;
        broker.metrics().know_problems(ProblemCode::ALL.into_iter().map(ProblemCode::as_str));
        Self {
            inner: Arc::new(Inner {
                broker,
                ids: Arc::new(RequestIds::new(entropy)),
                token_calls: KeyedLimiter::new(per_key, second, Bound::Unbounded, clock.clone()),
                failing_callbacks: KeyedLimiter::new(per_address, minute, Bound::AtMost(ADDRESSES), clock.clone()),
                settings,
                clock,
                is_draining: AtomicBool::new(false),
            }),
        }
    }

    /// The router of the network.
    pub fn router(&self) -> Router {
        routes::network(self)
    }

    /// The same as a service for [`axum::serve`], with a shorter way for token calls.
    pub fn network(&self) -> Network {
        Network::new(self.clone())
    }

    /// The router of the socket in the data directory: the network's, and the spaces. The layer
    /// [`as_command_line`](crate::as_command_line) belongs around it.
    pub fn local_router(&self) -> Router {
        routes::local(self)
    }

    /// Forgets the quotas that are whole again; to be called about once a minute.
    pub fn sweep(&self) {
        self.inner.token_calls.sweep();
        self.inner.failing_callbacks.sweep();
    }

    /// From now on `/health/ready` answers that this process is not.
    pub fn begin_shutdown(&self) {
        self.inner.is_draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.inner.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.inner.broker
    }

    pub(crate) fn settings(&self) -> &ApiSettings {
        &self.inner.settings
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// The id of a request that comes with `headers`.
    pub(crate) fn request_id(&self, headers: &HeaderMap) -> String {
        self.inner.ids.of(headers)
    }

    pub(crate) fn request_ids(&self) -> Arc<RequestIds> {
        self.inner.ids.clone()
    }

    /// The numbers as text.
    pub(crate) fn numbers(&self) -> String {
        let metrics = self.broker().metrics();
        metrics.limiter_keys("token-calls", self.inner.token_calls.len());
        metrics.limiter_keys("failing-callbacks", self.inner.failing_callbacks.len());
        metrics.limiter_keys("quotas", self.broker().quotas_in_memory());
        metrics.encode()
    }

    /// Counts a token call of a key.
    pub(crate) fn admit(&self, key: KeyId) -> Result<(), Duration> {
        self.inner.token_calls.check(&key)
    }

    /// Counts a callback that failed its checks.
    pub(crate) fn count_failing_callback(&self, address: AddressKey) -> Result<(), Duration> {
        self.inner.failing_callbacks.check(&address)
    }
}

/// The router of the network. See [`Api`] for what else can be made of these parts.
pub fn router(broker: Broker, settings: ApiSettings, clock: Arc<dyn Clock>, entropy: &dyn Entropy) -> Router {
    Api::new(broker, settings, clock, entropy).router()
}
