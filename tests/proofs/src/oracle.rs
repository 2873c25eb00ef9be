//! What the broker stored, held against what the provider wrote down.
//!
//! A grant may be lost in two ways only (DESIGN.md, sections 6.7 and 6.8): the provider committed an answer that no process
//! could store, in a class that spends tokens; or a token of class W with siblings may have been sent, and is not sent
//! again. Whatever else is lost was avoidable.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use valetkey_sandbox::{Control, Event, EventKind, GrantEnd, GrantView};

use crate::{
    database::{Place, on_both},
    world::{Class, GRACE, Member},
};

/// Clocks of two processes are read a moment apart.
const SKEW_MS: i64 = 2_000;

/// A connection as the broker stored it, with the attempt of its generation.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) status: String,
    pub(crate) reauth_reason: Option<String>,
    pub(crate) generation: i64,
    pub(crate) access_fingerprint: Option<String>,
    pub(crate) expires_at: Option<i64>,
    /// The connection's own due point.
    pub(crate) refresh_due_at: Option<i64>,
    /// When somebody will look at it again.
    pub(crate) due_at: Option<i64>,
    pub(crate) attempt_state: Option<String>,
    pub(crate) attempt_fingerprint: Option<String>,
    pub(crate) next_try_at: Option<i64>,
    pub(crate) lease_until: Option<i64>,
}

/// A request of a dead broker may still lie in a socket.
const IN_SOCKETS_MS: i64 = 1_000;

/// The broker waits no longer for an answer and its storing.
const LONGEST_CALL_MS: i64 = 25_000;

const STORED: &str = "SELECT x.id, x.status, x.reauth_reason, x.generation, x.access_fingerprint, x.expires_at, \
     x.refresh_due_at, d.due_at, a.state AS attempt_state, a.fingerprint AS attempt_fingerprint, a.next_try_at, \
     a.lease_until FROM connections x LEFT JOIN due d ON d.connection_id = x.id \
     LEFT JOIN attempts a ON a.connection_id = x.id AND a.generation = x.generation";

const SENDS: &str = "SELECT connection_id, CAST(SUM(send_no) AS BIGINT) FROM attempts \
     WHERE updated_at >= $1 AND created_at >= $1 GROUP BY connection_id";

const EXPLAINED: &str =
    "SELECT DISTINCT connection_id FROM audit WHERE action = 'connection.needs_reauth' AND at >= $1";

/// Everything that the broker stored about its connections.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) connections: HashMap<String, Stored>,
}

impl Snapshot {
    /// Reads it behind the broker's back.
    pub(crate) async fn read(place: &Place) -> anyhow::Result<Self> {
        let mut beside = place.beside().await?;
        let rows: Vec<Stored> =
            on_both!(&mut beside, |connection| sqlx::query_as(STORED).fetch_all(connection).await?);
        beside.close().await?;
        Ok(Self { connections: rows.into_iter().map(|row| (row.id.clone(), row)).collect() })
    }

    pub(crate) fn of(&self, member: &Member) -> Option<&Stored> {
        self.connections.get(&member.connection.to_string())
    }
}

/// How a connection came out of a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It holds living tokens.
    Kept,
    /// Its user took it back, and the broker found out.
    TakenBack,
    /// The provider committed an answer that nobody could store.
    Unavoidable,
    /// Class W with siblings: it may have been sent, and was given up for the siblings' sake.
    Stopped,
    /// It had to survive.
    Avoidable(String),
    /// Nobody can tell what became of it.
    Unexplained(String),
}

/// What was found out about one connection.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) fate: Fate,
    /// Presentations of a refresh token that the policy forbids.
    pub(crate) second_presentations: Vec<String>,
    /// More presentations than recorded sends.
    pub(crate) unrecorded: i64,
}

/// Remembers what the ledger said, round after round.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// The life of access tokens.
    life: Duration,
    /// When each refresh token was issued.
    issued_at_ms: HashMap<String, i64>,
    /// When each was first presented.
    presented_at_ms: HashMap<String, i64>,
    /// The refresh token that came with each access token; the same as before where it does not rotate.
    pairs: HashMap<String, Option<String>>,
}

/// One round's evidence.
#[derive(Debug)]
pub(crate) struct Evidence {
    after: Snapshot,
    sends: BTreeMap<String, i64>,
    explained: BTreeSet<String>,
    events: HashMap<String, Vec<Event>>,
    kills_ms: Vec<i64>,
}

impl Evidence {
    /// How often a refresh token that rotates was presented again.
    pub(crate) fn repeated(&self, member: &Member) -> usize {
        let rotates = member.class != Class::NonRotating;
        self.events_of(member).filter(|event| rotates && event.presentation > 1).count()
    }

    fn events_of(&self, member: &Member) -> impl Iterator<Item = &Event> {
        self.events.get(&member.grant).into_iter().flatten()
    }

    /// Whether the provider committed an answer that no process could store: one died while it was under way, or a fault
    /// was shown in its place.
    fn was_unheard(&self, event: &Event, stored: &Stored) -> bool {
        let committed = event.committed.as_ref().and_then(|committed| committed.access.as_ref());
        let cut = self
            .kills_ms
            .iter()
            .any(|kill| (event.at_ms - IN_SOCKETS_MS..=event.at_ms + LONGEST_CALL_MS).contains(kill));
        committed.is_some() && committed != stored.access_fingerprint.as_ref() && (cut || event.fault.is_some())
    }
}

impl Oracle {
    /// An oracle that has seen nothing yet, for access tokens of this life.
    pub(crate) fn new(life: Duration) -> Self {
        Self { life, issued_at_ms: HashMap::new(), presented_at_ms: HashMap::new(), pairs: HashMap::new() }
    }

    /// Takes note of tokens that were imported.
    pub(crate) fn note(&mut self, member: &Member) {
        let (access, refresh) = member.imported.clone();
        self.issued_at_ms.insert(refresh.clone(), member.imported_at_ms);
        self.pairs.insert(access, Some(refresh));
    }

    /// Gathers what both sides wrote down since `since_ms`, and clears the ledger.
    pub(crate) async fn gather(
        &mut self,
        place: &Place,
        provider: &Control,
        after: Snapshot,
        since_ms: i64,
        kills_ms: Vec<i64>,
    ) -> anyhow::Result<Evidence> {
        let mut events: HashMap<String, Vec<Event>> = HashMap::new();
        for event in provider.events_where(|event| event.kind == EventKind::Token) {
            if let Some(committed) = &event.committed
                && let Some(access) = &committed.access
            {
                self.pairs.insert(access.clone(), committed.refresh.clone());
                if let Some(refresh) = &committed.refresh {
                    self.issued_at_ms.insert(refresh.clone(), event.at_ms);
                }
            }
            if let Some(presented) = &event.presented {
                self.presented_at_ms.entry(presented.clone()).or_insert(event.at_ms);
            }
            if let Some(grant) = &event.grant {
                events.entry(grant.clone()).or_default().push(event);
            }
        }
        provider.clear_ledger();
        let mut beside = place.beside().await?;
        let sends: Vec<(String, i64)> =
            on_both!(&mut beside, |connection| sqlx::query_as(SENDS).bind(since_ms).fetch_all(connection).await?);
        let explained: Vec<String> = if after.connections.values().any(|stored| stored.status != "active") {
            on_both!(&mut beside, |connection| {
                sqlx::query_scalar(EXPLAINED).bind(since_ms).fetch_all(connection).await?
            })
        } else {
            Vec::new()
        };
        beside.close().await?;
        let (sends, explained) = (sends.into_iter().collect(), explained.into_iter().collect());
        Ok(Evidence { after, sends, explained, events, kills_ms })
    }

    /// Judges one connection.
    pub(crate) fn judge(&self, member: &Member, provider: &Control, evidence: &Evidence) -> Finding {
        let second_presentations =
            evidence.events_of(member).filter_map(|event| self.forbidden(member, event)).collect();
        let sends = evidence.sends.get(&member.connection.to_string()).copied().unwrap_or(0);
        let presented = i64::try_from(evidence.events_of(member).count()).unwrap_or(i64::MAX);
        let fate = match (evidence.after.of(member), provider.grant(&member.grant)) {
            (Some(stored), Some(grant)) => self.fate(member, stored, &grant, evidence),
            _ => Fate::Unexplained("it is gone".to_owned()),
        };
        Finding { fate, second_presentations, unrecorded: (presented - sends).max(0) }
    }

    /// What the policy has against a presentation, if anything.
    fn forbidden(&self, member: &Member, event: &Event) -> Option<String> {
        let presented = event.presented.as_ref()?;
        if event.presentation < 2 {
            return None;
        }
        let since = |moment: Option<&i64>| moment.map_or(0, |moment| event.at_ms - moment);
        let age = since(self.issued_at_ms.get(presented));
        let late = age + SKEW_MS >= millis(self.life) * 9 / 10;
        let allowed = match member.class {
            Class::NonRotating | Class::Soft => true,
            Class::Grace => late || since(self.presented_at_ms.get(presented)) <= millis(GRACE) * 8 / 10 + SKEW_MS,
            Class::Strict | Class::WideAlone => late,
            Class::WideSiblings => false,
        };
        (!allowed).then(|| {
            let class = member.class.as_str();
            format!("{class} {}: presented for time {} at age {} s", member.grant, event.presentation, age / 1_000)
        })
    }

    fn fate(&self, member: &Member, stored: &Stored, grant: &GrantView, evidence: &Evidence) -> Fate {
        let taken_back = grant.ended == Some(GrantEnd::RevokedByUser);
        if stored.status == "active" {
            return match self.holds_living_tokens(stored, grant) {
                // Nobody has asked since.
                _ if taken_back => Fate::TakenBack,
                Ok(()) => Fate::Kept,
                Err(why) => Fate::Unexplained(why.to_owned()),
            };
        }
        if stored.status != "needs_reauth" {
            return Fate::Unexplained(format!("its status is {}", stored.status));
        }
        let stopped = stored.attempt_state.as_deref() == Some("stopped");
        if grant.ended == Some(GrantEnd::SiblingTokenReused) && !stopped {
            return Fate::Avoidable("killed by a sibling's spent token".to_owned());
        }
        if stored.reauth_reason.is_none() || stored.attempt_state.is_none() || !evidence.explained.contains(&stored.id)
        {
            return Fate::Unexplained("dead without reason, attempt or audit event".to_owned());
        }
        if taken_back {
            return Fate::TakenBack;
        }
        let of_this_token = evidence.events_of(member).filter(|event| event.presented == stored.attempt_fingerprint);
        let unheard = of_this_token.filter(|event| evidence.was_unheard(event, stored)).count();
        match member.class {
            Class::WideSiblings if unheard > 0 => Fate::Unavoidable,
            Class::WideSiblings if stopped => Fate::Stopped,
            Class::Strict | Class::WideAlone if unheard > 0 && !stopped => Fate::Unavoidable,
            // One lost answer has to be caught by the grace; two leases are longer than it is.
            Class::Grace if unheard > 1 => Fate::Unavoidable,
            _ => {
                let seen = |event: &Event| (event.at_ms, event.presentation, event.status, event.committed.is_some());
                let seen: Vec<_> = evidence.events_of(member).map(seen).collect();
                Fate::Avoidable(format!(
                    "{} of class {} is {} after {unheard} answers that nobody stored; presented {seen:?}, killed at {:?}",
                    member.grant,
                    member.class.as_str(),
                    stored.reauth_reason.as_deref().unwrap_or("dead"),
                    evidence.kills_ms
                ))
            }
        }
    }

    fn holds_living_tokens(&self, stored: &Stored, grant: &GrantView) -> Result<(), &'static str> {
        if !grant.alive {
            return Err("active, but the grant is dead");
        }
        let access = stored.access_fingerprint.as_ref().ok_or("active without an access token")?;
        match self.pairs.get(access).ok_or("holds tokens that the provider never issued")? {
            Some(refresh) if !grant.live_refresh.contains(refresh) => Err("active, but its refresh token is spent"),
            _ => Ok(()),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
