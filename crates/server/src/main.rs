//! The `valetkey` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    valetkey_server::run(std::env::args_os(), valetkey_server::Environment::of_process())
}
