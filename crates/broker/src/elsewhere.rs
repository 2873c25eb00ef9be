//! What became of an attempt: callers of this process share one look. Of an attempt that another replica holds they hear
//! by a notice, or find out by looking again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{broadcast, watch};
use valetkey_core::{Connection, ConnectionId};
use valetkey_store::{Notices, StoredConnection};

use crate::{Broker, refresh::RefreshEnd};

/// How often is looked where no notice can come.
const WITHOUT_NOTICES: Duration = Duration::from_millis(50);

/// How often is looked where one should: it is lost if the other process dies before it is sent.
const DESPITE_NOTICES: Duration = Duration::from_secs(1);

/// The pause before listening is tried again.
const RELISTEN: Duration = Duration::from_secs(1);

/// Notices that may lie unread; whoever misses some looks.
const UNREAD: usize = 1_024;

/// A connection and the generation whose attempt is over, or waited for.
type Key = (ConnectionId, i64, Attempted);

/// Who made the attempt that callers here waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Attempted {
    /// This process, and it is over.
    Here,
    /// Another replica, which may be at it still.
    Elsewhere,
}

/// The connection when its attempt was over; none if it is gone.
type Found = Option<Arc<StoredConnection>>;

/// What is heard of other replicas, and what they are to hear.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    watched: Mutex<HashMap<Key, watch::Sender<Option<Found>>>>,
    news: broadcast::Sender<ConnectionId>,
    listening: AtomicBool,
    untold: Mutex<Untold>,
}

/// Ended here and not yet announced. One statement is under way at a time and takes all that gathered meanwhile.
#[derive(Debug, Default)]
struct Untold {
    connections: Vec<ConnectionId>,
    telling: bool,
}

impl Default for Elsewhere {
    fn default() -> Self {
        Self {
            watched: Mutex::default(),
            news: broadcast::Sender::new(UNREAD),
            listening: AtomicBool::new(false),
            untold: Mutex::default(),
        }
    }
}

impl Broker {
    /// Tells other replicas that an attempt ended here. Returns at once.
    pub(crate) fn announce(&self, connection: ConnectionId, end: RefreshEnd) {
        if !self.store().is_shared() || matches!(end, RefreshEnd::Busy | RefreshEnd::Nothing) {
            return;
        }
        let mut untold = self.inner.elsewhere.untold.lock().unwrap_or_else(PoisonError::into_inner);
        untold.connections.push(connection);
        if !untold.telling {
            untold.telling = true;
            let broker = self.clone();
            self.inner.tasks.spawn(async move { broker.tell().await });
        }
    }

    async fn tell(&self) {
        loop {
            let connections = {
                let mut untold = self.inner.elsewhere.untold.lock().unwrap_or_else(PoisonError::into_inner);
                if untold.connections.is_empty() {
                    untold.telling = false;
                    return;
                }
                std::mem::take(&mut untold.connections)
            };
            if let Err(error) = self.store().announce(&connections).await {
                // Whoever waits looks for itself.
                tracing::debug!(error = &error as &dyn std::error::Error, "other replicas could not be told");
            }
        }
    }

    /// Hears what other replicas tell, until it is dropped. Ends at once where there are none.
    pub async fn hear(&self) {
        while self.store().is_shared() {
            match self.store().listen().await {
                Ok(Some(notices)) => self.hear_from(notices).await,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "notices cannot be heard");
                }
            }
            tokio::time::sleep(RELISTEN).await;
        }
    }

    async fn hear_from(&self, mut notices: Notices) {
        let _listening = Listening::begin(&self.inner.elsewhere.listening);
        while let Some(connection) = notices.next().await {
            // Nobody may be waiting.
            let _ = self.inner.elsewhere.news.send(connection);
        }
        tracing::warn!("notices of other replicas stopped: waiting callers look for themselves until they come again");
    }

    /// Waits until no other replica is at this generation any more, and gives the connection as it is then; `None` if
    /// that could not be read. All who wait here share one look: each of them began before it, so none sees a state that
    /// was over when it asked.
    pub(crate) async fn found_after(&self, connection: &Connection, attempted: Attempted) -> Option<Found> {
        let mut watching = self.watch((connection.id, connection.generation, attempted));
        let found = watching.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }

    fn watch(&self, key: Key) -> watch::Receiver<Option<Found>> {
        let mut watched = self.inner.elsewhere.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&key) {
            return sender.subscribe();
        }
        let (sender, watching) = watch::channel(None);
        watched.insert(key, sender.clone());
        let broker = self.clone();
        self.inner.tasks.spawn(async move { broker.look_until_over(key, &sender).await });
        watching
    }

    async fn look_until_over(&self, key: Key, sender: &watch::Sender<Option<Found>>) {
        let elsewhere = &self.inner.elsewhere;
        // Before the first look, so that no notice falls in between.
        let mut news = elsewhere.news.subscribe();
        loop {
            match self.look(key).await {
                Ok(None) => {}
                found => {
                    elsewhere.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                    // After a failure each of them looks for itself, and fails as itself.
                    if let Ok(found) = found {
                        sender.send_replace(found);
                    }
                    return;
                }
            }
            let pause = if elsewhere.listening.load(Ordering::Relaxed) { DESPITE_NOTICES } else { WITHOUT_NOTICES };
            tokio::select! {
                () = news_of(&mut news, key.0) => {}
                () = tokio::time::sleep(pause) => {}
                () = sender.closed() => {
                    let mut watched = elsewhere.watched.lock().unwrap_or_else(PoisonError::into_inner);
                    if sender.is_closed() {
                        watched.remove(&key);
                        return;
                    }
                }
            }
        }
    }

    /// The connection if its attempt is over, none if it is not.
    async fn look(&self, (id, generation, attempted): Key) -> Result<Option<Found>, crate::BrokerError> {
        let found = self.reread(id).await?;
        let moved = found.as_ref().is_none_or(|stored| {
            stored.connection.generation != generation || stored.connection.status != valetkey_core::Status::Active
        });
        if moved || attempted == Attempted::Here {
            return Ok(Some(found));
        }
        if self.is_in_flight(id, generation).await? {
            return Ok(None);
        }
        // What settled between the two is seen now.
        Ok(Some(self.reread(id).await?))
    }
}

/// Ends with the next notice of this connection, or when some were missed.
async fn news_of(news: &mut broadcast::Receiver<ConnectionId>, connection: ConnectionId) {
    while news.recv().await.is_ok_and(|told| told != connection) {}
}

/// True for as long as it lives, also where its task is dropped.
struct Listening<'a>(&'a AtomicBool);

impl<'a> Listening<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
