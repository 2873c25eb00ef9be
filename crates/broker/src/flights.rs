//! Flights: refreshes under way in this process, so that a thousand callers share one.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;
use valetkey_core::{ConnectionId, Trigger};

use crate::{Broker, refresh::RefreshEnd};

/// Refreshes under way in this process, by connection.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<ConnectionId, watch::Receiver<Option<RefreshEnd>>>>,
}

/// One refresh that somebody waits for.
#[derive(Debug)]
pub(crate) struct Flight {
    landing: watch::Receiver<Option<RefreshEnd>>,
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
    /// Joins the refresh of a connection, or starts it. It lands whether anybody waits or not.
    pub(crate) fn join_flight(&self, id: ConnectionId, trigger: Trigger) -> Flight {
        let mut under_way = self.inner.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = under_way.get(&id) {
            return Flight { landing: landing.clone() };
        }
        let (announce, landing) = watch::channel(None);
        under_way.insert(id, landing.clone());
        let broker = self.clone();
        self.inner.tasks.spawn(async move {
            let _clear = Clear { broker: &broker, id };
            let end = broker.refresh_logged(id, trigger).await;
            announce.send_replace(Some(end));
        });
        Flight { landing }
    }
}

/// Takes the flight off the list, even if its task panics.
struct Clear<'a> {
    broker: &'a Broker,
    id: ConnectionId,
}

impl Drop for Clear<'_> {
    fn drop(&mut self) {
        self.broker.inner.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
