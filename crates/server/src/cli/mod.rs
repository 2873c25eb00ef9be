//! The command line: what can be said, and who does it.
//!
//! Verbs of the operator are HTTP requests, sent through the socket of a running server or answered in this process by
//! the same router, so that there is one implementation of each.

mod arguments;
mod client;
mod failure;
mod output;
mod table;
#[cfg(test)]
mod tests;
mod verbs;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use crate::Environment;
use arguments::Arguments;
use failure::{Exit, Failure};
use output::Output;

/// Runs the binary: reads the arguments, does what they say, reports on standard output and standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> ExitCode {
    crate::process::harden();
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers; everything else is wrong use.
            let exit = if error.use_stderr() { Exit::WrongUse } else { Exit::Done };
            let _ = error.print();
            return exit.into();
        }
    };
    let output = Output::new(&arguments.common, &environment);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return output.fail(&Failure::local(Exit::Failed, "no-runtime", format!("cannot start threads: {error}")));
        }
    };
    let done = runtime.block_on(verbs::run(arguments, environment, output));
    // What is still running has been waited for as long as it may be.
    runtime.shutdown_background();
    match done {
        Ok(()) => Exit::Done.into(),
        Err(failure) => output.fail(&failure),
    }
}
