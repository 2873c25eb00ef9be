//! Restarts: SIGTERM and a new start under load, one after the other; replicas are rolled one by one. Nothing is lost, in
//! any rotation class.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::json;
use tokio::sync::watch;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use valetkey_sandbox::{Fault, FaultRule};

use crate::{
    calls::Caller,
    chance::Chance,
    child::Child,
    database::{Engine, EngineChoice},
    oracle::{Fate, Oracle, Snapshot},
    report::{self, Table},
    world::{Class, Member, World},
};

/// The life of access tokens here: so short that refreshes are under way all the time.
const LIFE: Duration = Duration::from_secs(6);

/// How long the provider takes to answer a refresh.
const ANSWER_MS: u64 = 120;

/// How long a call may look for a broker that answers.
const PATIENCE: Duration = Duration::from_secs(15);

/// Stops and starts brokers under load.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Restarts {
    /// How many restarts.
    #[arg(long, default_value_t = 20)]
    count: usize,
    #[command(flatten)]
    engine: EngineChoice,
    /// Brokers side by side, on PostgreSQL.
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Connections of each class.
    #[arg(long, default_value_t = 20)]
    connections: usize,
    /// Callers side by side.
    #[arg(long, default_value_t = 4)]
    callers: usize,
    /// What every choice is drawn from; a new one if absent.
    #[arg(long)]
    seed: Option<u64>,
}

/// Where brokers take calls now.
type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// What the callers saw.
#[derive(Debug, Default)]
struct Seen {
    served: u64,
    /// Tries that met no broker, or one that went away; they were made again.
    tried_again: u64,
    /// Answers other than a token, by status and code.
    refused: BTreeMap<String, u64>,
    /// Calls that found no broker in time.
    unserved: u64,
}

/// Runs the proof; whether it held.
pub(crate) async fn prove(settings: &Restarts) -> anyhow::Result<bool> {
    let seed = settings.seed.unwrap_or_else(Chance::any_seed);
    let replicas = if settings.engine.engine == Engine::Postgres { settings.replicas.max(1) } else { 1 };
    let engine = settings.engine.engine.as_str();
    report::progress(&format!("restarts: {} of {replicas} on {engine}, seed {seed}", settings.count));
    let mut chance = Chance::new(seed);
    let mut world = World::with_life(&settings.engine, LIFE).await?;
    let provider = world.provider();
    provider.inject(FaultRule::refresh(Fault::Delay { ms: ANSWER_MS }).always());
    let since_ms = provider.now_ms() - 1_000;
    let mut first = Child::start(&world.serve(0, true)).await?;
    world.make_connectors(&mut first).await?;
    let caller = Caller::new(world.make_key(&mut first, &["connector"]).await?)?;
    let mut oracle = Oracle::new(LIFE);
    let members = connect(&world, &mut first, settings.connections).await?;
    for member in &members {
        oracle.note(member);
    }
    let mut brokers = vec![Some(first)];
    for replica in 1..replicas {
        brokers.push(Some(Child::start(&world.serve(replica, true)).await?));
    }
    let addresses = Addresses::default();
    publish(&addresses, &brokers);
    let (stop, stopping) = watch::channel(false);
    let mut callers = JoinSet::new();
    for number in 0..settings.callers {
        let chance = Chance::new(seed.wrapping_mul(1_000).wrapping_add(number as u64));
        callers.spawn(call(caller.clone(), members.clone(), Arc::clone(&addresses), chance, stopping.clone()));
    }
    let (mut unclean, mut slowest) = (0, Duration::ZERO);
    for number in 0..settings.count {
        sleep(Duration::from_millis(150 + chance.below(450))).await;
        let replica = number % replicas;
        let broker = brokers[replica].take().context("a broker")?;
        publish(&addresses, &brokers);
        let started = Instant::now();
        unclean += usize::from(!broker.terminate().await?);
        slowest = slowest.max(started.elapsed());
        brokers[replica] = Some(Child::start(&world.serve(replica, true)).await?);
        publish(&addresses, &brokers);
        if (number + 1) % 20 == 0 {
            report::progress(&format!("{} of {}", number + 1, settings.count));
        }
    }
    refreshed_once_more(&world, &members).await?;
    stop.send_replace(true);
    let mut answers = Seen::default();
    while let Some(each) = callers.join_next().await {
        answers.add(each?);
    }
    for broker in brokers.into_iter().flatten() {
        unclean += usize::from(!broker.terminate().await?);
    }
    let counters = provider.counters();
    let after = Snapshot::read(&world.place).await?;
    let unsettled = after.connections.values().filter(|stored| stored.attempt_state.as_deref() == Some("sent")).count();
    let evidence = oracle.gather(&world.place, &provider, after, since_ms, Vec::new()).await?;
    let (mut lost, mut repeated, mut unrecorded) = (BTreeMap::new(), 0, 0);
    for member in &members {
        let finding = oracle.judge(member, &provider, &evidence);
        let of_class: &mut usize = lost.entry(member.class).or_default();
        if finding.fate != Fate::Kept {
            report::progress(&format!("{} of {}: {:?}", member.user, member.class.as_str(), finding.fate));
            *of_class += 1;
        }
        repeated += evidence.repeated(member);
        unrecorded += finding.unrecorded;
    }
    world.remove().await?;
    print(&lost, settings.connections);
    let lost: usize = lost.values().sum();
    report::last_line(&json!({
        "proof": "restarts",
        "engine": engine,
        "count": settings.count,
        "replicas": replicas,
        "lost": lost,
        "unclean_stops": unclean,
        "unsettled_attempts": unsettled,
        "repeated_presentations": repeated,
        "unrecorded_presentations": unrecorded,
        "calls": answers.served,
        "calls_unserved": answers.unserved,
        "calls_refused": answers.refused,
        "calls_tried_again": answers.tried_again,
        "refreshes": counters.refreshed,
        "slowest_stop_ms": u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX),
        "seed": seed,
    }));
    let calls_failed = answers.unserved > 0 || !answers.refused.is_empty();
    Ok(lost == 0 && unclean == 0 && unsettled == 0 && repeated == 0 && unrecorded == 0 && !calls_failed)
}

async fn connect(world: &World, child: &mut Child, of_each: usize) -> anyhow::Result<Vec<Member>> {
    let mut members = Vec::new();
    for class in Class::ALL {
        // Siblings are two accounts of one user.
        let owner = |number: usize| match class {
            Class::WideSiblings => (format!("u-{}", number / 2), format!("account {}", number % 2)),
            _ => (format!("u-{number}"), String::new()),
        };
        let owners: Vec<_> = (0..of_each).map(owner).collect();
        members.extend(world.connect(child, class, &owners).await?);
    }
    Ok(members)
}

fn publish(addresses: &Addresses, brokers: &[Option<Child>]) {
    let taking = brokers.iter().flatten().map(|broker| broker.ready.address).collect();
    *addresses.lock().unwrap_or_else(PoisonError::into_inner) = taking;
}

/// Fetches tokens of anybody until the load ends.
async fn call(
    caller: Caller,
    members: Vec<Member>,
    addresses: Addresses,
    mut chance: Chance,
    stopping: watch::Receiver<bool>,
) -> Seen {
    let mut seen = Seen::default();
    while !*stopping.borrow() {
        let Some(member) = chance.one_of(&members) else { break };
        let started = Instant::now();
        loop {
            let taking = addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let answer = match chance.one_of(&taking) {
                Some(address) => caller.call(*address, member, json!({})).await,
                None => None,
            };
            match answer {
                Some(answer) if answer.status == 200 => seen.served += 1,
                Some(answer) => {
                    let code = answer.json["code"].as_str().unwrap_or_default();
                    *seen.refused.entry(format!("{} {code}", answer.status)).or_default() += 1;
                }
                None if started.elapsed() > PATIENCE => seen.unserved += 1,
                None => {
                    seen.tried_again += 1;
                    sleep(Duration::from_millis(10)).await;
                    continue;
                }
            }
            break;
        }
        sleep(Duration::from_millis(chance.below(12))).await;
    }
    seen
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.served += other.served;
        self.tried_again += other.tried_again;
        self.unserved += other.unserved;
        for (what, count) in other.refused {
            *self.refused.entry(what).or_default() += count;
        }
    }
}

/// Waits until every connection has been refreshed after the last restart: what it stored works.
async fn refreshed_once_more(world: &World, members: &[Member]) -> anyhow::Result<()> {
    let before = Snapshot::read(&world.place).await?;
    let started = Instant::now();
    loop {
        let now = Snapshot::read(&world.place).await?;
        let waits = |member: &&Member| match (before.of(member), now.of(member)) {
            (Some(before), Some(now)) => now.status == "active" && now.generation <= before.generation,
            _ => false,
        };
        let left = members.iter().filter(waits).count();
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() > LIFE * 5 {
            bail!("{left} connections are not refreshed any more");
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn print(lost: &BTreeMap<Class, usize>, of_each: usize) {
    let mut table = Table::new(&["class", "connections", "lost"]);
    for (class, lost) in lost {
        table.row(vec![class.as_str().to_owned(), of_each.to_string(), lost.to_string()]);
    }
    table.print();
}
