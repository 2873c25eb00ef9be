//! Request ids: what joins an answer, its audit events and its log lines.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use valetkey_core::Entropy;

/// The header that carries it, both ways.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The request's id, for handlers whose work goes on in a task of its own.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Makes ids: a random prefix of the process and a counter, without a system call each.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: [u8; 8],
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut random = [0; 4];
        entropy.fill(&mut random);
        let mut prefix = [b'0'; 8];
        write_hex(u64::from(u32::from_le_bytes(random)), &mut prefix);
        Self { prefix, next: AtomicU64::new(1) }
    }

    /// The client's id if it is one that may stand in a log, or a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        match headers.get(X_REQUEST_ID).map(HeaderValue::as_bytes) {
            Some(given) if is_plain(given) => String::from_utf8_lossy(given).into_owned(),
            _ => self.make(),
        }
    }

    fn make(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut digits = [b'0'; 16];
        let length = write_hex(number, &mut digits).max(6);
        let mut id = String::with_capacity(9 + length);
        id.extend(self.prefix.iter().map(|byte| char::from(*byte)));
        id.push('-');
        id.extend(digits[16 - length..].iter().map(|byte| char::from(*byte)));
        id
    }
}

/// 1 to 64 of letters, digits, `-`, `_` and `.`: nothing that could break a log line.
fn is_plain(given: &[u8]) -> bool {
    (1..=64).contains(&given.len())
        && given.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Writes hexadecimal digits at the end of `out`, and answers how many there are.
fn write_hex(mut number: u64, out: &mut [u8]) -> usize {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut written = 0;
    for place in out.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *place = DIGITS[usize::try_from(number & 15).unwrap_or(0)];
        number >>= 4;
        written += 1;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use valetkey_core::SystemEntropy;

    fn of(given: Option<&[u8]>) -> String {
        let ids = RequestIds::new(&SystemEntropy);
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(given).expect("a header"));
        }
        ids.of(&headers)
    }

    #[test]
    fn a_plain_id_of_the_client_is_kept() {
        assert_eq!(of(Some(b"Trace_1.2-3")), "Trace_1.2-3");
    }

    #[test]
    fn an_id_that_could_break_a_log_line_is_replaced() {
        for given in [&b""[..], b"a b", b"a\"b", b"\xff", &[b'a'; 65]] {
            let id = of(Some(given));
            assert_eq!(id.len(), 15, "{id}");
            assert_eq!(id.as_bytes()[8], b'-');
        }
    }

    #[test]
    fn ids_of_one_process_count_upwards() {
        let ids = RequestIds::new(&SystemEntropy);
        let made: Vec<String> = (0..20).map(|_| ids.make()).collect();
        assert!(made[0].ends_with("-000001"), "{}", made[0]);
        assert!(made[18].ends_with("-000013"), "{}", made[18]);
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
