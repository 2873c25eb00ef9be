//! The ledger: every authorization, token and revocation request in the order of its arrival.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::settings::LedgerSettings;

/// One request as the provider saw it. Tokens appear as fingerprints only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 over all events.
    pub sequence: u64,
    /// When it arrived, by the sandbox's clock, in milliseconds since the epoch.
    pub at_ms: i64,
    /// What it asked for.
    pub kind: EventKind,
    /// The path of the request.
    pub path: String,
    /// The client that it named, even if authentication failed.
    pub client_id: Option<String>,
    /// How the client authenticated.
    pub auth_method: Option<AuthMethod>,
    /// Which of the client's secrets was used, counted from 0.
    pub secret_index: Option<usize>,
    /// The grant type of a token request.
    pub grant_type: Option<String>,
    /// The grant that the presented token belongs to, or that was made.
    pub grant: Option<String>,
    /// The user behind the grant.
    pub user: Option<String>,
    /// The scopes that were asked for.
    pub scopes: Vec<String>,
    /// Fingerprint of the presented refresh token, or of the token to revoke.
    pub presented: Option<String>,
    /// How often this refresh token has been presented so far, this time included; 0 for none.
    pub presentation: u32,
    /// Whether the presented refresh token was unspent and alive on arrival.
    pub was_current: bool,
    /// Whether processing met a spent token, forgiven or not.
    pub reuse: bool,
    /// Whether the request was processed.
    pub processed: bool,
    /// Order of processing, which a fault may make differ from the order of arrival.
    pub processed_order: Option<u64>,
    /// The status that processing led to.
    pub status: Option<u16>,
    /// The error code that processing led to.
    pub error: Option<String>,
    /// What processing changed.
    pub committed: Option<Committed>,
    /// The fault that was scripted for the request.
    pub fault: Option<String>,
    /// The status that the caller was shown; `None` while it waits, or if it never saw one.
    pub shown_status: Option<u16>,
    /// Further request parameters; none that is secret or bound to one flow.
    pub parameters: BTreeMap<String, String>,
}

/// What an event asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An authorization request, or the user's decision about it.
    Authorize,
    /// A token request.
    #[default]
    Token,
    /// A revocation request.
    Revoke,
}

/// How a client authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// HTTP Basic.
    Basic,
    /// Secret in the body.
    Body,
    /// `client_id` alone.
    None,
    /// The token itself was the credential.
    Token,
}

/// What processing a request changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Fingerprint of the access token that was issued.
    pub access: Option<String>,
    /// Fingerprint of the refresh token that was issued.
    pub refresh: Option<String>,
    /// The grants that ended.
    pub ended: Vec<String>,
}

/// Counters that are kept even when the ledger is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Authorization requests and decisions.
    pub authorizations: u64,
    /// Token requests of all kinds.
    pub token_requests: u64,
    /// Token requests with a refresh token.
    pub refresh_requests: u64,
    /// Refreshes that led to new tokens.
    pub refreshed: u64,
    /// Presentations of a refresh token after its first one.
    pub repeated_presentations: u64,
    /// Refreshes that met a spent token, forgiven or not.
    pub reuses: u64,
    /// Refreshes that were refused with a dead or unknown token.
    pub refused: u64,
    /// Revocation requests.
    pub revocations: u64,
    /// Faults that were shown.
    pub faults: u64,
    /// Calls of the protected resource.
    pub api_calls: u64,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    keep: LedgerSettings,
    events: VecDeque<Event>,
    next_sequence: u64,
    next_processed: u64,
    pub(crate) counters: Counters,
}

impl Ledger {
    pub(crate) fn new(keep: LedgerSettings) -> Self {
        Self { keep, events: VecDeque::new(), next_sequence: 1, next_processed: 1, counters: Counters::default() }
    }

    pub(crate) fn set_keep(&mut self, keep: LedgerSettings) {
        self.keep = keep;
        self.trim();
    }

    /// Whether it is worth filling in an event's details.
    pub(crate) fn is_on(&self) -> bool {
        self.keep != LedgerSettings::Off
    }

    /// Records an arrival and answers its sequence number.
    pub(crate) fn record(&mut self, mut event: Event) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        match event.kind {
            EventKind::Authorize => self.counters.authorizations += 1,
            EventKind::Revoke => self.counters.revocations += 1,
            EventKind::Token => {
                self.counters.token_requests += 1;
                if event.presentation > 1 {
                    self.counters.repeated_presentations += 1;
                }
                if event.grant_type.as_deref() == Some("refresh_token") {
                    self.counters.refresh_requests += 1;
                }
            }
        }
        if event.fault.is_some() {
            self.counters.faults += 1;
        }
        if self.is_on() {
            event.sequence = sequence;
            self.events.push_back(event);
            self.trim();
        }
        sequence
    }

    /// Fills in what processing led to.
    pub(crate) fn processed(&mut self, sequence: u64, fill: impl FnOnce(&mut Event)) {
        let order = self.next_processed;
        self.next_processed += 1;
        if let Some(event) = self.find_mut(sequence) {
            event.processed = true;
            event.processed_order = Some(order);
            fill(event);
        }
    }

    pub(crate) fn amend(&mut self, sequence: u64, change: impl FnOnce(&mut Event)) {
        if let Some(event) = self.find_mut(sequence) {
            change(event);
        }
    }

    pub(crate) fn shown(&mut self, sequence: u64, status: u16) {
        self.amend(sequence, |event| event.shown_status = Some(status));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.counters = Counters::default();
    }

    fn find_mut(&mut self, sequence: u64) -> Option<&mut Event> {
        let first = self.events.front()?.sequence;
        let index = usize::try_from(sequence.checked_sub(first)?).ok()?;
        self.events.get_mut(index)
    }

    fn trim(&mut self) {
        let limit = match self.keep {
            LedgerSettings::Full => return,
            LedgerSettings::Capped { events } => events,
            LedgerSettings::Off => 0,
        };
        while self.events.len() > limit {
            self.events.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capped_ledger_keeps_the_newest_and_still_finds_them() {
        let mut ledger = Ledger::new(LedgerSettings::Capped { events: 2 });
        let first = ledger.record(Event::default());
        ledger.record(Event::default());
        let third = ledger.record(Event::default());
        ledger.processed(first, |event| event.status = Some(200));
        ledger.processed(third, |event| event.status = Some(201));
        let seen: Vec<_> = ledger.iter().map(|event| (event.sequence, event.status)).collect();
        assert_eq!(seen, [(2, None), (3, Some(201))]);
        assert_eq!(ledger.counters.token_requests, 3);
    }
}
