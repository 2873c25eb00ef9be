//! One clock for processes of which some are frozen: how far it is ahead stands in a file.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, time::Duration};

use valetkey_core::{Clock, SystemClock, Timestamp};

/// The machine's clock, and what the file adds to it.
#[derive(Debug)]
pub(crate) struct SharedClock {
    system: SystemClock,
    offset: File,
}

impl SharedClock {
    pub(crate) fn open(file: &Path) -> io::Result<Self> {
        Ok(Self { system: SystemClock::new(), offset: File::open(file)? })
    }

    /// What every clock of this file adds from now on.
    pub(crate) fn set(file: &Path, offset: Duration) -> io::Result<()> {
        let millis = u64::try_from(offset.as_millis()).unwrap_or(u64::MAX);
        File::options().create(true).truncate(false).write(true).open(file)?.write_all_at(&millis.to_le_bytes(), 0)
    }

    fn offset(&self) -> Duration {
        let mut millis = [0; 8];
        // Without the file there is nothing left to prove; the run fails for other reasons.
        let _ = self.offset.read_exact_at(&mut millis, 0);
        Duration::from_millis(u64::from_le_bytes(millis))
    }
}

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        self.system.now().plus(self.offset())
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic() + self.offset()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_sets_all_see() {
        let around = tempfile::tempdir().expect("a directory");
        let file = around.path().join("clock");
        SharedClock::set(&file, Duration::from_secs(5)).expect("written");
        let (one, other) = (SharedClock::open(&file).expect("a clock"), SharedClock::open(&file).expect("a clock"));
        let (now, monotonic) = (one.now(), other.monotonic());
        SharedClock::set(&file, Duration::from_secs(65)).expect("written");
        assert!(other.now().since(now) >= Duration::from_secs(60));
        assert!(other.monotonic() >= monotonic + Duration::from_secs(60));
    }
}
