//! The `valetkey` binary.

use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    valetkey_server::run(std::env::args_os(), valetkey_server::Environment::of_process())
}
