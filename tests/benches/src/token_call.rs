//! What a token call with a fresh token costs, beside a bare route in the same run.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::json;

use crate::{
    child::Server,
    load::{Load, Seen, request, run},
    start_up::wait_until_free,
};

/// The benchmark's settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TokenCall {
    /// A PostgreSQL server, whose user may create databases; SQLite without it.
    #[arg(long)]
    postgres: Option<String>,
    /// Stored connections, all of which are asked for.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Requests under way at once.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Seconds of each measured round.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds of bare route and broker in turn; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// The quota per key during the run: no limit is to be measured.
const QUOTA: u32 = 50_000_000;

struct Round {
    bare: Seen,
    broker: Seen,
    bare_cpu: f64,
    broker_cpu: f64,
}

#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) async fn measure(settings: &TokenCall) -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let database = match &settings.postgres {
        Some(url) => Some(crate::database::Fresh::create(url).await?),
        None => None,
    };
    let engine = if database.is_some() { "postgres" } else { "sqlite" };
    let bare_arguments = match &database {
        Some(fresh) => vec!["serve-read".to_owned(), fresh.url.clone(), settings.connections.to_string()],
        None => vec!["serve-json".to_owned()],
    };
    let broker_arguments = |connections: usize| {
        let directory = data.path().join("data").to_string_lossy().into_owned();
        let mut arguments = vec!["serve-broker".to_owned(), directory, connections.to_string(), QUOTA.to_string()];
        arguments.extend(database.iter().map(|fresh| fresh.url.clone()));
        arguments
    };
    println!("storing {} connections on {engine}; quota per key {QUOTA}/s", settings.connections);
    // Stored by a process of its own: the memory of the one that is measured is that of serving.
    drop(Server::start(&broker_arguments(settings.connections)).await?);
    wait_until_free().await;
    let broker = Server::start(&broker_arguments(0)).await?;
    let bare = Server::start(&bare_arguments).await?;
    let broker_load = load(&broker, settings);
    let bare_load = load(&bare, settings);
    let warm = Duration::from_secs(2);
    run(&Load { duration: warm, ..broker_load.clone() }).await.context("warming the broker")?;
    run(&Load { duration: warm, ..bare_load.clone() }).await.context("warming the bare route")?;
    let mut rounds = Vec::new();
    for _ in 0..settings.rounds.max(1) {
        let (bare_seen, bare_cpu) = measured(&bare, &bare_load).await?;
        let (broker_seen, broker_cpu) = measured(&broker, &broker_load).await?;
        rounds.push(Round { bare: bare_seen, broker: broker_seen, bare_cpu, broker_cpu });
    }
    rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let median = &rounds[rounds.len() / 2];
    println!("{:<12} {:>12} {:>10} {:>10} {:>14}", "", "requests/s", "p50", "p99", "CPU/request");
    for (name, seen, cpu) in
        [("bare route", &median.bare, median.bare_cpu), ("token call", &median.broker, median.broker_cpu)]
    {
        println!(
            "{name:<12} {:>12.0} {:>7.2} ms {:>7.2} ms {:>11.1} µs",
            seen.per_second,
            seen.p50.as_secs_f64() * 1e3,
            seen.p99.as_secs_f64() * 1e3,
            cpu * 1e6
        );
    }
    println!(
        "ratio {:.2} (rounds: {}), broker's memory {} MiB",
        ratio(median),
        rounds.iter().map(|round| format!("{:.2}", ratio(round))).collect::<Vec<_>>().join(" "),
        broker.resident_kib().unwrap_or(0) / 1024
    );
    println!(
        "{}",
        json!({
            "bench": "token-call", "engine": engine, "ratio": rounded(ratio(median)),
            "rps": median.broker.per_second.round(), "bare_rps": median.bare.per_second.round(),
            "p99_ms": rounded(median.broker.p99.as_secs_f64() * 1e3),
            "bare_p99_ms": rounded(median.bare.p99.as_secs_f64() * 1e3),
            "cpu_us": rounded(median.broker_cpu * 1e6), "connections": settings.connections,
            "rss_mib": broker.resident_kib().unwrap_or(0) / 1024,
        })
    );
    drop((broker, bare));
    if let Some(fresh) = database {
        fresh.drop().await?;
    }
    Ok(())
}

fn load(server: &Server, settings: &TokenCall) -> Load {
    let ready = &server.ready;
    let requests = (0..settings.connections.max(1))
        .map(|number| request(&ready.path, &ready.key, &format!("{{\"user_id\":\"u-{number}\"}}")))
        .collect();
    Load {
        address: ready.address,
        requests: Arc::new(requests),
        connections: settings.concurrency.max(1),
        duration: Duration::from_secs(settings.seconds.max(1)),
    }
}

/// What was seen, and the processor time of one request in seconds.
async fn measured(server: &Server, load: &Load) -> anyhow::Result<(Seen, f64)> {
    let before = server.cpu_seconds().unwrap_or(0.0);
    let seen = run(load).await?;
    let spent = server.cpu_seconds().unwrap_or(0.0) - before;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = spent / seen.count as f64;
    Ok((seen, each))
}

fn ratio(round: &Round) -> f64 {
    round.broker.per_second / round.bare.per_second
}

fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}
