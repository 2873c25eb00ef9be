//! The restore guard of one process: it raises the epoch in the database, then lets its witness repeat it.

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use valetkey_broker::{Broker, Raised, Testimony};
use valetkey_core::Clock;

use crate::{
    StartError,
    config::Config,
    error::chain,
    witness::{WitnessError, WitnessFile},
};

/// How often the epoch rises: a state of the database that is older than this is recognised.
const BEAT: Duration = Duration::from_secs(60);

/// How often is looked whether it is time for that.
const LOOK: Duration = Duration::from_secs(1);

/// How long the last beat may take that a stop waits for.
const LAST: Duration = Duration::from_secs(2);

/// The guard of a running service.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    broker: Broker,
    witness: Option<WitnessFile>,
    /// What the database answered last: if it forgets that while the process runs, it was replaced under it.
    last: Arc<Mutex<Testimony>>,
}

impl Guard {
    /// The first beat: what the witness says is compared before anything is served or presented.
    pub(crate) async fn start(config: &Config, broker: &Broker) -> Result<Self, StartError> {
        let witness = config.guard.witness_dir.as_deref().map(WitnessFile::at).transpose()?;
        let first = match &witness {
            Some(witness) => blocking(witness, WitnessFile::read).await?,
            None => Testimony::Absent,
        };
        let is_new = witness.is_some() && first == Testimony::Absent;
        let guard = Self { broker: broker.clone(), witness, last: Arc::new(Mutex::new(first)) };
        let raised = guard.raise().await.map_err(StartError::Guard)?;
        if is_new && raised.witnessed.epoch > 1 {
            tracing::warn!(
                "no witness was kept here before: had this database been restored before this start, nobody would know"
            );
        }
        if let Some(hold) = raised.hold {
            tracing::warn!(
                reason = hold.reason.as_str(),
                since = %hold.since,
                "starts in hold, since {}: of refreshes only those of the rotation classes N and S are made, and no \
                 provider is told of revocations, until `valetkey release-hold`",
                hold.since
            );
        }
        guard.write().await?;
        Ok(guard)
    }

    /// Goes on beating until the service stops, by the service's clock.
    pub(crate) async fn watch(self, clock: Arc<dyn Clock>, stopping: CancellationToken) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beaten_at = clock.monotonic();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = looks.tick() => {}
            }
            if clock.monotonic().saturating_sub(beaten_at) >= BEAT {
                beaten_at = clock.monotonic();
                self.beat().await;
            }
        }
    }

    /// The last beat: from now on any older state of the database is recognised.
    pub(crate) async fn finish(&self) {
        if tokio::time::timeout(LAST, self.beat()).await.is_err() {
            tracing::warn!("the database did not take the last beat of the restore guard in time");
        }
    }

    async fn beat(&self) {
        match self.raise().await {
            Ok(_) => {
                if let Err(error) = self.write().await {
                    tracing::error!(error = &error as &dyn std::error::Error, "{}", chain(&error));
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the restore guard could not raise the epoch");
            }
        }
    }

    /// The database first.
    async fn raise(&self) -> Result<Raised, valetkey_broker::BrokerError> {
        let mut last = self.last.lock().await;
        let raised = self.broker.raise_epoch(&last).await?;
        *last = Testimony::Saw(raised.witnessed.clone());
        Ok(raised)
    }

    /// Then the witness.
    async fn write(&self) -> Result<(), WitnessError> {
        let Some(witness) = &self.witness else { return Ok(()) };
        let Testimony::Saw(witnessed) = self.last.lock().await.clone() else { return Ok(()) };
        blocking(witness, move |witness| witness.write(&witnessed)).await
    }
}

/// Waits for the disk elsewhere.
async fn blocking<T: Send + 'static>(
    witness: &WitnessFile,
    act: impl FnOnce(&WitnessFile) -> Result<T, WitnessError> + Send + 'static,
) -> Result<T, WitnessError> {
    let there = witness.clone();
    match tokio::task::spawn_blocking(move || act(&there)).await {
        Ok(done) => done,
        Err(ended) => Err(witness.failed(ended.into())),
    }
}
