//! Flights: refreshes under way in this process, so that a thousand callers share one.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;
use valetkey_core::{Connection, ConnectionId, Trigger};

use crate::{Broker, refresh::RefreshEnd};

/// A connection and the generation that a refresh replaces.
type FlightKey = (ConnectionId, i64);

/// How a refresh ended, once it has.
type Landing = watch::Receiver<Option<RefreshEnd>>;

/// Refreshes under way in this process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<FlightKey, Landing>>,
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
        let key = (connection.id, connection.generation);
        let mut under_way = self.inner.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = under_way.get(&key) {
            return Flight { landing: landing.clone() };
        }
        let (announce, landing) = watch::channel(None);
        under_way.insert(key, landing.clone());
        let broker = self.clone();
        self.inner.tasks.spawn(async move {
            let _clear = Clear { broker: &broker, key };
            let end = broker.refresh_logged(key.0, key.1, trigger).await;
            announce.send_replace(Some(end));
        });
        Flight { landing }
    }
}

/// Takes the flight off the list, even if its task panics.
struct Clear<'a> {
    broker: &'a Broker,
    key: FlightKey,
}

impl Drop for Clear<'_> {
    fn drop(&mut self) {
        self.broker.inner.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
