//! The process that is recorded: the real service, without HTTP, that makes promises as fast as it can.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use valetkey_broker::{Broker, BrokerError, ImportLine, NewConnector, NewKey, TokenRequest};
use valetkey_core::{
    AuthMode, Binding, Caller, CallerKind, ConnectionId, ConnectorId, Endpoints, Fingerprint, Grant, KeyId, Label,
    PresentedKey, Role, Secret, SpaceId,
};
use valetkey_server::{Config, Server};

use super::{
    Synchronous,
    marks::Marks,
    operator::{replace_key_encryption_key, rotate_data_key},
    promises::Mark,
    provider::{Rotating, never, token},
};
use crate::chance::Chance;

/// Those who ask at once: while one commit is acknowledged, another is being written.
const CALLERS: usize = 4;

/// How often the service runs: its stop and its start write, too.
const LIVES: usize = 2;

/// The recorded process, for `power-cut`.
#[derive(Debug, Args)]
pub(crate) struct PowerCutWriter {
    /// The directory above the data directory.
    root: PathBuf,
    /// How many promises to make.
    operations: usize,
    /// What the order of operations is drawn from.
    seed: u64,
    /// How SQLite commits.
    synchronous: Synchronous,
}

/// The configuration of a service below `root`.
pub(crate) fn config(root: &Path) -> Config {
    let mut config = Config::local(root.join("data"));
    config.refresh.rejected_interval = Duration::ZERO;
    config.refresh.per_second_and_connector = 1_000_000;
    config.refresh.wait = Duration::from_secs(60);
    config
}

pub(crate) fn administrator() -> Caller {
    Caller {
        kind: CallerKind::CommandLine,
        space: SpaceId::default_space(),
        roles: vec![Role::Admin],
        connectors: None,
    }
}

/// What is asked with for a user's token.
pub(crate) fn request_of(user: &str, rejected: Option<Fingerprint>) -> anyhow::Result<TokenRequest> {
    Ok(TokenRequest {
        user_id: Some(user.parse()?),
        label: Label::none(),
        min_ttl: None,
        scopes: Vec::new(),
        rejected,
        start: None,
    })
}

/// A key that fetches the connector's tokens.
pub(crate) fn key_for(connector: ConnectorId) -> NewKey {
    NewKey {
        name: "Power cut".to_owned(),
        roles: vec![Role::Connector],
        connectors: Some(vec![connector]),
        expires_at: None,
    }
}

/// Runs the recorded process.
pub(crate) async fn run(writer: &PowerCutWriter) -> anyhow::Result<bool> {
    let marks = Arc::new(Marks::open(&writer.root)?);
    let mut connector = None;
    let mut callers: Vec<Asker> =
        (0..CALLERS).map(|number| Asker::new(number, writer.seed, Arc::clone(&marks))).collect();
    for life in 0..LIVES {
        let first = u64::try_from(life)? * 1_000_000_000 + 1_000_000;
        let provider = Arc::new(Rotating::saying(Arc::clone(&marks), first));
        let builder = Server::builder(config(&writer.root)).authorization_server(provider).without_jobs();
        let builder = match writer.synchronous {
            Synchronous::Full => builder,
            Synchronous::Normal => builder.without_durable_commits(),
        };
        let server = builder.start().await.context("the recorded service does not start")?;
        let broker = server.broker().clone();
        let id = match connector {
            Some(id) => id,
            None => make_connector(&broker, &marks).await?,
        };
        connector = Some(id);
        let created = make_key(&broker, &marks, id).await?;
        let key = PresentedKey::parse(&created.1).context("a key that is none")?;
        let share = writer.operations.div_ceil(LIVES * CALLERS);
        let mut asking = tokio::task::JoinSet::new();
        for mut asker in callers.drain(..) {
            let (broker, key) = (broker.clone(), key.clone());
            let data_dir = server.data_dir().to_owned();
            asking.spawn(async move {
                for number in 0..share {
                    if asker.name == 0 {
                        change_keys(number, &data_dir).await?;
                    }
                    asker.step(&broker, id, &key).await?;
                }
                anyhow::Ok(asker)
            });
        }
        while let Some(ended) = asking.join_next().await {
            callers.push(ended??);
        }
        drop(broker);
        if !server.stop().await {
            bail!("the recorded service did not stop cleanly");
        }
    }
    Ok(true)
}

/// Now and then the operator changes what everything is sealed with.
async fn change_keys(number: usize, data_dir: &Path) -> anyhow::Result<()> {
    match number % 16 {
        4 => replace_key_encryption_key(data_dir).await,
        8 => rotate_data_key(data_dir).await,
        _ => Ok(()),
    }
}

async fn make_connector(broker: &Broker, marks: &Marks) -> anyhow::Result<ConnectorId> {
    let new = NewConnector {
        name: "Power cut".to_owned(),
        provider: "oauth2".to_owned(),
        auth_mode: AuthMode::PerUser,
        grant: Grant::AuthorizationCode,
        client_id: "power-cut".to_owned(),
        client_secrets: vec![Secret::from("power-cut-secret")],
        scopes: vec!["read".to_owned()],
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
    let id = broker.create_connector(&administrator(), new).await?.id;
    marks.say(&Mark::ConnectorCreated { id })?;
    Ok(id)
}

async fn make_key(broker: &Broker, marks: &Marks, connector: ConnectorId) -> anyhow::Result<(KeyId, String)> {
    let created = broker.create_key(&administrator(), key_for(connector)).await?;
    let (id, text) = (created.key.id, created.text.into_exposed());
    marks.say(&Mark::KeyCreated { id, text: text.clone() })?;
    Ok((id, text))
}

/// A connection as its caller knows it.
#[derive(Debug)]
struct Known {
    user: String,
    id: ConnectionId,
    fingerprint: Fingerprint,
}

/// One of those who ask, with users and keys of its own.
#[derive(Debug)]
struct Asker {
    name: usize,
    chance: Chance,
    marks: Arc<Marks>,
    /// Numbers users and imported tokens; below what the provider counts with.
    count: u64,
    live: Vec<Known>,
    keys: Vec<KeyId>,
}

impl Asker {
    fn new(name: usize, seed: u64, marks: Arc<Marks>) -> Self {
        let chance = Chance::new(seed.wrapping_add(u64::try_from(name).unwrap_or(0)));
        Self { name, chance, marks, count: 0, live: Vec::new(), keys: Vec::new() }
    }

    /// Does one thing that is acknowledged.
    async fn step(&mut self, broker: &Broker, connector: ConnectorId, key: &PresentedKey) -> anyhow::Result<()> {
        let choice = self.chance.below(100);
        if self.live.len() < 3 || (choice < 10 && self.live.len() < 12) {
            self.count += 1;
            let user = format!("u-{}-{}", self.name, self.count);
            let known = self.import(broker, connector, &user).await?;
            self.live.push(known);
            return Ok(());
        }
        let one = self.chance.index(self.live.len());
        match choice {
            10..20 => {
                let (id, _) = make_key(broker, &self.marks, connector).await?;
                self.keys.push(id);
            }
            20..25 if !self.keys.is_empty() => {
                let id = self.keys.swap_remove(self.chance.index(self.keys.len()));
                self.marks.say(&Mark::KeyRevoking { id })?;
                broker.revoke_key(&administrator(), id).await?;
                self.marks.say(&Mark::KeyRevoked { id })?;
            }
            25..32 => {
                let known = self.live.swap_remove(one);
                self.marks.say(&Mark::Revoking { user: known.user.clone() })?;
                broker.revoke_connection(&administrator(), known.id).await?;
                self.marks.say(&Mark::Revoked { user: known.user })?;
            }
            32..38 => {
                let user = self.live[one].user.clone();
                self.live[one] = self.import(broker, connector, &user).await?;
            }
            _ => self.refresh(broker, connector, key, one).await?,
        }
        Ok(())
    }

    async fn import(&mut self, broker: &Broker, connector: ConnectorId, user: &str) -> anyhow::Result<Known> {
        self.count += 1;
        let access_token = token("access", user, self.count);
        let fingerprint = access_token.fingerprint();
        let line = ImportLine {
            connector_id: connector,
            user_id: Some(user.parse()?),
            label: Label::none(),
            access_token: Some(access_token),
            refresh_token: Some(token("refresh", user, self.count)),
            expires_at: Some(never()),
            refresh_expires_at: None,
            scopes: None,
            replace: true,
        };
        self.marks.say(&Mark::Offered { user: user.to_owned(), fingerprint: fingerprint.clone() })?;
        let report = broker.import(&administrator(), &line).await?;
        let generation = report.generation;
        self.marks.say(&Mark::Stored { user: user.to_owned(), generation, fingerprint: fingerprint.clone() })?;
        Ok(Known { user: user.to_owned(), id: report.connection_id, fingerprint })
    }

    /// The upstream API refused the token, as it were: the caller gets the next one.
    async fn refresh(
        &mut self,
        broker: &Broker,
        connector: ConnectorId,
        key: &PresentedKey,
        one: usize,
    ) -> anyhow::Result<()> {
        let known = &mut self.live[one];
        let request = request_of(&known.user, Some(known.fingerprint.clone()))?;
        let issued = match broker.access(key, connector, &request, &|_| Ok(())).await {
            Ok(issued) => issued,
            // What it is worth asking again for is no promise.
            Err(BrokerError::ProviderUnavailable { .. }) => return Ok(()),
            Err(error) => return Err(error).context("a refresh was refused"),
        };
        self.marks.say(&Mark::Stored {
            user: known.user.clone(),
            generation: issued.connection().generation,
            fingerprint: issued.fingerprint.clone(),
        })?;
        known.fingerprint = issued.fingerprint;
        Ok(())
    }
}
