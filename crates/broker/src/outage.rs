//! A database that is away for a while: what is known here alone is kept until it is back, and nobody else is declared
//! dead for having been cut off as well.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use valetkey_core::ConnectionId;
use valetkey_store::StoreError;

use crate::Broker;

/// After an outage, replicas that were cut off write what they know before anybody decides for them. The job that
/// decides looks every five seconds and waits as long for the database.
const GRACE: Duration = Duration::from_secs(20);

/// The longest pause between two tries. Far less than the grace.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Tries of what the database refuses although it is there.
const REFUSED_TRIES: u32 = 12;

/// When this process last saw the database away, by its monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    seen_at: Mutex<Option<Duration>>,
}

impl Broker {
    /// Says that the database failed, if that is what the error means.
    pub(crate) fn note_outage(&self, error: &StoreError) {
        if error.may_pass() {
            let now = self.inner.parts.clock.monotonic();
            *self.inner.outage.seen_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
    }

    /// Whether the database was away a moment ago, so that an attempt without an end need not be abandoned.
    pub(crate) fn was_cut_off(&self) -> bool {
        let seen_at = *self.inner.outage.seen_at.lock().unwrap_or_else(PoisonError::into_inner);
        seen_at.is_some_and(|at| self.inner.parts.clock.monotonic().saturating_sub(at) < GRACE)
    }

    /// Writes what exists nowhere else: tries for as long as this process lives, through any outage. Shutdown waits for
    /// it as long as it waits for anything.
    pub(crate) async fn write_surely<T, F>(
        &self,
        connection: ConnectionId,
        mut write: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = Duration::from_millis(50);
        let mut tries: u32 = 0;
        loop {
            let error = match write().await {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            tries += 1;
            self.note_outage(&error);
            if !error.may_pass() && tries > REFUSED_TRIES {
                return Err(error);
            }
            if tries.is_power_of_two() {
                tracing::error!(connection.id = %connection, tries, error = &error as &dyn std::error::Error, "what the provider gave for {connection} could not be stored yet");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
