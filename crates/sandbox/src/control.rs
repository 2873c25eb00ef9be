//! The handle by which a test scripts and reads the sandbox from inside the same process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::ClientSettings;
use crate::fault::FaultRule;
use crate::grants::{GrantId, grant_name, parse_grant_name};
use crate::ledger::{Counters, Event, EventKind};
use crate::settings::SandboxSettings;
use crate::state::{Shared, State};
use crate::token::digest;
use crate::view::{GrantEnd, GrantView, Outage, SeededGrant};

/// How long the waits of a control last at most, in real time.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Scripts and reads a sandbox; clones are handles on the same one.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("base_url", &self.shared.base_url).finish_non_exhaustive()
    }
}

/// Why a control refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlError {
    /// No client has this identifier.
    UnknownClient(String),
    /// The settings do not fit their types.
    InvalidSettings(String),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownClient(client_id) => write!(f, "no client {client_id:?} is registered"),
            Self::InvalidSettings(why) => write!(f, "the settings are invalid: {why}"),
        }
    }
}

impl std::error::Error for ControlError {}

/// The clock.
impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The sandbox's now, in milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.shared.clock.now_ms()
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
    }

    /// Sets the clock; unless it is frozen it goes on from there.
    pub fn set_now_ms(&self, now_ms: i64) {
        self.shared.clock.set_now_ms(now_ms);
    }
}

/// Settings and clients.
impl Control {
    /// The settings in force; `clients` is empty here, see [`Control::clients`].
    pub fn settings(&self) -> SandboxSettings {
        self.shared.lock().settings.clone()
    }

    /// Changes the settings; those read at start only, and `clients`, have no effect.
    pub fn update_settings(&self, change: impl FnOnce(&mut SandboxSettings)) {
        let state = &mut *self.shared.lock();
        change(&mut state.settings);
        state.settings.clients.clear();
        state.ledger.set_keep(state.settings.ledger);
    }

    /// All registered clients by identifier.
    pub fn clients(&self) -> Vec<ClientSettings> {
        let mut clients: Vec<_> = self.shared.lock().clients.values().map(|client| (**client).clone()).collect();
        clients.sort_by(|one, other| one.client_id.cmp(&other.client_id));
        clients
    }

    /// One registered client.
    pub fn client(&self, client_id: &str) -> Option<ClientSettings> {
        self.shared.lock().client(client_id).map(|client| (*client).clone())
    }

    /// Registers a client, or replaces its registration.
    pub fn put_client(&self, client: ClientSettings) {
        self.shared.lock().clients.insert(client.client_id.clone(), Arc::new(client));
    }

    /// Changes a registered client; its identifier stays.
    pub fn update_client(&self, client_id: &str, change: impl FnOnce(&mut ClientSettings)) -> Result<(), ControlError> {
        let state = &mut *self.shared.lock();
        let client = find_client(state, client_id)?;
        let mut changed = (*client).clone();
        change(&mut changed);
        client_id.clone_into(&mut changed.client_id);
        state.clients.insert(client_id.to_owned(), Arc::new(changed));
        Ok(())
    }

    /// Forgets a client; its grants stay in the books.
    pub fn remove_client(&self, client_id: &str) -> bool {
        self.shared.lock().clients.remove(client_id).is_some()
    }
}

/// Faults.
impl Control {
    /// Scripts a fault behind those that are still to happen, and closes the gates that it names.
    pub fn inject(&self, rule: FaultRule) {
        let state = &mut *self.shared.lock();
        for gate in state.faults.push(rule) {
            self.shared.gates.close(&gate);
        }
    }

    /// The faults that are still to happen.
    pub fn pending_faults(&self) -> Vec<FaultRule> {
        self.shared.lock().faults.pending()
    }

    /// Forgets the faults that are still to happen; requests that are held stay held.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Opens a gate for all who wait there and all who come, until a new rule names it.
    pub fn release(&self, gate: &str) {
        self.shared.gates.release(gate);
    }

    /// Waits until a request stands at the gate; false after 30 seconds without.
    #[must_use = "false means that no request came"]
    pub async fn wait_until_held(&self, gate: &str) -> bool {
        self.wait_until_held_count(gate, 1, LONGEST_WAIT).await
    }

    /// Waits until so many requests stand at the gate at once; false after `limit`.
    #[must_use = "false means that too few requests came"]
    pub async fn wait_until_held_count(&self, gate: &str, count: usize, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.shared.gates.wait_until_held(gate, count)).await.is_ok()
    }

    /// Puts the whole provider out of order, or in order again. The control stays reachable.
    pub fn set_outage(&self, outage: Outage) {
        self.shared.lock().outage = outage;
    }

    /// Answers 503 to everything, or works again.
    pub fn set_down(&self, down: bool) {
        self.set_outage(if down { Outage::Unavailable } else { Outage::None });
    }

    /// How far the provider is out of order.
    pub fn outage(&self) -> Outage {
        self.shared.lock().outage
    }
}

/// The ledger.
impl Control {
    /// All events in the order of their arrival.
    pub fn events(&self) -> Vec<Event> {
        self.events_where(|_| true)
    }

    /// The events that satisfy a condition.
    pub fn events_where(&self, condition: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.shared.lock().ledger.iter().filter(|event| condition(event)).cloned().collect()
    }

    /// All token requests.
    pub fn token_requests(&self) -> Vec<Event> {
        self.events_where(|event| event.kind == EventKind::Token)
    }

    /// The refreshes of one grant.
    pub fn refreshes_for(&self, grant: &str) -> Vec<Event> {
        self.events_where(|event| {
            event.kind == EventKind::Token
                && event.grant.as_deref() == Some(grant)
                && event.grant_type.as_deref() == Some("refresh_token")
        })
    }

    /// The presentations of a refresh token after its first; in a class that does not rotate these are plain refreshes.
    pub fn second_presentations(&self) -> Vec<Event> {
        self.events_where(|event| event.kind == EventKind::Token && event.presentation > 1)
    }

    /// All revocation requests.
    pub fn revocations(&self) -> Vec<Event> {
        self.events_where(|event| event.kind == EventKind::Revoke)
    }

    /// All authorization requests and decisions.
    pub fn authorizations(&self) -> Vec<Event> {
        self.events_where(|event| event.kind == EventKind::Authorize)
    }

    /// Counters, which are kept even when the ledger is off.
    pub fn counters(&self) -> Counters {
        self.shared.lock().ledger.counters
    }

    /// Forgets all events and counters; grants, tokens and presentations stay.
    pub fn clear_ledger(&self) {
        self.shared.lock().ledger.clear();
        self.shared.token_requests.send_replace(0);
    }

    /// Waits until so many token requests have arrived since start or clearing; false after 30 seconds.
    #[must_use = "false means that too few requests came"]
    pub async fn wait_for_token_requests(&self, count: u64) -> bool {
        self.wait_for_token_requests_within(count, LONGEST_WAIT).await
    }

    pub(crate) async fn wait_for_token_requests_within(&self, count: u64, limit: Duration) -> bool {
        let mut arrived = self.shared.token_requests.subscribe();
        tokio::time::timeout(limit, arrived.wait_for(|arrived| *arrived >= count)).await.is_ok()
    }
}

/// Grants and tokens.
impl Control {
    /// All grants, oldest first.
    pub fn grants(&self) -> Vec<GrantView> {
        self.grants_from(0, usize::MAX)
    }

    /// So many grants from this number on, oldest first.
    pub fn grants_from(&self, first: usize, limit: usize) -> Vec<GrantView> {
        let state = &*self.shared.lock();
        let now_ms = self.shared.clock.now_ms();
        let ids = (first..state.grants.len()).take(limit);
        ids.filter_map(|id| state.grants.view(id, now_ms)).collect()
    }

    /// The grants of one client and user, oldest first.
    pub fn grants_of(&self, client_id: &str, user: &str) -> Vec<GrantView> {
        let state = &*self.shared.lock();
        let now_ms = self.shared.clock.now_ms();
        let ids = state.grants.find_by_owner(client_id, user);
        ids.into_iter().filter_map(|id| state.grants.view(id, now_ms)).collect()
    }

    /// One grant by name.
    pub fn grant(&self, grant: &str) -> Option<GrantView> {
        self.shared.lock().grants.view(parse_grant_name(grant)?, self.shared.clock.now_ms())
    }

    /// The grant that a refresh or access token belongs to, dead or alive.
    pub fn grant_of_token(&self, token: &str) -> Option<GrantView> {
        let state = &*self.shared.lock();
        state.grants.view(state.grants.grant_of(token)?, self.shared.clock.now_ms())
    }

    /// Whether the protected resource accepts this access token now.
    pub fn is_access_token_live(&self, token: &str) -> bool {
        self.shared.lock().grants.find_live_access(token, self.shared.clock.now_ms()).is_some()
    }

    /// Whether this refresh token is unspent and its grant lives.
    pub fn is_refresh_token_live(&self, token: &str) -> bool {
        self.shared.lock().grants.refresh_is_live(&digest(token), self.shared.clock.now_ms())
    }

    /// Makes a living grant without a browser.
    pub fn seed_grant(&self, client_id: &str, user: &str, scopes: &[&str]) -> Result<SeededGrant, ControlError> {
        let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let state = &mut *self.shared.lock();
        let client = find_client(state, client_id)?;
        Ok(seed(state, &client, user, &scopes, self.shared.clock.now_ms()))
    }

    /// Makes one living grant per user, for as many users as there are.
    pub fn seed_grants(
        &self,
        client_id: &str,
        users: impl IntoIterator<Item = String>,
        scopes: &[&str],
    ) -> Result<Vec<SeededGrant>, ControlError> {
        let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let state = &mut *self.shared.lock();
        let client = find_client(state, client_id)?;
        let now_ms = self.shared.clock.now_ms();
        Ok(users.into_iter().map(|user| seed(state, &client, &user, &scopes, now_ms)).collect())
    }

    /// Ends all grants of a client and user, as when the user removes the application; answers their names.
    pub fn revoke_grants_by_user(&self, client_id: &str, user: &str) -> Vec<String> {
        let state = &mut *self.shared.lock();
        let ids = state.grants.find_by_owner(client_id, user);
        end(state, &ids)
    }

    /// Ends one grant, as when the user removes it; false if it was dead or never was.
    pub fn revoke_grant_by_user(&self, grant: &str) -> bool {
        let state = &mut *self.shared.lock();
        parse_grant_name(grant).is_some_and(|id| !end(state, &[id]).is_empty())
    }

    /// Ends one access token and nothing else, as when the resource server rejects it early.
    pub fn end_access_token(&self, token: &str) -> bool {
        self.shared.lock().grants.end_access(token)
    }
}

fn find_client(state: &State, client_id: &str) -> Result<Arc<ClientSettings>, ControlError> {
    state.client(client_id).ok_or_else(|| ControlError::UnknownClient(client_id.to_owned()))
}

fn seed(state: &mut State, client: &ClientSettings, user: &str, scopes: &[String], now_ms: i64) -> SeededGrant {
    let issued = state.grants.open(client, user, scopes.to_vec(), client.issue_refresh_token, now_ms);
    SeededGrant {
        grant: grant_name(issued.grant),
        user: user.to_owned(),
        access_token: issued.access_token,
        refresh_token: issued.refresh_token,
        expires_in: client.access_life_seconds,
        scopes: issued.scopes,
    }
}

fn end(state: &mut State, ids: &[GrantId]) -> Vec<String> {
    state.grants.end_all(ids, GrantEnd::RevokedByUser).into_iter().map(grant_name).collect()
}
