//! How fast due tokens are refreshed, and what token calls notice of it.
//!
//! The broker is a process of its own; the provider is the sandbox, here in the process of the load. All three share
//! the machine.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use serde_json::json;
use sqlx::{Connection, PgConnection, SqliteConnection};
use valetkey_sandbox::{ClientSettings, Control, Fault, FaultRule, LedgerSettings, Rotation, Sandbox, SandboxSettings};

use crate::{
    child::Server,
    load::request,
    open_loop::{Call, OpenLoad, percentile},
};

/// The benchmark's settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Sweep {
    /// A PostgreSQL server, whose user may create databases; SQLite without it.
    #[arg(long)]
    postgres: Option<String>,
    /// Connections, all of which become due at once.
    #[arg(long, default_value_t = 100_000)]
    connections: usize,
    /// The budget of the one connector, in refreshes per second.
    #[arg(long, default_value_t = 1_200)]
    budget: u32,
    /// Token calls per second.
    #[arg(long, default_value_t = 1_000)]
    calls: u32,
    /// Seconds of token calls without a sweep, before it.
    #[arg(long, default_value_t = 15)]
    quiet: u64,
}

/// Connections that are refreshed slowly while they are asked for.
const SLOW: usize = 32;
/// How long the provider takes for these.
const SLOW_ANSWER: Duration = Duration::from_secs(4);

/// The sandbox's client and its secret.
const CLIENT: &str = "bench";
const SECRET: &str = "bench-secret";

#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) async fn measure(settings: &Sweep) -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let fresh = match &settings.postgres {
        Some(url) => Some(crate::database::Fresh::create(url).await?),
        None => None,
    };
    let engine = if fresh.is_some() { "postgres" } else { "sqlite" };
    let sandbox = start_sandbox().await?;
    let control = sandbox.control();
    let grants = data.path().join("grants");
    let users = settings.connections + SLOW;
    write_grants(&control, users, &grants)?;
    println!("storing {users} connections on {engine}");
    let directory = data.path().join("data");
    let mut arguments = vec![
        "serve-sweep".to_owned(),
        directory.to_string_lossy().into_owned(),
        sandbox.base_url().to_owned(),
        grants.to_string_lossy().into_owned(),
        settings.budget.to_string(),
    ];
    arguments.extend(fresh.iter().map(|fresh| fresh.url.clone()));
    let started = Instant::now();
    let broker = Server::start(&arguments).await?;
    println!("stored in {:.0} s", started.elapsed().as_secs_f64());
    let mut database = match &fresh {
        Some(fresh) => Database::Postgres(PgConnection::connect(&fresh.url).await?),
        None => Database::open_file(&directory).await?,
    };
    let per_second = settings.calls.max(1);
    let all = Arc::new(requests(&broker, 0..settings.connections));
    let mut load = OpenLoad { address: broker.ready.address, requests: all, per_second: per_second * 3, first: 0 };
    // One load from here to the end, through all connections in turn: the calls without a sweep find no more of them in
    // the broker's memory than those during it.
    load.first += count_of(&calls_for(&load, Duration::from_secs(5)).await?)?;
    load.per_second = per_second;
    let quiet = calls_for(&load, Duration::from_secs(settings.quiet.max(1))).await?;
    load.first += count_of(&quiet)?;
    let cpu_before = broker.cpu_seconds().unwrap_or(0.0);
    let swept = sweep(&load, &mut database, settings.connections).await?;
    let cpu = broker.cpu_seconds().unwrap_or(0.0) - cpu_before;
    let counters = control.counters();
    let own = own_refresh(&broker, &mut database, &control, settings).await?;
    println!("{:<34} {:>9} {:>10} {:>10}", "token calls", "calls", "p50", "p99");
    for (name, calls) in [
        ("without a sweep", &quiet),
        ("during the sweep", &swept.calls),
        ("during no refresh of their token", &own.idle),
        ("during a refresh of their token", &own.refreshing),
    ] {
        println!(
            "{name:<34} {:>9} {:>7.2} ms {:>7.2} ms",
            calls.len(),
            percentile(calls, 0.5),
            percentile(calls, 0.99)
        );
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let refreshed = swept.refreshed as f64;
    let per_second = refreshed / swept.took.as_secs_f64();
    let spent = cpu / refreshed * 1e6;
    println!(
        "{} refreshed in {:.1} s: {per_second:.0}/s, {spent:.0} µs of the broker's processor time each, token calls \
         included; {} token requests",
        swept.refreshed,
        swept.took.as_secs_f64(),
        counters.token_requests
    );
    let (p99, p99_quiet) = (percentile(&swept.calls, 0.99), percentile(&quiet, 0.99));
    println!(
        "{}",
        json!({
            "bench": "sweep", "engine": engine, "connections": settings.connections,
            "per_second": per_second.round(),
            "token_p99_ms": rounded(p99), "token_p99_quiet_ms": rounded(p99_quiet),
            "token_p99_ratio": rounded(p99 / p99_quiet),
            "own_refresh_p99_ms": rounded(percentile(&own.refreshing, 0.99)),
            "own_idle_p99_ms": rounded(percentile(&own.idle, 0.99)),
            "cpu_us": spent.round(),
        })
    );
    drop(broker);
    drop(database);
    sandbox.stop().await;
    if let Some(fresh) = fresh {
        fresh.drop().await?;
    }
    Ok(())
}

async fn start_sandbox() -> anyhow::Result<Sandbox> {
    let client = ClientSettings {
        client_id: CLIENT.to_owned(),
        secrets: vec![SECRET.to_owned()],
        rotation: Rotation::Strict,
        access_life_seconds: Some(36_000),
        ..ClientSettings::default()
    };
    let settings = SandboxSettings { clients: vec![client], ledger: LedgerSettings::Off, ..SandboxSettings::default() };
    Sandbox::start(settings).await.context("the sandbox does not start")
}

/// One line for each grant: user, access token, refresh token.
fn write_grants(control: &Control, count: usize, path: &Path) -> anyhow::Result<()> {
    let users = (0..count).map(|number| format!("u-{number}"));
    let grants = control.seed_grants(CLIENT, users, &["read"]).context("the sandbox refuses")?;
    let mut text = String::new();
    for grant in grants {
        let refresh_token = grant.refresh_token.context("a grant without a refresh token")?;
        for field in [grant.user.as_str(), " ", &grant.access_token, " ", &refresh_token, "\n"] {
            text.push_str(field);
        }
    }
    std::fs::write(path, text)?;
    Ok(())
}

fn requests(broker: &Server, users: Range<usize>) -> Vec<Vec<u8>> {
    let ready = &broker.ready;
    users.map(|number| request(&ready.path, &ready.key, &format!("{{\"user_id\":\"u-{number}\"}}"))).collect()
}

async fn calls_for(load: &OpenLoad, time: Duration) -> anyhow::Result<Vec<Call>> {
    let running = load.start();
    tokio::time::sleep(time).await;
    tokio::task::spawn_blocking(|| running.stop()).await?
}

fn count_of(calls: &[Call]) -> anyhow::Result<u32> {
    Ok(u32::try_from(calls.len())?)
}

struct Swept {
    refreshed: i64,
    took: Duration,
    calls: Vec<Call>,
}

/// Makes everything due, and waits until all of it is refreshed.
async fn sweep(load: &OpenLoad, database: &mut Database, count: usize) -> anyhow::Result<Swept> {
    database.make_due(count..count + SLOW, Which::Others).await?;
    let running = load.start();
    let patience = Instant::now() + Duration::from_secs(60) + Duration::from_millis(5) * u32::try_from(count)?;
    while database.some_due().await? {
        if Instant::now() > patience {
            bail!("the sweep does not end");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let calls = tokio::task::spawn_blocking(|| running.stop()).await??;
    let (refreshed, first, last) = database.refreshed().await?;
    if usize::try_from(refreshed)? < count {
        bail!("only {refreshed} of {count} were refreshed");
    }
    let took = Duration::from_millis(u64::try_from(last - first)?.max(1));
    Ok(Swept { refreshed, took, calls })
}

struct Own {
    idle: Vec<Call>,
    refreshing: Vec<Call>,
}

/// Calls for tokens that are being refreshed by a slow provider, and as many for others, in turn.
async fn own_refresh(
    broker: &Server,
    database: &mut Database,
    control: &Control,
    settings: &Sweep,
) -> anyhow::Result<Own> {
    let ms = u64::try_from(SLOW_ANSWER.as_millis())?;
    let before = control.counters().token_requests;
    for _ in 0..SLOW {
        control.inject(FaultRule::refresh(Fault::Delay { ms }));
    }
    let users = settings.connections..settings.connections + SLOW;
    let others = requests(broker, 0..SLOW);
    let slow = requests(broker, users.clone());
    // Even ones are refreshed, odd ones are not.
    let both = slow.into_iter().zip(others).flat_map(|(slow, other)| [slow, other]).collect();
    let load = OpenLoad {
        address: broker.ready.address,
        requests: Arc::new(both),
        per_second: settings.calls.max(1),
        first: 0,
    };
    calls_for(&load, Duration::from_secs(1)).await?;
    database.make_due(users, Which::These).await?;
    let all = before + u64::try_from(SLOW)?;
    let patience = Instant::now() + Duration::from_secs(30);
    while control.counters().token_requests < all {
        if Instant::now() > patience {
            bail!("the slow refreshes do not begin");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // All have arrived at the provider; none is answered before its time.
    let calls = calls_for(&load, SLOW_ANSWER / 2).await?;
    let (refreshing, idle) = calls.into_iter().partition(|call| call.request % 2 == 0);
    Ok(Own { idle, refreshing })
}

enum Which {
    These,
    Others,
}

/// The broker's database, looked at from outside.
enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

macro_rules! on {
    ($database:expr, |$connection:ident| $body:expr) => {
        match $database {
            Database::Sqlite($connection) => $body,
            Database::Postgres($connection) => $body,
        }
    };
}

impl Database {
    async fn open_file(directory: &Path) -> anyhow::Result<Self> {
        let file: PathBuf = directory.join("valetkey.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(30));
        Ok(Self::Sqlite(SqliteConnection::connect_with(&options).await?))
    }

    /// Makes connections due: those of these users, or all but theirs.
    async fn make_due(&mut self, users: Range<usize>, which: Which) -> anyhow::Result<()> {
        let now = now_millis()?;
        let owners: Vec<String> = users.map(|number| format!("'u:u-{number}'")).collect();
        let holds = match which {
            Which::These => "IN",
            Which::Others => "NOT IN",
        };
        let owners = format!("owner {holds} ({})", owners.join(", "));
        for text in [
            format!("UPDATE connections SET refresh_due_at = $1 WHERE {owners}"),
            format!("UPDATE due SET due_at = $1 WHERE connection_id IN (SELECT id FROM connections WHERE {owners})"),
        ] {
            on!(self, |connection| {
                sqlx::query(sqlx::AssertSqlSafe(text)).bind(now).execute(connection).await?;
            });
        }
        Ok(())
    }

    /// Whether something is due now or claimed: what was refreshed is due again in hours.
    async fn some_due(&mut self) -> anyhow::Result<bool> {
        let soon = now_millis()? + 600_000;
        let text = "SELECT connection_id FROM due WHERE due_at <= $1 ORDER BY due_at LIMIT 1";
        let found: Option<String> =
            on!(self, |connection| sqlx::query_scalar(text).bind(soon).fetch_optional(connection).await?);
        Ok(found.is_some())
    }

    /// How many were refreshed, and when the first and the last were stored.
    async fn refreshed(&mut self) -> anyhow::Result<(i64, i64, i64)> {
        let text = "SELECT CAST(COUNT(*) AS BIGINT), COALESCE(MIN(updated_at), 0), COALESCE(MAX(updated_at), 0) \
                    FROM connections WHERE generation = 2";
        Ok(on!(self, |connection| sqlx::query_as(text).fetch_one(connection).await?))
    }
}

fn now_millis() -> anyhow::Result<i64> {
    #[expect(clippy::disallowed_methods, reason = "the broker under load runs on the machine's clock")]
    let now = SystemTime::now();
    Ok(i64::try_from(now.duration_since(UNIX_EPOCH)?.as_millis())?)
}

fn rounded(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}
