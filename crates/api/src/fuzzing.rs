//! What fuzzing calls: the parsers of what browsers and clients send.

use crate::{browser, extract, wire::ImportLineIn};

/// The query of a callback; whether it holds a parameter twice that may come once.
pub fn callback_query(raw: &str) -> bool {
    browser::callback_query(raw).doubled
}

/// A line of an import; whether it was one.
pub fn import_line(line: &[u8]) -> bool {
    match extract::parse::<ImportLineIn>(line) {
        Ok(_) => true,
        Err(problem) => {
            assert!(!problem.write(None).is_empty(), "a problem without a text");
            false
        }
    }
}
