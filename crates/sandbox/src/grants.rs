//! The provider's books: grants, their tokens, and what using or revoking a token does to them.

mod lookup;

use std::collections::HashMap;
use std::sync::Arc;

use crate::client::{ClientSettings, RevocationReach, Rotation};
use crate::token::{Digest, digest, mint};
use crate::view::GrantEnd;

/// Index of a grant; its public name is `grant-<index>`.
pub(crate) type GrantId = usize;

/// An access token list is swept of the dead when it reaches this length.
const ACCESS_TOKENS_BEFORE_SWEEP: usize = 64;

#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) client_id: Arc<str>,
    pub(crate) user: Arc<str>,
    pub(crate) scopes: Vec<String>,
    created_at_ms: i64,
    ends_at_ms: Option<i64>,
    ended: Option<GrantEnd>,
    refresh_count: u32,
    latest_refresh: Option<Digest>,
    refresh_tokens: Vec<Digest>,
    access_tokens: Vec<Digest>,
}

#[derive(Debug)]
struct RefreshToken {
    grant: GrantId,
    expires_at_ms: Option<i64>,
    last_used_at_ms: i64,
    spent_at_ms: Option<i64>,
    predecessor: Option<Digest>,
    presentations: u32,
}

#[derive(Debug)]
struct AccessToken {
    grant: GrantId,
    expires_at_ms: Option<i64>,
    revoked: bool,
    scopes: Option<Vec<String>>,
}

/// Tokens that were just made; the only place that holds their values.
pub(crate) struct Issued {
    pub(crate) grant: GrantId,
    pub(crate) access_token: String,
    pub(crate) refresh_token: Option<String>,
    /// Whether the refresh token is a new one.
    pub(crate) rotated: bool,
    pub(crate) refresh_expires_in: Option<i64>,
    pub(crate) scopes: Vec<String>,
    pub(crate) reuse: bool,
    pub(crate) ended: Vec<GrantId>,
}

/// Why a refresh was refused.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    pub(crate) reuse: bool,
    pub(crate) ended: Vec<GrantId>,
    /// The token is good, but the scopes exceed the grant's.
    pub(crate) invalid_scope: bool,
}

/// What is known about a refresh token when it arrives.
#[derive(Debug)]
pub(crate) struct Presentation {
    pub(crate) grant: GrantId,
    pub(crate) times: u32,
    pub(crate) was_current: bool,
}

/// A living access token.
#[derive(Debug)]
pub(crate) struct LiveAccess<'a> {
    pub(crate) grant_id: GrantId,
    pub(crate) grant: &'a Grant,
    pub(crate) scopes: &'a [String],
    pub(crate) expires_at_ms: Option<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct GrantBook {
    grants: Vec<Grant>,
    refresh_tokens: HashMap<Digest, RefreshToken>,
    access_tokens: HashMap<Digest, AccessToken>,
    by_owner: HashMap<(Arc<str>, Arc<str>), Vec<GrantId>>,
}

impl GrantBook {
    /// Opens a grant and issues its first tokens.
    pub(crate) fn open(
        &mut self,
        client: &ClientSettings,
        user: &str,
        scopes: Vec<String>,
        with_refresh: bool,
        now_ms: i64,
    ) -> Issued {
        let id = self.grants.len();
        let owner = (Arc::<str>::from(client.client_id.as_str()), Arc::<str>::from(user));
        self.grants.push(Grant {
            client_id: Arc::clone(&owner.0),
            user: Arc::clone(&owner.1),
            scopes: scopes.clone(),
            created_at_ms: now_ms,
            ends_at_ms: after_seconds(now_ms, client.grant_life_seconds),
            ended: None,
            refresh_count: 0,
            latest_refresh: None,
            refresh_tokens: Vec::new(),
            access_tokens: Vec::new(),
        });
        let siblings = self.by_owner.entry(owner).or_default();
        siblings.push(id);
        let ended = match client.max_live_grants {
            Some(limit) => {
                let live: Vec<_> = siblings.iter().copied().filter(|id| self.grants[*id].ended.is_none()).collect();
                let excess = live.len().saturating_sub(limit);
                self.end_all(&live[..excess], GrantEnd::Displaced)
            }
            None => Vec::new(),
        };
        let refresh_token = with_refresh.then(|| self.mint_refresh(client, id, None, now_ms));
        let access_token = self.mint_access(client, id, None, now_ms);
        Issued {
            grant: id,
            access_token,
            rotated: refresh_token.is_some(),
            refresh_expires_in: self.refresh_expires_in(refresh_token.as_deref(), now_ms),
            refresh_token,
            scopes,
            reuse: false,
            ended,
        }
    }

    /// Issues another access token for a grant without a refresh token.
    pub(crate) fn reissue_access(
        &mut self,
        client: &ClientSettings,
        id: GrantId,
        scopes: Vec<String>,
        now_ms: i64,
    ) -> Issued {
        let access_token = self.mint_access(client, id, Some(scopes.clone()), now_ms);
        Issued {
            grant: id,
            access_token,
            refresh_token: None,
            rotated: false,
            refresh_expires_in: None,
            scopes,
            reuse: false,
            ended: Vec::new(),
        }
    }

    /// Notes that a refresh token has come in, whatever becomes of the request.
    pub(crate) fn present(&mut self, token: &Digest, now_ms: i64) -> Option<Presentation> {
        let was_current = self.refresh_is_live(token, now_ms);
        let record = self.refresh_tokens.get_mut(token)?;
        record.presentations += 1;
        Some(Presentation { grant: record.grant, times: record.presentations, was_current })
    }

    /// Uses a refresh token under the client's rotation class.
    pub(crate) fn refresh(
        &mut self,
        client: &ClientSettings,
        token: &str,
        narrowed: Option<Vec<String>>,
        force_rotation: bool,
        now_ms: i64,
    ) -> Result<Issued, Refused> {
        let presented = digest(token);
        let record = self.refresh_tokens.get(&presented).ok_or_else(Refused::default)?;
        let id = record.grant;
        let spent_at_ms = record.spent_at_ms;
        let reuse = spent_at_ms.is_some();
        let grant = &self.grants[id];
        if *grant.client_id != *client.client_id || !grant.is_live(now_ms) {
            return Err(Refused { reuse, ..Refused::default() });
        }
        if let Some(spent_at_ms) = spent_at_ms {
            let ended = match client.rotation {
                Rotation::Grace { seconds } if within(spent_at_ms, seconds, now_ms) => Vec::new(),
                Rotation::StrictWide => self.end_owner(id, GrantEnd::TokenReused),
                Rotation::Strict | Rotation::Grace { .. } => self.end_all(&[id], GrantEnd::TokenReused),
                Rotation::NonRotating | Rotation::Soft | Rotation::SoftUntilSuccessorUsed => {
                    return Err(Refused { reuse, ..Refused::default() });
                }
            };
            if !ended.is_empty() {
                return Err(Refused { reuse, ended, invalid_scope: false });
            }
        }
        if record_has_lapsed(&self.refresh_tokens[&presented], client, now_ms) {
            return Err(Refused { reuse, ..Refused::default() });
        }
        let scopes = match narrowed {
            Some(asked) if asked.iter().any(|scope| !self.grants[id].scopes.contains(scope)) => {
                return Err(Refused { invalid_scope: true, reuse, ended: Vec::new() });
            }
            Some(asked) => asked,
            None => self.grants[id].scopes.clone(),
        };
        let (refresh_token, rotated) = self.rotate(client, token, presented, force_rotation, now_ms);
        if client.access_dies_on_refresh {
            for access in self.grants[id].access_tokens.drain(..) {
                self.access_tokens.remove(&access);
            }
        }
        self.grants[id].refresh_count += 1;
        let access_token = self.mint_access(client, id, Some(scopes.clone()), now_ms);
        Ok(Issued {
            grant: id,
            access_token,
            refresh_expires_in: self.refresh_expires_in(refresh_token.as_deref(), now_ms),
            refresh_token,
            rotated,
            scopes,
            reuse,
            ended: Vec::new(),
        })
    }

    /// Spends the presented token as its class says, and answers the refresh token to send.
    fn rotate(
        &mut self,
        client: &ClientSettings,
        token: &str,
        presented: Digest,
        force: bool,
        now_ms: i64,
    ) -> (Option<String>, bool) {
        let mut predecessor = None;
        if let Some(record) = self.refresh_tokens.get_mut(&presented) {
            record.last_used_at_ms = now_ms;
            if matches!(client.rotation, Rotation::Grace { .. } | Rotation::Strict | Rotation::StrictWide) {
                record.spent_at_ms.get_or_insert(now_ms);
            }
            predecessor = record.predecessor;
        }
        if client.rotation == Rotation::NonRotating && !force {
            return (client.echo_refresh_token.then(|| token.to_owned()), false);
        }
        if client.rotation == Rotation::SoftUntilSuccessorUsed {
            while let Some(record) = predecessor.and_then(|older| self.refresh_tokens.get_mut(&older)) {
                record.spent_at_ms.get_or_insert(now_ms);
                predecessor = record.predecessor;
            }
        }
        let id = self.refresh_tokens[&presented].grant;
        (Some(self.mint_refresh(client, id, Some(presented), now_ms)), true)
    }

    /// Revokes a token of this client (RFC 7009) and answers its grant and the grants that ended.
    pub(crate) fn revoke(&mut self, client: &ClientSettings, token: &str) -> Option<(GrantId, Vec<GrantId>)> {
        let presented = digest(token);
        let (id, is_refresh) = match (self.refresh_tokens.get(&presented), self.access_tokens.get(&presented)) {
            (Some(record), _) => (record.grant, true),
            (None, Some(record)) => (record.grant, false),
            (None, None) => return None,
        };
        if *self.grants[id].client_id != *client.client_id {
            return None;
        }
        let ended = match client.revocation {
            RevocationReach::UserClient => self.end_owner(id, GrantEnd::RevokedByClient),
            RevocationReach::Grant => self.end_all(&[id], GrantEnd::RevokedByClient),
            RevocationReach::RefreshEndsGrant if is_refresh => self.end_all(&[id], GrantEnd::RevokedByClient),
            RevocationReach::RefreshEndsGrant | RevocationReach::Token => {
                self.refresh_tokens.remove(&presented);
                self.access_tokens.remove(&presented);
                let grant = &mut self.grants[id];
                grant.refresh_tokens.retain(|known| *known != presented);
                grant.access_tokens.retain(|known| *known != presented);
                Vec::new()
            }
        };
        Some((id, ended))
    }

    /// Ends these grants if they still live, and answers those that it ended.
    pub(crate) fn end_all(&mut self, ids: &[GrantId], why: GrantEnd) -> Vec<GrantId> {
        let mut ended = Vec::new();
        for id in ids {
            if let Some(grant) = self.grants.get_mut(*id)
                && grant.ended.is_none()
            {
                grant.ended = Some(why);
                ended.push(*id);
            }
        }
        ended
    }

    /// Ends a grant and all others of the same client and user.
    fn end_owner(&mut self, id: GrantId, why: GrantEnd) -> Vec<GrantId> {
        let grant = &self.grants[id];
        let siblings = self.find_by_owner(&grant.client_id.clone(), &grant.user.clone());
        let mut ended = self.end_all(&[id], why);
        let of_siblings = if why == GrantEnd::TokenReused { GrantEnd::SiblingTokenReused } else { why };
        ended.extend(self.end_all(&siblings, of_siblings));
        ended
    }

    fn mint_refresh(
        &mut self,
        client: &ClientSettings,
        id: GrantId,
        predecessor: Option<Digest>,
        now_ms: i64,
    ) -> String {
        let token = mint("sbx_rt_", 0);
        let name = digest(&token);
        let own_end = after_seconds(now_ms, client.refresh_life_seconds);
        let grant = &mut self.grants[id];
        grant.latest_refresh = Some(name);
        grant.refresh_tokens.push(name);
        let expires_at_ms = [own_end, grant.ends_at_ms].into_iter().flatten().min();
        self.refresh_tokens.insert(
            name,
            RefreshToken {
                grant: id,
                expires_at_ms,
                last_used_at_ms: now_ms,
                spent_at_ms: None,
                predecessor,
                presentations: 0,
            },
        );
        token
    }

    fn mint_access(
        &mut self,
        client: &ClientSettings,
        id: GrantId,
        scopes: Option<Vec<String>>,
        now_ms: i64,
    ) -> String {
        let token = mint("sbx_at_", client.access_token_length);
        let name = digest(&token);
        let grant = &mut self.grants[id];
        if grant.access_tokens.len() >= ACCESS_TOKENS_BEFORE_SWEEP {
            let book = &mut self.access_tokens;
            grant.access_tokens.retain(|token| {
                let live =
                    book.get(token).is_some_and(|record| !record.revoked && !lapsed(record.expires_at_ms, now_ms));
                if !live {
                    book.remove(token);
                }
                live
            });
        }
        grant.access_tokens.push(name);
        let scopes = scopes.filter(|scopes| *scopes != grant.scopes);
        self.access_tokens.insert(
            name,
            AccessToken {
                grant: id,
                expires_at_ms: after_seconds(now_ms, client.access_life_seconds),
                revoked: false,
                scopes,
            },
        );
        token
    }

    fn refresh_expires_in(&self, token: Option<&str>, now_ms: i64) -> Option<i64> {
        let record = self.refresh_tokens.get(&digest(token?))?;
        record.expires_at_ms.map(|end| (end - now_ms) / 1000)
    }
}

impl Grant {
    fn is_live(&self, now_ms: i64) -> bool {
        self.ended.is_none() && !lapsed(self.ends_at_ms, now_ms)
    }
}

/// The public name of a grant.
pub(crate) fn grant_name(id: GrantId) -> String {
    format!("grant-{id}")
}

pub(crate) fn parse_grant_name(name: &str) -> Option<GrantId> {
    name.strip_prefix("grant-")?.parse().ok()
}

fn record_has_lapsed(record: &RefreshToken, client: &ClientSettings, now_ms: i64) -> bool {
    lapsed(record.expires_at_ms, now_ms)
        || client.refresh_idle_seconds.is_some_and(|idle| !within(record.last_used_at_ms, idle, now_ms))
}

fn lapsed(end_ms: Option<i64>, now_ms: i64) -> bool {
    end_ms.is_some_and(|end| end <= now_ms)
}

fn within(since_ms: i64, seconds: u64, now_ms: i64) -> bool {
    after_seconds(since_ms, Some(seconds)).is_none_or(|end| now_ms < end)
}

fn after_seconds(now_ms: i64, seconds: Option<u64>) -> Option<i64> {
    let ms = i64::try_from(seconds?).ok()?.checked_mul(1000)?;
    now_ms.checked_add(ms)
}
