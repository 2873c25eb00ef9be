//! Flights: refreshes under way in this process, so that a thousand callers share one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use valetkey_core::{Connection, ConnectionId, Trigger};
use valetkey_store::Prepared;

use crate::{Boundaries, Boundary, Broker, refresh::RefreshEnd};

/// A connection and the generation that a refresh replaces.
type FlightKey = (ConnectionId, i64);

/// How a refresh ended, once it has.
type Landing = watch::Receiver<Option<RefreshEnd>>;

/// Refreshes under way in this process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<FlightKey, Landing>>,
    boundaries: Boundaries,
}

/// One refresh that somebody waits for.
#[derive(Debug)]
pub(crate) struct Flight {
    landing: Landing,
}

impl Flight {
    /// Waits for its end.
    pub(crate) async fn landed(&mut self) -> RefreshEnd {
        match self.landing.wait_for(Option::is_some).await {
            Ok(end) => end.unwrap_or(RefreshEnd::Failed("interrupted")),
            // The task ended without a word: it was aborted at shutdown, or it panicked.
            Err(_) => RefreshEnd::Failed("interrupted"),
        }
    }
}

impl Broker {
    /// Joins the refresh of a connection as the caller read it, or starts it. It lands whether anybody waits or not.
    pub(crate) fn join_flight(&self, connection: &Connection, trigger: Trigger) -> Flight {
        self.fly((connection.id, connection.generation), trigger, None)
    }

    /// The same with everything that was read for it.
    pub(crate) fn join_prepared(&self, prepared: Box<Prepared>, trigger: Trigger) -> Flight {
        self.fly((prepared.connection.id, prepared.connection.generation), trigger, Some(prepared))
    }

    fn fly(&self, key: FlightKey, trigger: Trigger, prepared: Option<Box<Prepared>>) -> Flight {
        self.inner.flights.join(&self.inner.tasks, key, || {
            let broker = self.clone();
            async move { broker.refresh_logged(key.0, key.1, trigger, prepared).await }
        })
    }
}

impl Flights {
    /// None under way; whoever observes boundaries is told when waiters were.
    pub(crate) fn observed(boundaries: Boundaries) -> Self {
        Self { boundaries, ..Self::default() }
    }

    /// Joins what is under way, or starts it in a task of its own, which the tracker waits for at shutdown.
    fn join<F>(self: &Arc<Self>, tasks: &TaskTracker, key: FlightKey, start: impl FnOnce() -> F) -> Flight
    where
        F: Future<Output = RefreshEnd> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = under_way.get(&key) {
            return Flight { landing: landing.clone() };
        }
        let (announce, landing) = watch::channel(None);
        under_way.insert(key, landing.clone());
        let (clear, refresh) = (Clear { flights: Arc::clone(self), key }, start());
        tasks.spawn(async move {
            let end = refresh.await;
            announce.send_replace(Some(end));
            clear.flights.boundaries.reached(Boundary::AfterWaitersTold, clear.key.0);
        });
        Flight { landing }
    }
}

/// Takes the flight off the list, even if its task panics.
struct Clear {
    flights: Arc<Flights>,
    key: FlightKey,
}

impl Drop for Clear {
    fn drop(&mut self) {
        self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests;
