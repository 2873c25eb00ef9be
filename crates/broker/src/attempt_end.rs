//! What an operator hears of each attempt: one line of the log, which the provider's log can be joined with, and numbers
//! by class of outcome.

use std::time::Duration;

use valetkey_core::{Connection, Fingerprint, Trigger};
use valetkey_providers::TokenOutcome;
use valetkey_store::HeldAttempt;

use crate::Broker;

/// Every class of outcome: the rows of the outcome table, and attempts whose process died.
pub(crate) const CLASSES: [&str; 9] =
    ["settled", "unusable", "not_sent", "limited", "unknown", "dead", "client", "refused", "abandoned"];

/// The class of an outcome.
pub(crate) fn class_of(outcome: &TokenOutcome) -> &'static str {
    match outcome {
        TokenOutcome::Granted(_) => "settled",
        TokenOutcome::GrantedButUnusable { .. } => "unusable",
        TokenOutcome::NotSent(_) => "not_sent",
        TokenOutcome::Limited { .. } => "limited",
        TokenOutcome::Unknown { .. } => "unknown",
        TokenOutcome::Dead { .. } => "dead",
        TokenOutcome::Client { .. } => "client",
        TokenOutcome::Refused { .. } => "refused",
    }
}

/// How one send of an attempt ended.
#[derive(Debug)]
pub(crate) struct AttemptEnd<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) attempt: &'a HeldAttempt,
    /// Names what was presented.
    pub(crate) fingerprint: &'a Fingerprint,
    pub(crate) trigger: Trigger,
    pub(crate) class: &'static str,
    pub(crate) code: &'static str,
    pub(crate) took: Duration,
}

impl Broker {
    /// Counts the end of an attempt and writes its line.
    pub(crate) fn tell_end(&self, end: &AttemptEnd<'_>) {
        let AttemptEnd { connection, attempt, code, .. } = end;
        self.inner.metrics.refreshed(&connection.provider, code, end.trigger, end.took);
        self.inner.metrics.attempt_ended(end.class);
        tracing::info!(
            connection.id = %connection.id,
            connector.id = %connection.connector_id,
            provider = connection.provider,
            attempt.id = %attempt.id,
            generation = connection.generation,
            send_no = attempt.send_no,
            trigger = end.trigger.as_str(),
            class = end.class,
            outcome = code,
            fingerprint = %end.fingerprint,
            took_ms = u64::try_from(end.took.as_millis()).unwrap_or(u64::MAX),
            "attempt {} for connection {} ended: {code}", attempt.id, connection.id
        );
    }
}
