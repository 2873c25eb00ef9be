//! The load runs. Each prints a table and one last line of JSON; give ratios of one run, machines are noisy.

mod bare;
mod broker;
mod child;
mod database;
mod load;
mod start_up;
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
    /// Time and memory of a start.
    StartUp(start_up::StartUp),
    /// A bare JSON route, for the other benches.
    #[command(hide = true)]
    ServeJson,
    /// A bare route with one primary-key read, for the other benches.
    #[command(hide = true)]
    ServeRead { url: String, rows: usize },
    /// The broker, for the other benches.
    #[command(hide = true)]
    ServeBroker { data_dir: PathBuf, connections: usize, quota: u32, postgres: Option<String> },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().bench {
        Bench::TokenCall(settings) => token_call::measure(&settings).await,
        Bench::StartUp(settings) => start_up::measure(&settings).await,
        Bench::ServeJson => bare::serve_json().await,
        Bench::ServeRead { url, rows } => bare::serve_read(&url, rows).await,
        Bench::ServeBroker { data_dir, connections, quota, postgres } => {
            broker::serve(&broker::Place { data_dir, postgres, connections, quota }).await
        }
    }
}
