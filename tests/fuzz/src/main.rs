//! Coverage-guided fuzzing of the parsers: `scripts/fuzz SECONDS`.
//!
//! Built without the condition `fuzzing` this program runs the corpora once, which are the tests of this package too: what
//! fuzzing ever found stays in them.

#![cfg_attr(fuzzing, no_main)]

mod targets;

use std::path::{Path, PathBuf};

use targets::{TARGETS, Target};

/// Names the target of a fuzzing process.
#[cfg(fuzzing)]
const TARGET: &str = "VALETKEY_FUZZ_TARGET";

#[cfg(fuzzing)]
static CHOSEN: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| {
    let name = std::env::var(TARGET).unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("{TARGET} names no target: {name:?}")).run
});

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| CHOSEN(data));

fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora").join(target.name)
}

/// Runs every file of a target's corpus; answers with their number.
#[cfg_attr(fuzzing, expect(dead_code, reason = "libFuzzer runs the corpora itself"))]
fn replay(target: &Target) -> std::io::Result<usize> {
    let mut count = 0;
    for file in std::fs::read_dir(corpus(target))? {
        (target.run)(&std::fs::read(file?.path())?);
        count += 1;
    }
    Ok(count)
}

#[cfg(not(fuzzing))]
#[expect(clippy::print_stdout, reason = "the list is what this command is for")]
fn main() -> std::io::Result<()> {
    for target in TARGETS {
        println!("{} {}", target.name, replay(target)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_corpus_without_a_finding() {
        for target in TARGETS {
            let count = replay(target).unwrap_or_else(|error| panic!("{}: {error}", target.name));
            assert!(count > 0, "{} has no corpus", target.name);
        }
    }

    #[test]
    fn every_corpus_belongs_to_a_target() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora");
        for folder in std::fs::read_dir(corpora).expect("corpora") {
            let name = folder.expect("a folder").file_name();
            assert!(TARGETS.iter().any(|target| *target.name == *name), "{name:?}");
        }
    }
}
