//! The load: keep-alive connections that ask one after the other, as cheap as a client can be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What to ask, and how hard.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) requests: Arc<Vec<Vec<u8>>>,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
}

/// What was seen.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) count: usize,
}

/// One request as bytes.
pub(crate) fn request(path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Asks until the time is over; any answer but 200 ends the run.
pub(crate) async fn run(load: &Load) -> anyhow::Result<Seen> {
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..load.connections {
        let (load, stop) = (load.clone(), Arc::clone(&stop));
        tasks.push(tokio::spawn(async move { one_connection(&load, number, &stop).await }));
    }
    tokio::time::sleep(load.duration).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.context("a connection's task died")??);
    }
    let elapsed = started.elapsed();
    if latencies.is_empty() {
        bail!("nothing was answered");
    }
    latencies.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((latencies.len() - 1) as f64 * share) as usize;
        Duration::from_nanos(u64::from(latencies[index]))
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = latencies.len() as f64 / elapsed.as_secs_f64();
    Ok(Seen { per_second, p50: at(0.5), p99: at(0.99), count: latencies.len() })
}

async fn one_connection(load: &Load, number: usize, stop: &AtomicBool) -> anyhow::Result<Vec<u32>> {
    let mut stream = TcpStream::connect(load.address).await?;
    stream.set_nodelay(true)?;
    let mut latencies = Vec::with_capacity(100_000);
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut next = number.wrapping_mul(7_919);
    while !stop.load(Ordering::Relaxed) {
        // A stride that is prime to most counts visits every request without a random source.
        next = next.wrapping_add(104_729);
        let request = &load.requests[next % load.requests.len()];
        let asked = Instant::now();
        stream.write_all(request).await?;
        read_answer(&mut stream, &mut buffer).await?;
        latencies.push(u32::try_from(asked.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        filled += read;
        if is_whole(&buffer[..filled])? {
            return Ok(());
        }
    }
}

/// Whether an answer is all there; one that is not a 200 is an error.
pub(crate) fn is_whole(seen: &[u8]) -> anyhow::Result<bool> {
    let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    if !seen.starts_with(b"HTTP/1.1 200") {
        bail!("the server answered {}", String::from_utf8_lossy(&seen[..seen.len().min(300)]));
    }
    Ok(seen.len() >= end + 4 + content_length(&seen[..end])?)
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head)?;
    head.lines()
        .find_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")))
        .and_then(|(_, value)| value.trim().parse().ok())
        .context("the answer has no content-length")
}
