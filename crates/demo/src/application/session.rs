//! Who is signed in. The user that the broker is told comes from here alone, never from what a page sends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use valetkey_core::{Entropy, SystemEntropy};

use super::{Backend, refusal::Refusal};

/// Someone who can be signed in. A real application would ask for more than a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    /// What the broker is told.
    pub(crate) id: &'static str,
    /// What people see.
    pub(crate) name: &'static str,
}

/// Everyone who can be signed in.
pub(crate) const USERS: [User; 2] = [User { id: "user-a", name: "User A" }, User { id: "user-b", name: "User B" }];

/// Sessions kept; more than that many browsers do not look at a demonstration.
const MOST_SESSIONS: usize = 1_000;

/// Flows remembered per session; the oldest is forgotten.
const MOST_FLOWS: usize = 100;

#[derive(Debug, Clone)]
struct Session {
    user: User,
    /// The flows that this session started. To it, no others exist.
    flows: Vec<String>,
}

/// All sessions, in memory.
#[derive(Debug)]
pub(super) struct Sessions {
    cookie: String,
    by_id: Mutex<HashMap<String, Session>>,
}

impl Sessions {
    /// Cookies do not know ports, so the name does: two demonstrations at once keep theirs apart.
    pub(super) fn new(app: &str) -> Self {
        let port = app.rsplit(':').next().unwrap_or_default();
        Self { cookie: format!("demo_session_{port}"), by_id: Mutex::default() }
    }

    /// The `Set-Cookie` of a new session, unless the browser has one already.
    pub(super) fn open(&self, headers: &HeaderMap) -> Option<String> {
        if self.find(headers).is_some() {
            return None;
        }
        let entropy: &dyn Entropy = &SystemEntropy;
        let id = data_encoding::BASE64URL_NOPAD.encode(&entropy.bytes32());
        let cookie = format!("{}={id}; Path=/; HttpOnly; SameSite=Lax", self.cookie);
        let mut sessions = self.lock();
        if sessions.len() >= MOST_SESSIONS {
            sessions.clear();
        }
        sessions.insert(id, Session { user: USERS[0], flows: Vec::new() });
        Some(cookie)
    }

    fn find(&self, headers: &HeaderMap) -> Option<(String, User)> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let id = pairs.find(|(name, _)| *name == self.cookie)?.1;
        let user = self.lock().get(id)?.user;
        Some((id.to_owned(), user))
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Session)) {
        if let Some(session) = self.lock().get_mut(id) {
            change(session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The signed-in user of a request.
#[derive(Debug)]
pub(super) struct SignedIn {
    id: String,
    pub(super) user: User,
    backend: Arc<Backend>,
}

impl SignedIn {
    /// Signs in as someone else.
    pub(super) fn become_user(&self, user: User) {
        self.backend.sessions.change(&self.id, |session| session.user = user);
    }

    /// Remembers a flow that was started here.
    pub(super) fn remember(&self, flow_id: &str) {
        self.backend.sessions.change(&self.id, |session| {
            if session.flows.len() >= MOST_FLOWS {
                session.flows.remove(0);
            }
            session.flows.push(flow_id.to_owned());
        });
    }

    /// Whether a flow was started here.
    pub(super) fn knows(&self, flow_id: &str) -> bool {
        let sessions = self.backend.sessions.lock();
        sessions.get(&self.id).is_some_and(|session| session.flows.iter().any(|known| known == flow_id))
    }
}

impl FromRequestParts<Arc<Backend>> for SignedIn {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, backend: &Arc<Backend>) -> Result<Self, Refusal> {
        let (id, user) = backend.sessions.find(&parts.headers).ok_or(Refusal::NoSession)?;
        Ok(Self { id, user, backend: Arc::clone(backend) })
    }
}

/// Only this application's own page may ask for changes: a page at another port of this machine is of the same site, so
/// that the cookie's `SameSite` does not stop it.
pub(super) async fn refuse_foreign_origin(
    State(backend): State<Arc<Backend>>,
    request: Request,
    next: Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN);
    let is_own = origin.is_some_and(|origin| origin.as_bytes() == backend.addresses.app.as_bytes());
    if request.method() != Method::GET && !is_own {
        return Refusal::ForeignOrigin.into_response();
    }
    next.run(request).await
}
