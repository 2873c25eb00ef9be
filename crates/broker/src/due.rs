//! Scheduled refreshing: what is due, oldest first, within this process's concurrency and each connector's budget.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use valetkey_core::{Attempt, Connection, ConnectionId, ReauthReason, Refreshing, Status, Timestamp, Trigger};

use crate::{Broker, BrokerError, refresh::RefreshEnd, schedule::keep_alive_at};

/// What one run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DueReport {
    /// Connections that were due.
    pub claimed: u64,
    /// Refreshed.
    pub settled: u64,
    /// Found dead.
    pub dead: u64,
    /// To be tried again.
    pub failed: u64,
    /// Put off: dormant, over budget, or somebody else is at it.
    pub postponed: u64,
}

impl Broker {
    /// Refreshes up to `limit` connections that are due. Replicas share the work: a claim moves the due point, so that
    /// what a dead process claimed is due again when its lease is over.
    pub async fn refresh_due(&self, limit: i64) -> Result<DueReport, BrokerError> {
        let now = self.now();
        let until = now.plus(Attempt::LEASE + Duration::from_secs(5));
        let claimed = self.store().claim_due(now, until, limit).await?;
        let mut report = DueReport { claimed: u64::try_from(claimed.len()).unwrap_or(0), ..DueReport::default() };
        let slots = Arc::clone(&self.inner.pace.slots);
        let ends: Vec<Result<RefreshEnd, BrokerError>> = futures::stream::iter(claimed)
            .map(|id| {
                let (broker, slots) = (self.clone(), Arc::clone(&slots));
                async move {
                    let _slot = slots.acquire_owned().await.map_err(|_| BrokerError::ShuttingDown)?;
                    broker.refresh_one_due(id).await
                }
            })
            .buffer_unordered(self.inner.parts.settings.refresh.concurrency.max(1))
            .collect()
            .await;
        for end in ends {
            match end? {
                RefreshEnd::Settled => report.settled += 1,
                RefreshEnd::Dead => report.dead += 1,
                RefreshEnd::Failed(_) => report.failed += 1,
                RefreshEnd::Busy | RefreshEnd::Nothing | RefreshEnd::Superseded => report.postponed += 1,
            }
        }
        Ok(report)
    }

    async fn refresh_one_due(&self, id: ConnectionId) -> Result<RefreshEnd, BrokerError> {
        let Some(stored) = self.reread(id).await? else {
            self.store().move_due(id, None).await?;
            return Ok(RefreshEnd::Nothing);
        };
        let connection = &stored.connection;
        let now = self.now();
        if connection.status != Status::Active {
            self.store().move_due(id, None).await?;
            return Ok(RefreshEnd::Nothing);
        }
        let later = connection.refresh_due_at.filter(|due| *due > now && connection.refreshing == Refreshing::Ok);
        if later.is_some() {
            // Refreshed or reconnected since it was claimed: its own time comes later.
            self.store().move_due(id, later).await?;
            return Ok(RefreshEnd::Superseded);
        }
        if self.has_ended(connection, now).await? {
            return Ok(RefreshEnd::Dead);
        }
        let keep_alive = keep_alive_at(connection.issued_at, connection.refresh_expires_at);
        let dormant = self.is_dormant(connection, now);
        if dormant && !connection.has_refresh_token {
            // Nothing can lie idle: the next caller brings the next token.
            self.store().move_due(id, None).await?;
            return Ok(RefreshEnd::Nothing);
        }
        if dormant && keep_alive > now {
            self.store().move_due(id, Some(keep_alive)).await?;
            return Ok(RefreshEnd::Nothing);
        }
        if let Some(wait) = self.over_budget(connection, now).await? {
            self.store().move_due(id, Some(now.plus(wait))).await?;
            return Ok(RefreshEnd::Nothing);
        }
        let trigger = if dormant { Trigger::Idle } else { Trigger::Early };
        let end = self.join_flight(connection, trigger).landed().await;
        if end == RefreshEnd::Nothing {
            self.store().move_due(id, None).await?;
        }
        Ok(end)
    }

    /// The refresh token's stated end has come: nothing can be presented any more.
    async fn has_ended(&self, connection: &Connection, now: Timestamp) -> Result<bool, BrokerError> {
        let over = connection.refresh_expires_at.is_some_and(|at| at <= now)
            || connection.reconnect_by.is_some_and(|at| at <= now);
        // The access token may live longer than that; it is served to its end.
        if over && connection.is_expired(now) {
            self.mark_dead(connection, ReauthReason::RefreshTokenExpired, "refresh_token_expired").await?;
            return Ok(true);
        }
        Ok(false)
    }

    fn is_dormant(&self, connection: &Connection, now: Timestamp) -> bool {
        let last = connection.last_used_at.unwrap_or(connection.created_at).max(connection.created_at);
        now.since(last) >= self.inner.parts.settings.refresh.dormant_after
    }

    /// One budget per connector, shared by all replicas.
    async fn over_budget(&self, connection: &Connection, now: Timestamp) -> Result<Option<Duration>, BrokerError> {
        let per_second = self.inner.parts.settings.refresh.per_second_and_connector.max(1);
        let quota = format!("refresh:{}", connection.connector_id);
        let interval = Duration::from_secs(1) / per_second;
        Ok(self.store().take_quota(&quota, interval, per_second, now).await?.err())
    }

    /// Reads the gauges of `/metrics`; one replica a minute is enough, each may.
    pub async fn measure(&self) -> Result<(), BrokerError> {
        let counts = self.store().connection_counts().await?;
        self.inner
            .metrics
            .connections_are(counts.into_iter().map(|each| (each.provider, each.status.as_str(), each.count)));
        let revocations = self.store().revocation_counts().await?;
        self.inner.metrics.revocations_are(revocations.into_iter().map(|(state, count)| (state.as_str(), count)));
        let now = self.now();
        let due = self.store().due_counts(now).await?;
        let lag = due.oldest.map_or(0, |oldest| i64::try_from(now.since(oldest).as_secs()).unwrap_or(i64::MAX));
        self.inner.metrics.due_is(due.due, due.overdue, lag);
        Ok(())
    }
}
