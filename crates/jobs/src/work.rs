//! What there is to do, and how one run of it is done.

use std::time::Duration;

use valetkey_broker::{Broker, BrokerError};

/// Connections claimed at once.
const DUE_BATCH: i64 = 64;

/// Revocations claimed at once.
const REVOCATION_BATCH: i64 = 64;

/// Abandoned attempts looked at in one run.
const RECOVERY_BATCH: i64 = 1_000;

/// Kinds of scheduled work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Work {
    /// Refresh what is due.
    Refresh,
    /// Tell providers of revocations.
    Deliver,
    /// Decide how attempts and redemptions of dead processes go on.
    Recover,
    /// Write down what was handed out.
    Issues,
    /// Delete what is over.
    Purge,
    /// Read the gauges of the metrics.
    Measure,
    /// Learn of new data keys, and go on with a rotation.
    Keyring,
}

impl Work {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Refresh, Self::Deliver, Self::Recover, Self::Issues, Self::Purge, Self::Measure, Self::Keyring];

    /// Its name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Deliver => "deliver",
            Self::Recover => "recover",
            Self::Issues => "issues",
            Self::Purge => "purge",
            Self::Measure => "measure",
            Self::Keyring => "keyring",
        }
    }

    /// How often it is looked for.
    pub(crate) fn period(self) -> Duration {
        Duration::from_secs(match self {
            Self::Refresh | Self::Issues => 1,
            Self::Deliver => 2,
            Self::Recover | Self::Keyring => 5,
            Self::Measure => 60,
            Self::Purge => 600,
        })
    }
}

/// Does one kind of work until there is no more of it now, and says what was done.
pub async fn run(broker: &Broker, work: Work) -> Result<String, BrokerError> {
    match work {
        Work::Refresh => refresh(broker).await,
        Work::Deliver => deliver(broker).await,
        Work::Recover => {
            let attempts = broker.recover_attempts(RECOVERY_BATCH).await?;
            let flows = broker.recover_flows().await?;
            Ok(worth_saying(attempts + flows, || format!("{attempts} attempts, {flows} flows")))
        }
        Work::Keyring => {
            let fields = broker.tend_keyring().await?;
            Ok(worth_saying(fields, || format!("{fields} fields sealed with the new data key")))
        }
        Work::Issues => {
            broker.write_issues().await?;
            Ok(String::new())
        }
        Work::Purge => {
            let report = broker.purge(false).await?;
            Ok(format!("{report:?}"))
        }
        Work::Measure => {
            broker.measure().await?;
            Ok(String::new())
        }
    }
}

async fn refresh(broker: &Broker) -> Result<String, BrokerError> {
    let all = broker.refresh_due(DUE_BATCH).await?;
    Ok(worth_saying(all.claimed, || {
        format!(
            "{} due: {} refreshed, {} dead, {} failed, {} put off",
            all.claimed, all.settled, all.dead, all.failed, all.postponed
        )
    }))
}

async fn deliver(broker: &Broker) -> Result<String, BrokerError> {
    let (mut claimed, mut ended, mut retried) = (0, 0, 0);
    loop {
        let report = broker.deliver_revocations(REVOCATION_BATCH).await?;
        claimed += report.claimed;
        ended += report.ended;
        retried += report.retried;
        if report.claimed == 0 {
            return Ok(worth_saying(claimed, || {
                format!("{claimed} revocations: {ended} ended, {retried} to be retried")
            }));
        }
    }
}

fn worth_saying(count: u64, text: impl FnOnce() -> String) -> String {
    if count == 0 { String::new() } else { text() }
}
