//! Group commit: writes of many connections share transactions, each durable before its caller goes on.
//!
//! Whoever submits a write while no writer runs starts one; it takes what waits into one transaction, and again, until
//! nothing waits. A lone write is taken at once. Under load groups begin some milliseconds apart, so that they grow: a
//! transaction costs far more than one more row in it, and a refresh waits for its provider much longer. A group holds one
//! write for each connection, and no two groups under way hold the same one: the writes of one connection happen in the
//! order in which they came.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use valetkey_core::ConnectionId;

use crate::{
    Engine, StoreError, TokenStore,
    group_rows::{Write, Written, apply},
};

/// The most writes in one transaction. Their statements are short enough not to keep a processor from token calls.
const GROUP: usize = 64;

/// From the beginning of one group to that of the next, unless a whole group waits.
const PACE: Duration = Duration::from_millis(5);

/// Transactions at once on PostgreSQL, where one may have to wait for another process; SQLite has one writer.
const WRITERS: usize = 2;

struct Waiting {
    connection: ConnectionId,
    write: Write,
    reply: oneshot::Sender<Result<Written, StoreError>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Connections in groups under way.
    busy: HashSet<ConnectionId>,
    writers: usize,
    /// When the last group began.
    last: Option<Instant>,
}

/// What waits to be written, and who writes.
#[derive(Default)]
pub(crate) struct Committer {
    queue: Mutex<Queue>,
}

impl Committer {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a write in line; true if the caller must start a writer.
    fn submit(&self, waiting: Waiting, most: usize) -> bool {
        let mut queue = self.queue();
        queue.waiting.push_back(waiting);
        let starts = queue.writers < most;
        queue.writers += usize::from(starts);
        starts
    }

    /// How long the next group is still to gather.
    fn pause(&self) -> Duration {
        let queue = self.queue();
        match queue.last {
            Some(last) if queue.waiting.len() < GROUP => PACE.saturating_sub(last.elapsed()),
            _ => Duration::ZERO,
        }
    }

    /// The next group. `None`: there is nothing that this writer could take, and it counts no longer.
    fn take(&self, before: &mut Vec<ConnectionId>) -> Option<Vec<Waiting>> {
        let mut queue = self.queue();
        for connection in before.drain(..) {
            queue.busy.remove(&connection);
        }
        let mut group = Vec::new();
        let mut passed = VecDeque::new();
        while group.len() < GROUP
            && let Some(waiting) = queue.waiting.pop_front()
        {
            if queue.busy.insert(waiting.connection) {
                before.push(waiting.connection);
                group.push(waiting);
            } else {
                passed.push_back(waiting);
            }
        }
        passed.append(&mut queue.waiting);
        queue.waiting = passed;
        if group.is_empty() {
            // What was passed over belongs to connections in another writer's group; that writer comes back for it.
            queue.writers -= 1;
            return None;
        }
        queue.last = Some(Instant::now());
        Some(group)
    }
}

/// Gives everything back if a writer panics.
struct Turn<'a> {
    committer: &'a Committer,
    connections: Vec<ConnectionId>,
    over: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over {
            let mut queue = self.committer.queue();
            for connection in self.connections.drain(..) {
                queue.busy.remove(&connection);
            }
            queue.writers -= 1;
        }
    }
}

impl TokenStore {
    /// Writes, and returns once the transaction is committed that this write shared with others. It is written whether
    /// the caller waits or not.
    pub(crate) async fn commit_shared(&self, connection: ConnectionId, write: Write) -> Result<Written, StoreError> {
        let (reply, answer) = oneshot::channel();
        let most = match self.engine() {
            Engine::Sqlite => 1,
            Engine::Postgres => WRITERS,
        };
        if self.committer.submit(Waiting { connection, write, reply }, most) {
            let store = self.clone();
            tokio::spawn(async move { store.write_groups().await });
        }
        answer.await.unwrap_or(Err(StoreError::Database(sqlx::Error::WorkerCrashed)))
    }

    async fn write_groups(&self) {
        let mut turn = Turn { committer: &self.committer, connections: Vec::new(), over: false };
        loop {
            let pause = self.committer.pause();
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let Some(group) = self.committer.take(&mut turn.connections) else { break };
            self.write_group(group).await;
        }
        turn.over = true;
    }

    async fn write_group(&self, group: Vec<Waiting>) {
        let writes: Vec<&Write> = group.iter().map(|waiting| &waiting.write).collect();
        match self.write_together(&writes).await {
            Ok(written) => {
                for waiting in group.iter().filter(|waiting| waiting.write.changes_connection()) {
                    self.cache.forget_connection(waiting.connection);
                }
                for (waiting, written) in group.into_iter().zip(written) {
                    // A caller that went away needs no answer.
                    drop(waiting.reply.send(Ok(written)));
                }
            }
            Err(error) if group.len() == 1 || error.is_unavailable() => {
                let error = Arc::new(error);
                for waiting in group {
                    drop(waiting.reply.send(Err(StoreError::Shared(Arc::clone(&error)))));
                }
            }
            Err(error) => {
                tracing::warn!(
                    writes = group.len(),
                    error = &error as &dyn std::error::Error,
                    "a shared commit failed; its writes are tried one by one"
                );
                self.write_singly(group).await;
            }
        }
    }

    /// One write that cannot be, or a deadlock, must not fail the others.
    async fn write_singly(&self, group: Vec<Waiting>) {
        let mut gone: Option<Arc<StoreError>> = None;
        for waiting in group {
            if let Some(error) = &gone {
                drop(waiting.reply.send(Err(StoreError::Shared(Arc::clone(error)))));
                continue;
            }
            let written = self.write_together(&[&waiting.write]).await.map(|mut written| written.swap_remove(0));
            if waiting.write.changes_connection() {
                self.cache.forget_connection(waiting.connection);
            }
            let written = written.map_err(|error| {
                let unavailable = error.is_unavailable();
                let error = Arc::new(error);
                // Each of the others would wait in vain, one after the other.
                gone = unavailable.then(|| Arc::clone(&error));
                StoreError::Shared(error)
            });
            drop(waiting.reply.send(written));
        }
    }

    async fn write_together(&self, writes: &[&Write]) -> Result<Vec<Written>, StoreError> {
        let mut tx = self.db.begin_by_key().await?;
        let written = apply(&mut tx, writes).await?;
        tx.commit().await?;
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valetkey_core::{SystemEntropy, Timestamp};

    use crate::group_rows::DueRow;

    /// Puts writes of so many connections in line.
    fn submit(committer: &Committer, count: usize) {
        for _ in 0..count {
            let connection = ConnectionId::new(Timestamp::from_millis(0), &SystemEntropy);
            let write = Write::MoveDue(DueRow::of(connection, None));
            let _ = committer.submit(Waiting { connection, write, reply: oneshot::channel().0 }, 1);
        }
    }

    #[test]
    fn a_lone_write_is_taken_at_once_and_the_next_ones_gather() {
        let committer = Committer::default();
        submit(&committer, 1);
        assert_eq!(committer.pause(), Duration::ZERO);
        let mut taken = Vec::new();
        assert_eq!(committer.take(&mut taken).map(|group| group.len()), Some(1));
        submit(&committer, GROUP - 1);
        let pause = committer.pause();
        assert!(!pause.is_zero() && pause <= PACE, "{pause:?}");
        submit(&committer, 1);
        assert_eq!(committer.pause(), Duration::ZERO, "a whole group waits for nothing");
    }

    #[test]
    fn a_group_that_began_long_ago_makes_nobody_wait() {
        let committer = Committer::default();
        submit(&committer, 1);
        let _ = committer.take(&mut Vec::new());
        committer.queue().last = Instant::now().checked_sub(PACE);
        submit(&committer, 1);
        assert_eq!(committer.pause(), Duration::ZERO);
    }
}
