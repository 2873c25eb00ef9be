//! Everything below HTTP, opened: data directory, key ring, database, providers.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use url::Url;
use valetkey_broker::{Boundaries, Broker, BrokerParts, BrokerSettings};
use valetkey_core::{Clock, Entropy, SystemClock, SystemEntropy};
use valetkey_providers::{AuthorizationServer, Catalogue, HttpAuthorizationServer};
use valetkey_store::{Database, DatabaseSettings, Patience, StoreError, TokenStore};

use crate::{
    DataDir, StartError,
    config::{Config, DatabaseConfig},
    unlock::{Sealed, unlock},
};

/// Time and chance, and the providers where a test scripts them.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) authorization_server: Option<Arc<dyn AuthorizationServer>>,
    pub(crate) boundaries: Boundaries,
    /// Shorter in tests that cut the network.
    pub(crate) patience: Patience,
    /// False in the null control of the power-cut proof alone.
    pub(crate) durable_commits: bool,
}

impl Default for Means {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            authorization_server: None,
            boundaries: Boundaries::default(),
            patience: Patience::default(),
            durable_commits: true,
        }
    }
}

/// Everything below HTTP.
#[derive(Debug)]
pub(crate) struct Foundation {
    pub(crate) store: TokenStore,
    /// Held on SQLite until everything else is over.
    pub(crate) data_dir: Option<DataDir>,
    catalogue: Arc<Catalogue>,
    authorization_server: Arc<dyn AuthorizationServer>,
    pub(crate) means: Means,
}

impl Foundation {
    /// Opens everything, in an order in which what refuses the start comes before what changes anything.
    pub(crate) async fn open(config: &Config, means: Means, holder: &str) -> Result<Self, StartError> {
        let catalogue = Arc::new(Catalogue::load(config.providers_directory.as_deref())?);
        let authorization_server = match &means.authorization_server {
            Some(scripted) => Arc::clone(scripted),
            None => Arc::new(HttpAuthorizationServer::new(
                Arc::clone(&catalogue),
                config.outbound.clone(),
                Arc::clone(&means.clock),
            )?),
        };
        let (data_dir, sealed) = hold(config, holder)?;
        let now = means.clock.now();
        let unlock = unlock(config, sealed, &*means.entropy, now)?;
        let database = connect(config, &means).await?;
        if !means.durable_commits {
            database.without_durable_commits().await?;
        }
        migrate(&database).await?;
        let store = match TokenStore::open(database.clone(), unlock, config.cache_bytes, &means.entropy, now).await {
            Ok(store) => store,
            Err(error) => {
                database.close().await;
                return Err(error.into());
            }
        };
        Ok(Self { store, data_dir, catalogue, authorization_server, means })
    }

    /// The broker at a public address.
    pub(crate) fn broker(&self, config: &Config, public_url: Url) -> Broker {
        Broker::new(BrokerParts {
            store: self.store.clone(),
            catalogue: Arc::clone(&self.catalogue),
            authorization_server: Arc::clone(&self.authorization_server),
            clock: Arc::clone(&self.means.clock),
            entropy: Arc::clone(&self.means.entropy),
            settings: BrokerSettings {
                public_url,
                limits: config.limits.clone(),
                refresh: config.refresh.clone(),
                retention: config.retention.clone(),
                keyring: config.rotation.clone(),
            },
            boundaries: self.means.boundaries.clone(),
        })
    }
}

/// Opens the database, unlocks nothing, and brings its schema up to date. Returns how many migrations ran.
pub(crate) async fn migrate_alone(config: &Config, means: &Means) -> Result<u64, StartError> {
    let (_data_dir, sealed) = hold(config, "migrate")?;
    // A key ring that does not fit refuses here too: a database that cannot be opened is better left as it is.
    unlock(config, sealed, &*means.entropy, means.clock.now())?;
    let database = connect(config, means).await?;
    let ran = migrate(&database).await;
    database.close().await;
    ran
}

/// On SQLite, takes the data directory and makes the database's file private before anybody writes to it.
fn hold(config: &Config, holder: &str) -> Result<(Option<DataDir>, Sealed), StartError> {
    let DatabaseConfig::Sqlite { path } = &config.database else {
        // Whether it is empty is not known yet, and replicas must not each make a key of their own.
        return Ok((None, Sealed::Perhaps));
    };
    let data_dir = DataDir::hold(&config.data_dir, holder)?;
    let sealed = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > 0 => Sealed::Perhaps,
        Ok(_) => Sealed::Nothing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Sealed::Nothing,
        Err(source) => return Err(StartError::DatabaseFile { path: path.clone(), source }),
    };
    Ok((Some(data_dir), sealed))
}

fn make_private(path: &Path) -> Result<(), StartError> {
    let made = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map(drop).map_err(|source| StartError::DatabaseFile { path: path.to_owned(), source })
}

async fn connect(config: &Config, means: &Means) -> Result<Database, StartError> {
    let settings = match &config.database {
        DatabaseConfig::Sqlite { path } => {
            // What SQLite puts beside the file gets the file's own mode.
            make_private(path)?;
            DatabaseSettings::Sqlite { path: path.clone() }
        }
        DatabaseConfig::Postgres { url } => DatabaseSettings::Postgres {
            url: url.expose().to_owned(),
            max_connections: config.max_connections,
            patience: means.patience,
        },
    };
    Ok(Database::connect(&settings).await?)
}

async fn migrate(database: &Database) -> Result<u64, StartError> {
    match database.check_schema().await {
        Ok(()) => Ok(0),
        Err(StoreError::SchemaTooOld) => {
            let ran = database.migrate().await?;
            tracing::info!(migrations = ran, "brought the database schema up to date");
            Ok(ran)
        }
        Err(error) => {
            database.close().await;
            Err(error.into())
        }
    }
}
