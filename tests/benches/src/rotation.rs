//! Rotation of the data keys: killed at any point and taken up again, and its cost to those who are served meanwhile.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    task::{JoinHandle, JoinSet},
};
use valetkey_broker::{Broker, KeyringStatus, RotationPace, RotationPhase, SealedReport};
use valetkey_core::{Actor, ConnectorId, Entropy, SystemEntropy};
use valetkey_server::{Config, Server};

use crate::{
    broker::{KEY, administrator, connector, import_one, ready},
    child::{self, Ready},
    load::{Load, request, run},
};

/// The benchmark's settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Rotation {
    /// A PostgreSQL server, whose user may create databases; SQLite without it.
    #[arg(long)]
    postgres: Option<String>,
    /// Stored connections, of two sealed fields each.
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// How often a rotation is killed.
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// The longest life of a process that is killed, in milliseconds.
    #[arg(long, default_value_t = 400)]
    life_ms: u64,
    /// Rounds of token calls without and with a rotation; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each round.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Requests under way at once.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
}

/// Where a broker of this run keeps its data.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) postgres: Option<String>,
}

/// Users that are asked for during a round.
const ASKED_FOR: usize = 10_000;

/// One step of a rotation that is to be killed; short, so that most kills fall inside a transaction or between two.
const STEP: Duration = Duration::from_millis(200);

impl Place {
    fn config(&self) -> Config {
        let mut config = match &self.postgres {
            Some(url) => Config::local_postgres(&self.data_dir, url.as_str(), KEY),
            None => Config::local(&self.data_dir),
        };
        config.calls.token_calls_per_second_and_key = 50_000_000;
        // The rotation is driven here, and begins again as soon as it is done.
        config.jobs = false;
        config
    }

    async fn start(&self) -> anyhow::Result<Server> {
        Server::builder(self.config()).without_jobs().start().await.context("the broker does not start")
    }

    fn arguments(&self, verb: &str) -> Vec<String> {
        let mut arguments = vec![verb.to_owned(), self.data_dir.to_string_lossy().into_owned()];
        arguments.extend(self.postgres.clone());
        arguments
    }

    /// Waits for no process that is gone: what it said of itself counts for a minute, and its lease for fifteen seconds.
    async fn let_time_pass(&self) -> anyhow::Result<()> {
        if let Some(url) = &self.postgres {
            let mut connection = PgConnection::connect(url).await?;
            for statement in ["DELETE FROM data_key_readers", "DELETE FROM leases"] {
                sqlx::query(statement).execute(&mut connection).await?;
            }
        }
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) async fn measure(settings: &Rotation) -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let fresh = match &settings.postgres {
        Some(url) => Some(crate::database::Fresh::create(url).await?),
        None => None,
    };
    let engine = if fresh.is_some() { "postgres" } else { "sqlite" };
    let place = Place { data_dir: data.path().join("data"), postgres: fresh.as_ref().map(|fresh| fresh.url.clone()) };
    println!("storing {} connections on {engine}", settings.rows);
    let before = fill(&place, settings.rows).await?;
    println!("{} sealed fields", before.fields);

    let begun = Instant::now();
    kill(&place, settings).await?;
    let (status, report) = finish(&place).await?;
    let active = status.keys.iter().find(|key| key.state == "active").context("no key is active")?;
    let left: u64 = status.keys.iter().filter(|key| key.id != active.id).map(|key| key.fields).sum();
    println!("{:<10} {:>14} {:>10} {:>10}", "data key", "state", "fields", "");
    for key in status.keys.iter().rev().take(5) {
        println!("{:<10} {:>14} {:>10}", key.id, key.state, key.fields);
    }
    println!(
        "{} kills in {:.0} s over {} data keys: {} of {} fields open, {left} left on older keys",
        settings.kills,
        begun.elapsed().as_secs_f64(),
        status.keys.len(),
        report.fields - report.unreadable,
        report.fields,
    );

    let ratios = serving(&place, settings).await?;
    let ratio = ratios[ratios.len() / 2];
    println!(
        "token calls during a rotation: {ratio:.2} of those without (rounds: {})",
        ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" ")
    );
    println!(
        "{}",
        json!({
            "bench": "rotation", "engine": engine, "rows": settings.rows, "fields": report.fields,
            "kills": settings.kills, "data_keys": status.keys.len(), "unreadable": report.unreadable, "left": left,
            "token_rps_ratio": (ratio * 100.0).round() / 100.0,
        })
    );
    if let Some(fresh) = fresh {
        fresh.drop().await?;
    }
    if report.unreadable > 0 || left > 0 || report.fields < before.fields {
        bail!("a rotation lost something: {before:?} before, {report:?} after, {left} left on older keys");
    }
    Ok(())
}

/// A number from 0 to 1.
fn drawn() -> f64 {
    let entropy: &dyn Entropy = &SystemEntropy;
    entropy.fraction()
}

/// Stores connections, many at once, so that they share commits.
async fn fill(place: &Place, rows: usize) -> anyhow::Result<SealedReport> {
    let server = place.start().await?;
    let admin = administrator();
    let connector = connector(server.broker(), &admin).await?;
    let mut tasks = JoinSet::new();
    for number in 0..rows {
        if tasks.len() >= 64 {
            tasks.join_next().await.context("a task is there")???;
        }
        let broker = server.broker().clone();
        tasks.spawn(async move { import_one(&broker, &administrator(), connector, number, false).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let report = server.broker().check_sealed(RotationPace::Alone).await?;
    stop(server).await?;
    Ok(report)
}

async fn stop(server: Server) -> anyhow::Result<()> {
    if server.stop().await { Ok(()) } else { bail!("the broker did not stop cleanly") }
}

/// Lets processes rotate and write, and kills each at a moment drawn at random.
#[expect(clippy::print_stdout, reason = "progress of a long run")]
async fn kill(place: &Place, settings: &Rotation) -> anyhow::Result<()> {
    for number in 0..settings.kills {
        let process = child::Server::start(&place.arguments("rotate-until-killed")).await?;
        let life = Duration::from_millis(settings.life_ms).mul_f64(drawn());
        tokio::time::sleep(life).await;
        process.kill().await?;
        place.let_time_pass().await?;
        if (number + 1) % 20 == 0 {
            println!("{} kills", number + 1);
        }
    }
    Ok(())
}

/// Ends the rotation that the last kill left, and looks at everything.
async fn finish(place: &Place) -> anyhow::Result<(KeyringStatus, SealedReport)> {
    let server = place.start().await?;
    let broker = server.broker();
    loop {
        match broker.step_rotation(RotationPace::Alone, Duration::from_secs(1)).await?.phase {
            RotationPhase::Done => break,
            RotationPhase::Resealing => {}
            other => bail!("the rotation does not end: {other:?}"),
        }
    }
    let found = (broker.keyring_status().await?, broker.check_sealed(RotationPace::Alone).await?);
    stop(server).await?;
    Ok(found)
}

/// Token calls with a rotation beside those without, by round, sorted.
async fn serving(place: &Place, settings: &Rotation) -> anyhow::Result<Vec<f64>> {
    let mut server = child::Server::start(&place.arguments("serve-rotating")).await?;
    let ready = server.ready.clone();
    let requests = (0..settings.rows.clamp(1, ASKED_FOR))
        .map(|number| request(&ready.path, &ready.key, &format!("{{\"user_id\":\"u-{number}\"}}")))
        .collect();
    let load = Load {
        address: ready.address,
        requests: Arc::new(requests),
        connections: settings.concurrency.max(1),
        duration: Duration::from_secs(settings.seconds.max(1)),
    };
    run(&Load { duration: Duration::from_secs(2), ..load.clone() }).await.context("warming up")?;
    let mut ratios = Vec::new();
    for _ in 0..settings.rounds.max(1) {
        let alone = run(&load).await?;
        server.tell("rotate").await?;
        let rotating = run(&load).await?;
        server.tell("rest").await?;
        ratios.push(rotating.per_second / alone.per_second);
    }
    ratios.sort_by(f64::total_cmp);
    server.kill().await?;
    Ok(ratios)
}

/// Rotates without an end, and replaces connections meanwhile, until somebody kills this process.
pub(crate) async fn rotate_until_killed(place: &Place) -> anyhow::Result<()> {
    let server = place.start().await?;
    let broker = server.broker().clone();
    let connector = connector(&broker, &administrator()).await?;
    let writer = tokio::spawn(write(broker.clone(), connector));
    let rotating = rotate(broker, RotationPace::Alone, STEP);
    let ready = Ready { address: server.local_addr(), path: String::new(), key: String::new() };
    tokio::select! {
        closed = child::until_closed(&ready) => closed?,
        ended = rotating => ended.context("a task died")??,
    }
    writer.abort();
    Ok(())
}

/// Replaces what users have, as refreshes and reconnects do.
async fn write(broker: Broker, connector: ConnectorId) -> anyhow::Result<()> {
    loop {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let number = (drawn() * 1_000.0) as usize;
        import_one(&broker, &administrator(), connector, number, true).await?;
    }
}

/// Goes from one rotation to the next.
fn rotate(broker: Broker, pace: RotationPace, budget: Duration) -> JoinHandle<anyhow::Result<()>> {
    tokio::spawn(async move {
        loop {
            broker.begin_rotation(Actor::CommandLine).await?;
            loop {
                match broker.step_rotation(pace, budget).await?.phase {
                    RotationPhase::Done => break,
                    RotationPhase::Resealing => {}
                    other => bail!("the rotation does not go on: {other:?}"),
                }
            }
        }
    })
}

/// Serves, and rotates while it is told to.
#[expect(clippy::print_stdout, reason = "the lines that the parent waits for")]
pub(crate) async fn serve_rotating(place: &Place) -> anyhow::Result<()> {
    let server = place.start().await?;
    let broker = server.broker();
    let admin = administrator();
    let connector = connector(broker, &admin).await?;
    let ready = ready(&server, &admin, connector).await?;
    println!("{}", serde_json::to_string(&ready)?);
    let mut rotating: Option<JoinHandle<anyhow::Result<()>>> = None;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(task) = rotating.take() {
            if task.is_finished() {
                task.await.context("a task died")??;
            } else {
                task.abort();
            }
        }
        if line == "rotate" {
            rotating = Some(rotate(broker.clone(), RotationPace::Serving, Duration::from_secs(1)));
        }
    }
    stop(server).await
}

impl Place {
    /// A place by its arguments.
    pub(crate) fn at(data_dir: &Path, postgres: Option<String>) -> Self {
        Self { data_dir: data_dir.to_owned(), postgres }
    }
}
