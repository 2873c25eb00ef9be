//! Several replicas on one PostgreSQL: one request at the provider for each generation, whoever asks and wherever.
//!
//! In each round every access token ends, and all callers ask all replicas for the same one at once, while the
//! replicas' scheduled work looks for what is due. With `--freeze` the replica that holds the attempt is frozen instead
//! (`freeze.rs`).

mod freeze;
pub(crate) mod house;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use valetkey_sandbox::{Fault, FaultRule};

use crate::{
    calls::Answer,
    order::Order,
    report::{Table, last_line, progress},
    world::{Class, LIFE, Member},
};
use house::House;

/// How long the provider takes for its answer once it has acted.
const PROVIDER_TAKES: Duration = Duration::from_millis(100);

/// The settings of this proof.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Replicas {
    /// How many replicas.
    #[arg(long = "replicas", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    count: u8,
    /// Callers in each round; not used with --freeze.
    #[arg(long, default_value_t = 1_000)]
    callers: usize,
    /// Rounds.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// A PostgreSQL server, as postgres://user@host/name, where databases may be made.
    #[arg(long)]
    postgres: String,
    /// Freezes the replica that holds the attempt for longer than its lease.
    #[arg(long)]
    freeze: bool,
}

/// Runs the proof; false if it did not hold.
pub(crate) async fn prove(settings: &Replicas) -> anyhow::Result<bool> {
    let mut house = House::build(settings.count.into(), &settings.postgres, false).await?;
    let held = if settings.freeze {
        freeze::prove(&mut house, settings.rounds).await?
    } else {
        ask_at_once(&mut house, settings).await?
    };
    house.tear_down().await?;
    Ok(held)
}

/// What all rounds together have shown.
#[derive(Debug, Default)]
struct Seen {
    provider_calls: usize,
    wrong_answers: usize,
    /// From the provider's answer, or the call if that came later, to the caller's answer.
    waits: Vec<Duration>,
    by_class: HashMap<Class, (usize, usize)>,
}

async fn ask_at_once(house: &mut House, settings: &Replicas) -> anyhow::Result<bool> {
    open_connections(house, settings.callers).await?;
    let mut seen = Seen::default();
    for round in 0..settings.rounds {
        let class = Class::ALL[round % Class::ALL.len()];
        one_round(house, settings.callers, round, class, &mut seen).await?;
        if (round + 1).is_multiple_of(20) {
            progress(&format!("{} of {} rounds, {} provider calls", round + 1, settings.rounds, seen.provider_calls));
        }
    }
    // Rounds of other classes were this connection's rounds too: the scheduler refreshed it.
    let mut unequal = 0;
    for member in house.members.values() {
        let calls = house.world.provider().refreshes_for(&member.grant).len();
        if calls != settings.rounds {
            progress(&format!(
                "class {}: {calls} provider calls in {} generations",
                member.class.as_str(),
                settings.rounds
            ));
            unequal += 1;
        }
    }
    let reuses = house.world.provider().counters().reuses;
    seen.waits.sort_unstable();
    let p99 = seen.waits.get(seen.waits.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default();
    let mut table = Table::new(&["class", "rounds", "provider calls"]);
    for class in Class::ALL {
        let (rounds, calls) = seen.by_class.get(&class).copied().unwrap_or_default();
        table.row(vec![class.as_str().to_owned(), rounds.to_string(), calls.to_string()]);
    }
    table.print();
    last_line(&json!({
        "proof": "replicas",
        "replicas": settings.count,
        "callers": settings.callers,
        "rounds": settings.rounds,
        "provider_calls": seen.provider_calls,
        "wrong_answers": seen.wrong_answers,
        "reuses": reuses,
        "p99_ms": p99.as_millis(),
    }));
    Ok(seen.provider_calls == settings.rounds && seen.wrong_answers == 0 && unequal == 0 && reuses == 0)
}

/// Every caller calls once, while all tokens are fresh: what is measured later are waits, not handshakes.
async fn open_connections(house: &House, callers: usize) -> anyhow::Result<()> {
    let member = house.member(Class::NonRotating)?;
    let mut asked = JoinSet::new();
    for number in 0..callers {
        asked.spawn(house.caller.call(house.address(number), &member, json!({})));
    }
    let answered = asked.join_all().await.iter().filter(|answer| token_of(answer.as_ref(), 1).is_some()).count();
    anyhow::ensure!(answered == callers, "{answered} of {callers} callers were answered before anything had ended");
    Ok(())
}

async fn one_round(
    house: &mut House,
    callers: usize,
    round: usize,
    class: Class,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let member = house.member(class)?;
    let provider = house.world.provider();
    let gate = format!("round-{round}");
    house.advance(LIFE + Duration::from_secs(1))?;
    let before = provider.refreshes_for(&member.grant).len();
    provider.inject(FaultRule::refresh(Fault::HoldUntilReleased { gate: gate.clone() }).grant(member.grant.clone()));
    let mut asked = JoinSet::new();
    for number in 0..callers {
        let call = house.caller.call(house.address(number), &member, json!({}));
        asked.spawn(async move {
            let asked_at = Instant::now();
            (asked_at, call.await, Instant::now())
        });
    }
    for replica in &mut house.replicas {
        replica.give(&Order::Refresh).await?;
    }
    anyhow::ensure!(provider.wait_until_held(&gate).await, "no refresh came");
    tokio::time::sleep(PROVIDER_TAKES).await;
    provider.release(&gate);
    let released_at = Instant::now();
    let mut tokens = BTreeSet::new();
    let generation = i64::try_from(round)? + 2;
    for (asked_at, answer, answered_at) in asked.join_all().await {
        if let Some(token) = token_of(answer.as_ref(), generation) {
            tokens.insert(token.to_owned());
            seen.waits.push(answered_at.saturating_duration_since(asked_at.max(released_at)));
        } else {
            seen.wrong_answers += 1;
            progress(&format!("round {round}, class {}, generation {generation}: {answer:?}", class.as_str()));
        }
    }
    for replica in &mut house.replicas {
        replica.answer().await?;
    }
    if tokens.len() > 1 || tokens.iter().any(|token| !provider.is_access_token_live(token)) {
        progress(&format!("round {round}, class {}: {} tokens were given out", class.as_str(), tokens.len()));
        seen.wrong_answers += 1;
    }
    let calls = provider.refreshes_for(&member.grant).len() - before;
    seen.provider_calls += calls;
    let of_class = seen.by_class.entry(class).or_default();
    *of_class = (of_class.0 + 1, of_class.1 + calls);
    Ok(())
}

/// The token of an answer that is a token of this generation.
fn token_of(answer: Option<&Answer>, generation: i64) -> Option<&str> {
    let answer = answer.filter(|answer| answer.status == 200 && answer.json["generation"] == generation)?;
    answer.json["access_token"].as_str()
}

/// What a caller says of a token that its upstream API refused.
fn rejecting(fingerprint: &Value) -> Value {
    json!({ "rejected": fingerprint })
}

/// A caller and a connection, for messages.
fn place(member: &Member, replica: usize) -> String {
    format!("class {} at replica {replica}", member.class.as_str())
}
