//! Everything that runs, started in the order in which each part needs the one before.

use std::net::Ipv4Addr;

use anyhow::Context;
use serde::Serialize;
use tempfile::TempDir;
use tokio::net::TcpListener;
use valetkey_sandbox::{ClientSettings, Control, Sandbox, SandboxSettings};
use valetkey_server::{Config, Server};

use crate::{
    application::{Application, Backend},
    broker_api::{self, BrokerApi},
    registration::{self, ConnectorKey, Keys},
};

/// The sandbox's description, as an operator would put it beside the built-in ones.
const PROFILE: &str = include_str!("../assets/sandbox.toml");

/// Short enough to see a token near its end while looking at the page.
const TOKEN_LIFE_S: u64 = 120;

/// Where everything is.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Addresses {
    /// The application: the one address to open.
    pub(crate) app: String,
    /// The broker.
    pub(crate) broker: String,
    /// The provider.
    pub(crate) sandbox: String,
}

/// Broker, provider and application, with the broker's data in a temporary directory.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) addresses: Addresses,
    pub(crate) keys: Keys,
    application: Application,
    server: Server,
    sandbox: Sandbox,
    data: TempDir,
}

impl House {
    /// Starts everything; `port` is the application's, 0 for a free one.
    pub(crate) async fn open(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("cannot listen at 127.0.0.1:{port}"))?;
        let app = format!("http://{}", listener.local_addr()?);
        let sandbox = Sandbox::start(sandbox_settings()).await.context("the sandbox provider did not start")?;
        let data = tempfile::Builder::new().prefix("valetkey-demo-").tempdir().context("no temporary directory")?;
        let server = Server::start(config(&data)?).await.context("the broker did not start")?;
        let broker = server.public_url().as_str().trim_end_matches('/').to_owned();
        let addresses = Addresses { app, broker, sandbox: sandbox.base_url().to_owned() };
        let keys =
            registration::register(server.data_dir(), &addresses).await.context("the broker could not be set up")?;
        let http = broker_api::client()?;
        let backend = Backend::new(
            addresses.clone(),
            BrokerApi::new(http.clone(), &addresses.broker, keys.app.clone()),
            BrokerApi::new(http.clone(), &addresses.broker, keys.connector.clone()),
            http,
            keys.connectors.clone(),
        );
        let application = Application::start(listener, backend);
        Ok(Self { addresses, keys, application, server, sandbox, data })
    }

    /// The provider's own account of what happened.
    pub(crate) fn provider(&self) -> Control {
        self.sandbox.control()
    }

    /// Stops everything and deletes what was stored.
    pub(crate) async fn close(self) {
        self.application.stop().await;
        self.server.stop().await;
        self.sandbox.stop().await;
        // What cannot be deleted is in the system's temporary directory, which is emptied some day.
        let _ = self.data.close();
    }
}

fn sandbox_settings() -> SandboxSettings {
    // One registration per connector, so that revoking at one leaves the grant of the other alone.
    let clients = ConnectorKey::ALL.map(|connector| ClientSettings {
        name: "Demo application".to_owned(),
        require_pkce: true,
        access_life_seconds: Some(TOKEN_LIFE_S),
        ..ClientSettings::new(connector.client_id(), registration::CLIENT_SECRET)
    });
    SandboxSettings { clients: clients.into(), ..SandboxSettings::default() }
}

fn config(data: &TempDir) -> anyhow::Result<Config> {
    let profiles = data.path().join("providers");
    std::fs::create_dir(&profiles)?;
    std::fs::write(profiles.join("sandbox.toml"), PROFILE)?;
    let mut config = Config::local(data.path().join("broker"));
    config.providers_directory = Some(profiles);
    // A person who tries things out, or a test in a browser, is faster than users are.
    config.limits.starts_per_minute_and_user = 1_000;
    config.limits.starts_per_hour_and_user = 10_000;
    config.limits.open_flows_per_user = 1_000;
    config.refresh.rejected_interval = std::time::Duration::from_secs(1);
    Ok(config)
}
