//! Hold: what a database that may be a restored or a copied one does until an operator has looked.
//!
//! Unexpired tokens are served. Only what can be presented twice without harm is refreshed, nobody's grant is revoked at
//! a provider, and nothing is purged for want of use: whatever this database believes may be out of date.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::json;
use valetkey_core::{
    Action, Actor, AuditEvent, Connection, Connector, Grant, Hold, HoldReason, RevocationState, RotationClass, SpaceId,
    Subject,
};
use valetkey_providers::ProviderFacts;
use valetkey_store::{Raised, Testimony};

use crate::{Broker, BrokerError, Fault, refresh::RefreshEnd};

/// How long a refresh that is held back waits before it is looked at again; the end of the hold makes it due at once.
const PAUSE: Duration = Duration::from_secs(300);

/// The longest note of an operator, in bytes.
const NOTE_MAX: usize = 200;

/// What this process knows of the hold: to save reads, never to decide alone. What is sent is decided in the statement
/// that records its attempt.
#[derive(Debug, Default)]
pub(crate) struct HoldSeen(AtomicBool);

impl HoldSeen {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a hold means for the connections of one rotation class.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ClassLoad {
    /// The class's letter; `?` where the provider cannot be asked now.
    pub class: &'static str,
    /// Whether it waits for the end of the hold.
    pub waits: bool,
    /// Connections that are refreshed.
    pub connections: i64,
    /// Those among them whose refresh is due.
    pub due: i64,
    /// What the end of the hold means for them, if this database is older than another that was used.
    pub meaning: &'static str,
}

/// The hold in force, and what waits for its end.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HoldReport {
    /// The hold, if one is in force.
    pub hold: Option<Hold>,
    /// By rotation class; all spaces together.
    pub classes: Vec<ClassLoad>,
    /// Revocations that providers are not told of before.
    pub revocations: i64,
}

impl Broker {
    /// Raises the epoch, and begins a hold if the witness knows better. What is answered is durable in the database, so
    /// that the witness may repeat it.
    pub async fn raise_epoch(&self, testimony: &Testimony) -> Result<Raised, BrokerError> {
        let event = |space: &SpaceId, hold: &Hold| self.hold_event(space, Action::HoldBegun, Actor::System, hold);
        let raised = self.store().raise_epoch(testimony, self.now(), &event).await?;
        self.see(raised.hold.as_ref());
        if raised.began
            && let Some(hold) = &raised.hold
        {
            tracing::error!(reason = hold.reason.as_str(), "a hold begins: {}", cause(hold.reason));
        }
        Ok(raised)
    }

    /// The hold in force.
    pub async fn hold(&self) -> Result<Option<Hold>, BrokerError> {
        let hold = self.store().find_hold().await?;
        self.see(hold.as_ref());
        Ok(hold)
    }

    /// Begins a hold for an operator; one that is in force stays as it is. Answers with the one in force.
    pub async fn begin_hold(&self, actor: &Actor, note: Option<&str>) -> Result<Hold, BrokerError> {
        if let Some(note) = note
            && (note.is_empty() || note.len() > NOTE_MAX || note.chars().any(char::is_control))
        {
            let message = format!("has 1 to {NOTE_MAX} bytes and no control characters");
            return Err(BrokerError::Invalid(vec![Fault::new("reason", message)]));
        }
        let hold = Hold { reason: HoldReason::Operator, note: note.map(ToOwned::to_owned), since: self.now() };
        let event = |space: &SpaceId, hold: &Hold| self.hold_event(space, Action::HoldBegun, actor.clone(), hold);
        if self.store().begin_hold(&hold, &event).await? {
            tracing::warn!("a hold begins: {}", cause(hold.reason));
        }
        Ok(self.hold().await?.unwrap_or(hold))
    }

    /// Ends the hold; `None` if none is in force. What waited is due at once.
    pub async fn release_hold(&self, actor: &Actor) -> Result<Option<Hold>, BrokerError> {
        let event = |space: &SpaceId, hold: &Hold| self.hold_event(space, Action::HoldReleased, actor.clone(), hold);
        let released = self.store().release_hold(self.now(), &event).await?;
        self.hold().await?;
        if released.is_some() {
            tracing::warn!("the hold is over: what waited for it is refreshed and revoked now");
        }
        Ok(released)
    }

    /// The hold in force, and what waits for its end, or would wait if one began now.
    pub async fn hold_report(&self) -> Result<HoldReport, BrokerError> {
        let hold = self.hold().await?;
        let mut by_class: BTreeMap<(u8, &'static str), ClassLoad> = BTreeMap::new();
        for load in self.store().refresh_load(self.now()).await? {
            let Some(connector) = self.store().find_connector_any(load.connector_id).await? else { continue };
            let class = match self.provider().facts(&connector).await {
                Ok(facts) => Some(class_of(&connector, &facts)),
                Err(_) => None,
            };
            let about = about(class);
            let all = by_class.entry((about.rank, about.letter)).or_insert(ClassLoad {
                class: about.letter,
                waits: !class.is_some_and(RotationClass::repeats_freely),
                connections: 0,
                due: 0,
                meaning: about.meaning,
            });
            all.connections += load.connections;
            all.due += load.due;
        }
        let counts = self.store().revocation_counts().await?;
        let queued = counts.iter().filter(|(state, _)| *state == RevocationState::Queued).map(|(_, count)| count);
        Ok(HoldReport { hold, classes: by_class.into_values().collect(), revocations: queued.sum() })
    }

    /// Whether this process believes a hold to be in force.
    pub(crate) fn seems_held(&self) -> bool {
        self.inner.hold.is_set()
    }

    /// The hold that keeps this connector's refreshes back.
    pub(crate) async fn hold_of(&self, connector: &Connector) -> Result<Option<Hold>, BrokerError> {
        let Some(hold) = self.hold().await? else { return Ok(None) };
        let goes_on =
            self.provider().facts(connector).await.is_ok_and(|facts| refreshes_despite_hold(connector, &facts));
        Ok((!goes_on).then_some(hold))
    }

    /// Puts a refresh off that a hold keeps back.
    pub(crate) async fn held_back(
        &self,
        connection: &Connection,
        connector: &Connector,
        facts: &ProviderFacts,
    ) -> Result<Option<RefreshEnd>, BrokerError> {
        if !self.seems_held() {
            return Ok(None);
        }
        self.held_back_surely(connection, connector, facts).await
    }

    /// The same where the database refused to record an attempt, so that this process may not know of the hold yet.
    pub(crate) async fn held_back_surely(
        &self,
        connection: &Connection,
        connector: &Connector,
        facts: &ProviderFacts,
    ) -> Result<Option<RefreshEnd>, BrokerError> {
        if refreshes_despite_hold(connector, facts) || self.hold().await?.is_none() {
            return Ok(None);
        }
        let again = self.now().plus(PAUSE.mul_f64(0.8 + 0.4 * self.entropy().fraction()));
        let again = connection.refresh_due_at.map_or(again, |due| due.max(again));
        self.store().move_due(connection.id, Some(again)).await?;
        Ok(Some(RefreshEnd::Held))
    }

    fn see(&self, hold: Option<&Hold>) {
        self.inner.hold.0.store(hold.is_some(), Ordering::Relaxed);
        self.inner.metrics.hold_is(hold.is_some());
    }

    fn hold_event(&self, space: &SpaceId, action: Action, actor: Actor, hold: &Hold) -> AuditEvent {
        let mut event = self.event(space, actor, action, Subject::default());
        event.detail = match action {
            Action::HoldReleased => json!({ "reason": hold.reason, "since": hold.since }),
            _ => json!({ "reason": hold.reason }),
        };
        if let Some(note) = &hold.note {
            event.detail["note"] = json!(note);
        }
        event
    }
}

/// Whether presenting what this connector holds twice harms nothing.
pub(crate) fn refreshes_despite_hold(connector: &Connector, facts: &ProviderFacts) -> bool {
    class_of(connector, facts).repeats_freely()
}

/// The class in force. Client credentials present nothing that could be spent.
fn class_of(connector: &Connector, facts: &ProviderFacts) -> RotationClass {
    match connector.grant {
        Grant::ClientCredentials => RotationClass::NonRotating,
        Grant::AuthorizationCode => facts.rotation,
    }
}

struct About {
    rank: u8,
    letter: &'static str,
    meaning: &'static str,
}

fn about(class: Option<RotationClass>) -> About {
    let Some(class) = class else {
        let meaning = "the provider cannot be asked now: take it for W";
        return About { rank: 5, letter: "?", meaning };
    };
    let (rank, meaning) = match class {
        RotationClass::NonRotating => (0, "refresh tokens do not change: refreshed during a hold too"),
        RotationClass::Soft => (1, "old refresh tokens stay valid: refreshed during a hold too"),
        RotationClass::Grace { .. } => (
            2,
            "an old refresh token is good for a short grace only: what another copy refreshed before that needs its owner again",
        ),
        RotationClass::Strict => (
            3,
            "a spent refresh token ends its grant: what another copy refreshed needs its owner again, here and there",
        ),
        RotationClass::StrictWide => (
            4,
            "a spent refresh token ends its grant and others of the same user: what another copy refreshed is lost with them",
        ),
    };
    About { rank, letter: class.letter(), meaning }
}

fn cause(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::BehindWitness => {
            "the database is older than the one that its witness saw, as if it had been restored; look at `valetkey \
             release-hold`"
        }
        HoldReason::ForeignWitness => {
            "the witness saw another instance than this database; look at `valetkey release-hold`"
        }
        HoldReason::UnreadableWitness => "the witness cannot be read; look at `valetkey release-hold`",
        HoldReason::Operator => "an operator asked for it",
    }
}

/// How long a caller is asked to wait for an operator.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_and_every_reason_has_its_text_and_letters_are_not_shared() {
        let classes = [
            Some(RotationClass::NonRotating),
            Some(RotationClass::Soft),
            Some(RotationClass::Grace { seconds: 60 }),
            Some(RotationClass::Strict),
            Some(RotationClass::StrictWide),
            None,
        ];
        let letters: Vec<_> = classes.map(|class| about(class).letter).to_vec();
        assert_eq!(letters, ["N", "S", "G", "X", "W", "?"]);
        for reason in HoldReason::ALL {
            assert!(!cause(*reason).is_empty());
        }
    }
}
