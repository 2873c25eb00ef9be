//! The operator's requests about keys: what is sealed under what, rotation, and a change of the key-encryption key.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use valetkey_broker::{Broker, BrokerError, RotationPace};
use valetkey_core::{Actor, Clock, Entropy};
use valetkey_sealing::{KeyRing, KeyRingError};
use valetkey_store::{StoreError, TokenStore};

use crate::{
    config::{Config, KeyringConfig},
    error::chain,
    foundation::Foundation,
    unlock::{UnlockError, wrappers_with},
};

/// What is sealed under what.
pub(crate) const KEYRING: &str = "/v1/keyring";
/// Makes a new data key.
pub(crate) const ROTATE: &str = "/v1/keyring/rotate";
/// Goes on with a rotation for a moment.
pub(crate) const STEP: &str = "/v1/keyring/step";
/// Wraps the data keys anew.
pub(crate) const REWRAP: &str = "/v1/keyring/rewrap";
/// Opens everything.
pub(crate) const CHECK: &str = "/v1/keyring/check";

/// How long one step goes on, so that whoever waits hears of its progress.
const STEP_LASTS: Duration = Duration::from_millis(800);

/// What the requests work with.
#[derive(Debug, Clone)]
struct Keyring {
    broker: Broker,
    store: TokenStore,
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// Why a request about keys was not done.
#[derive(Debug, thiserror::Error)]
enum KeyringFault {
    #[error("the broker could not do it")]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Ring(#[from] KeyRingError),
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    #[error("a new key is made in a key ring only, and keyring.file is not what wraps here")]
    NoRing,
}

/// The routes. Whoever may reach them is the operator of this machine.
pub(crate) fn router(config: &Config, foundation: &Foundation, broker: &Broker) -> Router {
    let keyring = Keyring {
        broker: broker.clone(),
        store: foundation.store.clone(),
        config: Arc::new(config.clone()),
        clock: Arc::clone(&foundation.means.clock),
        entropy: Arc::clone(&foundation.means.entropy),
    };
    Router::new()
        .route(KEYRING, get(status))
        .route(ROTATE, post(rotate))
        .route(STEP, post(step))
        .route(REWRAP, post(rewrap))
        .route(CHECK, post(check))
        .with_state(keyring)
}

/// Whether anybody is served from the database meanwhile.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pace {
    alone: bool,
}

impl Pace {
    fn pace(&self) -> RotationPace {
        if self.alone { RotationPace::Alone } else { RotationPace::Serving }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewrap {
    all: bool,
    new_key: bool,
    drop_old: bool,
}

async fn status(State(keyring): State<Keyring>) -> Response {
    answer(keyring.broker.keyring_status().await.map_err(KeyringFault::from))
}

async fn rotate(State(keyring): State<Keyring>) -> Response {
    let begun = keyring.broker.begin_rotation(Actor::CommandLine).await;
    answer(begun.map(|id| json!({ "new_key": id })).map_err(KeyringFault::from))
}

async fn step(State(keyring): State<Keyring>, Json(pace): Json<Pace>) -> Response {
    answer(keyring.broker.step_rotation(pace.pace(), STEP_LASTS).await.map_err(KeyringFault::from))
}

async fn check(State(keyring): State<Keyring>, Json(pace): Json<Pace>) -> Response {
    answer(keyring.broker.check_sealed(pace.pace()).await.map_err(KeyringFault::from))
}

async fn rewrap(State(keyring): State<Keyring>, Json(asked): Json<Rewrap>) -> Response {
    answer(keyring.rewrap(&asked).await)
}

impl Keyring {
    /// First the new key into the ring, then the data keys under it, then the old ones out of the ring: a crash between
    /// two of these leaves a ring that opens everything.
    async fn rewrap(&self, asked: &Rewrap) -> Result<serde_json::Value, KeyringFault> {
        let path = match &self.config.keyring {
            KeyringConfig::File(path) => Some(path.as_path()),
            _ if asked.new_key || asked.drop_old => return Err(KeyringFault::NoRing),
            _ => None,
        };
        if let Some(path) = path.filter(|_| asked.new_key) {
            let ring = KeyRing::add_key(path, &*self.entropy, self.clock.now())?;
            self.store.set_key_wrappers(wrappers_with(&self.config, &ring)?);
        }
        let report = self.broker.rewrap(Actor::CommandLine, asked.all).await?;
        let mut dropped = 0;
        if let Some(path) = path.filter(|_| asked.drop_old) {
            let needed = self.broker.key_wrappers_in_use().await?;
            let before = KeyRing::load(path)?.wrappers().len();
            let ring = KeyRing::drop_keys(path, &needed, &*self.entropy)?;
            dropped = before - ring.wrappers().len();
            self.store.set_key_wrappers(wrappers_with(&self.config, &ring)?);
        }
        Ok(json!({
            "wrapper": report.wrapper, "wrapped": report.wrapped, "missing": report.missing, "dropped": dropped,
        }))
    }
}

fn answer<T: serde::Serialize>(result: Result<T, KeyringFault>) -> Response {
    let fault = match result {
        Ok(value) => return Json(value).into_response(),
        Err(fault) => fault,
    };
    tracing::error!(error = &fault as &dyn std::error::Error, "a request about the keys failed: {fault}");
    let (status, code) = match &fault {
        KeyringFault::NoRing => (StatusCode::UNPROCESSABLE_ENTITY, "no-key-ring"),
        KeyringFault::Broker(BrokerError::Store(
            StoreError::Wrap(valetkey_core::WrapError::Unavailable(_))
            | StoreError::Unlock(valetkey_sealing::UnlockError::Unavailable { .. }),
        )) => (StatusCode::SERVICE_UNAVAILABLE, "key-service-unavailable"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "keyring-failed"),
    };
    // The operator of this machine reads the cause: it names keys and files, never a secret.
    (status, Json(json!({ "title": chain(&fault), "code": code }))).into_response()
}
