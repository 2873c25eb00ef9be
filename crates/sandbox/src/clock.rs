//! The sandbox's own clock, which a test can move.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, shifted by whatever the test asked for.
#[derive(Debug)]
pub(crate) struct SandboxClock {
    offset_ms: AtomicI64,
    frozen_at_ms: Option<i64>,
}

impl SandboxClock {
    pub(crate) fn new(start_at_ms: Option<i64>, frozen: bool) -> Self {
        let real = system_now_ms();
        let start = start_at_ms.unwrap_or(real);
        if frozen {
            Self { offset_ms: AtomicI64::new(0), frozen_at_ms: Some(start) }
        } else {
            Self { offset_ms: AtomicI64::new(start - real), frozen_at_ms: None }
        }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        let base = self.frozen_at_ms.unwrap_or_else(system_now_ms);
        base.saturating_add(self.offset_ms.load(Ordering::SeqCst))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    pub(crate) fn set_now_ms(&self, now_ms: i64) {
        let base = self.frozen_at_ms.unwrap_or_else(system_now_ms);
        self.offset_ms.store(now_ms - base, Ordering::SeqCst);
    }
}

#[expect(clippy::disallowed_methods, reason = "the sandbox plays a foreign party: this is the one home of its clock")]
fn system_now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// Writes an instant as an HTTP date (RFC 9110, section 5.6.7).
pub(crate) fn http_date(at_ms: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = at_ms.div_euclid(1000);
    let day_number = seconds.div_euclid(86_400);
    let second_of_day = seconds.rem_euclid(86_400);
    let (year, month, day) = civil_date(day_number);
    let weekday = usize::try_from(day_number.rem_euclid(7)).unwrap_or_default();
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[weekday],
        MONTHS[month],
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    )
}

/// Proleptic Gregorian year, month index from 0 and day of month, counted from the Unix epoch.
fn civil_date(day_number: i64) -> (i64, usize, i64) {
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut year = 1970 + day_number.div_euclid(366);
    let days_before = |year: i64| {
        let past = year - 1;
        (year - 1970) * 365 + (past / 4 - past / 100 + past / 400) - (1969 / 4 - 1969 / 100 + 1969 / 400)
    };
    while days_before(year + 1) <= day_number {
        year += 1;
    }
    let mut rest = day_number - days_before(year);
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while month < 11 && rest >= lengths[month] {
        rest -= lengths[month];
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_agree_with_the_example_of_the_rfc() {
        assert_eq!(http_date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(1_709_164_800_000), "Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn a_frozen_clock_moves_only_when_told() {
        let clock = SandboxClock::new(Some(5_000), true);
        assert_eq!(clock.now_ms(), 5_000);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now_ms(), 7_000);
        clock.set_now_ms(1);
        assert_eq!(clock.now_ms(), 1);
    }
}
