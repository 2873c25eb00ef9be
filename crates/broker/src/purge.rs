//! Purge: what is over is deleted, each kind by its own criteria, with a dry run.

use valetkey_core::{Action, Actor, RevocationReason, SpaceId};

use crate::{Broker, BrokerError};

/// Connections looked at in one run of the purge of unused ones.
const UNUSED_BATCH: i64 = 1_000;

/// How many rows of each kind were deleted, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PurgeReport {
    /// Pending flows whose life was over.
    pub flows_expired: u64,
    /// Ended flows.
    pub flows: u64,
    /// Connections revoked long ago.
    pub revoked_connections: u64,
    /// Connections that nobody uses and nothing can refresh: revoked, through the queue.
    pub unused_connections: u64,
    /// Settled attempts of generations that are over.
    pub attempts: u64,
    /// Ended revocations.
    pub revocations: u64,
    /// Audit events.
    pub audit: u64,
    /// Plans.
    pub plans: u64,
}

impl Broker {
    /// Deletes what is over, or counts it. Large backlogs take several runs.
    pub async fn purge(&self, dry_run: bool) -> Result<PurgeReport, BrokerError> {
        let store = self.store();
        let now = self.now();
        let keep = &self.inner.parts.settings.retention;
        let purged = |space: &SpaceId, subject| self.event(space, Actor::System, Action::ConnectionPurged, subject);
        let revoked_before = now.minus(keep.revoked_connections);
        let mut report = PurgeReport {
            flows_expired: store.expire_flows(now, dry_run).await?,
            flows: store.purge_flows(now.minus(keep.flows), dry_run).await?,
            revoked_connections: store.purge_revoked_connections(revoked_before, dry_run, &purged).await?,
            unused_connections: 0,
            attempts: store.purge_attempts(now.minus(keep.attempts), dry_run).await?,
            revocations: store.purge_revocations(now.minus(keep.revocations), dry_run).await?,
            audit: store.purge_audit(now.minus(keep.audit), dry_run).await?,
            plans: store.purge_plans(now, dry_run).await?,
        };
        // When a restored database last saw a use says nothing of when there was one.
        let unused = match self.hold().await? {
            Some(_) => Vec::new(),
            None => store.unused_connections(now.minus(keep.unused_connections), UNUSED_BATCH).await?,
        };
        report.unused_connections = u64::try_from(unused.len()).unwrap_or(0);
        if !dry_run {
            for id in unused {
                if let Some(stored) = self.reread(id).await? {
                    let space = stored.connection.space.clone();
                    self.revoke_all(&space, &[id], RevocationReason::Purge, Actor::System).await?;
                }
            }
            store.erase_deleted_connectors(now).await?;
            store.sweep_quotas(now).await?;
        }
        Ok(report)
    }
}
