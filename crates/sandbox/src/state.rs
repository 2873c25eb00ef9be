//! Everything that one sandbox shares between its requests and its controls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::authorization::Authorizations;
use crate::client::ClientSettings;
use crate::clock::SandboxClock;
use crate::connection::Connections;
use crate::fault::{Commit, Fault, FaultQueue, Request, Scripted};
use crate::gate::Gates;
use crate::grants::{GrantBook, GrantId};
use crate::ledger::{Event, EventKind, Ledger};
use crate::settings::SandboxSettings;
use crate::view::Outage;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) base_url: String,
    pub(crate) clock: SandboxClock,
    pub(crate) gates: Gates,
    pub(crate) connections: Arc<Connections>,
    pub(crate) token_requests: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: SandboxSettings,
    pub(crate) clients: HashMap<String, Arc<ClientSettings>>,
    pub(crate) grants: GrantBook,
    pub(crate) authorizations: Authorizations,
    pub(crate) client_credentials: HashMap<String, GrantId>,
    pub(crate) faults: FaultQueue,
    pub(crate) ledger: Ledger,
    pub(crate) outage: Outage,
}

impl Shared {
    pub(crate) fn new(base_url: String, mut settings: SandboxSettings, connections: Arc<Connections>) -> Self {
        let clients = std::mem::take(&mut settings.clients)
            .into_iter()
            .map(|client| (client.client_id.clone(), Arc::new(client)))
            .collect();
        Self {
            base_url,
            clock: SandboxClock::new(settings.start_at_ms, settings.frozen_clock),
            gates: Gates::default(),
            connections,
            token_requests: watch::Sender::new(0),
            state: Mutex::new(State {
                ledger: Ledger::new(settings.ledger),
                settings,
                clients,
                grants: GrantBook::default(),
                authorizations: Authorizations::default(),
                client_credentials: HashMap::new(),
                faults: FaultQueue::default(),
                outage: Outage::None,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn issuer(&self, state: &State) -> String {
        state.settings.issuer.clone().unwrap_or_else(|| self.base_url.clone())
    }

    /// Records an arrival; whoever waits for token requests is told.
    pub(crate) fn record(&self, state: &mut State, event: Event) -> u64 {
        let is_token = event.kind == EventKind::Token;
        let sequence = state.ledger.record(event);
        if is_token {
            self.token_requests.send_replace(state.ledger.counters.token_requests);
        }
        sequence
    }
}

impl State {
    pub(crate) fn client(&self, client_id: &str) -> Option<Arc<ClientSettings>> {
        self.clients.get(client_id).cloned()
    }

    /// The fault for this request: the outage if there is one, else the first rule that matches.
    pub(crate) fn take_fault(&mut self, request: &Request<'_>) -> Option<Scripted> {
        match self.outage {
            Outage::None => self.faults.take(request),
            Outage::Unavailable => {
                let fault = Fault::OAuthError { status: 503, error: "temporarily_unavailable".to_owned() };
                Some(Scripted::new(fault, Some(Commit::Never)))
            }
            Outage::Drop => Some(Scripted::new(Fault::ResetBeforeAnswer, Some(Commit::Never))),
        }
    }
}
