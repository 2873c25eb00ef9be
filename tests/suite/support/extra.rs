//! What only some tests need: the state of connections, other servers on the same data, crashes, and SQL.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::runtime::Runtime;
use valetkey_core::{SystemClock, Timestamp};
use valetkey_providers::{Catalogue, HttpAuthorizationServer};
use valetkey_sandbox::{Event, EventKind};
use valetkey_server::{DatabaseConfig, Server};

use crate::{Answer, Canaries, Client, TestApp, TestConnector, client, witness};

/// How long a test waits for what is in flight, in real time.
const PATIENCE: Duration = Duration::from_secs(15);

/// A time of an answer.
#[track_caller]
pub fn time_of(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_default();
    Timestamp::from_rfc3339(text).unwrap_or_else(|| panic!("no time but {value}"))
}

/// A text of an answer.
#[track_caller]
pub fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text but {value}")).to_owned()
}

/// What is on a page of a list.
#[track_caller]
pub fn items_of(answer: &Answer) -> Vec<Value> {
    answer.json["items"].as_array().unwrap_or_else(|| panic!("{}: no items in {}", answer.request, answer.text)).clone()
}

/// Connections, and the time they live by.
impl TestApp {
    /// A connection as an operator sees it.
    pub async fn connection(&self, id: &str) -> Value {
        self.operator().get(&format!("/v1/connections/{id}")).await.expect(200).json
    }

    /// Moves time just past this one.
    pub fn advance_to(&self, at: Timestamp) {
        self.advance(at.since(self.clock.now()) + Duration::from_millis(2));
    }

    /// Moves time past the point at which the connection's refresh is due.
    pub async fn advance_to_due(&self, connection: &str) {
        self.advance_to(time_of(&self.connection(connection).await["refresh_due_at"]));
    }

    /// Moves time past the end of the connection's access token.
    pub async fn advance_to_expiry(&self, connection: &str) {
        self.advance_to(time_of(&self.connection(connection).await["expires_at"]));
    }

    /// Waits until no refresh and no redemption is in flight.
    pub async fn landed(&self) {
        assert!(self.broker().drain(PATIENCE).await, "something is in flight still");
    }

    /// The refreshes that the connector's client asked the provider for, in order.
    pub fn refreshes(&self, connector: &TestConnector) -> Vec<Event> {
        self.token_requests(connector, "refresh_token")
    }

    /// The token requests of the connector's client with this grant type, in order.
    pub fn token_requests(&self, connector: &TestConnector, grant_type: &str) -> Vec<Event> {
        self.provider().events_where(|event| {
            event.kind == EventKind::Token
                && event.client_id.as_ref() == Some(&connector.client_id)
                && event.grant_type.as_deref() == Some(grant_type)
        })
    }

    /// The revocations that the connector's client asked the provider for, in order.
    pub fn revocations_seen(&self, connector: &TestConnector) -> Vec<Event> {
        self.provider().events_where(|event| {
            event.kind == EventKind::Revoke && event.client_id.as_ref() == Some(&connector.client_id)
        })
    }

    /// What became of a connection's revocations, oldest first, of each pair the refresh token's before the access token's.
    pub async fn revocations(&self, connection: &str) -> Vec<Value> {
        let path = format!("/v1/revocations?connection_id={connection}&limit=200");
        let mut items = items_of(&self.operator().get(&path).await.expect(200));
        let rank = |item: &Value| (text_of(&item["created_at"]), item["token_kind"] != "refresh");
        items.sort_by_key(rank);
        items
    }

    /// Audit events that match, newest first.
    pub async fn audit(&self, query: &str) -> Vec<Value> {
        items_of(&self.operator().get(&format!("/v1/audit?limit=200&{query}")).await.expect(200))
    }
}

/// Keys.
impl TestApp {
    /// Makes a key through the API; its text.
    pub async fn api_key(&self, roles: &[&str], connectors: Option<&[&str]>) -> String {
        let body = json!({ "name": "Test", "roles": roles, "connectors": connectors });
        let key = self.admin().post("/v1/keys", &body).await.expect(201).text_of("key");
        witness::plant(&key, "an API key");
        key
    }

    /// A caller of another server with this key.
    pub fn caller_at(&self, server: &Server, key: &str) -> Client {
        caller(&format!("http://{}", server.local_addr()), key)
    }
}

fn caller(base: &str, key: &str) -> Client {
    Client::new(client::http(), base.to_owned(), Some(key.to_owned()))
}

impl Client {
    /// `GET`, `POST`, `PATCH` or `DELETE` with a JSON body where there is one.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let request = self.request(method, path);
        self.send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// The status of a `POST`; `None` if the server went away without an answer.
    pub async fn try_post(&self, path: &str, body: &Value) -> Option<u16> {
        let answer = self.request(Method::POST, path).json(body).send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }
}

/// A server in a runtime of its own, by the machine's clock, which can die without a word.
#[derive(Debug)]
pub struct Doomed {
    server: Server,
    runtime: Runtime,
}

impl Doomed {
    /// Starts on the data of an app that was stopped and whose time was not moved.
    pub async fn start(app: &TestApp) -> Self {
        Self::start_with(app, None).await
    }

    /// The same, and gives each provider this long to answer.
    pub async fn impatient(app: &TestApp, deadline: Duration) -> Self {
        Self::start_with(app, Some(deadline)).await
    }

    async fn start_with(app: &TestApp, deadline: Option<Duration>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let config = app.config().clone();
        let started = runtime.spawn(async move {
            let mut builder = Server::builder(config.clone()).without_jobs();
            if let Some(deadline) = deadline {
                let catalogue = Arc::new(Catalogue::load(None).expect("the catalogue"));
                let clock = Arc::new(SystemClock::new());
                let outside = HttpAuthorizationServer::new(catalogue, config.outbound, clock).expect("an HTTP client");
                builder = builder.authorization_server(Arc::new(outside.with_deadline(deadline)));
            }
            builder.start().await.expect("a server")
        });
        let server = started.await.expect("it started");
        Self { server, runtime }
    }

    /// A caller of this server.
    pub fn caller(&self, key: &str) -> Client {
        caller(&format!("http://{}", self.server.local_addr()), key)
    }

    /// Every task of the server ends where it stands; nothing is finished and nothing is said.
    pub async fn kill(self) {
        let Self { server, runtime } = self;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.expect("it died");
        drop(server);
    }
}

/// The database beside the server.
impl TestApp {
    /// Executes statements that return nothing.
    pub async fn execute(&self, statements: &str) {
        let statements = AssertSqlSafe(statements.to_owned());
        match &self.config().database {
            DatabaseConfig::Sqlite { path } => {
                let options = SqliteConnectOptions::new().filename(path);
                let mut connection = SqliteConnection::connect_with(&options).await.expect("the database opens");
                sqlx::raw_sql(statements).execute(&mut connection).await.expect("the statements work");
                connection.close().await.expect("closed");
            }
            DatabaseConfig::Postgres { url } => {
                let mut connection = PgConnection::connect(url.expose()).await.expect("the server answers");
                sqlx::raw_sql(statements).execute(&mut connection).await.expect("the statements work");
                connection.close().await.expect("closed");
            }
        }
    }
}

/// An attempt as its row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// Where it stands.
    pub state: String,
    /// What was seen last.
    pub outcome: String,
    /// Not to be repeated before this.
    pub next_try_at: Timestamp,
}

impl TestApp {
    /// The last attempt of a connection, read beside the server.
    pub async fn attempt(&self, connection: &str) -> AttemptRow {
        let statement = AssertSqlSafe(format!(
            "SELECT state, COALESCE(outcome, ''), next_try_at FROM attempts WHERE connection_id = '{connection}' \
             ORDER BY generation DESC LIMIT 1"
        ));
        let (state, outcome, next_try_at): (String, String, i64) = match &self.config().database {
            DatabaseConfig::Sqlite { path } => {
                let options = SqliteConnectOptions::new().filename(path);
                let mut beside = SqliteConnection::connect_with(&options).await.expect("the database opens");
                sqlx::query_as(statement).fetch_one(&mut beside).await
            }
            DatabaseConfig::Postgres { url } => {
                let mut beside = PgConnection::connect(url.expose()).await.expect("the server answers");
                sqlx::query_as(statement).fetch_one(&mut beside).await
            }
        }
        .expect("an attempt");
        AttemptRow { state, outcome, next_try_at: Timestamp::from_millis(next_try_at) }
    }
}

/// Does one kind of scheduled work at another server.
pub async fn run_at(server: &Server, work: valetkey_jobs::Work) -> String {
    valetkey_jobs::run(server.broker(), work).await.expect("the work is done")
}

/// What was stored.
impl TestApp {
    /// What of these secrets is in the files and rows of this app: where, and the hit.
    pub fn hits_stored(&self, secrets: &Canaries) -> Vec<(String, String)> {
        secrets.find_stored(&self.data_dir(), &self.rows())
    }
}
