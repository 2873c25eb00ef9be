//! The application: a page with a session, and a backend that holds the keys. It knows of the broker what any
//! application knows, and nothing of its insides.

mod pages;
mod refusal;
mod routes;
mod session;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use crate::{broker_api::BrokerApi, house::Addresses, registration::ConnectorKey};

pub(crate) use session::USERS;

/// Bodies here are a few fields.
const LARGEST_BODY: usize = 16 * 1024;

/// How long open requests get when the application stops.
const DRAIN: Duration = Duration::from_secs(2);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Backend {
    addresses: Addresses,
    /// Starts, finishes and cancels flows, and disconnects.
    app: BrokerApi,
    /// Fetches tokens.
    connector: BrokerApi,
    http: reqwest::Client,
    connectors: BTreeMap<ConnectorKey, String>,
    sessions: session::Sessions,
}

impl Backend {
    pub(crate) fn new(
        addresses: Addresses,
        app: BrokerApi,
        connector: BrokerApi,
        http: reqwest::Client,
        connectors: BTreeMap<ConnectorKey, String>,
    ) -> Self {
        let sessions = session::Sessions::new(&addresses.app);
        Self { addresses, app, connector, http, connectors, sessions }
    }

    /// The address of a connector's operation.
    fn path(&self, connector: ConnectorKey, operation: &str) -> String {
        let id = self.connectors.get(&connector).map_or("", String::as_str);
        format!("/v1/connectors/{id}/{operation}")
    }
}

/// The running application.
#[derive(Debug)]
pub(crate) struct Application {
    serving: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Application {
    /// Serves from a task of its own until [`Application::stop`].
    pub(crate) fn start(listener: TcpListener, backend: Backend) -> Self {
        let (stop, stopped) = oneshot::channel();
        let router = router(Arc::new(backend));
        let serving = tokio::spawn(async move {
            let stopped = async {
                // A sender that was dropped says the same.
                let _ = stopped.await;
            };
            // The listener is bound: nothing is left that could end the serving early.
            let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
        });
        Self { serving, stop }
    }

    /// Answers what came, and ends.
    pub(crate) async fn stop(self) {
        let Self { mut serving, stop } = self;
        let _ = stop.send(());
        if timeout(DRAIN, &mut serving).await.is_err() {
            serving.abort();
        }
    }
}

fn router(backend: Arc<Backend>) -> Router {
    let api = Router::new()
        .route("/user", post(routes::switch_user))
        .route("/connectors/{connector}", get(routes::show))
        .route("/connectors/{connector}/flows", post(routes::start))
        .route("/connectors/{connector}/token", post(routes::token))
        .route("/connectors/{connector}/call", post(routes::call))
        .route("/connectors/{connector}/disconnect", post(routes::disconnect))
        .route("/connections/{connection_id}", get(routes::connection))
        .route("/flows/{flow_id}", get(routes::status))
        .route("/flows/{flow_id}/finish", post(routes::finish))
        .route("/flows/{flow_id}/cancel", post(routes::cancel))
        .layer(from_fn_with_state(Arc::clone(&backend), session::refuse_foreign_origin));
    Router::new()
        .nest("/api", api)
        .route("/", get(pages::page))
        .route("/return", get(pages::page))
        .route("/relay", get(pages::relay))
        .route("/{file}", get(pages::file))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(backend)
}
