//! What this process asks of the operating system before it touches anything.

use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, setrlimit, umask},
};

/// Files are for their owner alone, and memory is never written to a disk where a core dump would leave secrets.
pub(crate) fn harden() {
    umask(Mode::from_raw_mode(0o077));
    // Both may be refused inside of a sandbox, which then has its own say.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::process::{DumpableBehavior, dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn after_it_there_are_no_core_dumps_and_nobody_may_attach() {
        harden();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        assert_eq!(dumpable_behavior().expect("it tells"), DumpableBehavior::NotDumpable);
    }
}
