//! Reading the books: who holds what, and what still lives.

use std::sync::Arc;

use super::{Grant, GrantBook, GrantId, LiveAccess, grant_name, lapsed};
use crate::token::{Digest, digest, name_of};
use crate::view::{AccessView, GrantEnd, GrantView};

impl GrantBook {
    pub(crate) fn find_by_owner(&self, client_id: &str, user: &str) -> Vec<GrantId> {
        self.by_owner.get(&(Arc::from(client_id), Arc::from(user))).cloned().unwrap_or_default()
    }

    pub(crate) fn get(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.grants.len()
    }

    pub(crate) fn is_live(&self, id: GrantId, now_ms: i64) -> bool {
        self.grants.get(id).is_some_and(|grant| grant.is_live(now_ms))
    }

    pub(crate) fn find_live_access(&self, token: &str, now_ms: i64) -> Option<LiveAccess<'_>> {
        let record = self.access_tokens.get(&digest(token))?;
        let grant = &self.grants[record.grant];
        (!record.revoked && !lapsed(record.expires_at_ms, now_ms) && grant.is_live(now_ms)).then(|| LiveAccess {
            grant_id: record.grant,
            grant,
            scopes: record.scopes.as_deref().unwrap_or(&grant.scopes),
            expires_at_ms: record.expires_at_ms,
        })
    }

    /// The grant of a refresh or access token, dead or alive.
    pub(crate) fn grant_of(&self, token: &str) -> Option<GrantId> {
        let name = digest(token);
        let of_refresh = self.refresh_tokens.get(&name).map(|record| record.grant);
        of_refresh.or_else(|| self.access_tokens.get(&name).map(|record| record.grant))
    }

    /// Ends one access token, as if the provider had forgotten it.
    pub(crate) fn end_access(&mut self, token: &str) -> bool {
        self.access_tokens.get_mut(&digest(token)).is_some_and(|record| {
            record.revoked = true;
            true
        })
    }

    pub(crate) fn refresh_is_live(&self, token: &Digest, now_ms: i64) -> bool {
        self.refresh_tokens.get(token).is_some_and(|record| {
            record.spent_at_ms.is_none()
                && !lapsed(record.expires_at_ms, now_ms)
                && self.grants[record.grant].is_live(now_ms)
        })
    }

    pub(crate) fn view(&self, id: GrantId, now_ms: i64) -> Option<GrantView> {
        let grant = self.grants.get(id)?;
        let is_over = grant.ended.is_none() && lapsed(grant.ends_at_ms, now_ms);
        let alive = grant.is_live(now_ms);
        Some(GrantView {
            id: grant_name(id),
            client_id: grant.client_id.to_string(),
            user: grant.user.to_string(),
            scopes: grant.scopes.clone(),
            alive,
            ended: if is_over { Some(GrantEnd::Lapsed) } else { grant.ended },
            created_at_ms: grant.created_at_ms,
            refresh_count: grant.refresh_count,
            current_refresh: grant.latest_refresh.as_ref().map(name_of),
            live_refresh: grant
                .refresh_tokens
                .iter()
                .filter(|token| self.refresh_is_live(token, now_ms))
                .map(name_of)
                .collect(),
            access: grant
                .access_tokens
                .iter()
                .filter_map(|token| {
                    let record = self.access_tokens.get(token)?;
                    Some(AccessView {
                        fingerprint: name_of(token),
                        live: alive && !record.revoked && !lapsed(record.expires_at_ms, now_ms),
                        expires_at_ms: record.expires_at_ms,
                    })
                })
                .collect(),
        })
    }
}
