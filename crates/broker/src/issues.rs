//! Issue events and last uses: gathered in memory, written in groups, so that the token call writes nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use valetkey_core::{Action, Actor, AuditEvent, ConnectionId, EventId, KeyId, Subject, Timestamp};
use valetkey_store::{StoredConnection, Use};

use crate::{Broker, BrokerError};

/// A token that a key gets again and again is counted, and the count written this often.
const COUNT_INTERVAL: Duration = Duration::from_secs(60);

/// Parts of the log, each with a lock of its own: callers of different connections do not wait for each other.
const PARTS: usize = 32;

/// More counted tokens than this in one part are written and forgotten at once: memory stays bounded.
const COUNTED: usize = 200_000 / PARTS;

/// Events that are written in one transaction.
const GROUP: usize = 1_000;

/// One token in the hands of one key.
type Holding = (KeyId, ConnectionId, i64);

#[derive(Debug)]
struct Issue {
    /// Since it was last written.
    count: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    stored: Arc<StoredConnection>,
}

#[derive(Debug, Default)]
struct Gathered {
    issues: HashMap<Holding, Issue>,
    /// Not written yet: the first time that a key gets this token.
    new: Vec<Holding>,
    keys: HashMap<KeyId, Timestamp>,
    counted_at: Option<Timestamp>,
}

/// What was handed out.
#[derive(Debug)]
pub(crate) struct IssueLog {
    parts: Vec<Mutex<Gathered>>,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Batch {
    issues: Vec<(Holding, Issue)>,
    keys: HashMap<KeyId, Timestamp>,
}

impl IssueLog {
    pub(crate) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect() }
    }

    /// The part that an id belongs to: the last byte of an id is random.
    fn part(&self, id: &[u8; 16]) -> MutexGuard<'_, Gathered> {
        lock(&self.parts[usize::from(id[15]) % PARTS])
    }

    /// Notes a token that was handed out.
    pub(crate) fn note(&self, key: KeyId, stored: &Arc<StoredConnection>, now: Timestamp) {
        let connection = &stored.connection;
        let holding = (key, connection.id, connection.generation);
        let mut gathered = self.part(connection.id.as_bytes());
        if let Some(issue) = gathered.issues.get_mut(&holding) {
            if issue.count == 0 {
                issue.first_at = now;
            }
            issue.count += 1;
            issue.last_at = now;
            return;
        }
        let issue = Issue { count: 1, first_at: now, last_at: now, stored: Arc::clone(stored) };
        gathered.issues.insert(holding, issue);
        gathered.new.push(holding);
    }

    /// Notes a key that was used for something else.
    pub(crate) fn note_key(&self, key: KeyId, now: Timestamp) {
        self.part(key.as_bytes()).keys.insert(key, now);
    }

    /// Takes what is new, and once in a while the counts; tokens that nobody asked for since are forgotten.
    fn take(&self, now: Timestamp, all: bool) -> Batch {
        let mut batch = Batch::default();
        for part in &self.parts {
            lock(part).take(now, all, &mut batch);
        }
        batch
    }

    /// What could not be written is written next time.
    fn put_back(&self, batch: Batch) {
        for (holding, issue) in batch.issues {
            let mut gathered = self.part(holding.1.as_bytes());
            match gathered.issues.get_mut(&holding) {
                Some(later) => {
                    later.count += issue.count;
                    later.first_at = issue.first_at;
                }
                None => {
                    gathered.issues.insert(holding, issue);
                }
            }
            gathered.new.push(holding);
        }
    }
}

fn lock(part: &Mutex<Gathered>) -> MutexGuard<'_, Gathered> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gathered {
    fn take(&mut self, now: Timestamp, all: bool, batch: &mut Batch) {
        let since = *self.counted_at.get_or_insert(now);
        let count = all || now.since(since) >= COUNT_INTERVAL || self.issues.len() > COUNTED;
        batch.keys.extend(self.keys.drain());
        let new = std::mem::take(&mut self.new);
        if !count {
            for holding in new {
                if let Some(issue) = self.issues.get_mut(&holding) {
                    batch.issues.push((holding, taken(issue)));
                }
            }
            return;
        }
        self.counted_at = Some(now);
        let forget_all = all || self.issues.len() > COUNTED;
        self.issues.retain(|holding, issue| {
            let used = issue.count > 0;
            if used {
                batch.issues.push((*holding, taken(issue)));
            }
            used && !forget_all
        });
    }
}

/// The count so far, which starts again.
fn taken(issue: &mut Issue) -> Issue {
    let count = std::mem::take(&mut issue.count);
    Issue { count, first_at: issue.first_at, last_at: issue.last_at, stored: Arc::clone(&issue.stored) }
}

impl Broker {
    /// Writes what was handed out: within a second that a key got a token, within a minute how often. Answers with the
    /// number of events.
    pub async fn write_issues(&self) -> Result<usize, BrokerError> {
        self.write_issues_now(false).await
    }

    /// The same with all counts, at shutdown.
    pub(crate) async fn write_issues_now(&self, all: bool) -> Result<usize, BrokerError> {
        let mut batch = self.inner.issues.take(self.now(), all);
        batch.issues.retain(|(_, issue)| issue.count > 0);
        let mut written = 0;
        while !batch.issues.is_empty() {
            let group = batch.issues.split_off(batch.issues.len().saturating_sub(GROUP));
            let events: Vec<_> = group.iter().map(|((key_id, ..), issue)| self.issue_event(*key_id, issue)).collect();
            if let Err(error) = self.store().append_audit(&events).await {
                batch.issues.extend(group);
                self.inner.issues.put_back(batch);
                return Err(error.into());
            }
            written += events.len();
            let mut uses = Vec::with_capacity(group.len());
            for ((key_id, connection, _), issue) in group {
                uses.push(Use { connection, at: issue.last_at });
                let seen = batch.keys.entry(key_id).or_insert(issue.last_at);
                *seen = (*seen).max(issue.last_at);
            }
            if let Err(error) = self.store().record_uses(&uses, &[]).await {
                self.inner.issues.put_back(batch);
                return Err(error.into());
            }
        }
        self.store().record_uses(&[], &batch.keys.into_iter().collect::<Vec<_>>()).await?;
        Ok(written)
    }

    fn issue_event(&self, key_id: KeyId, issue: &Issue) -> AuditEvent {
        let connection = &issue.stored.connection;
        AuditEvent {
            id: EventId::new(issue.last_at, self.entropy()),
            space: connection.space.clone(),
            at: issue.last_at,
            actor: Actor::Key { key_id },
            action: Action::TokenIssued,
            subject: Subject {
                connector_id: Some(connection.connector_id),
                connection_id: Some(connection.id),
                flow_id: None,
                key_id: Some(key_id),
                owner: Some(connection.owner.clone()),
            },
            detail: json!({
                "count": issue.count,
                "first_at": issue.first_at,
                "generation": connection.generation,
                "fingerprint": issue.stored.fingerprint,
            }),
            request_id: None,
        }
    }
}
