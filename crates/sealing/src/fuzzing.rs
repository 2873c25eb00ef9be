//! What fuzzing calls: the parser of the key ring file, without the file.

use std::path::Path;

use crate::KeyRing;

/// Reads the text of a key ring file; whether it was one.
pub fn key_ring_file(text: &str) -> bool {
    KeyRing::parse(Path::new("key-ring"), text).is_ok()
}
