//! The broker under load: a real server with connections that were imported.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use valetkey_broker::{Broker, ImportLine, NewConnector, NewKey};
use valetkey_core::{
    AuthMode, Binding, Caller, CallerKind, ConnectorId, Endpoints, Grant, Label, Role, Secret, SpaceId,
};
use valetkey_server::{Config, Server};

use crate::child::{Ready, until_closed};

/// Where the broker keeps its data.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) postgres: Option<String>,
    pub(crate) connections: usize,
    pub(crate) quota: u32,
}

/// The key-encryption key of a database that lives for one run.
pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Starts the broker, imports what is missing, and serves until the parent closes our input.
pub(crate) async fn serve(place: &Place) -> anyhow::Result<()> {
    let mut config = match &place.postgres {
        Some(url) => Config::local_postgres(&place.data_dir, url.as_str(), KEY),
        None => Config::local(&place.data_dir),
    };
    config.calls.token_calls_per_second_and_key = place.quota;
    let server = Server::start(config).await.context("the broker does not start")?;
    let broker = server.broker();
    let admin = administrator();
    let connector = connector(broker, &admin).await?;
    import(broker, &admin, connector, place.connections).await?;
    let ready = ready(&server, &admin, connector).await?;
    until_closed(&ready).await?;
    if !server.stop().await {
        bail!("the broker did not stop cleanly");
    }
    Ok(())
}

/// Where a token of this connector is to be asked for, and a new key to ask with.
pub(crate) async fn ready(server: &Server, admin: &Caller, connector: ConnectorId) -> anyhow::Result<Ready> {
    let key = NewKey {
        name: "bench".to_owned(),
        roles: vec![Role::Connector],
        connectors: Some(vec![connector]),
        expires_at: None,
    };
    let key = server.broker().create_key(admin, key).await?;
    Ok(Ready {
        address: server.local_addr(),
        path: format!("/v1/connectors/{connector}/token"),
        key: key.text.expose().to_owned(),
    })
}

pub(crate) fn administrator() -> Caller {
    Caller {
        kind: CallerKind::CommandLine,
        space: SpaceId::default_space(),
        roles: vec![Role::Admin],
        connectors: None,
    }
}

pub(crate) async fn connector(broker: &Broker, admin: &Caller) -> anyhow::Result<ConnectorId> {
    let found = broker.list_connectors(admin, None, 1).await?;
    if let Some(connector) = found.first() {
        return Ok(connector.id);
    }
    let new = NewConnector {
        name: "Bench".to_owned(),
        provider: "oauth2".to_owned(),
        auth_mode: AuthMode::PerUser,
        grant: Grant::AuthorizationCode,
        client_id: "bench".to_owned(),
        client_secrets: vec![Secret::from("bench-secret")],
        scopes: vec!["read".to_owned(), "write".to_owned()],
        optional_scopes: Vec::new(),
        settings: std::collections::BTreeMap::new(),
        issuer: None,
        endpoints: Endpoints {
            authorization: Some("https://provider.example/authorize".to_owned()),
            token: Some("https://provider.example/token".to_owned()),
            ..Endpoints::default()
        },
        rotation: None,
        binding: Binding::Finish,
        return_urls: Vec::new(),
        origins: Vec::new(),
    };
    Ok(broker.create_connector(admin, new).await?.id)
}

async fn import(broker: &Broker, admin: &Caller, connector: ConnectorId, count: usize) -> anyhow::Result<()> {
    for number in 0..count {
        import_one(broker, admin, connector, number, false).await?;
    }
    Ok(())
}

/// Imports one user's connection; what is there already stays, unless it is to be replaced.
pub(crate) async fn import_one(
    broker: &Broker,
    admin: &Caller,
    connector: ConnectorId,
    number: usize,
    replace: bool,
) -> anyhow::Result<()> {
    let expires_at = valetkey_core::Timestamp::from_millis(0).plus(Duration::from_secs(4_000_000_000));
    let line = ImportLine {
        connector_id: connector,
        user_id: Some(format!("u-{number}").parse()?),
        label: Label::none(),
        access_token: Some(Secret::from(format!("access-token-{number:027}"))),
        refresh_token: Some(Secret::from(format!("refresh-token-{number:026}"))),
        expires_at: Some(expires_at),
        refresh_expires_at: None,
        scopes: None,
        replace,
    };
    match broker.import(admin, &line).await {
        Ok(_) | Err(valetkey_broker::BrokerError::ConnectionExists) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
