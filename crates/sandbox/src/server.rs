//! Starts and stops a sandbox.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::http_date;
use crate::connection::{Connection, Connections, CuttableListener};
use crate::control::Control;
use crate::settings::SandboxSettings;
use crate::state::Shared;
use crate::{authorize, control_http, fault_layer, metadata, page, resource, revoke, token_endpoint};

/// Largest request body; bulk rules and settings are the largest that come.
const LARGEST_BODY: usize = 4 << 20;

/// A running sandbox provider on 127.0.0.1; dropping it cuts its connections and frees its port.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Sandbox {
    /// Binds the port and serves from a task of the current runtime.
    pub async fn start(settings: SandboxSettings) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port)).await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(Connections::default());
        let shared = Arc::new(Shared::new(format!("http://{address}"), settings, Arc::clone(&connections)));
        let service = routes(&shared).into_make_service_with_connect_info::<Connection>();
        let listener = CuttableListener::new(listener, connections);
        let server = tokio::spawn(async move {
            // Serving ends only when this task is aborted.
            let _ = axum::serve(listener, service).await;
        });
        Ok(Self { shared, address, server })
    }

    /// The address without a slash at the end, such as `http://127.0.0.1:4000`.
    pub fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// The issuer that answers and ID tokens name now.
    pub fn issuer(&self) -> String {
        self.shared.issuer(&self.shared.lock())
    }

    /// The socket address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that scripts and reads this sandbox.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Stops serving, cuts all connections, and returns once the port is free.
    pub async fn stop(mut self) {
        self.cut_off();
        // The task was aborted: there is nothing to learn from how it ended.
        let _ = (&mut self.server).await;
    }

    fn cut_off(&self) {
        self.server.abort();
        self.shared.connections.close();
        self.shared.gates.release_all();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.cut_off();
    }
}

/// Dates answers by the sandbox's clock, unless a fault has dated them.
async fn dated(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(date) = HeaderValue::from_str(&http_date(shared.clock.now_ms())) {
        response.headers_mut().entry(header::DATE).or_insert(date);
    }
    response
}

fn routes(shared: &Arc<Shared>) -> Router {
    let provider = Router::new()
        .route("/authorize", get(authorize::authorize))
        .route("/authorize/decision", post(authorize::decision))
        .route("/token", post(token_endpoint::token))
        .route("/revoke", post(revoke::revoke))
        .route("/revoke/bearer", post(revoke::revoke_bearer).delete(revoke::revoke_bearer))
        .route("/applications/{client_id}/grant", delete(revoke::revoke_application_grant))
        .route("/tenant/{tenant}/authorize", get(authorize::authorize))
        .route("/tenant/{tenant}/token", post(token_endpoint::token))
        .route("/tenant/{tenant}/revoke", post(revoke::revoke))
        .route("/introspect", post(resource::introspect))
        .route("/userinfo", get(resource::userinfo).post(resource::userinfo))
        .route("/api/whoami", get(resource::whoami))
        .route("/jwks", get(metadata::jwks))
        .route("/.well-known/openid-configuration", get(metadata::openid_configuration))
        .route("/.well-known/oauth-authorization-server", get(metadata::authorization_server))
        .route("/sandbox.css", get(page::stylesheet))
        .layer(from_fn_with_state(Arc::clone(shared), fault_layer::faults))
        .layer(from_fn_with_state(Arc::clone(shared), dated))
        .with_state(Arc::clone(shared));
    provider.merge(control_http::routes(Control::new(Arc::clone(shared)))).layer(DefaultBodyLimit::max(LARGEST_BODY))
}
