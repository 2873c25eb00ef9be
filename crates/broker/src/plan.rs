//! Revoke many by filter: a frozen plan first, then the call that names it and its count.

use std::time::Duration;

use serde_json::json;
use valetkey_core::{Action, Caller, ConnectionId, Operation, PlanId, RevocationReason, Subject, Timestamp};
use valetkey_store::ConnectionFilter;

use crate::{Broker, BrokerError, Resource, broker::require};

/// How long a plan may be used.
const PLAN_LIFE: Duration = Duration::from_secs(600);

/// Connections revoked in one transaction.
const BATCH: usize = 2_000;

/// What a bulk revocation would do.
#[derive(Debug, Clone)]
pub struct RevokePlan {
    /// The plan.
    pub plan_id: PlanId,
    /// How many connections it holds.
    pub count: i64,
    /// How many of each provider.
    pub by_provider: Vec<(String, i64)>,
    /// How many of them their providers can confirm.
    pub confirmable: i64,
    /// How many of them their providers cannot be told of.
    pub unsupported: i64,
    /// The first twenty.
    pub sample: Vec<ConnectionId>,
    /// When the plan can no longer be used.
    pub expires_at: Timestamp,
}

/// What a bulk revocation did.
#[derive(Debug, Clone, Copy)]
pub struct BulkRevoked {
    /// Connections that were live and are revoked now.
    pub revoked: u64,
}

impl Broker {
    /// Freezes the live connections that match, and says what revoking them would do.
    pub async fn plan_revoke(&self, caller: &Caller, filter: &ConnectionFilter) -> Result<RevokePlan, BrokerError> {
        require(caller, Operation::BulkRevoke)?;
        let now = self.now();
        let mut event = self.event(&caller.space, caller.actor(), Action::RevokePlanned, Subject::default());
        event.detail = json!({ "filter": filter });
        let id = PlanId::new(now, self.entropy());
        let only = caller.connectors.as_deref();
        let plan = self.store().create_plan(id, &caller.space, filter, only, now, now.plus(PLAN_LIFE), &event).await?;
        let mut confirmable = 0;
        for (provider, count) in &plan.by_provider {
            if self.inner.parts.catalogue.summary(provider).is_some_and(|summary| summary.revocation.supported) {
                confirmable += count;
            }
        }
        Ok(RevokePlan {
            plan_id: plan.id,
            count: plan.count,
            confirmable,
            unsupported: plan.count - confirmable,
            by_provider: plan.by_provider,
            sample: plan.sample,
            expires_at: plan.expires_at,
        })
    }

    /// Revokes what a plan froze; refused if the count differs or the set grew since.
    pub async fn revoke_planned(
        &self,
        caller: &Caller,
        id: PlanId,
        expected_count: i64,
    ) -> Result<BulkRevoked, BrokerError> {
        require(caller, Operation::BulkRevoke)?;
        let plan = self.store().find_plan(&caller.space, id).await?;
        // A plan that reaches connectors which do not exist for the caller does not exist for it either.
        let plan = plan.filter(|plan| match (&caller.connectors, plan.only()) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(named), Some(planned)) => planned.iter().all(|connector| named.contains(connector)),
        });
        let plan = plan.ok_or(BrokerError::NotFound(Resource::Plan))?;
        let now = self.now();
        if plan.expires_at <= now {
            return Err(BrokerError::PlanOver);
        }
        let growth = self.store().plan_growth(&plan).await?;
        if growth > 0 || plan.count != expected_count {
            return Err(BrokerError::PlanStale { planned: plan.count, now: plan.count + growth });
        }
        if !self.store().take_plan(id, now).await? {
            return Err(BrokerError::PlanOver);
        }
        let members = self.store().plan_members(id).await?;
        let mut revoked = 0;
        for batch in members.chunks(BATCH) {
            let done = self.revoke_all(&caller.space, batch, RevocationReason::Bulk, caller.actor()).await?;
            revoked += u64::try_from(done.len()).unwrap_or(0);
        }
        Ok(BulkRevoked { revoked })
    }
}
