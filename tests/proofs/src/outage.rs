//! PostgreSQL goes away under load, as by a crash, and comes back: nothing is lost and nobody is restarted.
//!
//! Two replicas refresh strictly rotated tokens; the provider has acted and its answers are on the way when the database
//! ends. They arrive while it is away and exist nowhere but in the two processes. Their leases are over before the
//! database is back, so that each replica could take the other's attempts for abandoned: a second presentation would end
//! the grant.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};
use valetkey_sandbox::{Fault, FaultRule};

use crate::{
    calls::Caller,
    cluster::Cluster,
    database::on_both,
    replicas::house::House,
    report::{Table, last_line, progress},
    world::{Class, LIFE, Member},
};

/// How long everything may take that has to happen once the database is back.
const PATIENCE: Duration = Duration::from_secs(90);

/// Connections that are revoked right before.
const REVOKED: usize = 10;

/// The settings of this proof.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Outage {
    /// How long the database is away.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Refreshes whose answers arrive meanwhile.
    #[arg(long, default_value_t = 40)]
    refreshes: usize,
}

/// Runs the proof; false if it did not hold.
pub(crate) async fn prove(settings: &Outage) -> anyhow::Result<bool> {
    let Some(cluster) = Cluster::start()? else {
        last_line(&json!({ "proof": "outage", "skipped": "PostgreSQL is not installed" }));
        return Ok(true);
    };
    let mut house = House::build(2, &cluster.url(), true).await?;
    let members = connect(&mut house, settings.refreshes + REVOKED).await?;
    let (revoked, members) = members.split_at(REVOKED);
    let load = Load::begin(&house, members);

    // Everything ends at once; the scheduled work of both replicas takes its share.
    let provider = house.world.provider();
    let rule = FaultRule::refresh(Fault::HoldUntilReleased { gate: "answers".to_owned() });
    for member in members {
        provider.inject(rule.clone().grant(member.grant.clone()));
    }
    house.advance(LIFE + Duration::from_secs(1))?;
    let held = provider.wait_until_held_count("answers", members.len(), Duration::from_secs(30)).await;
    anyhow::ensure!(held, "not all refreshes got to the provider");
    revoke(&mut house, revoked).await?;
    cluster.stop()?;
    progress("the database is gone");
    provider.release("answers");
    house.advance(Duration::from_secs(60))?;
    tokio::time::sleep(Duration::from_secs(settings.seconds)).await;
    cluster.start_again()?;
    let back = Instant::now();
    progress("the database is back");

    let lost = settled(&house, members, 2, back).await;
    progress(&format!("stored {} ms after its return; lost: {lost}", back.elapsed().as_millis()));
    let second_presentations =
        members.iter().filter(|member| house.world.provider().refreshes_for(&member.grant).len() > 1).count();
    // The scheduled work goes on, and so does the queue.
    house.advance(LIFE + Duration::from_secs(1))?;
    let stuck = settled(&house, members, 3, Instant::now()).await + queue_is_empty(&house).await?;
    let reuses = house.world.provider().counters().reuses;

    let answers = load.end().await?;
    let mut table = Table::new(&["answer", "calls"]);
    for (answer, calls) in &answers {
        table.row(vec![answer.clone(), calls.to_string()]);
    }
    table.print();
    let unexpected: usize =
        answers.iter().filter(|(answer, _)| !["200", "503"].contains(&answer.as_str())).map(|(_, calls)| calls).sum();
    last_line(&json!({
        "proof": "outage",
        "seconds": settings.seconds,
        "in_flight": members.len(),
        "lost": lost,
        "second_presentations": second_presentations,
        "reuses": reuses,
        "stuck": stuck,
        "unexpected_answers": unexpected,
    }));
    house.tear_down().await?;
    Ok(lost == 0 && second_presentations == 0 && reuses == 0 && stuck == 0 && unexpected == 0)
}

async fn connect(house: &mut House, count: usize) -> anyhow::Result<Vec<Member>> {
    let owners: Vec<_> = (0..count).map(|number| (format!("many-{number}"), String::new())).collect();
    house.world.connect(&mut house.replicas[0], Class::Strict, &owners).await
}

/// Takes connections back, so that the queue is full when the database goes.
async fn revoke(house: &mut House, members: &[Member]) -> anyhow::Result<()> {
    let key = house.world.make_key(&mut house.replicas[0], &["operator"]).await?;
    let (operator, at) = (Caller::new(key)?, house.address(0));
    for member in members {
        let filter = json!({ "user_id": member.user });
        let path = "/v1/connections/revoke";
        let body = json!({ "dry_run": true, "filter": filter });
        let plan = operator.post(at, path, &body).await.context("no plan")?.json;
        let body = json!({ "plan_id": plan["plan_id"], "expected_count": plan["count"] });
        let done = operator.post(at, path, &body).await.context("no answer")?;
        anyhow::ensure!(done.status == 200, "not revoked: {done:?}");
    }
    Ok(())
}

/// How many connections did not get to this generation, at each replica, with a token that works.
async fn settled(house: &House, members: &[Member], generation: i64, since: Instant) -> usize {
    let mut missing: Vec<(usize, &Member)> =
        (0..house.replicas.len()).flat_map(|replica| members.iter().map(move |member| (replica, member))).collect();
    while !missing.is_empty() && since.elapsed() < PATIENCE {
        let mut left = Vec::new();
        for (replica, member) in missing {
            let answer = house.caller.call(house.address(replica), member, json!({})).await;
            let token = answer.filter(|answer| answer.status == 200 && answer.json["generation"] == generation);
            let token = token.and_then(|answer| answer.json["access_token"].as_str().map(str::to_owned));
            if !token.is_some_and(|token| house.world.provider().is_access_token_live(&token)) {
                left.push((replica, member));
            }
        }
        missing = left;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (replica, member) in missing.iter().take(3) {
        let answer = house.caller.call(house.address(*replica), member, json!({})).await;
        progress(&format!("generation {generation} at replica {replica}: {answer:?}"));
    }
    missing.len()
}

/// What is left of the revocations when their time has come.
async fn queue_is_empty(house: &House) -> anyhow::Result<usize> {
    let limit = Instant::now() + PATIENCE;
    let queued = "SELECT CAST(COUNT(*) AS BIGINT) FROM revocations WHERE state = 'queued'";
    loop {
        let mut beside = house.world.place.beside().await?;
        let left: i64 = on_both!(&mut beside, |connection| sqlx::query_scalar(queued).fetch_one(connection).await?);
        beside.close().await?;
        if left == 0 || Instant::now() > limit {
            return Ok(usize::try_from(left)?);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Callers that ask both replicas all the time, and what they are answered.
struct Load {
    over: Arc<AtomicBool>,
    answers: Arc<Mutex<BTreeMap<String, usize>>>,
    tasks: JoinSet<()>,
}

impl Load {
    fn begin(house: &House, members: &[Member]) -> Self {
        let (over, answers) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::<String, usize>::new())));
        let mut tasks = JoinSet::new();
        for number in 0..4 {
            let (over, answers, caller) = (Arc::clone(&over), Arc::clone(&answers), house.caller.clone());
            let (at, members) = (house.address(number), members.to_vec());
            tasks.spawn(async move {
                let mut each = members.iter().cycle().skip(number);
                while !over.load(Ordering::Relaxed) {
                    let Some(member) = each.next() else { return };
                    let answer = caller.call(at, member, json!({})).await;
                    let told = answer.map_or("none".to_owned(), |answer| answer.status.to_string());
                    *answers.lock().unwrap_or_else(PoisonError::into_inner).entry(told).or_default() += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
        Self { over, answers, tasks }
    }

    async fn end(mut self) -> anyhow::Result<BTreeMap<String, usize>> {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        Ok(self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}
