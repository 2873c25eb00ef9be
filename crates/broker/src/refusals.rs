//! How much a stranger can make us write: the first refusals of a flow, and of a key's starts in an hour, go on record, the
//! rest are only counted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use valetkey_core::{FlowId, KeyId, Timestamp};

/// Events of one flow, or of one key in an hour. A person who reloads makes a few; somebody who tries makes any number.
const RECORDED: u8 = 20;

/// Remembered at once. A refusal is about a flow that somebody with a key has started, or about the key itself, so strangers
/// cannot fill this; when it is full it starts anew.
const REMEMBERED: usize = 10_000;

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// A flow.
    Flow(FlowId),
    /// The starts of a key in one hour since the epoch.
    Starts(KeyId, i64),
}

impl About {
    /// The starts of this key in this hour.
    pub(crate) fn starts(key: KeyId, now: Timestamp) -> Self {
        Self::Starts(key, now.as_millis() / 3_600_000)
    }
}

/// Which refusals go on record, in this process.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<About, u8>>);

/// What becomes of one refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// It goes on record.
    Written,
    /// It goes on record, and says that it is the last.
    Last,
    /// It is only counted.
    Counted,
}

impl Refusals {
    /// Takes note of a refusal and says what becomes of it.
    pub(crate) fn note(&self, about: About) -> Record {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED && !seen.contains_key(&about) {
            seen.clear();
        }
        let count = seen.entry(about).or_insert(0);
        *count = count.saturating_add(1);
        match (*count).cmp(&RECORDED) {
            std::cmp::Ordering::Less => Record::Written,
            std::cmp::Ordering::Equal => Record::Last,
            std::cmp::Ordering::Greater => Record::Counted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use valetkey_core::SystemEntropy;

    #[test]
    fn a_flows_refusals_go_on_record_until_there_were_many() {
        let (refusals, now) = (Refusals::default(), Timestamp::from_millis(1));
        let [one, other] = [(); 2].map(|()| About::Flow(FlowId::new(now, &SystemEntropy)));
        for _ in 1..RECORDED {
            assert_eq!(refusals.note(one), Record::Written);
        }
        assert_eq!(refusals.note(one), Record::Last);
        for _ in 0..1_000 {
            assert_eq!(refusals.note(one), Record::Counted);
        }
        assert_eq!(refusals.note(other), Record::Written, "another flow's are its own");
    }

    #[test]
    fn a_keys_refused_starts_go_on_record_anew_each_hour() {
        let (refusals, key) = (Refusals::default(), KeyId::new(Timestamp::from_millis(1), &SystemEntropy));
        let at = |minutes: i64| About::starts(key, Timestamp::from_millis(minutes * 60_000));
        for minute in 0..30 {
            refusals.note(at(minute));
        }
        assert_eq!(refusals.note(at(59)), Record::Counted);
        assert_eq!(refusals.note(at(60)), Record::Written);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (refusals, now) = (Refusals::default(), Timestamp::from_millis(1));
        for _ in 0..=2 * REMEMBERED {
            refusals.note(About::Flow(FlowId::new(now, &SystemEntropy)));
        }
        assert!(refusals.0.lock().expect("not poisoned").len() <= REMEMBERED);
    }
}
