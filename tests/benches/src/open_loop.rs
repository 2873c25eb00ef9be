//! An open load: requests begin at fixed times, whatever became of those before, and are timed from then.
//!
//! Each worker is a thread with a connection of its own: a thread wakes within tens of microseconds, which the timers of
//! an async runtime do not.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::bail;

/// Threads, and connections.
const WORKERS: u32 = 32;

/// What to ask, and how often.
#[derive(Debug, Clone)]
pub(crate) struct OpenLoad {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Vec<Vec<u8>>>,
    pub(crate) per_second: u32,
    /// Where in their order this begins: a load that goes on where another stopped asks for what was not asked for lately.
    pub(crate) first: u32,
}

/// A load under way.
#[derive(Debug)]
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<anyhow::Result<Vec<Call>>>>,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Which request.
    pub(crate) request: usize,
    /// From the time at which it was meant to begin.
    pub(crate) took: Duration,
}

impl OpenLoad {
    /// Begins.
    pub(crate) fn start(&self) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = Instant::now() + Duration::from_millis(50);
        let workers = (0..WORKERS)
            .map(|number| {
                let (load, stop) = (self.clone(), Arc::clone(&stop));
                std::thread::spawn(move || load.work(number, begin, &stop))
            })
            .collect();
        Running { stop, workers }
    }

    fn work(&self, number: u32, begin: Instant, stop: &AtomicBool) -> anyhow::Result<Vec<Call>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut calls = Vec::new();
        let each = Duration::from_secs(1) / self.per_second;
        let mut turn = number;
        while !stop.load(Ordering::Relaxed) {
            let meant = begin + each * turn;
            std::thread::sleep(meant.saturating_duration_since(Instant::now()));
            // A stride that is prime to most counts visits every request without a random source.
            let request = usize::try_from(self.first + turn)?.wrapping_mul(104_729) % self.requests.len();
            stream.write_all(&self.requests[request])?;
            read_answer(&mut stream, &mut buffer)?;
            calls.push(Call { request, took: meant.elapsed() });
            turn += WORKERS;
        }
        Ok(calls)
    }
}

impl Running {
    /// Ends the load and answers with all calls.
    pub(crate) fn stop(self) -> anyhow::Result<Vec<Call>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut calls = Vec::new();
        for worker in self.workers {
            match worker.join() {
                Ok(done) => calls.extend(done?),
                Err(_) => bail!("a worker of the load died"),
            }
        }
        if calls.is_empty() {
            bail!("nothing was answered");
        }
        Ok(calls)
    }
}

/// What share of the calls took no longer, in milliseconds.
pub(crate) fn percentile(calls: &[Call], share: f64) -> f64 {
    let mut took: Vec<Duration> = calls.iter().map(|call| call.took).collect();
    took.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let index = (took.len().saturating_sub(1) as f64 * share) as usize;
    took.get(index).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
}

fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        filled += read;
        if crate::load::is_whole(&buffer[..filled])? {
            return Ok(());
        }
    }
}
