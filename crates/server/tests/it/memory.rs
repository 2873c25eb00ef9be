//! The memory of a running service is nobody else's: no core dump, and no look into it.

use std::fs;

use crate::support::Home;

/// A file of `/proc` about a process, if this user may read it.
fn about(process: u32, name: &str) -> std::io::Result<String> {
    fs::read(format!("/proc/{process}/{name}")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn a_running_service_leaves_no_core_dump() {
    let home = Home::new();
    let serving = home.serve();
    let limits = about(serving.process_id(), "limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let words: Vec<_> = core.split_whitespace().collect();
    // Soft and hard: it cannot be raised again.
    assert_eq!(words[4..6], ["0", "0"], "{core}");
    serving.stop();
}

/// What a process that cannot be dumped shows of itself belongs to root (proc(5)), and nobody but root can attach to it.
#[test]
fn a_running_service_cannot_be_looked_into() {
    use std::os::unix::fs::MetadataExt;

    let home = Home::new();
    let serving = home.serve();
    let id = serving.process_id();
    let owner = |id: u32| fs::metadata(format!("/proc/{id}/environ")).unwrap().uid();
    let own = owner(std::process::id());
    if own == 0 {
        // As root the owner is the same; and root may look anyway.
        assert_eq!(owner(id), 0);
    } else {
        assert_eq!(owner(id), 0, "it belongs to its user, who may look");
        for name in ["environ", "mem", "maps"] {
            assert!(about(id, name).is_err(), "{name} can be read");
        }
    }
    serving.stop();
}
