//! Group commit: writes of many connections share transactions, each durable before its caller goes on.
//!
//! Whoever submits a write while no writer runs starts one; it takes what waits into one transaction, and again, until
//! nothing waits. Under load groups grow by themselves, because what comes during a commit waits for the next. A group
//! holds one write for each connection, and no two groups under way hold the same one: the writes of one connection
//! happen in the order in which they came.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use valetkey_core::ConnectionId;

use crate::{
    Engine, StoreError, TokenStore,
    group_rows::{Write, Written, apply},
};

/// The most writes in one transaction.
const GROUP: usize = 128;

/// Transactions at once on PostgreSQL; SQLite has one writer.
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
        while let Some(group) = self.committer.take(&mut turn.connections) {
            self.write_group(group).await;
        }
        turn.over = true;
    }

    async fn write_group(&self, group: Vec<Waiting>) {
        let writes: Vec<&Write> = group.iter().map(|waiting| &waiting.write).collect();
        match self.write_together(&writes).await {
            Ok(written) => {
                for waiting in &group {
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
            self.cache.forget_connection(waiting.connection);
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
        let mut tx = self.db.begin_write().await?;
        let written = apply(&mut tx, writes).await?;
        tx.commit().await?;
        Ok(written)
    }
}
