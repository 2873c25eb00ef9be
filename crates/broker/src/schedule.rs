//! When a refresh is due, and how fast they go.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use valetkey_core::{Entropy, Reach, Timestamp, TokenSet};
use valetkey_providers::ProviderFacts;

use crate::RefreshSettings;

/// An idle limit that nobody stated: tokens are kept alive as if it were this.
const UNSTATED_IDLE: Duration = Duration::from_secs(30 * 86_400);

/// A token set is left alone for this long, however short its stated life: a provider that says nonsense is not asked
/// without a pause.
const LEAST_PAUSE: Duration = Duration::from_secs(2);

/// How many refreshes run at once in this process.
#[derive(Debug)]
pub(crate) struct Pace {
    pub(crate) slots: Arc<Semaphore>,
}

impl Pace {
    pub(crate) fn new(settings: &RefreshSettings) -> Self {
        Self { slots: Arc::new(Semaphore::new(settings.concurrency.max(1))) }
    }
}

/// Fills in lives that the profile states and the answer did not.
pub(crate) fn complete_lives(tokens: &mut TokenSet, facts: &ProviderFacts) {
    let after = |seconds: u64| tokens.issued_at.plus(Duration::from_secs(seconds));
    let lives = &facts.lives;
    let expires_at = tokens.expires_at.or_else(|| lives.access_s.map(after));
    let idle = lives.refresh_idle_s.filter(|_| tokens.refresh_token.is_some());
    let refresh_expires_at = tokens.refresh_expires_at.or_else(|| idle.map(after));
    let reconnect_by = tokens.reconnect_by.or_else(|| lives.refresh_absolute_s.map(after));
    tokens.expires_at = expires_at;
    tokens.refresh_expires_at = refresh_expires_at;
    tokens.reconnect_by = reconnect_by;
}

/// Draws the point at which a token set is to be refreshed: in 70–90 % of the actual life, in the last 5 % where a
/// refresh ends the old access token at once, and no later than the refresh token may lie idle.
pub(crate) fn due_at(tokens: &TokenSet, facts: &ProviderFacts, entropy: &dyn Entropy) -> Option<Timestamp> {
    tokens.refresh_token.as_ref()?;
    let early = tokens.expires_at.map(|end| early_point(tokens.issued_at, end, facts, entropy));
    let idle = tokens.refresh_expires_at.map(|end| tokens.issued_at.plus(end.since(tokens.issued_at) / 3));
    match (early, idle) {
        (Some(early), Some(idle)) => Some(early.min(idle)),
        (Some(early), None) => Some(early),
        // A token without an end needs no refresh, but its refresh token may need a life sign.
        (None, idle) => idle,
    }
}

/// The same for client credentials, which need no refresh token.
pub(crate) fn due_without_refresh_token(
    tokens: &TokenSet,
    facts: &ProviderFacts,
    entropy: &dyn Entropy,
) -> Option<Timestamp> {
    tokens.expires_at.map(|end| early_point(tokens.issued_at, end, facts, entropy))
}

fn early_point(issued_at: Timestamp, end: Timestamp, facts: &ProviderFacts, entropy: &dyn Entropy) -> Timestamp {
    let life = end.since(issued_at);
    let share =
        if facts.access_dies_on_refresh { 0.95 + 0.04 * entropy.fraction() } else { 0.70 + 0.20 * entropy.fraction() };
    let drawn = issued_at.plus(life.mul_f64(share).max(LEAST_PAUSE));
    match facts.not_before_expiry {
        Some(window) => drawn.max(end.minus(window)),
        None => drawn,
    }
}

/// When a refresh token that nobody uses must be presented next.
pub(crate) fn keep_alive_at(issued_at: Timestamp, refresh_expires_at: Option<Timestamp>) -> Timestamp {
    let idle = refresh_expires_at.map_or(UNSTATED_IDLE, |end| end.since(issued_at));
    issued_at.plus(idle / 3)
}

/// The pause before try `send_no + 1`: doubled each time, with jitter, up to a limit.
pub(crate) fn backoff(settings: &RefreshSettings, send_no: i64, entropy: &dyn Entropy) -> Duration {
    let doublings = u32::try_from(send_no.clamp(1, 16) - 1).unwrap_or(0);
    let full = settings.first_backoff.saturating_mul(1 << doublings).min(settings.longest_backoff);
    full.mul_f64(0.5 + 0.5 * entropy.fraction())
}

/// Whether a refresh token that a reconnect replaces may be revoked without hurting its successor.
pub(crate) fn may_revoke_replaced(facts: &ProviderFacts) -> bool {
    facts.revocable && facts.reach == Reach::Token
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use valetkey_core::{RotationClass, Secret, SystemEntropy};

    use super::*;

    fn facts() -> ProviderFacts {
        ProviderFacts {
            rotation: RotationClass::NonRotating,
            reach: Reach::Token,
            revocable: true,
            ..ProviderFacts::default()
        }
    }

    fn tokens(life: Option<u64>) -> TokenSet {
        let issued_at = Timestamp::from_millis(1_800_000_000_000);
        TokenSet {
            access_token: Secret::from("a"),
            token_type: "Bearer".to_owned(),
            refresh_token: Some(Secret::from("r")),
            scopes: None,
            issued_at,
            expires_at: life.map(|life| issued_at.plus(Duration::from_secs(life))),
            refresh_expires_at: None,
            reconnect_by: None,
            account: None,
        }
    }

    /// The point drawn, as a share of the life.
    fn share(tokens: &TokenSet, facts: &ProviderFacts) -> f64 {
        let life = tokens.expires_at.unwrap().since(tokens.issued_at);
        let due = due_at(tokens, facts, &SystemEntropy).unwrap().since(tokens.issued_at);
        due.as_secs_f64() / life.as_secs_f64()
    }

    #[test]
    fn due_points_spread_over_70_to_90_percent_of_the_life() {
        let tokens = tokens(Some(1_000));
        let drawn: BTreeSet<_> = (0..200)
            .map(|_| due_at(&tokens, &facts(), &SystemEntropy).unwrap().since(tokens.issued_at).as_secs())
            .collect();
        assert!(drawn.iter().all(|at| (700..=900).contains(at)), "{drawn:?}");
        assert!(drawn.len() > 50, "{drawn:?}");
    }

    #[test]
    fn short_and_long_lives_have_the_same_shares() {
        for life in [5, 30, 300, 1_800, 3_600, 28_800, 43_200, 86_400 * 60, 86_400 * 365 * 10] {
            let tokens = tokens(Some(life));
            let shares: Vec<f64> = (0..200).map(|_| share(&tokens, &facts())).collect();
            // Instants are whole milliseconds.
            assert!(shares.iter().all(|share| (0.699..=0.901).contains(share)), "{life}: {shares:?}");
            let (least, most) =
                (shares.iter().copied().fold(1.0, f64::min), shares.iter().copied().fold(0.0, f64::max));
            assert!(least < 0.73 && most > 0.87, "{life}: all between {least} and {most}");
        }
    }

    #[test]
    fn ten_thousand_tokens_with_one_end_are_due_apart() {
        const HERD: usize = 10_000;
        let tokens = tokens(Some(3_600));
        let mut by_second: BTreeMap<u64, usize> = BTreeMap::new();
        for _ in 0..HERD {
            let due = due_at(&tokens, &facts(), &SystemEntropy).unwrap().since(tokens.issued_at).as_secs();
            *by_second.entry(due).or_default() += 1;
        }
        // 20 % of the hour are 720 seconds: 14 a second on average, and in no second three times as many.
        let seconds = by_second.len();
        let most = by_second.values().copied().max().unwrap();
        assert!(seconds >= 700, "spread over {seconds} seconds only");
        assert!(most <= 3 * HERD / 720, "{most} in one second");
        // The default budget of a connector is above that, so that nobody waits for it.
        let budget = usize::try_from(RefreshSettings::default().per_second_and_connector).unwrap();
        assert!(most <= budget, "{most} in one second, {budget} allowed");
    }

    #[test]
    fn a_life_that_nobody_states_comes_from_the_profile_or_is_not_guessed() {
        let mut silent = tokens(None);
        assert_eq!(due_at(&silent, &facts(), &SystemEntropy), None, "no end, no idle limit: served until rejected");
        let lives =
            valetkey_core::Lives { access_s: Some(1_000), refresh_idle_s: Some(90_000), refresh_absolute_s: None };
        let facts = ProviderFacts { lives, ..facts() };
        complete_lives(&mut silent, &facts);
        assert!((0.7..=0.9).contains(&share(&silent, &facts)));
        assert_eq!(silent.refresh_expires_at.map(|at| at.since(silent.issued_at).as_secs()), Some(90_000));
        let mut stated = tokens(Some(77));
        complete_lives(&mut stated, &facts);
        assert_eq!(
            stated.expires_at.map(|at| at.since(stated.issued_at).as_secs()),
            Some(77),
            "the answer counts more"
        );
    }

    #[test]
    fn a_life_of_nearly_nothing_brings_no_stream_of_refreshes() {
        for life in [0, 1, 2] {
            let tokens = tokens(Some(life));
            let due = due_at(&tokens, &facts(), &SystemEntropy).unwrap().since(tokens.issued_at);
            assert!(due >= LEAST_PAUSE, "{life}: {due:?}");
        }
    }

    #[test]
    fn a_provider_that_refuses_early_refreshes_is_asked_within_its_window() {
        let tokens = tokens(Some(3_600));
        for window in [60, 300, 900, 7_200] {
            let facts = ProviderFacts { not_before_expiry: Some(Duration::from_secs(window)), ..facts() };
            for _ in 0..50 {
                let left = tokens.expires_at.unwrap().since(due_at(&tokens, &facts, &SystemEntropy).unwrap()).as_secs();
                assert!(left <= window, "{left} s left, {window} allowed");
                assert!((360..=1_080).contains(&left) || left == window, "{left}");
            }
        }
    }

    #[test]
    fn a_refresh_token_is_kept_alive_at_a_third_of_its_idle_limit() {
        let issued_at = tokens(None).issued_at;
        let days = |count: u64| Duration::from_secs(count * 86_400);
        for (idle, third) in [(Some(60), 20), (Some(100), 33), (Some(180), 60), (None, 10)] {
            let at = keep_alive_at(issued_at, idle.map(|idle| issued_at.plus(days(idle))));
            assert_eq!(at.since(issued_at).as_secs() / 86_400, third, "{idle:?}");
        }
    }

    #[test]
    fn client_credentials_are_due_without_a_refresh_token() {
        let own = TokenSet { refresh_token: None, ..tokens(Some(1_000)) };
        let due = due_without_refresh_token(&own, &facts(), &SystemEntropy).unwrap().since(own.issued_at).as_secs();
        assert!((700..=900).contains(&due), "{due}");
        assert_eq!(due_without_refresh_token(&tokens(None), &facts(), &SystemEntropy), None);
    }

    #[test]
    fn a_refresh_that_ends_the_old_token_waits_for_the_last_five_percent() {
        let facts = ProviderFacts { access_dies_on_refresh: true, ..facts() };
        let tokens = tokens(Some(1_000));
        let due = due_at(&tokens, &facts, &SystemEntropy).unwrap().since(tokens.issued_at).as_secs();
        assert!((950..=990).contains(&due), "{due}");
    }

    #[test]
    fn a_third_of_the_idle_limit_comes_first() {
        let mut tokens = tokens(Some(1_000));
        tokens.refresh_expires_at = Some(tokens.issued_at.plus(Duration::from_secs(300)));
        let due = due_at(&tokens, &facts(), &SystemEntropy).unwrap();
        assert_eq!(due.since(tokens.issued_at).as_secs(), 100);
    }

    #[test]
    fn without_a_refresh_token_nothing_is_due() {
        let tokens = TokenSet { refresh_token: None, ..tokens(Some(1_000)) };
        assert_eq!(due_at(&tokens, &facts(), &SystemEntropy), None);
    }

    #[test]
    fn backoff_doubles_and_stops() {
        let settings = RefreshSettings::default();
        let at = |send_no| backoff(&settings, send_no, &SystemEntropy);
        assert!(at(1) <= Duration::from_secs(2));
        assert!(at(4) >= Duration::from_secs(8));
        assert!(at(60) <= settings.longest_backoff);
        assert!(at(i64::MAX) <= settings.longest_backoff && at(-1) >= settings.first_backoff / 2);
    }

    #[test]
    fn pauses_are_drawn_so_that_those_who_failed_together_do_not_come_back_together() {
        let settings = RefreshSettings::default();
        let drawn: BTreeSet<_> = (0..100).map(|_| backoff(&settings, 6, &SystemEntropy).as_millis()).collect();
        assert!(drawn.len() > 90, "{drawn:?}");
        assert!(drawn.iter().all(|pause| (32_000..=64_000).contains(pause)), "{drawn:?}");
    }
}
