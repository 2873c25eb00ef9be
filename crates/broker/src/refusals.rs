//! How much a stranger can make us write: the first refusals of a flow go on record, the rest are only counted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use valetkey_core::FlowId;

/// Events of one flow. A person who reloads makes a few; somebody who tries makes any number.
const RECORDED: u8 = 20;

/// Flows remembered at once. A refusal is about a flow that somebody with a key has started, so strangers cannot fill
/// this; when it is full it starts anew.
const FLOWS: usize = 10_000;

/// Which refusals of a flow go on record, in this process.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<FlowId, u8>>);

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
    pub(crate) fn note(&self, flow: FlowId) -> Record {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= FLOWS && !seen.contains_key(&flow) {
            seen.clear();
        }
        let count = seen.entry(flow).or_insert(0);
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
    use valetkey_core::{SystemEntropy, Timestamp};

    #[test]
    fn a_flows_refusals_go_on_record_until_there_were_many() {
        let (refusals, now) = (Refusals::default(), Timestamp::from_millis(1));
        let (one, other) = (FlowId::new(now, &SystemEntropy), FlowId::new(now, &SystemEntropy));
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
    fn what_is_remembered_is_bounded() {
        let (refusals, now) = (Refusals::default(), Timestamp::from_millis(1));
        for _ in 0..=2 * FLOWS {
            refusals.note(FlowId::new(now, &SystemEntropy));
        }
        assert!(refusals.0.lock().expect("not poisoned").len() <= FLOWS);
    }
}
