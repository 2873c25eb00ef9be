//! The broker of the sweep: a real server whose connections can be refreshed at the sandbox.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use tokio::task::JoinSet;
use valetkey_broker::{Broker, ImportLine, NewConnector};
use valetkey_core::{
    AuthMode, Binding, Caller, Clock, ConnectorId, Endpoints, Grant, Label, RotationClass, Secret, SystemClock, UserId,
};
use valetkey_server::{Config, Server};

use crate::{
    broker::{KEY, administrator, ready},
    child::until_closed,
};

/// Where the broker keeps its data, and what it refreshes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) postgres: Option<String>,
    /// Where the sandbox is.
    pub(crate) sandbox: String,
    /// Lines of user, access token, refresh token.
    pub(crate) grants: PathBuf,
    /// Refreshes per second.
    pub(crate) budget: u32,
}

/// Imports at once: PostgreSQL gathers their commits.
const IMPORTERS: usize = 16;

/// Starts the broker, imports the grants, and serves until the parent closes our input.
pub(crate) async fn serve(place: &Place) -> anyhow::Result<()> {
    let mut config = match &place.postgres {
        Some(url) => Config::local_postgres(&place.data_dir, url.as_str(), KEY),
        None => Config::local(&place.data_dir),
    };
    config.calls.token_calls_per_second_and_key = 1_000_000;
    config.refresh.per_second_and_connector = place.budget;
    let server = Server::start(config).await.context("the broker does not start")?;
    let broker = server.broker();
    let admin = administrator();
    let connector = connector(broker, &admin, &place.sandbox).await?;
    import(broker, &admin, connector, &std::fs::read_to_string(&place.grants)?).await?;
    let ready = ready(&server, &admin, connector).await?;
    until_closed(&ready).await?;
    if !server.stop().await {
        bail!("the broker did not stop cleanly");
    }
    Ok(())
}

async fn connector(broker: &Broker, admin: &Caller, sandbox: &str) -> anyhow::Result<ConnectorId> {
    let new = NewConnector {
        name: "Sweep".to_owned(),
        provider: "oauth2".to_owned(),
        auth_mode: AuthMode::PerUser,
        grant: Grant::AuthorizationCode,
        client_id: "bench".to_owned(),
        client_secrets: vec![Secret::from("bench-secret")],
        scopes: vec!["read".to_owned()],
        optional_scopes: Vec::new(),
        settings: std::collections::BTreeMap::new(),
        issuer: None,
        endpoints: Endpoints {
            authorization: Some(format!("{sandbox}/authorize")),
            token: Some(format!("{sandbox}/token")),
            ..Endpoints::default()
        },
        rotation: Some(RotationClass::Strict),
        binding: Binding::Finish,
        return_urls: Vec::new(),
        origins: Vec::new(),
    };
    Ok(broker.create_connector(admin, new).await?.id)
}

async fn import(broker: &Broker, admin: &Caller, connector: ConnectorId, grants: &str) -> anyhow::Result<()> {
    // Nothing becomes due by itself while the benchmark runs.
    let expires_at = SystemClock::new().now().plus(Duration::from_secs(36_000));
    let mut importers = JoinSet::new();
    for grant in grants.lines() {
        let mut fields = grant.split(' ').map(str::to_owned);
        let (Some(user), Some(access), Some(refresh)) = (fields.next(), fields.next(), fields.next()) else {
            bail!("a grant has three fields");
        };
        if importers.len() >= IMPORTERS {
            importers.join_next().await.context("an importer")???;
        }
        let (broker, admin) = (broker.clone(), admin.clone());
        importers.spawn(async move {
            let line = ImportLine {
                connector_id: connector,
                user_id: Some(user.parse::<UserId>()?),
                label: Label::none(),
                access_token: Some(Secret::from(access)),
                refresh_token: Some(Secret::from(refresh)),
                expires_at: Some(expires_at),
                refresh_expires_at: None,
                scopes: None,
                replace: false,
            };
            broker.import(&admin, &line).await?;
            anyhow::Ok(())
        });
    }
    while let Some(imported) = importers.join_next().await {
        imported??;
    }
    Ok(())
}
