//! Authorization requests that wait for the user, and the codes that consent leads to.

use std::collections::HashMap;

use crate::grants::GrantId;
use crate::token::{Digest, digest, mint};

/// Beyond so many waiting pages, or codes, the outdated ones are dropped.
const SWEEP_ABOVE: usize = 10_000;

/// How long a consent page can be answered.
const PAGE_LIFE_MS: i64 = 3_600_000;

/// A checked authorization request.
#[derive(Debug, Clone)]
pub(crate) struct AuthorizationRequest {
    pub(crate) client_id: String,
    pub(crate) redirect_uri: String,
    /// Whether the request named the redirect URI, so that the token request must repeat it.
    pub(crate) redirect_uri_named: bool,
    pub(crate) scopes: Vec<String>,
    pub(crate) state: Option<String>,
    pub(crate) code_challenge: Option<String>,
    pub(crate) nonce: Option<String>,
}

/// A code's grant to be.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) request: AuthorizationRequest,
    pub(crate) user: String,
    pub(crate) expires_at_ms: i64,
    pub(crate) redeemed_as: Option<GrantId>,
}

#[derive(Debug, Default)]
pub(crate) struct Authorizations {
    pages: HashMap<String, (AuthorizationRequest, i64)>,
    codes: HashMap<Digest, Code>,
}

impl Authorizations {
    /// Keeps a request until its page is answered, under an unguessable name.
    pub(crate) fn put_page(&mut self, request: AuthorizationRequest, now_ms: i64) -> String {
        if self.pages.len() >= SWEEP_ABOVE {
            self.pages.retain(|_, (_, made_at_ms)| now_ms - *made_at_ms < PAGE_LIFE_MS);
        }
        let name = mint("", 0);
        self.pages.insert(name.clone(), (request, now_ms));
        name
    }

    /// Takes the request of a page, which can be answered once.
    pub(crate) fn take_page(&mut self, name: &str, now_ms: i64) -> Option<AuthorizationRequest> {
        let (request, made_at_ms) = self.pages.remove(name)?;
        (now_ms - made_at_ms < PAGE_LIFE_MS).then_some(request)
    }

    pub(crate) fn issue_code(
        &mut self,
        request: AuthorizationRequest,
        user: &str,
        now_ms: i64,
        life_seconds: u64,
    ) -> String {
        if self.codes.len() >= SWEEP_ABOVE {
            self.codes.retain(|_, code| now_ms - code.expires_at_ms < PAGE_LIFE_MS);
        }
        let value = mint("sbx_code_", 0);
        let life_ms = i64::try_from(life_seconds).unwrap_or(i64::MAX).saturating_mul(1000);
        let expires_at_ms = now_ms.saturating_add(life_ms);
        let code = Code { request, user: user.to_owned(), expires_at_ms, redeemed_as: None };
        self.codes.insert(digest(&value), code);
        value
    }

    pub(crate) fn find_code_mut(&mut self, value: &str) -> Option<&mut Code> {
        self.codes.get_mut(&digest(value))
    }
}
