//! A runtime of its own for the scheduled work, so that thousands of refreshes never stand before a token call.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// How much the scheduled work yields to those who wait for an answer, where both want the processor.
const NICE: i32 = 10;

/// Threads for the scheduled work.
const THREADS: usize = 1;

/// The runtime of the scheduled work. What runs on it is abandoned when this is dropped: stop the work before.
#[derive(Debug)]
pub(crate) struct Background {
    runtime: Option<Runtime>,
}

impl Background {
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("valetkey-work")
            .on_thread_start(yield_to_others)
            .enable_all()
            .build()?;
        Ok(Self { runtime: Some(runtime) })
    }

    /// Runs `future` there.
    pub(crate) async fn run<F>(&self, future: F) -> io::Result<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let gone = || io::Error::other("the runtime of the scheduled work is gone");
        let task = self.runtime.as_ref().ok_or_else(gone)?.spawn(future);
        task.await.map_err(io::Error::other)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A runtime must not be waited for inside of another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// On Linux niceness is each thread's own.
fn yield_to_others() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(error = &error as &dyn std::error::Error, "the scheduled work keeps its priority");
    }
}
