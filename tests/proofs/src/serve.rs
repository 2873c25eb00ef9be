//! The broker's side: a real server that obeys a proof.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    signal::unix::{SignalKind, signal},
};
use valetkey_broker::{Boundaries, Boundary, Broker, ImportLine, NewConnector, NewKey};
use valetkey_core::{
    AuthMode, Binding, Caller, CallerKind, Clock, ConnectionId, ConnectorId, Endpoints, Grant, ManualClock, Role,
    Secret, SpaceId, Timestamp,
};
use valetkey_server::{Config, Server};

use crate::{
    order::{NewClient, NewGrant, Order, Ready, ServeSettings},
    shared_clock::SharedClock,
};

/// The key-encryption key of databases that live for one run.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Connections claimed, and abandoned attempts looked at, in one run; as the scheduled work does.
const BATCH: i64 = 256;

/// Where this process is to die.
#[derive(Debug, Default)]
struct Trap {
    armed: Mutex<Option<Armed>>,
}

#[derive(Debug)]
struct Armed {
    boundary: String,
    connections: Vec<ConnectionId>,
    passes: u64,
    signal: Signal,
}

impl Trap {
    fn set(&self, armed: Armed) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some(armed);
    }

    /// Dies, as by a power cut of the process, if this is the point.
    fn spring(&self, boundary: Boundary, connection: ConnectionId) {
        let mut trap = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(armed) = &mut *trap else { return };
        if armed.boundary != boundary.as_str() || !armed.connections.contains(&connection) {
            return;
        }
        if armed.passes > 0 {
            armed.passes -= 1;
            return;
        }
        let signal = armed.signal;
        *trap = None;
        drop(trap);
        let _ = kill_process(getpid(), signal);
        // Another thread may be the one that the signal reaches first: this one must not go a step further.
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Serves until the proof closes our input or ends us; false if something was left unfinished.
pub(crate) async fn serve(settings: &str) -> anyhow::Result<bool> {
    let settings: ServeSettings = serde_json::from_str(settings)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let clock = Arc::new(ManualClock::new());
    clock.advance(Duration::from_millis(settings.offset_ms));
    let shared: Arc<dyn Clock> = match &settings.clock_file {
        Some(file) => Arc::new(SharedClock::open(file)?),
        None => clock.clone(),
    };
    let trap = Arc::new(Trap::default());
    let spring = Arc::clone(&trap);
    let boundaries = Boundaries::observed_by(move |boundary, connection| spring.spring(boundary, connection));
    let builder = Server::builder(config(&settings)).clock(shared).boundaries(boundaries);
    let builder = if settings.jobs { builder } else { builder.without_jobs() };
    let server = builder.start().await.context("the broker does not start")?;
    say(&serde_json::to_value(Ready { address: server.local_addr() })?);
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            line = orders.next_line() => line?,
            _ = terminate.recv() => None,
        };
        let Some(line) = line else { break };
        let answer = match obey(server.broker(), &clock, &trap, serde_json::from_str(&line)?).await {
            Ok(answer) => answer,
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        say(&answer);
    }
    Ok(server.stop().await)
}

/// The service as it ships, but for what would take days or stand in the way of thousands of refreshes.
fn config(settings: &ServeSettings) -> Config {
    let mut config = match &settings.postgres {
        Some(url) => Config::local_postgres(&settings.data_dir, url.as_str(), KEY),
        None => Config::local(&settings.data_dir),
    };
    config.calls.token_calls_per_second_and_key = 1_000_000;
    config.refresh.per_second_and_connector = 100_000;
    config.refresh.dormant_after = Duration::from_secs(100 * 365 * 86_400);
    config
}

/// Tells the proof. One that has gone is noticed by its silence.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

async fn obey(broker: &Broker, clock: &ManualClock, trap: &Trap, order: Order) -> anyhow::Result<Value> {
    let admin = administrator();
    Ok(match order {
        Order::Advance { ms } => {
            clock.advance(Duration::from_millis(ms));
            json!({})
        }
        Order::MakeConnector(client) => json!({ "id": make_connector(broker, &admin, client).await? }),
        Order::MakeKey { roles, connectors } => {
            let roles = roles.iter().map(|role| role.parse::<Role>()).collect::<Result<_, _>>();
            let roles = roles.ok().context("there is no such role")?;
            let new = NewKey { name: "proof".to_owned(), roles, connectors, expires_at: None };
            json!({ "key": broker.create_key(&admin, new).await?.text.expose() })
        }
        Order::Import(grants) => {
            let mut ids = Vec::new();
            for grant in grants {
                ids.push(broker.import(&admin, &line(grant)?).await?.connection_id);
            }
            json!({ "ids": ids })
        }
        Order::Arm { boundary, connections, passes } => {
            trap.set(Armed { boundary, connections, passes, signal: Signal::KILL });
            json!({})
        }
        Order::FreezeAt { boundary, connection } => {
            trap.set(Armed { boundary, connections: vec![connection], passes: 0, signal: Signal::STOP });
            json!({})
        }
        Order::Deliver => {
            let mut ended = 0;
            loop {
                let report = broker.deliver_revocations(BATCH).await?;
                ended += report.ended;
                if report.claimed == 0 {
                    break json!({ "ended": ended });
                }
            }
        }
        Order::Refresh => {
            let mut settled = 0;
            loop {
                let report = broker.refresh_due(BATCH).await?;
                settled += report.settled;
                if report.claimed < BATCH.unsigned_abs() || report.postponed == report.claimed {
                    break json!({ "settled": settled });
                }
            }
        }
        Order::Recover => json!({ "attempts": broker.recover_attempts(BATCH).await? }),
    })
}

fn administrator() -> Caller {
    Caller {
        kind: CallerKind::CommandLine,
        space: SpaceId::default_space(),
        roles: vec![Role::Admin],
        connectors: None,
    }
}

async fn make_connector(broker: &Broker, admin: &Caller, client: NewClient) -> anyhow::Result<ConnectorId> {
    let at = |path: &str| Some(format!("{}{path}", client.provider));
    let new = NewConnector {
        name: client.client_id.clone(),
        provider: "oauth2".to_owned(),
        auth_mode: AuthMode::PerUser,
        grant: Grant::AuthorizationCode,
        client_id: client.client_id.clone(),
        client_secrets: vec![Secret::from(client.client_secret)],
        scopes: vec!["read".to_owned()],
        optional_scopes: Vec::new(),
        settings: BTreeMap::new(),
        issuer: None,
        endpoints: Endpoints {
            authorization: at("/authorize"),
            token: at("/token"),
            revocation: at("/revoke"),
            ..Endpoints::default()
        },
        rotation: Some(client.rotation),
        binding: Binding::Finish,
        return_urls: Vec::new(),
        origins: Vec::new(),
    };
    Ok(broker.create_connector(admin, new).await?.id)
}

fn line(grant: NewGrant) -> anyhow::Result<ImportLine> {
    Ok(ImportLine {
        connector_id: grant.connector,
        user_id: Some(grant.user.parse()?),
        label: grant.label.parse()?,
        access_token: Some(Secret::from(grant.access_token)),
        refresh_token: grant.refresh_token.map(Secret::from),
        expires_at: grant.expires_at_ms.map(Timestamp::from_millis),
        refresh_expires_at: None,
        scopes: None,
        replace: true,
    })
}
