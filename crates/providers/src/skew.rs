//! How far the clocks of providers are from ours, by the `Date` of their answers. Measured and told, never used: lives
//! are counted from our own send time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use http::{HeaderMap, header};
use valetkey_core::{Connector, Timestamp};

/// How many connectors are remembered.
const CONNECTORS: usize = 1024;

/// More than this is worth a line in the log.
const ALARM_MS: i64 = 60_000;

/// How far a provider's clock is from ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockSkew {
    /// The provider.
    pub provider: String,
    /// By how much its clock is ahead of ours, in milliseconds; negative if it is behind.
    pub millis: i64,
}

/// The last measurement for each connector: generic profiles stand for many servers.
#[derive(Debug, Default)]
pub(crate) struct Skews {
    by_connector: Mutex<BTreeMap<String, ClockSkew>>,
}

impl Skews {
    /// Looks at the `Date` of an answer that was asked for at `sent_at` and was there at `received_at`.
    pub(crate) fn note(&self, connector: &Connector, headers: &HeaderMap, sent_at: Timestamp, received_at: Timestamp) {
        let Some(millis) = measure(headers, sent_at, received_at) else { return };
        let id = connector.id.to_string();
        let mut known = self.by_connector.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&id).map_or(0, |skew| skew.millis);
        if !known.contains_key(&id) && known.len() >= CONNECTORS {
            return;
        }
        known.insert(id, ClockSkew { provider: connector.provider.clone(), millis });
        drop(known);
        // Said when it begins and when it ends, not with each answer.
        if millis.abs() > ALARM_MS && before.abs() <= ALARM_MS {
            tracing::warn!(
                connector.id = %connector.id,
                skew_s = millis / 1_000,
                "the clock of the provider of {} differs from ours by {} s", connector.id, millis / 1_000
            );
        } else if millis.abs() <= ALARM_MS && before.abs() > ALARM_MS {
            tracing::info!(connector.id = %connector.id, "the clock of the provider of {} agrees with ours again", connector.id);
        }
    }

    /// Of each provider the measurement that is farthest from zero.
    pub(crate) fn farthest(&self) -> Vec<ClockSkew> {
        let known = self.by_connector.lock().unwrap_or_else(PoisonError::into_inner);
        let mut farthest: BTreeMap<&str, &ClockSkew> = BTreeMap::new();
        for skew in known.values() {
            let kept = farthest.entry(&skew.provider).or_insert(skew);
            if skew.millis.abs() > kept.millis.abs() {
                *kept = skew;
            }
        }
        farthest.into_values().cloned().collect()
    }
}

/// The least skew that explains a `Date` (RFC 9110, section 6.6.1): it was written at some instant between sending and
/// receiving, and names the second that had begun.
pub(crate) fn measure(headers: &HeaderMap, sent_at: Timestamp, received_at: Timestamp) -> Option<i64> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let since_epoch = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let second = i64::try_from(since_epoch.as_millis()).ok()?;
    let (sent, received) = (sent_at.as_millis(), received_at.as_millis());
    let behind_at_least = second.saturating_add(999).saturating_sub(sent);
    let ahead_at_least = second.saturating_sub(received);
    Some(if ahead_at_least > 0 { ahead_at_least } else { behind_at_least.min(0) })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_date_is_believed_as_far_as_it_can_be_told() {
        // 784_111_777 is Sun, 06 Nov 1994 08:49:37 GMT.
        let said = |text: &'static str, sent: i64, received: i64| {
            let mut headers = HeaderMap::new();
            headers.insert(header::DATE, HeaderValue::from_static(text));
            measure(&headers, Timestamp::from_millis(sent), Timestamp::from_millis(received))
        };
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let second = 784_111_777_000;
        assert_eq!(said(date, second, second + 10), Some(0));
        assert_eq!(said(date, second + 990, second + 1_500), Some(0), "the second had begun");
        assert_eq!(said(date, second - 20_000, second + 20_000), Some(0), "a slow answer is no skew");
        assert_eq!(said(date, second - 90_010, second - 90_000), Some(90_000));
        assert_eq!(said(date, second + 90_999, second + 95_000), Some(-90_000));
        for nonsense in ["", "yesterday", "1994-11-06T08:49:37Z", "-1"] {
            assert_eq!(said(nonsense, second, second), None, "{nonsense}");
        }
        assert_eq!(measure(&HeaderMap::new(), Timestamp::from_millis(1), Timestamp::from_millis(2)), None);
    }
}
