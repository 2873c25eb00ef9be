//! Issue events and last uses: gathered in memory, written in groups, so that the token call writes nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use valetkey_core::{Action, Actor, AuditEvent, ConnectionId, EventId, Fingerprint, KeyId, Subject, Timestamp};
use valetkey_store::{StoredConnection, Use};

use crate::{Broker, BrokerError};

/// A use is written down again after this long.
const USE_INTERVAL: Duration = Duration::from_secs(60);

/// More remembered uses than this are forgotten: they are written once more, no harm done.
const REMEMBERED_USES: usize = 200_000;

#[derive(Debug)]
struct Issue {
    count: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    fingerprint: Option<Fingerprint>,
    stored: std::sync::Arc<StoredConnection>,
}

#[derive(Debug, Default)]
struct Gathered {
    issues: HashMap<(KeyId, ConnectionId, i64), Issue>,
    keys: HashMap<KeyId, Timestamp>,
}

/// What was handed out since the last writing.
#[derive(Debug)]
pub(crate) struct IssueLog {
    gathered: Mutex<Gathered>,
    written: Mutex<HashMap<ConnectionId, Timestamp>>,
}

impl IssueLog {
    pub(crate) fn new() -> Self {
        Self { gathered: Mutex::new(Gathered::default()), written: Mutex::new(HashMap::new()) }
    }

    /// Notes a token that was handed out.
    pub(crate) fn note(&self, key: KeyId, stored: &std::sync::Arc<StoredConnection>, now: Timestamp) {
        let connection = &stored.connection;
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered
            .issues
            .entry((key, connection.id, connection.generation))
            .and_modify(|issue| {
                issue.count += 1;
                issue.last_at = now;
            })
            .or_insert_with(|| Issue {
                count: 1,
                first_at: now,
                last_at: now,
                fingerprint: stored.fingerprint.clone(),
                stored: std::sync::Arc::clone(stored),
            });
    }

    /// Notes a key that was used for something else.
    pub(crate) fn note_key(&self, key: KeyId, now: Timestamp) {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).keys.insert(key, now);
    }

    fn take(&self) -> Gathered {
        std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Those uses whose last writing is long enough ago.
    fn worth_writing(&self, uses: Vec<Use>) -> Vec<Use> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() > REMEMBERED_USES {
            written.clear();
        }
        uses.into_iter()
            .filter(|each| {
                let due = written.get(&each.connection).is_none_or(|at| each.at.since(*at) >= USE_INTERVAL);
                if due {
                    written.insert(each.connection, each.at);
                }
                due
            })
            .collect()
    }
}

impl Broker {
    /// Writes what was handed out since the last time: one audit event for each key, connection and token, with a
    /// count, and the last uses. Answers with the number of events.
    pub async fn write_issues(&self) -> Result<usize, BrokerError> {
        let Gathered { issues, mut keys } = self.inner.issues.take();
        let mut uses = Vec::with_capacity(issues.len());
        let mut events = Vec::with_capacity(issues.len());
        for ((key_id, connection, _), issue) in issues {
            uses.push(Use { connection, at: issue.last_at });
            let seen = keys.entry(key_id).or_insert(issue.last_at);
            *seen = (*seen).max(issue.last_at);
            events.push(self.issue_event(key_id, &issue));
        }
        let uses = self.inner.issues.worth_writing(uses);
        let count = events.len();
        if count > 0 {
            self.store().append_audit(&events).await?;
        }
        if !uses.is_empty() || !keys.is_empty() {
            let keys: Vec<_> = keys.into_iter().collect();
            self.store().record_uses(&uses, &keys).await?;
        }
        Ok(count)
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
                "fingerprint": issue.fingerprint,
            }),
            request_id: None,
        }
    }
}
