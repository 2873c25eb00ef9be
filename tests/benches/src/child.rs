//! The servers under load run as processes of their own, so that their processor time can be read.

use std::{net::SocketAddr, process::Stdio};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};

/// What a server says of itself once it is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) address: SocketAddr,
    /// The path to ask.
    pub(crate) path: String,
    /// The key to ask with.
    pub(crate) key: String,
}

/// A server process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) ready: Ready,
    process: Child,
    until: ChildStdin,
}

impl Server {
    /// Starts this program again with `arguments` and waits until it is ready.
    pub(crate) async fn start(arguments: &[String]) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the server process does not start")?;
        let stdout = process.stdout.take().context("the server has no output")?;
        let until = process.stdin.take().context("the server has no input")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the server ended before it was ready")?;
        let ready = serde_json::from_str(&line).context("the server's first line is not what it should be")?;
        Ok(Self { ready, process, until })
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }

    /// Says a line to it.
    pub(crate) async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(self.until.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Processor time so far, in seconds; `None` where `/proc` cannot be read.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        const TICKS: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()?)).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let (user, system): (f64, f64) = (fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?);
        Some((user + system) / TICKS)
    }

    /// Resident memory in KiB.
    pub(crate) fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

/// Says that this server is ready, and waits until the other side closes our input.
#[expect(clippy::print_stdout, reason = "the line that the parent waits for")]
pub(crate) async fn until_closed(ready: &Ready) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(ready)?);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while lines.next_line().await?.is_some() {}
    Ok(())
}
