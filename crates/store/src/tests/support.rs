//! A fresh store on each engine, and what tests put into it.

use std::{collections::BTreeMap, sync::Arc};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use valetkey_core::{
    Action, Actor, AuditEvent, AuthMode, Binding, ConnectionId, Connector, ConnectorId, Endpoints, Entropy, EventId,
    Grant, ObservedRotation, Secret, SpaceId, Subject, SystemEntropy, Timestamp,
};
use valetkey_sealing::KeyRing;

use crate::{Database, DatabaseSettings, Patience, TokenStore, Unlock};

/// When tests begin.
pub(crate) const START: i64 = 1_750_000_000_000;

/// So many milliseconds after the beginning.
pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

/// So many days after the beginning.
pub(crate) fn day(days: i64) -> Timestamp {
    at(days * 24 * 60 * 60 * 1_000)
}

pub(crate) fn entropy() -> Arc<dyn Entropy> {
    Arc::new(SystemEntropy)
}

/// Unlocks with a key that every test has.
pub(crate) fn unlock() -> Unlock {
    unlock_with("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
}

pub(crate) fn unlock_with(key: &str) -> Unlock {
    let ring = KeyRing::from_base64(&Secret::from(key)).expect("a key");
    Unlock { instance: None, wrappers: ring.wrappers() }
}

pub(crate) fn space() -> SpaceId {
    SpaceId::default_space()
}

/// Where a database is, and how to be rid of it.
pub(crate) struct Place {
    pub(crate) settings: DatabaseSettings,
    _directory: Option<TempDir>,
    server: Option<(String, String)>,
}

impl Place {
    fn sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("valetkey.db");
        Self { settings: DatabaseSettings::Sqlite { path }, _directory: Some(directory), server: None }
    }

    async fn postgres(server: String) -> Self {
        let name = format!("valetkey_test_{}", ConnectionId::new(at(0), &SystemEntropy));
        let mut connection = PgConnection::connect(&server).await.expect("the server answers");
        let create = format!("CREATE DATABASE {name}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await.expect("a database");
        connection.close().await.expect("closed");
        let url = with_database(&server, &name);
        let settings = DatabaseSettings::Postgres { url, max_connections: 8, patience: Patience::default() };
        Self { settings, _directory: None, server: Some((server, name)) }
    }

    /// A connected and migrated database.
    pub(crate) async fn database(&self) -> Database {
        let database = Database::connect(&self.settings).await.expect("connected");
        database.migrate().await.expect("migrated");
        database
    }

    /// An unlocked store.
    pub(crate) async fn store(&self) -> TokenStore {
        TokenStore::open(self.database().await, unlock(), 1 << 20, &entropy(), at(0)).await.expect("unlocked")
    }

    async fn remove(self) {
        if let Some((server, name)) = self.server {
            let mut connection = PgConnection::connect(&server).await.expect("the server answers");
            let drop = format!("DROP DATABASE {name} WITH (FORCE)");
            sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await.expect("dropped");
            connection.close().await.expect("closed");
        }
    }
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (address, options) = rest.split_once('?').map_or((rest, None), |(address, options)| (address, Some(options)));
    let host = address.split_once('/').map_or(address, |(host, _)| host);
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    format!("{scheme}://{host}/{name}{options}")
}

#[expect(clippy::disallowed_methods, reason = "the one place where tests learn of a server")]
fn server() -> Option<String> {
    std::env::var("VALETKEY_TEST_POSTGRES_URL").ok()
}

/// Runs a test in an empty place on each engine.
pub(crate) async fn each_place(body: impl AsyncFn(&Place)) {
    let mut places = vec![Place::sqlite()];
    if let Some(server) = server() {
        places.push(Place::postgres(server).await);
    }
    for place in places {
        body(&place).await;
        place.remove().await;
    }
}

/// Runs a test with a new store on each engine.
pub(crate) async fn each_store(body: impl AsyncFn(&TokenStore)) {
    each_place(async |place| {
        let store = place.store().await;
        body(&store).await;
        store.close().await;
    })
    .await;
}

/// Runs a statement of the test's own, without parameters.
pub(crate) async fn run(store: &TokenStore, text: &str) -> u64 {
    let text = AssertSqlSafe(text.to_owned());
    crate::db::on_db_write!(&store.db, |pool| {
        sqlx::query(text).execute(pool).await.expect("the statement works").rows_affected()
    })
}

/// The one number that a statement of the test's own returns.
pub(crate) async fn number(store: &TokenStore, text: &str) -> i64 {
    let text = AssertSqlSafe(text.to_owned());
    crate::db::on_db_write!(&store.db, |pool| {
        sqlx::query_scalar(text).fetch_one(pool).await.expect("the statement works")
    })
}

pub(crate) fn event(action: Action, now: Timestamp) -> AuditEvent {
    AuditEvent {
        id: EventId::new(now, &SystemEntropy),
        space: space(),
        at: now,
        actor: Actor::System,
        action,
        subject: Subject::default(),
        detail: serde_json::Value::Null,
        request_id: None,
    }
}

pub(crate) async fn events(store: &TokenStore, action: Action) -> i64 {
    number(store, &format!("SELECT CAST(COUNT(*) AS BIGINT) FROM audit WHERE action = '{action}'")).await
}

pub(crate) fn connector(space: &SpaceId, now: Timestamp) -> Connector {
    Connector {
        id: ConnectorId::new(now, &SystemEntropy),
        space: space.clone(),
        name: "Tickets".to_owned(),
        provider: "oauth2".to_owned(),
        auth_mode: AuthMode::PerUser,
        grant: Grant::AuthorizationCode,
        client_id: "client-1".to_owned(),
        secret_count: 1,
        scopes: vec!["read".to_owned()],
        optional_scopes: vec!["write".to_owned()],
        settings: BTreeMap::from([("tenant".to_owned(), "acme".to_owned())]),
        issuer: Some("https://idp.example".to_owned()),
        endpoints: Endpoints { token: Some("https://idp.example/token".to_owned()), ..Endpoints::default() },
        rotation: Some(valetkey_core::RotationClass::Grace { seconds: 30 }),
        observed_rotation: ObservedRotation::default(),
        binding: Binding::Finish,
        return_urls: vec!["https://app.example/connected".to_owned()],
        origins: vec!["https://app.example".to_owned()],
        version: 1,
        created_at: now,
        updated_at: now,
        deleted_at: None,
    }
}

/// Stores a connector of the default space.
pub(crate) async fn put_connector(store: &TokenStore, now: Timestamp) -> Connector {
    let connector = connector(&space(), now);
    store
        .insert_connector(&connector, &[Secret::from("hunter2")], &event(Action::ConnectorCreated, now))
        .await
        .expect("stored");
    connector
}
