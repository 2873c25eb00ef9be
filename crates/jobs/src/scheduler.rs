//! The tick.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use valetkey_broker::Broker;

use crate::{Work, run};

/// The scheduler could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the scheduler could not be set up")]
pub struct JobsError(#[from] JobSchedulerError);

/// The scheduled work of this process.
///
/// Owns the ticks; each run holds its job's lock, which [`Jobs::stop`] waits for.
pub struct Jobs {
    broker: Broker,
    scheduler: JobScheduler,
    running: Vec<Arc<Mutex<()>>>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("jobs", &self.running.len()).finish_non_exhaustive()
    }
}

impl Jobs {
    /// Starts ticking.
    pub async fn start(broker: Broker) -> Result<Self, JobsError> {
        let scheduler = JobScheduler::new().await?;
        let mut running = Vec::new();
        for work in Work::ALL {
            let lock = Arc::new(Mutex::new(()));
            running.push(Arc::clone(&lock));
            let broker = broker.clone();
            let job = Job::new_repeated_async(work.period(), move |_, _| {
                let (broker, lock) = (broker.clone(), Arc::clone(&lock));
                Box::pin(async move {
                    // A run that takes longer than its period is not joined by a second one.
                    let Ok(_running) = lock.try_lock() else { return };
                    tick(&broker, work).await;
                })
            })?;
            scheduler.add(job).await?;
        }
        scheduler.start().await?;
        Ok(Self { broker, scheduler, running })
    }

    /// Stops ticking and waits for the runs under way.
    pub async fn stop(mut self) {
        self.broker.stop_claiming();
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the scheduler did not stop cleanly");
        }
        for lock in &self.running {
            drop(lock.lock().await);
        }
    }
}

async fn tick(broker: &Broker, work: Work) {
    let done = run(broker, work).await;
    broker.metrics().job_ran(work.name(), done.is_ok());
    match done {
        Ok(report) if report.is_empty() => {}
        Ok(report) => tracing::info!(job = work.name(), "{}: {report}", work.name()),
        Err(error) => {
            tracing::error!(
                job = work.name(),
                error = &error as &dyn std::error::Error,
                "{} failed: {error}",
                work.name()
            );
        }
    }
}
