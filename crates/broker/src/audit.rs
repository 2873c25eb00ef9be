//! The audit: reading it, and the request id that its events carry.

use valetkey_core::{AuditEvent, Caller, EventId, Operation};
use valetkey_store::AuditFilter;

use crate::{Broker, BrokerError, broker::require};

tokio::task_local! {
    static REQUEST_ID: String;
}

/// Runs `future` so that the audit events it causes carry the request's id.
pub fn with_request_id<F: Future>(id: String, future: F) -> impl Future<Output = F::Output> {
    REQUEST_ID.scope(id, future)
}

/// The same for what goes on in a task of its own.
pub(crate) async fn with_this_request_id<F: Future>(id: Option<String>, future: F) -> F::Output {
    match id {
        Some(id) => with_request_id(id, future).await,
        None => future.await,
    }
}

pub(crate) fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// One page of events, newest first.
#[derive(Debug)]
pub struct AuditPage {
    /// The events.
    pub events: Vec<AuditEvent>,
    /// Where the next page begins, if there is one.
    pub next: Option<EventId>,
}

impl Broker {
    /// Reads the audit of the caller's space.
    pub async fn list_audit(
        &self,
        caller: &Caller,
        filter: &AuditFilter,
        after: Option<EventId>,
        limit: i64,
    ) -> Result<AuditPage, BrokerError> {
        require(caller, Operation::AuditRead)?;
        // A narrowed key reads about its connectors alone.
        let filter = AuditFilter { only: caller.connectors.clone(), ..filter.clone() };
        let mut events = self.store().list_audit(&caller.space, &filter, after, limit + 1).await?;
        let more = i64::try_from(events.len()).unwrap_or(i64::MAX) > limit;
        if more {
            events.pop();
        }
        let next = if more { events.last().map(|event| event.id) } else { None };
        Ok(AuditPage { events, next })
    }
}
