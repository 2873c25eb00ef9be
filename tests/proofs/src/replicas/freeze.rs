//! The replica that holds the attempt is frozen, by SIGSTOP, for longer than its lease; the others go on as the rotation
//! class allows; then it is thawed. It must not send again what others may have sent, and its late answer must not take
//! the place of newer tokens.
//!
//! It is frozen at one of two points: the provider has acted and keeps its answer back, or the attempt is recorded and
//! nothing was sent. The clock is moved, so that the lease is over for all, also for the frozen process when it wakes.

use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use serde_json::{Value, json};
use valetkey_core::Attempt;
use valetkey_sandbox::{Fault, FaultRule};

use super::{House, place, rejecting, token_of};
use crate::{
    order::Order,
    report::{Table, last_line, progress},
    world::{Class, LIFE, Member},
};

/// Where the holder is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// The provider has acted, and its answer is on the way.
    Answer,
    /// The attempt is recorded, and nothing has left.
    Record,
}

/// What is counted, each of which has to be zero.
#[derive(Debug, Default)]
struct Faults {
    second_sends: usize,
    overwritten: usize,
    wrong_answers: usize,
}

pub(crate) async fn prove(house: &mut House, rounds: usize) -> anyhow::Result<bool> {
    let mut faults = Faults::default();
    let mut calls = 0;
    let mut table = Table::new(&["class", "frozen at", "provider calls", "allowed"]);
    for number in 0..rounds {
        let class = Class::ALL[number % Class::ALL.len()];
        let at = if (number / Class::ALL.len()).is_multiple_of(2) { At::Answer } else { At::Record };
        let round = Round { number, member: house.member(class)?, at, holder: number % house.replicas.len() };
        let made = round.run(house, &mut faults).await.with_context(|| format!("round {number}, {round:?}"))?;
        calls += made;
        if number < 2 * Class::ALL.len() {
            let point = if at == At::Answer { "answer" } else { "record" };
            table.row(vec![class.as_str().into(), point.into(), made.to_string(), round.allowed_calls().to_string()]);
        }
    }
    table.print();
    last_line(&json!({
        "proof": "replicas",
        "freeze": true,
        "rounds": rounds,
        "provider_calls": calls,
        "second_sends": faults.second_sends,
        "overwritten": faults.overwritten,
        "wrong_answers": faults.wrong_answers,
    }));
    Ok(faults.second_sends == 0 && faults.overwritten == 0 && faults.wrong_answers == 0)
}

#[derive(Debug)]
struct Round {
    number: usize,
    member: Member,
    at: At,
    holder: usize,
}

impl Round {
    /// Whether others may present the same token again while the outcome is unknown and time is left.
    fn others_repeat(&self) -> bool {
        matches!(self.member.class, Class::NonRotating | Class::Soft | Class::Grace)
    }

    fn allowed_calls(&self) -> usize {
        if self.at == At::Answer && self.others_repeat() { 2 } else { 1 }
    }

    /// One freeze; the number of requests at the provider.
    async fn run(&self, house: &mut House, faults: &mut Faults) -> anyhow::Result<usize> {
        let provider = house.world.provider();
        // A token of a whole life to begin with.
        house.advance(LIFE + Duration::from_secs(1))?;
        let fresh =
            house.caller.call(house.address(self.holder), &self.member, json!({})).await.context("no answer")?;
        anyhow::ensure!(fresh.status == 200, "no token to begin with: {fresh:?}");
        let generation = fresh.json["generation"].as_i64().context("no generation")?;
        let before = provider.refreshes_for(&self.member.grant).len();
        let asked = if self.others_repeat() {
            house.advance(LIFE + Duration::from_secs(1))?;
            json!({})
        } else {
            // While life is left, others wait; so the refresh is forced early.
            rejecting(&fresh.json["fingerprint"])
        };

        let gate = format!("freeze-{}", self.number);
        let waiting = self.freeze(house, &gate, asked).await?;
        // A second refresh would be a second token of the same generation: the lease is over for everybody.
        house.advance(Attempt::LEASE + Duration::from_secs(6))?;
        for (number, replica) in house.replicas.iter_mut().enumerate() {
            if number != self.holder {
                replica.order(&Order::Recover).await?;
            }
        }
        house.advance(Duration::from_secs(5))?;
        let went_on = generation + i64::from(self.others_repeat());
        for number in (0..house.replicas.len()).filter(|number| *number != self.holder) {
            self.expect(house, number, went_on, faults).await;
        }

        self.thaw(house, &gate)?;
        let late = waiting.await?;
        let expected = match self.at {
            At::Answer => generation + 1,
            At::Record => went_on,
        };
        let refused = self.at == At::Record && late.as_ref().is_some_and(|answer| answer.status == 503);
        if !refused && token_of(late.as_ref(), expected).is_none() {
            faults.wrong_answers += 1;
            progress(&format!("the thawed replica's caller, {self:?}: {late:?}"));
        }
        if expected == generation {
            self.refresh_late(house).await?;
        }
        self.judge(house, generation + 1, before, faults).await
    }

    /// Starts a refresh at the holder and freezes it there. The caller who waits for it.
    async fn freeze(
        &self,
        house: &mut House,
        gate: &str,
        asked: Value,
    ) -> anyhow::Result<tokio::task::JoinHandle<Option<crate::calls::Answer>>> {
        let provider = house.world.provider();
        let call = house.caller.call(house.address(self.holder), &self.member, asked);
        let holder = &mut house.replicas[self.holder];
        match self.at {
            At::Answer => {
                let rule = FaultRule::refresh(Fault::HoldUntilReleased { gate: gate.to_owned() });
                provider.inject(rule.grant(self.member.grant.clone()));
                let waiting = tokio::spawn(call);
                anyhow::ensure!(provider.wait_until_held(gate).await, "no refresh came");
                holder.signal(Signal::STOP)?;
                holder.frozen().await?;
                Ok(waiting)
            }
            At::Record => {
                let connection = self.member.connection;
                holder.order(&Order::FreezeAt { boundary: "after_record".to_owned(), connection }).await?;
                let waiting = tokio::spawn(call);
                holder.frozen().await?;
                Ok(waiting)
            }
        }
    }

    /// The answer arrives before the holder wakes, or after.
    fn thaw(&self, house: &House, gate: &str) -> anyhow::Result<()> {
        let provider = house.world.provider();
        let holder = &house.replicas[self.holder];
        if self.number.is_multiple_of(2) {
            provider.release(gate);
            holder.signal(Signal::CONT)
        } else {
            holder.signal(Signal::CONT)?;
            provider.release(gate);
            Ok(())
        }
    }

    /// What nobody sent is sent when the last tenth of the token's life has come.
    async fn refresh_late(&self, house: &mut House) -> anyhow::Result<()> {
        house.advance(LIFE.mul_f64(0.93))?;
        for replica in &mut house.replicas {
            replica.order(&Order::Refresh).await?;
        }
        Ok(())
    }

    /// Looks at what every replica serves, at the provider's books and at what would be revoked.
    async fn judge(
        &self,
        house: &mut House,
        generation: i64,
        before: usize,
        faults: &mut Faults,
    ) -> anyhow::Result<usize> {
        for replica in &mut house.replicas {
            replica.order(&Order::Deliver).await?;
        }
        for number in 0..house.replicas.len() {
            self.expect(house, number, generation, faults).await;
        }
        let provider = house.world.provider();
        let alive = provider.grant(&self.member.grant).is_some_and(|grant| grant.alive);
        if !alive {
            faults.overwritten += 1;
            progress(&format!("{self:?}: the grant is dead"));
        }
        let calls = provider.refreshes_for(&self.member.grant).len() - before;
        if calls > self.allowed_calls() {
            faults.second_sends += calls - self.allowed_calls();
            progress(&format!("{self:?}: {calls} provider calls"));
        }
        Ok(calls)
    }

    /// A token of this generation that works, at this replica.
    async fn expect(&self, house: &House, number: usize, generation: i64, faults: &mut Faults) {
        let answer = house.caller.call(house.address(number), &self.member, json!({})).await;
        match token_of(answer.as_ref(), generation) {
            Some(token) if house.world.provider().is_access_token_live(token) => {}
            Some(_) => {
                faults.overwritten += 1;
                progress(&format!("{}: a token of generation {generation} that is dead", place(&self.member, number)));
            }
            None => {
                faults.wrong_answers += 1;
                progress(&format!("{}, generation {generation}: {answer:?}", place(&self.member, number)));
            }
        }
    }
}
