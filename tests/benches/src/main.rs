//! The load runs. Each prints a table and one last line of JSON; give ratios of one run, machines are noisy.

mod bare;
mod broker;
mod child;
mod database;
mod key_check;
mod load;
mod open_loop;
mod rotation;
mod start_up;
mod sweep;
mod sweep_broker;
mod token_call;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The one of the binary that ships.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "The load runs of Valetkey")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// A token call with a fresh token, beside a bare axum route.
    TokenCall(token_call::TokenCall),
    /// Whether the time of a key's check tells how near a wrong key was.
    KeyCheck(key_check::KeyCheck),
    /// Time and memory of a start.
    StartUp(start_up::StartUp),
    /// Refreshing what is due, beside token calls.
    Sweep(sweep::Sweep),
    /// Rotations of the data keys that are killed, and what they cost those who are served.
    Rotation(rotation::Rotation),
    /// The broker that rotates until it is killed.
    #[command(hide = true)]
    RotateUntilKilled { data_dir: PathBuf, postgres: Option<String> },
    /// The broker that rotates when it is told to.
    #[command(hide = true)]
    ServeRotating { data_dir: PathBuf, postgres: Option<String> },
    /// A bare JSON route, for the other benches.
    #[command(hide = true)]
    ServeJson,
    /// A bare route with one primary-key read, for the other benches.
    #[command(hide = true)]
    ServeRead { url: String, rows: usize },
    /// The broker, for the other benches.
    #[command(hide = true)]
    ServeBroker { data_dir: PathBuf, connections: usize, quota: u32, postgres: Option<String> },
    /// The broker of the sweep.
    #[command(hide = true)]
    ServeSweep { data_dir: PathBuf, sandbox: String, grants: PathBuf, budget: u32, postgres: Option<String> },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().bench {
        Bench::TokenCall(settings) => token_call::measure(&settings).await,
        Bench::KeyCheck(settings) => key_check::measure(&settings),
        Bench::StartUp(settings) => start_up::measure(&settings).await,
        Bench::Sweep(settings) => sweep::measure(&settings).await,
        Bench::ServeSweep { data_dir, sandbox, grants, budget, postgres } => {
            sweep_broker::serve(&sweep_broker::Place { data_dir, postgres, sandbox, grants, budget }).await
        }
        Bench::Rotation(settings) => rotation::measure(&settings).await,
        Bench::RotateUntilKilled { data_dir, postgres } => {
            rotation::rotate_until_killed(&rotation::Place::at(&data_dir, postgres)).await
        }
        Bench::ServeRotating { data_dir, postgres } => {
            rotation::serve_rotating(&rotation::Place::at(&data_dir, postgres)).await
        }
        Bench::ServeJson => bare::serve_json().await,
        Bench::ServeRead { url, rows } => bare::serve_read(&url, rows).await,
        Bench::ServeBroker { data_dir, connections, quota, postgres } => {
            broker::serve(&broker::Place { data_dir, postgres, connections, quota }).await
        }
    }
}
