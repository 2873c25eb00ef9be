//! The running service, and how it stops.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, serve::ListenerExt};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use url::Url;
use valetkey_api::{Api, ApiSettings, X_VALETKEY_SPACE};
use valetkey_broker::{Boundaries, Broker};
use valetkey_core::{Clock, Entropy, SpaceId};
use valetkey_jobs::Jobs;
use valetkey_providers::AuthorizationServer;
use valetkey_store::Patience;

use crate::{
    StartError,
    background::Background,
    config::Config,
    data_dir::socket_path,
    foundation::{Foundation, Means},
    guard::Guard,
    keyring, operator,
    socket::OperatorSocket,
};

/// How long stopping may take: what is in flight at a provider is waited for.
const DRAIN: Duration = Duration::from_secs(25);

/// How long of it open requests get. None waits longer for a refresh than half of this.
const REQUESTS: Duration = Duration::from_secs(10);

/// How often quotas that are whole again are forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// A running service. Several may run in one process.
///
/// Owns the listening tasks and the scheduled work; [`Server::stop`] waits for them. Dropped without it, it stops
/// listening and waits for nothing.
#[derive(Debug)]
pub struct Server {
    data_dir: PathBuf,
    listening: Listening,
    foundation: Foundation,
}

/// What stands on the foundation and runs.
#[derive(Debug)]
struct Listening {
    local_addr: SocketAddr,
    public_url: Url,
    broker: Broker,
    api: Api,
    guard: Guard,
    jobs: Option<Jobs>,
    /// Where the jobs run; outlives them.
    background: Option<Background>,
    /// What listens, the sweep of the limits and the watch of the guard.
    tasks: Vec<JoinHandle<()>>,
    stopping: CancellationToken,
}

/// A service about to start.
#[derive(Debug)]
pub struct ServerBuilder {
    config: Config,
    means: Means,
}

impl ServerBuilder {
    /// Runs by another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.means.clock = clock;
        self
    }

    /// Takes random bytes from elsewhere than the operating system.
    #[must_use]
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.means.entropy = entropy;
        self
    }

    /// Speaks to this instead of to providers over HTTP.
    #[must_use]
    pub fn authorization_server(mut self, authorization_server: Arc<dyn AuthorizationServer>) -> Self {
        self.means.authorization_server = Some(authorization_server);
        self
    }

    /// Tells this where refreshes stand: a proof ends the process there.
    #[must_use]
    pub fn boundaries(mut self, boundaries: Boundaries) -> Self {
        self.means.boundaries = boundaries;
        self
    }

    /// Waits so long for PostgreSQL: a test that cuts the network cannot wait as long as a service does.
    #[doc(hidden)]
    #[must_use]
    pub fn database_patience(mut self, patience: Patience) -> Self {
        self.means.patience = patience;
        self
    }

    /// Leaves the scheduled work to whoever calls the broker's functions.
    #[must_use]
    pub fn without_jobs(mut self) -> Self {
        self.config.jobs = false;
        self
    }

    /// Acknowledges before it is safe, on SQLite: the null control of the power-cut proof. No setting reaches this.
    #[doc(hidden)]
    #[must_use]
    pub fn without_durable_commits(mut self) -> Self {
        self.means.durable_commits = false;
        self
    }

    /// Opens everything, then listens.
    pub async fn start(self) -> Result<Server, StartError> {
        Server::open(self.config, self.means).await
    }
}

impl Server {
    /// A service with this configuration, on the machine's clock and random source.
    pub fn builder(config: Config) -> ServerBuilder {
        ServerBuilder { config, means: Means::default() }
    }

    /// Starts a service with this configuration.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::builder(config).start().await
    }

    /// Where it listens, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.listening.local_addr
    }

    /// The address that browsers and providers see.
    pub fn public_url(&self) -> &Url {
        &self.listening.public_url
    }

    /// Where it keeps its files.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The use cases, for those that call them without HTTP.
    pub fn broker(&self) -> &Broker {
        &self.listening.broker
    }

    async fn open(config: Config, means: Means) -> Result<Self, StartError> {
        let foundation = Foundation::open(&config, means, "serve").await?;
        match Listening::start(&config, &foundation).await {
            Ok(listening) => Ok(Self { data_dir: config.data_dir, listening, foundation }),
            Err(error) => {
                foundation.store.close().await;
                Err(error)
            }
        }
    }

    /// Takes no more requests, answers those that came, stops the scheduled work and waits for what is in flight at
    /// providers, 25 s at most. False if something was left unfinished.
    pub async fn stop(mut self) -> bool {
        let now = Instant::now();
        let (requests, deadline) = (now + REQUESTS, now + DRAIN);
        let listening = &mut self.listening;
        listening.api.begin_shutdown();
        listening.stopping.cancel();
        let jobs = async {
            match listening.jobs.take() {
                Some(jobs) => timeout_at(deadline, jobs.stop()).await.is_ok(),
                None => true,
            }
        };
        let http = async {
            let mut answered = true;
            for mut task in listening.tasks.drain(..) {
                if timeout_at(requests, &mut task).await.is_err() {
                    task.abort();
                    answered = false;
                }
            }
            answered
        };
        let (worked, answered) = tokio::join!(jobs, http);
        // What was gathered is written even when there is no time left to wait.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let drained = listening.broker.drain(left).await;
        listening.guard.finish().await;
        self.foundation.store.close().await;
        drop(listening.background.take());
        worked && answered && drained
    }
}

impl Listening {
    /// Listens, and starts the scheduled work. What fails here leaves nothing running.
    async fn start(config: &Config, foundation: &Foundation) -> Result<Self, StartError> {
        let (listener, local_addr, public_url) = bind(config).await?;
        let socket = foundation.data_dir.as_ref().map(|data_dir| {
            OperatorSocket::listen(data_dir)
                .map_err(|source| StartError::Socket { path: socket_path(data_dir.path()), source })
        });
        let socket = socket.transpose()?;
        let broker = foundation.broker(config, public_url.clone());
        // Before anything is presented or served.
        let guard = Guard::start(config, &broker).await?;
        let background = if config.jobs { Some(Background::start().map_err(StartError::Background)?) } else { None };
        let jobs = match &background {
            Some(background) => {
                Some(background.run(Jobs::start(broker.clone())).await.map_err(StartError::Background)??)
            }
            None => None,
        };
        let stopping = CancellationToken::new();
        let api = api(config, foundation, &broker, public_url.clone());
        let mut tasks = vec![tokio::spawn(sweep(api.clone(), stopping.clone()))];
        let (hearing, until) = (broker.clone(), stopping.clone());
        tasks.push(tokio::spawn(async move {
            until.run_until_cancelled(hearing.hear()).await;
        }));
        tasks.push(tokio::spawn(guard.clone().watch(Arc::clone(&foundation.means.clock), stopping.clone())));
        // Answers are small and one packet each: waiting for more to send only delays them.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, api.network()).with_graceful_shutdown(stopping.clone().cancelled_owned());
        tasks.push(tokio::spawn(async move { report(serving.await) }));
        if let Some(socket) = socket {
            let router = operator::router(&api, broker.clone(), keyring::router(config, foundation, &broker));
            let serving = axum::serve(socket, router).with_graceful_shutdown(stopping.clone().cancelled_owned());
            tasks.push(tokio::spawn(async move { report(serving.await) }));
        }
        Ok(Self { local_addr, public_url, broker, api, guard, jobs, background, tasks, stopping })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

fn report(ended: std::io::Result<()>) {
    if let Err(error) = ended {
        tracing::error!(error = &error as &dyn std::error::Error, "stopped listening: {error}");
    }
}

/// The HTTP surface of a broker.
fn api(config: &Config, foundation: &Foundation, broker: &Broker, public_url: Url) -> Api {
    let settings = ApiSettings {
        public_url,
        trusted_proxies: config.server.trusted_proxies.clone(),
        token_calls_per_second_and_key: config.calls.token_calls_per_second_and_key,
        failing_callbacks_per_minute: config.calls.failing_callbacks_per_minute,
    };
    let means = &foundation.means;
    Api::new(broker.clone(), settings, Arc::clone(&means.clock), &*means.entropy)
}

/// What answers the operator's verbs, for a process that opened the database itself.
pub(crate) fn local_router(config: &Config, foundation: &Foundation, broker: &Broker, public_url: Url) -> Router {
    let keyring = keyring::router(config, foundation, broker);
    operator::router(&api(config, foundation, broker, public_url), broker.clone(), keyring)
}

/// A request of the operator, about a space.
pub(crate) fn of_operator(request: http::request::Builder, space: &SpaceId) -> http::request::Builder {
    request.header(X_VALETKEY_SPACE, space.as_str())
}

/// Forgets quotas that are whole again.
async fn sweep(api: Api, stopping: CancellationToken) {
    let mut minutes = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = minutes.tick() => api.sweep(),
        }
    }
}

async fn bind(config: &Config) -> Result<(TcpListener, SocketAddr, Url), StartError> {
    let address = config.server.listen;
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    let public_url = public_url(config, local_addr)?;
    Ok((listener, local_addr, public_url))
}

/// The address that browsers see: what was configured, or where the service listens.
pub(crate) fn public_url(config: &Config, address: SocketAddr) -> Result<Url, StartError> {
    match &config.server.public_url {
        Some(url) => Ok(url.clone()),
        None => Url::parse(&format!("http://{address}")).map_err(|_| StartError::PublicUrl { address }),
    }
}
