//! How an unknown outcome goes on: the rotation class decides (DESIGN.md, section 6.7).

use std::time::Duration;

use valetkey_core::{AttemptState, Connection, Entropy, RotationClass, Timestamp};

use crate::{RefreshSettings, schedule::backoff};

/// Repeats within a grace, after the first send.
const GRACE_REPEATS: i64 = 3;

/// A provider that asks for patience gets this much at most.
const LONGEST_PATIENCE: Duration = Duration::from_secs(3_600);

/// What is known when an outcome is not.
#[derive(Debug)]
pub(crate) struct UnknownCase<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) class: RotationClass,
    pub(crate) send: OpenSend,
    /// Other live connections of the same client and user.
    pub(crate) siblings: i64,
    pub(crate) now: Timestamp,
}

impl UnknownCase<'_> {
    /// How long the provider is left alone that asked for it: an hour at most, and not past a grace that a repeat could
    /// still use.
    pub(crate) fn patience(&self) -> Duration {
        let patience = patience(self.send.asked.unwrap_or_default());
        match self.class.safe_repeat() {
            Some(grace) if self.send.send_no <= GRACE_REPEATS => {
                let left = self.send.first_sent_at.plus(grace).since(self.now);
                // A quarter of it for whoever comes to it late.
                if left.is_zero() { patience } else { patience.min(left * 3 / 4) }
            }
            _ => patience,
        }
    }
}

/// What is granted of the patience that a provider asks for.
pub(crate) fn patience(asked: Duration) -> Duration {
    asked.min(LONGEST_PATIENCE)
}

/// How it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoOn {
    pub(crate) state: AttemptState,
    pub(crate) next_try_at: Timestamp,
}

/// The send whose outcome is not known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenSend {
    pub(crate) send_no: i64,
    pub(crate) first_sent_at: Timestamp,
    /// How long the provider asked to wait.
    pub(crate) asked: Option<Duration>,
}

/// Decides whether, and when, the same refresh token may be presented again.
pub(crate) fn after_unknown(case: &UnknownCase<'_>, settings: &RefreshSettings, entropy: &dyn Entropy) -> GoOn {
    let soon = case.now.plus(backoff(settings, case.send.send_no, entropy).max(case.patience()));
    let repeat = |next_try_at| GoOn { state: AttemptState::RepeatAllowed, next_try_at };
    match case.class {
        RotationClass::NonRotating | RotationClass::Soft => repeat(soon),
        RotationClass::Grace { .. } => {
            let safe_until = case.class.safe_repeat().map(|grace| case.send.first_sent_at.plus(grace));
            if case.send.send_no <= GRACE_REPEATS && safe_until.is_some_and(|until| soon < until) {
                repeat(soon)
            } else {
                repeat(late(case, soon))
            }
        }
        RotationClass::Strict => repeat(late(case, soon)),
        // Reuse would end sibling grants too: a grant alone in the world has nothing more to lose, others stop here.
        RotationClass::StrictWide if case.siblings == 0 => repeat(late(case, soon)),
        RotationClass::StrictWide => GoOn { state: AttemptState::Stopped, next_try_at: case.now },
    }
}

/// A strict provider may have spent the token: the access token is used to its last tenth before that is found out.
/// After that, with backoff until a definite answer.
fn late(case: &UnknownCase<'_>, soon: Timestamp) -> Timestamp {
    match (case.connection.expires_at, case.connection.life()) {
        (Some(end), Some(life)) => soon.max(end.minus(life / 10)),
        _ => soon,
    }
}

/// Whether a repeat that was planned within the grace comes after it, because nobody ran meanwhile. Like one of class X it
/// then waits for the last tenth of the access token's life.
pub(crate) fn comes_after_grace(case: &UnknownCase<'_>) -> bool {
    let safe_until = case.class.safe_repeat().map(|grace| case.send.first_sent_at.plus(grace));
    safe_until.is_some_and(|until| until <= case.now) && late(case, case.now) > case.now
}

#[cfg(test)]
mod tests {
    use valetkey_core::{ConnectionId, ConnectorId, Label, Owner, Refreshing, SpaceId, Status, SystemEntropy};

    use super::*;

    fn connection(now: Timestamp) -> Connection {
        Connection {
            id: ConnectionId::new(now, &SystemEntropy),
            space: SpaceId::default_space(),
            connector_id: ConnectorId::new(now, &SystemEntropy),
            provider: "sandbox".to_owned(),
            owner: Owner::Shared,
            label: Label::none(),
            status: Status::Active,
            needs_reauth: None,
            requested_scopes: Vec::new(),
            granted_scopes: Vec::new(),
            account: None,
            generation: 1,
            token_type: "Bearer".to_owned(),
            issued_at: now,
            expires_at: Some(now.plus(Duration::from_secs(1_000))),
            has_refresh_token: true,
            refresh_expires_at: None,
            reconnect_by: None,
            refresh_due_at: None,
            next_try_at: None,
            refreshing: Refreshing::Ok,
            last_attempt: None,
            rejected_at: None,
            weakly_bound: false,
            created_at: now,
            updated_at: now,
            last_used_at: None,
        }
    }

    fn go_on(class: RotationClass, send_no: i64, siblings: i64, elapsed: u64) -> (AttemptState, u64) {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let connection = connection(start);
        let now = start.plus(Duration::from_secs(elapsed));
        let send = OpenSend { send_no, first_sent_at: start, asked: None };
        let case = UnknownCase { connection: &connection, class, send, siblings, now };
        let end = after_unknown(&case, &RefreshSettings::default(), &SystemEntropy);
        (end.state, end.next_try_at.since(start).as_secs())
    }

    #[test]
    fn harmless_classes_repeat_soon() {
        for class in [RotationClass::NonRotating, RotationClass::Soft, RotationClass::Grace { seconds: 60 }] {
            let (state, at) = go_on(class, 1, 5, 10);
            assert_eq!(state, AttemptState::RepeatAllowed, "{class:?}");
            assert!(at <= 12, "{class:?} {at}");
        }
    }

    #[test]
    fn a_grace_that_is_over_counts_as_strict() {
        let (state, at) = go_on(RotationClass::Grace { seconds: 60 }, 1, 0, 47);
        assert_eq!((state, at), (AttemptState::RepeatAllowed, 900));
    }

    #[test]
    fn a_repeat_that_comes_after_the_grace_waits_for_the_last_tenth() {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let connection = connection(start);
        let comes_after = |class, elapsed| {
            let now = start.plus(Duration::from_secs(elapsed));
            let send = OpenSend { send_no: 2, first_sent_at: start, asked: None };
            let case = UnknownCase { connection: &connection, class, send, siblings: 0, now };
            comes_after_grace(&case)
        };
        let grace = RotationClass::Grace { seconds: 60 };
        assert!(!comes_after(grace, 47));
        assert!(comes_after(grace, 48) && comes_after(grace, 899));
        assert!(!comes_after(grace, 900));
        assert!(!comes_after(RotationClass::Soft, 500));
    }

    #[test]
    fn strict_uses_the_access_token_to_its_last_tenth_first() {
        assert_eq!(go_on(RotationClass::Strict, 1, 9, 10), (AttemptState::RepeatAllowed, 900));
        let (state, at) = go_on(RotationClass::Strict, 2, 9, 950);
        assert_eq!(state, AttemptState::RepeatAllowed);
        assert!((950..=954).contains(&at), "{at}");
    }

    #[test]
    fn strict_and_wide_stops_where_siblings_live() {
        assert_eq!(go_on(RotationClass::StrictWide, 1, 1, 10).0, AttemptState::Stopped);
        assert_eq!(go_on(RotationClass::StrictWide, 1, 0, 10), (AttemptState::RepeatAllowed, 900));
    }

    #[test]
    fn a_grace_is_used_to_four_fifths_and_at_most_three_times() {
        let class = RotationClass::Grace { seconds: 100 };
        for (send_no, elapsed, within) in [(1, 0, true), (1, 70, true), (3, 70, true), (4, 10, false), (1, 80, false)] {
            let (state, at) = go_on(class, send_no, 9, elapsed);
            assert_eq!(state, AttemptState::RepeatAllowed);
            assert_eq!(at < 100, within, "send {send_no} after {elapsed} s: next at {at}");
        }
    }

    #[test]
    fn only_the_class_that_ends_sibling_grants_ever_stops() {
        for class in [
            RotationClass::NonRotating,
            RotationClass::Soft,
            RotationClass::Grace { seconds: 60 },
            RotationClass::Strict,
            RotationClass::StrictWide,
        ] {
            for siblings in [0, 1, 1_000] {
                for (send_no, elapsed) in [(1, 0), (1, 899), (2, 950), (9, 1_000), (60, 100_000)] {
                    let stops = class == RotationClass::StrictWide && siblings > 0;
                    let (state, at) = go_on(class, send_no, siblings, elapsed);
                    assert_eq!(state == AttemptState::Stopped, stops, "{class:?} {siblings} {send_no} {elapsed}");
                    assert!(stops || at >= elapsed, "the next try lies ahead");
                }
            }
        }
    }

    #[test]
    fn without_a_stated_life_a_strict_token_is_presented_again_at_once() {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let connection = Connection { expires_at: None, ..connection(start) };
        let case = UnknownCase {
            connection: &connection,
            class: RotationClass::Strict,
            send: OpenSend { send_no: 1, first_sent_at: start, asked: None },
            siblings: 0,
            now: start,
        };
        let end = after_unknown(&case, &RefreshSettings::default(), &SystemEntropy);
        assert!(end.next_try_at.since(start).as_secs() <= 2, "{end:?}");
    }

    /// When a send of this class, made `elapsed` seconds ago, is repeated after the provider asked to wait.
    fn asked(class: RotationClass, elapsed: u64, seconds: u64) -> u64 {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let (connection, now) = (connection(start), start.plus(Duration::from_secs(elapsed)));
        let send = OpenSend { send_no: 1, first_sent_at: start, asked: Some(Duration::from_secs(seconds)) };
        let case = UnknownCase { connection: &connection, class, send, siblings: 0, now };
        after_unknown(&case, &RefreshSettings::default(), &SystemEntropy).next_try_at.since(now).as_secs()
    }

    #[test]
    fn a_provider_that_asks_for_patience_gets_it_within_bounds() {
        for class in [RotationClass::NonRotating, RotationClass::Soft] {
            assert_eq!(asked(class, 0, 120), 120, "{class:?}");
            assert!(asked(class, 0, 0) <= 2, "{class:?}: its own pace otherwise");
            assert_eq!(asked(class, 0, 86_400), 3_600, "{class:?}: a day counts as an hour");
        }
        // Never sooner than the class allows by itself.
        assert_eq!(asked(RotationClass::Strict, 10, 120), 890);
        assert_eq!(asked(RotationClass::Strict, 10, 950), 950);
        assert_eq!(asked(RotationClass::StrictWide, 10, 950), 950);
    }

    #[test]
    fn patience_does_not_cost_a_grace() {
        let grace = RotationClass::Grace { seconds: 100 };
        assert_eq!(asked(grace, 0, 30), 30);
        assert_eq!(asked(grace, 0, 3_600), 60, "three quarters of what is left");
        assert_eq!(asked(grace, 40, 3_600), 30);
        assert_eq!(asked(grace, 90, 500), 810, "it is over: like a strict one");
    }
}
