//! Taking back everything at once: a plan, its call, and a queue that is killed again and again while it tells the
//! provider.
//!
//! The first call is killed half-way: nobody got its answer, and the rest is planned anew. Then refreshes are in flight
//! while the second call revokes their connections; the tokens that they bring are revoked too. From the acknowledgement
//! on no call may be answered with a token. The provider takes back one token at a time and nothing with it, so that each
//! has to be told; sometimes it fails, sometimes it acts and its answer is lost.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use valetkey_core::Attempt;
use valetkey_sandbox::{ClientSettings, Commit, Fault, FaultRule, GrantView, RevocationReach};

use crate::{
    calls::Caller,
    chance::Chance,
    child::Child,
    database::{EngineChoice, on_both},
    report::{Table, last_line, progress},
    world::{Class, LIFE, Member, World},
};

const REVOKE: &str = "/v1/connections/revoke";

/// The classes whose connections are revoked.
const CLASSES: [Class; 4] = [Class::NonRotating, Class::Soft, Class::Strict, Class::WideAlone];

/// Callers that ask for tokens all the time.
const ASKING: usize = 6;

/// Connections imported with one order.
const IMPORT: usize = 250;

/// The settings of this proof.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Revoke {
    /// Connections to revoke.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(40..))]
    connections: u32,
    /// How often the broker is killed while it tells the provider.
    #[arg(long, default_value_t = 12)]
    kills: u32,
    /// Repeats the choices of another run.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    engine: EngineChoice,
}

/// Runs the proof; false if it did not hold.
pub(crate) async fn prove(settings: &Revoke) -> anyhow::Result<bool> {
    let seed = settings.seed.unwrap_or_else(Chance::any_seed);
    progress(&format!("revoke: {} connections, seed {seed}", settings.connections));
    let mut chance = Chance::new(seed);
    let mut run = Run::begin(settings).await?;
    run.kill_half_way(&mut chance).await?;
    run.revoke_with_refreshes_in_flight().await?;
    run.deliver_with_kills(settings.kills, &mut chance).await?;
    run.come_to_rest().await?;
    run.judge(settings, seed).await
}

/// Callers that never rest, wherever the broker is just now.
#[derive(Debug)]
struct Asking {
    broker: Mutex<SocketAddr>,
    acknowledged: Mutex<Option<Instant>>,
    answered: AtomicUsize,
    answered_after: AtomicUsize,
    over: AtomicBool,
}

impl Asking {
    fn move_to(&self, broker: SocketAddr) {
        *self.broker.lock().unwrap_or_else(PoisonError::into_inner) = broker;
    }

    async fn ask(self: Arc<Self>, caller: Caller, members: Arc<Vec<Member>>, mut chance: Chance) {
        while !self.over.load(Ordering::Relaxed) {
            let broker = *self.broker.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(member) = chance.one_of(&members) else { return };
            let began = Instant::now();
            match caller.call(broker, member, json!({})).await {
                Some(answer) if answer.status == 200 => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    let acknowledged = *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                    if acknowledged.is_some_and(|at| began > at) {
                        self.answered_after.fetch_add(1, Ordering::Relaxed);
                        progress(&format!("a token after the acknowledgement: {member:?}"));
                    }
                }
                Some(_) => {}
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

/// How a broker process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Terminate,
}

struct Run {
    world: World,
    /// None only while one ends and the next begins.
    child: Option<Child>,
    operator: Caller,
    members: Arc<Vec<Member>>,
    caller: Caller,
    asking: Arc<Asking>,
    tasks: JoinSet<()>,
    kills: u32,
    /// How far the clock was moved.
    ahead: Duration,
}

impl Run {
    async fn begin(settings: &Revoke) -> anyhow::Result<Self> {
        let mut world = World::new(&settings.engine).await?;
        for class in CLASSES {
            let alone = |client: &mut ClientSettings| client.revocation = RevocationReach::Token;
            world.provider().update_client(&class.client_id(), alone).map_err(anyhow::Error::msg)?;
        }
        let mut child = Child::start(&world.serve(0, false)).await?;
        world.make_connectors(&mut child).await?;
        let caller = Caller::new(world.make_key(&mut child, &["connector"]).await?)?;
        let operator = Caller::new(world.make_key(&mut child, &["operator"]).await?)?;
        let mut members = Vec::new();
        let count = usize::try_from(settings.connections)?;
        for (number, class) in CLASSES.into_iter().enumerate() {
            let owners: Vec<_> =
                (number..count).step_by(CLASSES.len()).map(|user| (format!("u-{user}"), String::new())).collect();
            for owners in owners.chunks(IMPORT) {
                members.extend(world.connect(&mut child, class, owners).await?);
            }
        }
        progress(&format!("{} connections stand", members.len()));
        let members = Arc::new(members);
        let asking = Arc::new(Asking {
            broker: Mutex::new(child.ready.address),
            acknowledged: Mutex::default(),
            answered: AtomicUsize::new(0),
            answered_after: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for number in 0..ASKING {
            let chance = Chance::new(number as u64);
            tasks.spawn(Arc::clone(&asking).ask(caller.clone(), Arc::clone(&members), chance));
        }
        let child = Some(child);
        Ok(Self { world, child, operator, members, caller, asking, tasks, kills: 0, ahead: Duration::ZERO })
    }

    fn broker(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.child.as_ref().context("no broker runs")?.ready.address)
    }

    /// Ends the broker and starts it again, when what it had claimed is free.
    async fn restart(&mut self, end: End, jobs: bool) -> anyhow::Result<()> {
        let old = self.child.take().context("no broker runs")?;
        match end {
            End::Kill => old.kill().await?,
            End::Terminate => anyhow::ensure!(old.terminate().await?, "the broker left something unfinished"),
        }
        self.kills += u32::from(end == End::Kill);
        let by = Attempt::LEASE + Duration::from_secs(6);
        self.world.advance_without_broker(by);
        self.ahead += by;
        let child = Child::start(&self.world.serve(0, jobs)).await?;
        self.asking.move_to(child.ready.address);
        self.child = Some(child);
        Ok(())
    }

    /// Freezes what is to be revoked: the plan and its size.
    async fn plan(&self, filter: Value) -> anyhow::Result<Value> {
        let body = json!({ "dry_run": true, "filter": filter });
        let plan = self.operator.post(self.broker()?, REVOKE, &body).await.context("no plan")?;
        anyhow::ensure!(plan.status == 200, "no plan: {plan:?}");
        Ok(json!({ "plan_id": plan.json["plan_id"], "expected_count": plan.json["count"] }))
    }

    /// The broker dies while it revokes those of one connector: whoever asked for it plans what is left anew.
    async fn kill_half_way(&mut self, chance: &mut Chance) -> anyhow::Result<()> {
        let connector = self.world.connectors.get(&Class::NonRotating).context("no connector")?;
        let plan = self.plan(json!({ "connector_id": connector })).await?;
        let (operator, broker) = (self.operator.clone(), self.broker()?);
        let call = tokio::spawn(async move { operator.post(broker, REVOKE, &plan).await });
        // Long enough for none, some or all of it.
        tokio::time::sleep(Duration::from_millis(chance.below(self.members.len() as u64 / 40 + 5))).await;
        self.restart(End::Kill, false).await?;
        let answered = call.await?.is_some();
        let gone = self.number("SELECT CAST(COUNT(*) AS BIGINT) FROM connections WHERE status <> 'active'").await?;
        progress(&format!("killed in the call, which was answered: {answered}; {gone} connections were gone by then"));
        Ok(())
    }

    /// The call that is acknowledged, while refreshes of what it revokes are at the provider.
    async fn revoke_with_refreshes_in_flight(&mut self) -> anyhow::Result<()> {
        let wanted = (self.members.len() / 20).min(40);
        let rule = FaultRule::refresh(Fault::HoldUntilReleased { gate: "late".to_owned() });
        self.world.provider().inject(rule.client(Class::Strict.client_id()).always());
        let mut waiting = JoinSet::new();
        for member in self.members.iter().filter(|member| member.class == Class::Strict) {
            if waiting.len() == wanted {
                break;
            }
            let fresh = self.caller.call(self.broker()?, member, json!({})).await.context("no answer")?;
            if fresh.status == 200 {
                let rejected = json!({ "rejected": fresh.json["fingerprint"] });
                waiting.spawn(self.caller.call(self.broker()?, member, rejected));
            }
        }
        let flights = waiting.len();
        let held = self.world.provider().wait_until_held_count("late", flights, Duration::from_secs(30)).await;
        anyhow::ensure!(held, "not all refreshes got to the provider");
        let plan = self.plan(json!({})).await?;
        let done = self.operator.post(self.broker()?, REVOKE, &plan).await.context("no answer")?;
        anyhow::ensure!(done.status == 200, "the revocation was refused: {done:?}");
        *self.asking.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        progress(&format!("acknowledged: {}, with {flights} refreshes in flight", done.json));
        self.world.provider().clear_faults();
        self.world.provider().release("late");
        for answer in waiting.join_all().await {
            if answer.as_ref().is_none_or(|answer| answer.status != 404) {
                progress(&format!("a caller who waited for a refresh: {answer:?}"));
                self.asking.answered_after.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The queue is delivered by a broker that is killed whenever some more of it was told.
    async fn deliver_with_kills(&mut self, kills: u32, chance: &mut Chance) -> anyhow::Result<()> {
        let provider = self.world.provider();
        let some = u32::try_from(self.members.len() / 100)?.max(2);
        provider.inject(FaultRule::revoke(Fault::ResetBeforeAnswer).commit(Commit::Before).after(some).times(some));
        let busy = Fault::Status { code: 503, body: String::new(), headers: std::collections::BTreeMap::new() };
        provider.inject(FaultRule::revoke(busy).after(some).times(some));
        self.restart(End::Terminate, true).await?;
        let tokens = u64::try_from(self.number(TOKENS).await?)?;
        for kill in 0..kills {
            let told = provider.counters().revocations;
            let left = tokens.saturating_sub(told) / u64::from(kills - kill + 1);
            let until = told + 1 + chance.below(left.max(1));
            let waiting = async {
                while provider.counters().revocations < until {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
                progress("not as much was told as was waited for: killed all the same");
            }
            self.restart(End::Kill, true).await?;
        }
        progress(&format!("{} of {tokens} tokens were told in {} kills", provider.counters().revocations, self.kills));
        Ok(())
    }

    /// Waits for the last outcome; the clock is moved for what is to be repeated later.
    async fn come_to_rest(&mut self) -> anyhow::Result<()> {
        let limit = Instant::now() + Duration::from_secs(900);
        let mut before = i64::MAX;
        loop {
            let queued = self.number(QUEUED).await?;
            if queued == 0 {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < limit, "{queued} revocations do not end");
            if queued == before {
                let by = Duration::from_secs(30);
                self.ahead += by;
                self.world.advance(self.child.as_mut().context("no broker runs")?, by).await?;
            }
            before = queued;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    async fn judge(mut self, settings: &Revoke, seed: u64) -> anyhow::Result<bool> {
        self.asking.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        let mut table = Table::new(&["outcome", "tokens"]);
        let mut terminal = 0;
        for state in ["confirmed", "unsupported", "superseded", "failed"] {
            let count = self.number(&format!("{TOKENS} WHERE state = '{state}'")).await?;
            terminal += count;
            table.row(vec![state.to_owned(), count.to_string()]);
        }
        let tokens = self.number(TOKENS).await?;
        let kept = self.number(&format!("{TOKENS} WHERE token IS NOT NULL")).await?;
        let not_revoked =
            self.number("SELECT CAST(COUNT(*) AS BIGINT) FROM connections WHERE status <> 'revoked'").await?;
        let grants = self.world.provider().grants();
        let usable = |grant: &GrantView| !grant.live_refresh.is_empty() || grant.access.iter().any(|each| each.live);
        let still_valid = grants.iter().filter(|grant| usable(grant)).count();
        let (answered, answered_after) =
            (self.asking.answered.load(Ordering::Relaxed), self.asking.answered_after.load(Ordering::Relaxed));
        table.print();
        // A token that ended by itself would prove nothing.
        let in_time = self.ahead < LIFE;
        last_line(&json!({
            "proof": "revoke",
            "engine": settings.engine.engine.as_str(),
            "seed": seed,
            "connections": self.members.len(),
            "kills": self.kills,
            "tokens": tokens,
            "terminal": terminal,
            "still_valid": still_valid,
            "answered_after_ack": answered_after,
            "answered_before": answered,
            "not_revoked": not_revoked,
            "tokens_kept": kept,
            "in_time": in_time,
        }));
        let held = terminal == tokens
            && tokens >= 2 * i64::try_from(self.members.len())?
            && still_valid == 0
            && answered_after == 0
            && answered > 0
            && not_revoked == 0
            && kept == 0
            && in_time;
        let child = self.child.take().context("no broker runs")?;
        anyhow::ensure!(child.terminate().await?, "the broker left something unfinished");
        self.world.remove().await?;
        Ok(held)
    }

    async fn number(&self, statement: &str) -> anyhow::Result<i64> {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        let mut beside = self.world.place.beside().await?;
        let number = on_both!(&mut beside, |connection| sqlx::query_scalar(statement).fetch_one(connection).await?);
        beside.close().await?;
        Ok(number)
    }
}

const TOKENS: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM revocations";

const QUEUED: &str = "SELECT CAST(COUNT(*) AS BIGINT) FROM revocations WHERE state = 'queued'";
