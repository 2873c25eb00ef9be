//! A running service of a test's own, its provider, and who calls it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;
use valetkey_broker::{Boundaries, Broker, NewKey};
use valetkey_core::{Caller, CallerKind, Clock, ConnectorId, ManualClock, Role, SpaceId, Timestamp};
use valetkey_jobs::Work;
use valetkey_providers::{Catalogue, HttpAuthorizationServer};
use valetkey_sandbox::{Control, Sandbox};
use valetkey_server::{Config, Patience, Server};

use crate::{
    Answer, Browser, Client, Engine, Setup, TestConnector, client, database::Place, witness, witness::Running,
};

/// A running service with its provider. Dropped or stopped, it leaves nothing behind.
#[derive(Debug)]
pub struct TestApp {
    /// The clock of the server and of the sandbox.
    pub clock: TestClock,
    engine: Engine,
    http: reqwest::Client,
    config: Config,
    means: Means,
    keys: BTreeMap<&'static str, String>,
    server: Option<Server>,
    sandbox: Sandbox,
    // Last, so that the database goes when nobody is connected any more.
    place: Place,
    _running: Running,
}

/// How long servers wait for PostgreSQL where no test is about that.
const PATIENT: Patience = Patience {
    connection: Duration::from_secs(30),
    look: Duration::from_secs(60),
    statement: Duration::from_secs(60),
    sweep: Duration::from_secs(600),
};

/// What servers of this app are started with, beside their configuration.
#[derive(Debug)]
struct Means {
    deadline: Option<Duration>,
    patience: Option<Patience>,
    boundaries: Boundaries,
}

/// One clock for the server and the sandbox, which runs with real time and what it was moved by.
#[derive(Debug, Clone)]
pub struct TestClock {
    server: Arc<ManualClock>,
    sandbox: Control,
}

impl TestClock {
    /// Moves both forward.
    pub fn advance(&self, by: Duration) {
        self.server.advance(by);
        self.sandbox.advance(by);
    }

    /// The server's now.
    pub fn now(&self) -> Timestamp {
        self.server.now()
    }
}

impl TestApp {
    /// Starts a service over HTTP on a free port.
    pub async fn start(setup: Setup) -> Self {
        witness::listen();
        let sandbox = Sandbox::start(setup.sandbox).await.expect("a sandbox");
        let place = Place::new(setup.engine).await;
        let mut config = place.config();
        config.jobs = false;
        for change in setup.changes {
            change(&mut config);
        }
        let clock = TestClock { server: Arc::new(ManualClock::new()), sandbox: sandbox.control() };
        let means = Means { deadline: setup.deadline, patience: setup.patience, boundaries: setup.boundaries };
        let server = serve(&config, &clock, &means).await;
        let engine = setup.engine;
        let mut app = Self {
            clock,
            engine,
            http: client::http(),
            config,
            means,
            keys: BTreeMap::new(),
            server: Some(server),
            sandbox,
            place,
            _running: Running::new(),
        };
        let callers: [(_, &[Role]); 4] = [
            ("admin", &[Role::Admin]),
            ("application", &[Role::App]),
            ("administration", &[Role::App, Role::Shared]),
            ("operator", &[Role::Operator]),
        ];
        for (name, roles) in callers {
            let key = app.make_key(&SpaceId::default_space(), roles, None).await;
            app.keys.insert(name, key);
        }
        app
    }

    /// Stops the server and waits for it; false if something was left unfinished. The sandbox goes on.
    pub async fn stop(&mut self) -> bool {
        match self.server.take() {
            Some(server) => server.stop().await,
            None => true,
        }
    }

    /// Stops the server and starts it again on the same data; its port changes.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.server = Some(serve(&self.config, &self.clock, &self.means).await);
    }

    /// The same with another configuration from now on.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        self.stop().await;
        change(&mut self.config);
        self.restart().await;
    }

    /// A second server on the same database, as a replica; PostgreSQL only.
    pub async fn replica(&self) -> Server {
        assert_eq!(self.engine, Engine::Postgres, "only PostgreSQL has replicas");
        serve(&self.config, &self.clock, &self.means).await
    }

    /// The engine that this test runs on.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// What the server was started with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An address at the server: `/v1/…`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url())
    }

    /// Where the server listens, without a slash at the end. Its public address too, unless the setup says another.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.server().local_addr())
    }

    /// Where the sandbox listens, which is its issuer too.
    pub fn provider_url(&self) -> &str {
        self.sandbox.base_url()
    }

    /// Scripts the sandbox and reads its ledger.
    pub fn provider(&self) -> Control {
        self.sandbox.control()
    }

    /// The use cases behind the server, for what has no route.
    pub fn broker(&self) -> &Broker {
        self.server().broker()
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
    }

    /// Where the server keeps its files.
    pub fn data_dir(&self) -> std::path::PathBuf {
        self.place.directory()
    }

    pub(crate) fn rows(&self) -> Vec<(String, Vec<u8>)> {
        self.place.rows()
    }

    /// The one number that an SQL statement returns, read beside the server.
    pub async fn number(&self, statement: &str) -> i64 {
        self.place.number(statement).await
    }

    /// Runs an SQL statement beside the server; gives the number of rows that it changed. On SQLite the server may keep
    /// rows in memory that this does not reach.
    pub async fn change(&self, statement: &str) -> u64 {
        self.place.change(statement).await
    }

    /// Moves time on.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Does one kind of scheduled work until there is no more of it now.
    pub async fn run(&self, work: Work) -> String {
        valetkey_jobs::run(self.broker(), work).await.expect("the work is done")
    }

    /// Delivers revocations until none is queued, moving time on for those that are to be repeated.
    pub async fn settle(&self) {
        for _ in 0..40 {
            self.run(Work::Deliver).await;
            if self.number("SELECT CAST(COUNT(*) AS BIGINT) FROM revocations WHERE state = 'queued'").await == 0 {
                return;
            }
            self.advance(Duration::from_secs(3_600));
        }
        panic!("revocations are queued still");
    }
}

async fn serve(config: &Config, clock: &TestClock, means: &Means) -> Server {
    let mut builder = Server::builder(config.clone()).clock(clock.server.clone()).boundaries(means.boundaries.clone());
    // How busy the machine of a test run is says nothing about the network.
    builder = builder.database_patience(means.patience.unwrap_or(PATIENT));
    if let Some(deadline) = means.deadline {
        let catalogue = Arc::new(Catalogue::load(config.providers_directory.as_deref()).expect("the catalogue"));
        let outside = HttpAuthorizationServer::new(catalogue, config.outbound.clone(), clock.server.clone());
        builder = builder.authorization_server(Arc::new(outside.expect("an HTTP client").with_deadline(deadline)));
    }
    let builder = if config.jobs { builder } else { builder.without_jobs() };
    builder.start().await.expect("a server")
}

/// Callers.
impl TestApp {
    /// A caller without a key.
    pub fn anonymous(&self) -> Client {
        Client::new(self.http.clone(), self.base_url(), None)
    }

    /// A caller with this key.
    pub fn caller(&self, key: &str) -> Client {
        self.anonymous().with_key(key)
    }

    /// An admin of the space `default`.
    pub fn admin(&self) -> Client {
        self.caller(&self.keys["admin"])
    }

    /// An application's backend: role `app`.
    pub fn application(&self) -> Client {
        self.caller(&self.keys["application"])
    }

    /// An application's backend that may connect for everybody: roles `app` and `shared`.
    pub fn administration(&self) -> Client {
        self.caller(&self.keys["administration"])
    }

    /// An operator.
    pub fn operator(&self) -> Client {
        self.caller(&self.keys["operator"])
    }

    /// The backend that fits a connector: [`TestApp::application`], or [`TestApp::administration`] if it is shared.
    pub fn application_of(&self, connector: &TestConnector) -> Client {
        if connector.is_shared { self.administration() } else { self.application() }
    }

    /// A new key of role `connector` that names one.
    pub async fn connector_client(&self, connector_id: &str) -> Client {
        self.key(&["connector"], Some(&[connector_id]), "default").await
    }

    /// A new key of these roles, narrowed to these connectors, in this space.
    pub async fn key(&self, roles: &[&str], connectors: Option<&[&str]>, space: &str) -> Client {
        let roles: Vec<Role> = roles.iter().map(|role| role.parse().expect("a role")).collect();
        let space = space.parse().expect("a space");
        let connectors = connectors.map(|ids| ids.iter().map(|id| id.parse().expect("an id")).collect());
        self.caller(&self.make_key(&space, &roles, connectors).await)
    }

    /// Makes a space, as the command line does.
    pub async fn space(&self, name: &str) {
        let space: SpaceId = name.parse().expect("a space");
        self.broker().create_space(&command_line(&space), &space).await.expect("a space");
    }

    async fn make_key(&self, space: &SpaceId, roles: &[Role], connectors: Option<Vec<ConnectorId>>) -> String {
        let new = NewKey { name: "Test".to_owned(), roles: roles.to_vec(), connectors, expires_at: None };
        let created = self.broker().create_key(&command_line(space), new).await.expect("a key");
        let text = created.text.into_exposed();
        witness::plant(&text, "an API key");
        text
    }

    /// A person's browser with an empty cookie jar.
    pub fn browser(&self, name: &str) -> Browser {
        Browser::new(&self.base_url(), name)
    }

    /// The token call of a fresh key for a user's connection, or for the shared one if `user` is empty.
    pub async fn fetch(&self, connector: &TestConnector, user: &str) -> Answer {
        self.fetch_with(connector, user, serde_json::json!({})).await
    }

    /// The same with further members in the body.
    pub async fn fetch_with(&self, connector: &TestConnector, user: &str, more: Value) -> Answer {
        let mut body = more;
        if !user.is_empty() {
            body["user_id"] = user.into();
        }
        self.connector_client(&connector.id).await.post(&connector.path("/token"), &body).await
    }
}

fn command_line(space: &SpaceId) -> Caller {
    Caller { kind: CallerKind::CommandLine, space: space.clone(), roles: vec![Role::Admin], connectors: None }
}
