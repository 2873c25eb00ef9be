//! Opens what the power cut left, with the real service, and looks for everything that was promised.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use valetkey_broker::{Broker, BrokerError, RotationPace};
use valetkey_core::{ConnectorId, PresentedKey};
use valetkey_server::Server;

use super::{
    disk::Image,
    promises::{ConnectionPromise, End, Promises},
    provider::Rotating,
    writer::{administrator, config, key_for, request_of},
};

/// The class of the scripted provider is the strictest: what is still `unsent` would be presented again.
const RECORDED: &str = "SELECT COUNT(*) FROM attempts WHERE fingerprint = $1 AND state <> 'unsent'";

/// What was found to be wrong after one cut.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// How many promises were looked for.
    pub(crate) checked: usize,
    /// Promises that do not hold.
    pub(crate) lost: Vec<String>,
    /// What is there and does not open, the service itself included.
    pub(crate) unreadable: Vec<String>,
    /// What SQLite says of its file.
    pub(crate) damaged: Vec<String>,
}

impl Findings {
    pub(crate) fn all(&self) -> impl Iterator<Item = &String> {
        self.lost.iter().chain(&self.unreadable).chain(&self.damaged)
    }
}

/// Puts the image into a directory of its own and inspects it.
pub(crate) async fn inspect(image: Image, promises: Promises) -> anyhow::Result<Findings> {
    let around = tempfile::tempdir()?;
    let root = around.path();
    write(&image, root)?;
    let mut findings = Findings { checked: promises.count(), ..Findings::default() };
    let builder = Server::builder(config(root)).authorization_server(Arc::new(Rotating::unreachable())).without_jobs();
    match builder.start().await {
        Ok(server) => {
            let checked = check(server.broker(), &promises, &mut findings).await;
            check_whole(server.broker(), &mut findings).await;
            server.stop().await;
            checked?;
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            findings.unreadable.push(format!("the service does not start: {error:#}"));
        }
    }
    check_file(&config(root).data_dir.join("valetkey.db"), &promises, &mut findings).await?;
    Ok(findings)
}

fn write(image: &Image, root: &Path) -> anyhow::Result<()> {
    for directory in &image.directories {
        DirBuilder::new().mode(0o700).create(root.join(directory))?;
    }
    for (path, content) in &image.files {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(root.join(path))?;
        file.write_all(content)?;
    }
    Ok(())
}

async fn check(broker: &Broker, promises: &Promises, findings: &mut Findings) -> anyhow::Result<()> {
    for (id, promise) in &promises.keys {
        let key = PresentedKey::parse(&promise.text).context("a key that is none")?;
        match (broker.authenticate(&key).await, promise.end) {
            (Ok(_), End::NotBegun | End::Begun)
            | (Err(BrokerError::Unauthenticated), End::Begun | End::Acknowledged) => {}
            (Ok(_), End::Acknowledged) => findings.lost.push(format!("the revocation of {id}")),
            (Err(BrokerError::Unauthenticated), End::NotBegun) => findings.lost.push(format!("the key {id}")),
            (Err(error), _) => findings.unreadable.push(format!("the key {id}: {error}")),
        }
    }
    let Some(connector) = promises.connector else { return Ok(()) };
    let found = broker.list_connectors(&administrator(), None, 10).await;
    if !found.is_ok_and(|found| found.iter().any(|one| one.id == connector)) {
        findings.lost.push(format!("the connector {connector}"));
        let told = promises.connections.iter().filter(|(_, promise)| promise.told.is_some());
        findings.lost.extend(told.map(|(user, _)| format!("the connection of {user}, with its connector")));
        return Ok(());
    }
    let created = match broker.create_key(&administrator(), key_for(connector)).await {
        Ok(created) => created,
        Err(error) => {
            findings.unreadable.push(format!("nothing can be stored any more: {error}"));
            return Ok(());
        }
    };
    let key = PresentedKey::parse(created.text.expose()).context("a key that is none")?;
    for (user, promise) in &promises.connections {
        check_connection(broker, connector, &key, user, promise, findings).await?;
    }
    Ok(())
}

async fn check_connection(
    broker: &Broker,
    connector: ConnectorId,
    key: &PresentedKey,
    user: &str,
    promise: &ConnectionPromise,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let answer = broker.access(key, connector, &request_of(user, None)?, &|_| Ok(())).await;
    let told = promise.told.as_ref();
    match answer {
        Ok(_) if promise.end == End::Acknowledged => {
            findings.lost.push(format!("the revocation of {user}'s connection"));
        }
        Ok(issued) => {
            let generation = issued.connection().generation;
            let fingerprint = issued.fingerprint;
            let opens = issued.access_token.fingerprint() == fingerprint;
            if !opens || !promise.offered.contains(fingerprint.as_str()) {
                findings.unreadable.push(format!("{user} has a token that nobody gave"));
            }
            if let Some((acknowledged, token)) = told {
                if generation < *acknowledged {
                    findings.lost.push(format!("generation {acknowledged} of {user}, which is at {generation}"));
                } else if generation == *acknowledged && fingerprint != *token {
                    findings.lost.push(format!("the token of generation {acknowledged} of {user}"));
                }
            }
        }
        Err(BrokerError::ConnectionNotFound(_)) => {
            if told.is_some() && promise.end == End::NotBegun {
                findings.lost.push(format!("the connection of {user}"));
            }
        }
        Err(error) => findings.unreadable.push(format!("the token of {user}: {error}")),
    }
    Ok(())
}

/// What holds whatever was promised: all that is sealed opens, and the restore guard takes no power cut for a restore.
async fn check_whole(broker: &Broker, findings: &mut Findings) {
    match broker.check_sealed(RotationPace::Alone).await {
        Ok(report) if report.unreadable == 0 => {}
        Ok(report) => findings.unreadable.push(format!("{} sealed fields do not open", report.unreadable)),
        Err(error) => findings.unreadable.push(format!("what is sealed cannot be looked at: {error}")),
    }
    match broker.hold().await {
        Ok(None) => {}
        Ok(Some(hold)) => findings.unreadable.push(format!("the service is in hold: {}", hold.reason.as_str())),
        Err(error) => findings.unreadable.push(format!("the hold cannot be looked at: {error}")),
    }
}

/// What only the file itself can say: that it is sound, and that every attempt was recorded before it was sent.
async fn check_file(path: &Path, promises: &Promises, findings: &mut Findings) -> anyhow::Result<()> {
    if !fs::exists(path)? {
        if promises.count() > 0 {
            findings.lost.push("the database's file".to_owned());
        }
        return Ok(());
    }
    let options = SqliteConnectOptions::new().filename(path);
    let mut connection = match SqliteConnection::connect_with(&options).await {
        Ok(connection) => connection,
        Err(error) => {
            findings.damaged.push(format!("SQLite does not open its file: {error}"));
            return Ok(());
        }
    };
    let said: Result<Vec<String>, _> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut connection).await;
    match said {
        Ok(said) if said.len() == 1 && said[0] == "ok" => {}
        Ok(said) => findings.damaged.push(format!("integrity_check: {}", said.join("; "))),
        Err(error) => findings.damaged.push(format!("integrity_check: {error}")),
    }
    for fingerprint in &promises.presented {
        let recorded: Result<i64, _> =
            sqlx::query_scalar(RECORDED).bind(fingerprint.as_str()).fetch_one(&mut connection).await;
        if !recorded.is_ok_and(|recorded| recorded > 0) {
            findings.lost.push("the record of an attempt that was sent".to_owned());
        }
    }
    connection.close().await?;
    Ok(())
}
