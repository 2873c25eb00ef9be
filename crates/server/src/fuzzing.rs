//! What fuzzing calls: the configuration's reader, without the file.

use std::path::Path;

use crate::config;

/// Reads a configuration; whether it was one. Every fault has its place and its mend.
pub fn configuration(text: &str) -> bool {
    match config::load_text(Path::new("valetkey.toml"), text, Path::new("/var/lib/valetkey")) {
        Ok(_) => true,
        Err(faults) => {
            assert!(!faults.0.is_empty(), "refused without a fault");
            assert!(
                faults.0.iter().all(|fault| !fault.what.is_empty() && !fault.mend.is_empty()),
                "a fault without a mend"
            );
            false
        }
    }
}
