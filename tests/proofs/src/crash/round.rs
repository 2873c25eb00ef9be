//! One round: get refreshes going, kill, start again, bring to rest, judge.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use valetkey_broker::Boundary;
use valetkey_sandbox::{Commit, Fault, FaultRule};

use super::{
    plan::{AtProvider, Cell, Point},
    tally::Tally,
};
use crate::{
    calls::Caller,
    chance::Chance,
    child::{Child, Starting},
    database::EngineChoice,
    oracle::{Oracle, Snapshot, Stored},
    order::Order,
    world::{Class, LIFE, Member, World},
};

/// Past the lease of an attempt, and of a claim of due work.
const LEASE: Duration = Duration::from_secs(51);

/// A connection's next refresh by `rejected` is allowed again.
const PAUSE: Duration = Duration::from_secs(61);

/// How long a refresh may take to come to its boundary, in real time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the process may live on after everybody was answered: what comes last comes after the answer.
const AFTERMATH: Duration = Duration::from_millis(200);

/// How long the provider gets to read what a dead broker sent.
const IN_SOCKETS: Duration = Duration::from_millis(15);

/// So often the clock is moved to the next try before a connection counts as stuck.
const STEPS: usize = 24;

/// Where no try is planned within this, a connection without a usable token is stuck.
const STUCK_MS: i64 = 60_000;

/// A provider, a database, and the broker that is killed.
#[derive(Debug)]
pub(crate) struct Run {
    world: World,
    child: Option<Child>,
    members: Vec<Member>,
    caller: Caller,
    oracle: Oracle,
    chance: Chance,
    gates: u64,
    /// How long a sweep and a start take here.
    sweep: Duration,
    start: Duration,
    kills_ms: Vec<i64>,
}

/// What gets the refreshes going.
enum Trigger {
    /// They are due.
    Due,
    /// Callers say that their tokens were rejected.
    Demand(JoinSet<()>),
}

impl Run {
    /// A fresh world with some connections of each class.
    pub(crate) async fn start(engine: &EngineChoice, chance: Chance) -> anyhow::Result<Self> {
        let mut world = World::new(engine).await?;
        let mut child = Child::start(&world.serve(0, false)).await?;
        world.make_connectors(&mut child).await?;
        let key = world.make_key(&mut child, &["connector"]).await?;
        let mut run = Self {
            world,
            child: None,
            members: Vec::new(),
            caller: Caller::new(key)?,
            oracle: Oracle::new(LIFE),
            chance,
            gates: 0,
            sweep: Duration::from_millis(30),
            start: Duration::from_millis(50),
            kills_ms: Vec::new(),
        };
        for class in Class::ALL {
            let owners = match class {
                Class::WideSiblings => {
                    vec![("u-1", ""), ("u-1", "second"), ("u-1", "third"), ("u-2", ""), ("u-2", "second")]
                }
                _ => vec![("u-1", ""), ("u-2", "")],
            };
            let owners: Vec<_> = owners.into_iter().map(|(user, label)| (user.to_owned(), label.to_owned())).collect();
            let members = run.world.connect(&mut child, class, &owners).await?;
            for member in &members {
                run.oracle.note(member);
            }
            run.members.extend(members);
        }
        run.child = Some(child);
        Ok(run)
    }

    /// Stops everything and leaves nothing behind.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        if let Some(child) = self.child.take() {
            child.kill().await?;
        }
        self.world.remove().await
    }

    fn child(&mut self) -> anyhow::Result<&mut Child> {
        self.child.as_mut().context("no broker runs")
    }

    async fn advance(&mut self, by: Duration) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child {
            return self.world.advance(child, by).await;
        }
        self.world.advance_without_broker(by);
        Ok(())
    }

    async fn start_again(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        self.child = Some(Child::start(&self.world.serve(0, false)).await?);
        self.start = (self.start * 3 + started.elapsed()) / 4;
        Ok(())
    }

    /// Kills the broker now.
    async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.take().context("no broker runs")?.kill().await?;
        self.note_death().await;
        Ok(())
    }

    /// The broker is dead: what it was doing by now was cut off.
    async fn note_death(&mut self) {
        // What it sent last may lie in a socket: the provider reads it before the clock moves on.
        sleep(IN_SOCKETS).await;
        self.kills_ms.push(self.world.provider().now_ms());
    }

    /// One round: a kill, or two where the place needs them.
    pub(crate) async fn round(&mut self, cell: Cell, tally: &mut Tally) -> anyhow::Result<()> {
        self.kills_ms.clear();
        self.advance(PAUSE).await?;
        let since_ms = self.world.provider().now_ms() - 1_000;
        let before = Snapshot::read(&self.world.place).await?;
        if self.first_death(cell, &before).await? {
            tally.killed(cell);
        } else {
            tally.missed_it(cell);
        }
        self.world.provider().clear_faults();
        if self.child.is_none() {
            self.come_back(cell, tally).await?;
        }
        for why in self.rest().await? {
            tally.stuck(cell, &why);
        }
        self.judge(cell, since_ms, tally).await
    }

    /// Gets refreshes going and kills the broker; false if they never came to the place.
    async fn first_death(&mut self, cell: Cell, before: &Snapshot) -> anyhow::Result<bool> {
        let of_class: Vec<Member> = self.members.iter().filter(|member| member.class == cell.class).cloned().collect();
        let target = self.chance.one_of(&of_class).context("no member of the class")?.clone();
        let by_demand = self.chance.once_in(3);
        if !by_demand {
            let due_at = before.of(&target).and_then(|stored| stored.due_at).context("a target that is never due")?;
            let wait = u64::try_from(due_at - self.world.provider().now_ms() + 50).unwrap_or(0);
            self.advance(Duration::from_millis(wait)).await?;
        }
        let point = match cell.point {
            Point::At(Boundary::BeforeRecoveryWrite | Boundary::AfterRecoveryWrite) => Point::Waiting(
                *self
                    .chance
                    .one_of(&[AtProvider::RequestReceived, AtProvider::Committed])
                    .unwrap_or(&AtProvider::Committed),
            ),
            point => point,
        };
        self.script(cell.class, point, &target);
        match point {
            Point::At(boundary) => {
                let ids = of_class.iter().map(|member| member.connection).collect();
                let order = Order::Arm { boundary: boundary.as_str().to_owned(), connections: ids, passes: 0 };
                self.child()?.order(&order).await?;
                let trigger = self.pull(by_demand, &target, before).await?;
                self.dies_by_itself(trigger).await
            }
            Point::Waiting(at) => {
                let _trigger = self.pull(by_demand, &target, before).await?;
                if !self.is_waiting(at).await {
                    self.kill().await?;
                    self.release();
                    return Ok(false);
                }
                self.kill().await?;
                self.release();
                Ok(true)
            }
            Point::AnyMoment | Point::Starting => {
                let _trigger = self.pull(by_demand, &target, before).await?;
                let window = u64::try_from(self.sweep.as_micros()).unwrap_or(0);
                sleep(Duration::from_micros(self.chance.below(window))).await;
                self.kill().await?;
                Ok(true)
            }
        }
    }

    fn gate(&self) -> String {
        format!("gate-{}", self.gates)
    }

    /// The provider acts on what it held back until the broker was dead.
    fn release(&self) {
        self.world.provider().release(&self.gate());
    }

    /// Makes the provider do what the place needs.
    fn script(&mut self, class: Class, point: Point, target: &Member) {
        self.gates += 1;
        let provider = self.world.provider();
        let hold = Fault::HoldUntilReleased { gate: self.gate() };
        let rule = match point {
            Point::Waiting(AtProvider::RequestReceived) => FaultRule::refresh(hold).commit(Commit::Never),
            Point::Waiting(AtProvider::CommitsLater) => FaultRule::refresh(hold).commit(Commit::After),
            Point::Waiting(AtProvider::Committed) => FaultRule::refresh(hold),
            Point::Waiting(AtProvider::AnswerHalfRead) => FaultRule::refresh(Fault::SlowBody { ms_per_chunk: 6 }),
            Point::At(Boundary::BetweenFailureWrites) => {
                let commit = if self.chance.once_in(2) { Commit::Before } else { Commit::Never };
                let fault =
                    Fault::Status { code: 503, body: String::new(), headers: std::collections::BTreeMap::new() };
                FaultRule::refresh(fault).commit(commit)
            }
            Point::At(Boundary::BetweenDeathWrites) => {
                provider.revoke_grant_by_user(&target.grant);
                return;
            }
            Point::At(_) | Point::AnyMoment | Point::Starting => return,
        };
        provider.inject(rule.client(class.client_id()));
    }

    /// Gets refreshes going.
    async fn pull(&mut self, by_demand: bool, target: &Member, before: &Snapshot) -> anyhow::Result<Trigger> {
        if !by_demand {
            self.child()?.give(&Order::Refresh).await?;
            return Ok(Trigger::Due);
        }
        let address = self.child()?.ready.address;
        let mut calls = JoinSet::new();
        for member in &self.members {
            // Siblings and others come along now and then; the target has two callers.
            let callers = if member.connection == target.connection { 2 } else { usize::from(self.chance.once_in(2)) };
            let fingerprint = before.of(member).and_then(|stored| stored.access_fingerprint.clone());
            for _ in 0..callers {
                let call = self.caller.call(address, member, json!({ "rejected": fingerprint }));
                calls.spawn(async move { drop(call.await) });
            }
        }
        Ok(Trigger::Demand(calls))
    }

    /// Waits for the death that was ordered.
    async fn dies_by_itself(&mut self, trigger: Trigger) -> anyhow::Result<bool> {
        let started = Instant::now();
        let child = self.child()?;
        match trigger {
            Trigger::Due => drop(child.answer().await?),
            Trigger::Demand(calls) => drop(timeout(PATIENCE, calls.join_all()).await),
        }
        let took = started.elapsed();
        if child.died_within(AFTERMATH).await? {
            self.note_death().await;
            self.child = None;
            return Ok(true);
        }
        self.sweep = (self.sweep * 3 + took) / 4;
        Ok(false)
    }

    /// Waits until the provider has the request, and has done with it what the place says.
    async fn is_waiting(&mut self, at: AtProvider) -> bool {
        let provider = self.world.provider();
        if at != AtProvider::AnswerHalfRead {
            return provider.wait_until_held_count(&self.gate(), 1, PATIENCE).await;
        }
        let started = Instant::now();
        let shown = || {
            let slow = |event: &valetkey_sandbox::Event| event.fault.as_deref() == Some("slow_body");
            !provider.events_where(|event| slow(event) && event.shown_status.is_some()).is_empty()
        };
        while !shown() {
            if started.elapsed() > PATIENCE {
                return false;
            }
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_millis(4 + self.chance.below(80))).await;
        true
    }

    /// Starts the broker again, and kills it again where that is the place.
    async fn come_back(&mut self, cell: Cell, tally: &mut Tally) -> anyhow::Result<()> {
        let at_once = self.chance.once_in(4);
        if !at_once {
            self.advance(LEASE).await?;
        }
        if cell.point == Point::Starting {
            let starting = Starting::spawn(&self.world.serve(0, false))?;
            let window = u64::try_from((self.start * 2).as_micros()).unwrap_or(0);
            let moment = Duration::from_micros(self.chance.below(window));
            let death = Instant::now() + moment;
            if let Some(mut child) = starting.ready_before(death).await? {
                child.give(&Order::Recover).await?;
                child.give(&Order::Refresh).await?;
                tokio::time::sleep_until(death).await;
                child.kill().await?;
            }
            self.note_death().await;
            tally.killed(cell);
        }
        self.start_again().await?;
        if at_once {
            // Its leases protect what the dead process may be doing: nothing may be presented again.
            self.child()?.order(&Order::Recover).await?;
            self.child()?.order(&Order::Refresh).await?;
            self.advance(LEASE).await?;
        }
        if let Point::At(boundary @ (Boundary::BeforeRecoveryWrite | Boundary::AfterRecoveryWrite)) = cell.point {
            let connections = self.members.iter().map(|member| member.connection).collect();
            let child = self.child()?;
            child.order(&Order::Arm { boundary: boundary.as_str().to_owned(), connections, passes: 0 }).await?;
            if child.try_order(&Order::Recover).await?.is_some() {
                tally.missed_it(cell);
                return Ok(());
            }
            child.died_within(PATIENCE).await?;
            self.note_death().await;
            tally.killed(cell);
            self.start_again().await?;
        }
        Ok(())
    }

    /// Lets scheduled work run, moving the clock from try to try, until nothing is left to find out. What is stuck.
    async fn rest(&mut self) -> anyhow::Result<Vec<String>> {
        let mut open = Vec::new();
        for _ in 0..STEPS {
            self.child()?.order(&Order::Recover).await?;
            self.child()?.order(&Order::Refresh).await?;
            let snapshot = Snapshot::read(&self.world.place).await?;
            let now = self.world.provider().now_ms();
            let stored = self.members.iter().filter_map(|member| snapshot.of(member));
            open = stored.filter(|stored| is_open(stored, now)).cloned().collect::<Vec<Stored>>();
            if open.is_empty() {
                return Ok(Vec::new());
            }
            let stuck: Vec<String> = open.iter().filter_map(|stored| stuck(stored, now)).collect();
            if !stuck.is_empty() {
                return Ok(stuck);
            }
            let next = open.iter().filter_map(next_try).min().unwrap_or(now).max(now);
            // Tries that lie close together are one step.
            let soon = open.iter().filter_map(next_try).filter(|at| *at <= next + 3_000).max();
            let wait = soon.unwrap_or(next) - now + 20;
            self.advance(Duration::from_millis(u64::try_from(wait).unwrap_or(0))).await?;
        }
        Ok(open.iter().map(|stored| format!("{stored:?} after {STEPS} tries")).collect())
    }

    async fn judge(&mut self, cell: Cell, since_ms: i64, tally: &mut Tally) -> anyhow::Result<()> {
        let provider = self.world.provider();
        let after = Snapshot::read(&self.world.place).await?;
        let kills = self.kills_ms.clone();
        let evidence = self.oracle.gather(&self.world.place, &provider, after, since_ms, kills).await?;
        let mut gone = Vec::new();
        for (index, member) in self.members.iter().enumerate() {
            let finding = self.oracle.judge(member, &provider, &evidence);
            tally.found(Cell { class: member.class, ..cell }, &finding);
            if finding.fate != crate::oracle::Fate::Kept {
                gone.push(index);
            }
        }
        // Whoever lost a grant connects again.
        for index in gone {
            let (class, owner) =
                (self.members[index].class, (self.members[index].user.clone(), self.members[index].label.clone()));
            let child = self.child.as_mut().context("no broker runs")?;
            for member in self.world.connect(child, class, &[owner]).await? {
                self.oracle.note(&member);
                self.members[index] = member;
            }
        }
        Ok(())
    }
}

/// Whether something about it is still to be found out.
fn is_open(stored: &Stored, now: i64) -> bool {
    let undecided = matches!(stored.attempt_state.as_deref(), Some("unsent" | "sent" | "repeat_allowed"));
    stored.status == "active" && (undecided || stored.refresh_due_at.is_none_or(|due| due <= now))
}

fn next_try(stored: &Stored) -> Option<i64> {
    match stored.attempt_state.as_deref() {
        Some("sent") => stored.lease_until,
        Some("unsent" | "repeat_allowed") => stored.due_at.max(stored.next_try_at),
        _ => stored.due_at,
    }
}

/// Nobody will look at it again in time: within a minute, or before its access token ends.
fn stuck(stored: &Stored, now: i64) -> Option<String> {
    let latest = stored.expires_at.unwrap_or(now).max(now + STUCK_MS);
    match next_try(stored).zip(stored.due_at) {
        Some((next, due)) if next.max(due) <= latest => None,
        _ => Some(format!("no try within 60 s of {now}: {stored:?}")),
    }
}
