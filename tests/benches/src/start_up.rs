//! How long the start takes and how much memory a started service holds.

use std::time::Instant;

use serde_json::json;

use crate::child::Server;

/// The benchmark's settings.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct StartUp {
    /// Stored connections.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Starts; the slowest counts.
    #[arg(long, default_value_t = 5)]
    starts: usize,
}

#[expect(clippy::print_stdout, reason = "the table is what this command is for")]
pub(crate) async fn measure(settings: &StartUp) -> anyhow::Result<()> {
    let data = tempfile::tempdir()?;
    let directory = data.path().join("data").to_string_lossy().into_owned();
    let arguments = |connections: usize| {
        vec!["serve-broker".to_owned(), directory.clone(), connections.to_string(), "1000".to_owned()]
    };
    println!("storing {} connections on sqlite", settings.connections);
    drop(Server::start(&arguments(settings.connections)).await?);
    let mut slowest = 0.0_f64;
    let mut resident = 0;
    for number in 0..settings.starts.max(1) {
        wait_until_free().await;
        let started = Instant::now();
        // Nothing is imported: the process starts, opens what is there, makes one key and says that it is ready.
        let server = Server::start(&arguments(0)).await?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        resident = server.resident_kib().unwrap_or(0) / 1024;
        println!("start {}: {took:.0} ms, {resident} MiB", number + 1);
        slowest = slowest.max(took);
    }
    println!(
        "{}",
        json!({ "bench": "start-up", "connections": settings.connections, "slowest_ms": slowest.round(), "rss_mib": resident })
    );
    Ok(())
}

/// A server that was killed lets go of its lock a moment later.
pub(crate) async fn wait_until_free() {
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
}
