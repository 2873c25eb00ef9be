//! The proofs of what is promised about refreshing: commands that break things on purpose and count what was lost.
//!
//! A proof is a file of its own (`crash.rs`) with its settings (a `clap::Args` struct) and a function that runs it and
//! answers whether everything that has to be zero was zero; it stands in [`Proof`] and in `main`. The parts that proofs
//! share:
//!
//! - `world.rs`: the sandbox provider, a database, one connector for each rotation class, one clock for all. The sandbox
//!   runs in this process; its ledger is the oracle.
//! - `child.rs` starts this program again as a broker (`serve.rs`), gives it orders (`order.rs`), signals and kills it.
//! - `database.rs` reads what the broker stored, behind its back.
//! - `oracle.rs` holds what the broker stored against the ledger; `calls.rs` makes token calls over HTTP.
//! - `chance.rs`: every choice comes from one seed, which the run prints.
//! - `report.rs`: progress on standard error; a table and one last line of JSON on standard output.
//!
//! The exit status is 0 if the proof held, 1 if it did not, 2 if it could not be run. A null control, which breaks the
//! broker on purpose, holds if losses were found. `tests/it` runs each with a small
//! count.

mod calls;
mod chance;
mod child;
mod cluster;
mod crash;
mod database;
mod oracle;
mod order;
mod outage;
mod power_cut;
mod replicas;
mod report;
mod restarts;
mod revoke;
mod serve;
mod shared_clock;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The one of the binary that ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "The proofs of Valetkey")]
struct Arguments {
    #[command(subcommand)]
    proof: Proof,
}

#[derive(Debug, Subcommand)]
enum Proof {
    /// SIGKILL at every boundary of a refresh, in every rotation class.
    Crash(crash::Crash),
    /// The power goes: what was not synced is dropped, torn, reordered or damaged.
    PowerCut(power_cut::PowerCut),
    /// The process that is recorded, for `power-cut`.
    #[command(hide = true)]
    PowerCutWriter(power_cut::PowerCutWriter),
    /// Many callers at several replicas; with --freeze, a frozen holder.
    Replicas(replicas::Replicas),
    /// SIGTERM and a new start under load.
    Restarts(restarts::Restarts),
    /// Everything is revoked at once, and the queue killed again and again.
    Revoke(revoke::Revoke),
    /// PostgreSQL goes away and comes back; starts one of its own.
    Outage(outage::Outage),
    /// The broker, for the proofs.
    #[command(hide = true)]
    Serve { settings: String },
}

#[tokio::main]
async fn main() -> ExitCode {
    let held = match Arguments::parse().proof {
        Proof::Crash(settings) => crash::prove(&settings).await,
        Proof::PowerCut(settings) => power_cut::prove(&settings).await,
        Proof::PowerCutWriter(writer) => power_cut::write(&writer).await,
        Proof::Replicas(settings) => replicas::prove(&settings).await,
        Proof::Restarts(settings) => restarts::prove(&settings).await,
        Proof::Revoke(settings) => revoke::prove(&settings).await,
        Proof::Outage(settings) => outage::prove(&settings).await,
        Proof::Serve { settings } => serve::serve(&settings).await,
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::progress(&format!("the proof could not be run: {error:#}"));
            ExitCode::from(2)
        }
    }
}
