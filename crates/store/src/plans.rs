//! Plans: the frozen set of a bulk revocation, between the dry run and the real one.

use serde::{Deserialize, Serialize};
use valetkey_core::{AuditEvent, ConnectionId, ConnectorId, PlanId, SpaceId, Timestamp};

use crate::{
    ConnectionFilter, StoreError, TokenStore,
    audit::write_audit,
    db::{on_db, on_db_write, on_tx},
    lists::bind_filter,
    rows::{from_json, parse, to_json},
    sql,
};

const TABLE: &str = "revoke_plans";
const SAMPLE: i64 = 20;

/// A frozen set of connections to revoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// The space.
    pub space: SpaceId,
    /// What was asked for.
    pub filter: ConnectionFilter,
    /// How many connections it holds.
    pub count: i64,
    /// How many of each provider.
    pub by_provider: Vec<(String, i64)>,
    /// The first twenty.
    pub sample: Vec<ConnectionId>,
    /// When it can no longer be used.
    pub expires_at: Timestamp,
    only: Option<Vec<ConnectorId>>,
}

/// What a plan was made from, as its column holds it.
#[derive(Serialize, Deserialize)]
struct Source {
    filter: ConnectionFilter,
    only: Option<Vec<ConnectorId>>,
}

#[derive(sqlx::FromRow)]
struct PlanRow {
    id: String,
    space_id: String,
    filter: String,
    planned: i64,
    expires_at: i64,
}

/// Adds what is known only once the set is frozen.
fn with_plan(event: &AuditEvent, id: PlanId, count: u64) -> AuditEvent {
    let mut event = event.clone();
    if event.detail.is_null() {
        event.detail = serde_json::json!({});
    }
    if let Some(detail) = event.detail.as_object_mut() {
        detail.insert("plan_id".to_owned(), id.to_string().into());
        detail.insert("count".to_owned(), count.into());
    }
    event
}

impl Plan {
    /// The connectors that existed for whoever made it; `None` for all of the space.
    pub fn only(&self) -> Option<&[ConnectorId]> {
        self.only.as_deref()
    }
}

impl TokenStore {
    /// Freezes the live connections (`active` and `needs_reauth`) that match now. The event is written with the plan's
    /// id and count in its detail.
    #[expect(clippy::too_many_arguments, reason = "each is one column of the plan")]
    pub async fn create_plan(
        &self,
        id: PlanId,
        space: &SpaceId,
        filter: &ConnectionFilter,
        only: Option<&[ConnectorId]>,
        now: Timestamp,
        expires_at: Timestamp,
        event: &AuditEvent,
    ) -> Result<Plan, StoreError> {
        let source = Source { filter: filter.clone(), only: only.map(<[_]>::to_vec) };
        let text = match filter.owner {
            Some(_) => sql::lists::INSERT_MEMBERS_OF_OWNER,
            None => sql::lists::INSERT_MEMBERS,
        };
        let mut tx = self.db.begin_sweep().await?;
        let count = on_tx!(&mut tx, |connection| {
            let count = bind_filter!(sqlx::query(text), space, filter, only)
                .bind(id.to_string())
                .execute(&mut *connection)
                .await?
                .rows_affected();
            sqlx::query(sql::lists::INSERT_PLAN)
                .bind(id.to_string())
                .bind(space.as_str())
                .bind(to_json(&source))
                .bind(i64::try_from(count).unwrap_or(i64::MAX))
                .bind(now.as_millis())
                .bind(expires_at.as_millis())
                .execute(connection)
                .await?;
            count
        });
        write_audit(&mut tx, &with_plan(event, id, count)).await?;
        tx.commit().await?;
        self.find_plan(space, id).await?.ok_or_else(|| StoreError::inconsistent(TABLE, "id", &id.to_string()))
    }

    /// A space's plan, used and lapsed ones too: [`TokenStore::take_plan`] decides.
    pub async fn find_plan(&self, space: &SpaceId, id: PlanId) -> Result<Option<Plan>, StoreError> {
        let name = id.to_string();
        let row: Option<PlanRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::lists::FIND_PLAN).bind(space.as_str()).bind(name.as_str()).fetch_optional(pool).await?
        });
        let Some(row) = row else { return Ok(None) };
        let by_provider: Vec<(String, i64)> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::lists::PLAN_PROVIDERS).bind(name.as_str()).fetch_all(pool).await?
        });
        let sample: Vec<String> = on_db!(&self.db, |pool| {
            sqlx::query_scalar(sql::lists::PLAN_SAMPLE).bind(name.as_str()).bind(SAMPLE).fetch_all(pool).await?
        });
        let source: Source = from_json(TABLE, "filter", &row.id, &row.filter)?;
        Ok(Some(Plan {
            id,
            space: parse(TABLE, "space_id", &row.id, &row.space_id)?,
            filter: source.filter,
            count: row.planned,
            by_provider,
            sample: member_ids(&sample)?,
            expires_at: Timestamp::from_millis(row.expires_at),
            only: source.only,
        }))
    }

    /// How many live connections match now and are not in the plan.
    pub async fn plan_growth(&self, plan: &Plan) -> Result<i64, StoreError> {
        let text = match plan.filter.owner {
            Some(_) => sql::lists::PLAN_GROWTH_OF_OWNER,
            None => sql::lists::PLAN_GROWTH,
        };
        Ok(on_db!(&self.db, |pool| {
            bind_filter!(sqlx::query_scalar(text), plan.space, plan.filter, plan.only.as_deref())
                .bind(plan.id.to_string())
                .fetch_one(pool)
                .await?
        }))
    }

    /// Takes the right to carry a plan out, once; `false` if it was taken, has lapsed or is unknown.
    pub async fn take_plan(&self, id: PlanId, now: Timestamp) -> Result<bool, StoreError> {
        let taken = on_db_write!(&self.db, |pool| {
            sqlx::query(sql::lists::TAKE_PLAN)
                .bind(id.to_string())
                .bind(now.as_millis())
                .execute(pool)
                .await?
                .rows_affected()
        });
        Ok(taken > 0)
    }

    /// The connections of a plan by id.
    pub async fn plan_members(&self, id: PlanId) -> Result<Vec<ConnectionId>, StoreError> {
        let rows: Vec<String> = on_db!(&self.db, |pool| {
            sqlx::query_scalar(sql::lists::PLAN_MEMBERS).bind(id.to_string()).fetch_all(pool).await?
        });
        member_ids(&rows)
    }
}

fn member_ids(rows: &[String]) -> Result<Vec<ConnectionId>, StoreError> {
    rows.iter().map(|id| parse("revoke_plan_members", "connection_id", id, id)).collect()
}
