//! Scheduled refreshing: what is due, oldest first, within this process's concurrency and each connector's budget.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use valetkey_core::{
    Attempt, Connection, ConnectionId, ConnectorId, ReauthReason, Refreshing, Status, Timestamp, Trigger,
};
use valetkey_store::{Prepared, Slots};

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

impl DueReport {
    fn count(&mut self, end: RefreshEnd) {
        match end {
            RefreshEnd::Settled => self.settled += 1,
            RefreshEnd::Dead => self.dead += 1,
            RefreshEnd::Failed(_) => self.failed += 1,
            RefreshEnd::Busy | RefreshEnd::Nothing | RefreshEnd::Superseded | RefreshEnd::Held | RefreshEnd::Ended => {
                self.postponed += 1;
            }
        }
    }
}

/// Budget that is free within this time is taken in advance, so that refreshes flow evenly instead of in bursts.
const HORIZON: Duration = Duration::from_millis(250);

/// While refreshes are under way and none ends, more is claimed this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What becomes of a connection that was claimed.
enum Plan {
    /// Refresh it, once its connector's budget allows.
    Refresh(Box<Prepared>, Trigger),
    /// Nothing to do before this.
    Later(ConnectionId, Option<Timestamp>),
    /// Its grant is over.
    Ended(Box<Prepared>),
}

impl Broker {
    /// Refreshes what is due until no more is, claiming `batch` at once and going on claiming while the slow ones are
    /// still under way. Replicas share the work: a claim moves the due point, so that what a dead process claimed is due
    /// again when its lease is over.
    pub async fn refresh_due(&self, batch: i64) -> Result<DueReport, BrokerError> {
        let concurrency = self.inner.parts.settings.refresh.concurrency.max(1);
        let mut report = DueReport::default();
        let mut under_way = FuturesUnordered::new();
        let mut more = true;
        let mut failure = None;
        loop {
            while more && under_way.len() <= concurrency && !self.inner.stops_claiming.load(Ordering::Relaxed) {
                let before = report.claimed;
                match self.claim_flights(batch, &mut report).await {
                    Ok(flights) => {
                        // If all were put off they would be claimed again at once.
                        more = !flights.is_empty() && report.claimed - before == batch.unsigned_abs();
                        under_way.extend(flights);
                    }
                    Err(error) => {
                        more = false;
                        failure = Some(error);
                    }
                }
            }
            match tokio::time::timeout(LOOK_AGAIN, under_way.next()).await {
                Ok(Some(Ok(end))) => report.count(end),
                // What is claimed is carried on with, whatever became of others.
                Ok(Some(Err(error))) => {
                    more = false;
                    failure = Some(error);
                }
                Ok(None) => return failure.map_or(Ok(report), Err),
                // The slow ones do not hold up what has become due meanwhile.
                Err(_) => more = failure.is_none(),
            }
        }
    }

    /// Claims nothing more, so that a run of [`refresh_due`](Self::refresh_due) ends with what it has begun.
    pub fn stop_claiming(&self) {
        self.inner.stops_claiming.store(true, Ordering::Relaxed);
    }

    /// Claims what is due; whatever needs no refresh now is put off.
    async fn claim_flights(
        &self,
        batch: i64,
        report: &mut DueReport,
    ) -> Result<Vec<impl Future<Output = Result<RefreshEnd, BrokerError>> + use<>>, BrokerError> {
        let now = self.now();
        let until = now.plus(Attempt::LEASE + Duration::from_secs(5));
        let claimed = self.store().claim_due(now, until, batch).await?;
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        // So that what a hold keeps back is put off before it is prepared any further.
        self.hold().await?;
        report.claimed += u64::try_from(claimed.len()).unwrap_or(0);
        let prepared = self.store().prepare(&claimed).await?;
        let found: HashSet<ConnectionId> = prepared.iter().map(|prepared| prepared.connection.id).collect();
        let mut later: Vec<(ConnectionId, Option<Timestamp>)> =
            claimed.into_iter().filter(|id| !found.contains(id)).map(|id| (id, None)).collect();
        let mut by_connector: HashMap<ConnectorId, Vec<(Box<Prepared>, Trigger)>> = HashMap::new();
        for prepared in prepared {
            match self.plan(Box::new(prepared), now) {
                Plan::Refresh(prepared, trigger) => {
                    by_connector.entry(prepared.connection.connector_id).or_default().push((prepared, trigger));
                }
                Plan::Later(id, due_at) => later.push((id, due_at)),
                Plan::Ended(prepared) => {
                    let connection = &prepared.connection;
                    match self.has_ended(connection, now).await? {
                        Some(RefreshEnd::Dead) => report.dead += 1,
                        _ => report.postponed += 1,
                    }
                }
            }
        }
        let mut flights = Vec::new();
        for (connector, wanting) in by_connector {
            let slots = self.take_budget(connector, wanting.len(), now).await?;
            for (number, ((prepared, trigger), wait)) in wanting.into_iter().zip(slots.waits).enumerate() {
                if number < slots.taken {
                    flights.push(self.clone().refresh_one_due(prepared, trigger, wait, until));
                } else {
                    later.push((prepared.connection.id, Some(now.plus(wait))));
                }
            }
        }
        report.postponed += u64::try_from(later.len()).unwrap_or(0);
        let moves = later.into_iter().map(async |(id, due_at)| match due_at {
            Some(_) => self.store().move_due(id, due_at).await,
            None => self.store().drop_due(id, until).await,
        });
        futures::future::try_join_all(moves).await?;
        Ok(flights)
    }

    fn plan(&self, prepared: Box<Prepared>, now: Timestamp) -> Plan {
        let connection = &prepared.connection;
        if connection.status != Status::Active {
            return Plan::Later(connection.id, None);
        }
        let later = connection.refresh_due_at.filter(|due| *due > now && connection.refreshing == Refreshing::Ok);
        if later.is_some() {
            // Refreshed or reconnected since it was claimed: its own time comes later.
            return Plan::Later(connection.id, later);
        }
        if connection.has_refresh_token && connection.refresh_has_ended(now) {
            return Plan::Ended(prepared);
        }
        if self.is_dormant(connection, now) {
            let keep_alive = keep_alive_at(connection.issued_at, connection.refresh_expires_at);
            return match connection.has_refresh_token {
                // Nothing can lie idle: the next caller brings the next token.
                false => Plan::Later(connection.id, None),
                true if keep_alive > now => Plan::Later(connection.id, Some(keep_alive)),
                true => Plan::Refresh(prepared, Trigger::Idle),
            };
        }
        Plan::Refresh(prepared, Trigger::Early)
    }

    async fn refresh_one_due(
        self,
        prepared: Box<Prepared>,
        trigger: Trigger,
        wait: Duration,
        claimed_until: Timestamp,
    ) -> Result<RefreshEnd, BrokerError> {
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let slots = Arc::clone(&self.inner.pace.slots);
        let _slot = slots.acquire_owned().await.map_err(|_| BrokerError::ShuttingDown)?;
        let id = prepared.connection.id;
        let end = self.join_prepared(prepared, trigger).landed().await;
        if end == RefreshEnd::Nothing {
            self.store().drop_due(id, claimed_until).await?;
        }
        Ok(end)
    }

    /// The refresh token's stated end has come: it is not presented any more, and would only be refused. The access token
    /// may live longer than that; it is served to its end, and only then the connection needs its owner.
    pub(crate) async fn has_ended(
        &self,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<Option<RefreshEnd>, BrokerError> {
        // Without a refresh token nothing has such an end: client credentials go on for ever.
        if !connection.has_refresh_token || !connection.refresh_has_ended(now) {
            return Ok(None);
        }
        if connection.is_expired(now) {
            self.mark_dead(connection, ReauthReason::RefreshTokenExpired, "refresh_token_expired").await?;
            return Ok(Some(RefreshEnd::Dead));
        }
        // For good: else each caller would find it overdue.
        self.store().put_due_point(connection, connection.expires_at).await?;
        Ok(Some(RefreshEnd::Ended))
    }

    fn is_dormant(&self, connection: &Connection, now: Timestamp) -> bool {
        let last = connection.last_used_at.unwrap_or(connection.created_at).max(connection.created_at);
        now.since(last) >= self.inner.parts.settings.refresh.dormant_after
    }

    /// One budget per connector, shared by all replicas.
    async fn take_budget(&self, connector: ConnectorId, want: usize, now: Timestamp) -> Result<Slots, BrokerError> {
        let per_second = self.inner.parts.settings.refresh.per_second_and_connector.max(1);
        let quota = format!("refresh:{connector}");
        let interval = Duration::from_secs(1) / per_second;
        Ok(self.store().take_slots(&quota, (interval, per_second), HORIZON, want, now).await?)
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
        let skews = self.provider().clock_skews();
        self.inner.metrics.clock_skews_are(skews.into_iter().map(|skew| {
            let size = Duration::from_millis(skew.millis.unsigned_abs()).as_secs_f64();
            (skew.provider, if skew.millis < 0 { -size } else { size })
        }));
        Ok(())
    }
}
