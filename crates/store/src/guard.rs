//! The restore guard's half in the database: an epoch that rises, and the hold that all replicas share.
//!
//! A witness outside of the database repeats instance and epoch. It is written after the database, so that a database
//! that is behind it lost something that it had acknowledged.

use valetkey_core::{AuditEvent, ConnectorId, Hold, HoldReason, SpaceId, Timestamp};

use crate::{
    StoreError, TokenStore,
    audit::write_audits,
    db::{Tx, on_db_look, on_db_sweep, on_tx},
    instance::INSTANCE_ID,
    rows::parse,
    sql::admin as sql,
};

const TABLE: &str = "guard";

/// How far the epoch leaps when a hold ends: further than a replica that was not started since can be ahead, a year of
/// its beats, so that one decision is enough for all of them.
const LEAP: i64 = 1 << 20;

/// What a witness says: the instance and the epoch that the database had when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witnessed {
    /// The instance.
    pub instance: String,
    /// The epoch.
    pub epoch: i64,
}

/// What was found where the witness should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Testimony {
    /// Nothing: the first start here, or no place to look.
    Absent,
    /// Something that nobody can read.
    Unreadable,
    /// What it saw last.
    Saw(Witnessed),
}

/// The epoch was raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// What the witness is to repeat, now that the database has it.
    pub witnessed: Witnessed,
    /// The hold in force.
    pub hold: Option<Hold>,
    /// Whether it began now.
    pub began: bool,
}

/// What would wait for the end of a hold at one connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorLoad {
    /// The connector.
    pub connector_id: ConnectorId,
    /// Its connections that are refreshed.
    pub connections: i64,
    /// Those among them whose refresh is due.
    pub due: i64,
}

/// Makes the event that tells a space of a hold's begin or end.
pub type HoldEvent<'a> = dyn Fn(&SpaceId, &Hold) -> AuditEvent + Sync + 'a;

#[derive(sqlx::FromRow)]
struct HoldRow {
    hold_reason: Option<String>,
    hold_note: Option<String>,
    held_since: Option<i64>,
}

impl HoldRow {
    fn hold(self) -> Result<Option<Hold>, StoreError> {
        let Some(since) = self.held_since else { return Ok(None) };
        let reason = self.hold_reason.unwrap_or_default();
        Ok(Some(Hold {
            reason: parse(TABLE, "hold_reason", "instance", &reason)?,
            note: self.hold_note,
            since: Timestamp::from_millis(since),
        }))
    }
}

#[derive(sqlx::FromRow)]
struct LoadRow {
    connector_id: String,
    connections: i64,
    due: i64,
}

impl TokenStore {
    /// Raises the epoch, and begins a hold if the database is not the one that the witness saw, or an older state of
    /// it. All of it is durable when this returns.
    pub async fn raise_epoch(
        &self,
        testimony: &Testimony,
        now: Timestamp,
        event: &HoldEvent<'_>,
    ) -> Result<Raised, StoreError> {
        let spaces = self.spaces().await?;
        let mut tx = self.db.begin_write().await?;
        // Waits here for another replica, and so sees what that one wrote.
        let raised: Option<i64> =
            on_tx!(&mut tx, |executor| sqlx::query_scalar(sql::RAISE_EPOCH).fetch_optional(executor).await?);
        let mut epoch = raised.ok_or_else(|| StoreError::inconsistent(TABLE, "epoch", "instance"))?;
        let instance: Option<String> = on_tx!(&mut tx, |executor| {
            sqlx::query_scalar(sql::FIND_INSTANCE).bind(INSTANCE_ID).fetch_optional(executor).await?
        });
        let instance = instance.ok_or_else(|| StoreError::inconsistent("instance", "value", INSTANCE_ID))?;
        let suspicion = match testimony {
            Testimony::Unreadable => Some(HoldReason::UnreadableWitness),
            Testimony::Saw(saw) if saw.instance != instance => Some(HoldReason::ForeignWitness),
            Testimony::Saw(saw) if saw.epoch >= epoch => {
                // Once the hold is written down, the witness has done its part and need not be ahead any more.
                epoch = saw.epoch.saturating_add(1);
                on_tx!(&mut tx, |executor| {
                    sqlx::query(sql::LIFT_EPOCH).bind(epoch).execute(executor).await?;
                });
                Some(HoldReason::BehindWitness)
            }
            Testimony::Absent | Testimony::Saw(_) => None,
        };
        let began = match suspicion {
            Some(reason) => begin(&mut tx, &Hold { reason, note: None, since: now }, &spaces, event).await?,
            None => false,
        };
        let hold = find(&mut tx).await?;
        tx.commit().await?;
        Ok(Raised { witnessed: Witnessed { instance, epoch }, hold, began })
    }

    /// The hold in force.
    pub async fn find_hold(&self) -> Result<Option<Hold>, StoreError> {
        let row: Option<HoldRow> =
            on_db_look!(&self.db, |pool| sqlx::query_as(sql::FIND_HOLD).fetch_optional(pool).await?);
        row.map_or(Ok(None), HoldRow::hold)
    }

    /// Begins a hold; false if one is in force already, which stays as it is.
    pub async fn begin_hold(&self, hold: &Hold, event: &HoldEvent<'_>) -> Result<bool, StoreError> {
        let spaces = self.spaces().await?;
        let mut tx = self.db.begin_write().await?;
        let began = begin(&mut tx, hold, &spaces, event).await?;
        tx.commit().await?;
        Ok(began)
    }

    /// Ends the hold in force and answers with it. What fell due meanwhile is due at once.
    pub async fn release_hold(&self, now: Timestamp, event: &HoldEvent<'_>) -> Result<Option<Hold>, StoreError> {
        let spaces = self.spaces().await?;
        // All that fell due meanwhile may be nearly everything.
        let mut tx = self.db.begin_sweep().await?;
        let Some(hold) = find(&mut tx).await? else { return Ok(None) };
        let released = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::RELEASE_HOLD).bind(LEAP).execute(executor).await?.rows_affected()
        });
        if released == 0 {
            // Somebody else did so between the two statements.
            return Ok(None);
        }
        on_tx!(&mut tx, |executor| {
            sqlx::query(sql::WAKE_DUE).bind(now.as_millis()).execute(executor).await?;
        });
        write_audits(&mut tx, &events(&spaces, &hold, event)).await?;
        tx.commit().await?;
        Ok(Some(hold))
    }

    /// What is refreshed, by connector. Reads every connection: for an operator, not for a request.
    pub async fn refresh_load(&self, now: Timestamp) -> Result<Vec<ConnectorLoad>, StoreError> {
        let rows: Vec<LoadRow> = on_db_sweep!(&self.db, |pool| sqlx::query_as(sql::REFRESH_LOAD)
            .bind(now.as_millis())
            .fetch_all(pool)
            .await?);
        rows.into_iter()
            .map(|row| {
                let connector_id = parse("connections", "connector_id", &row.connector_id, &row.connector_id)?;
                Ok(ConnectorLoad { connector_id, connections: row.connections, due: row.due })
            })
            .collect()
    }

    async fn spaces(&self) -> Result<Vec<SpaceId>, StoreError> {
        Ok(self.list_spaces().await?.into_iter().map(|(space, _)| space).collect())
    }
}

async fn begin(tx: &mut Tx, hold: &Hold, spaces: &[SpaceId], event: &HoldEvent<'_>) -> Result<bool, StoreError> {
    let began = on_tx!(tx, |executor| {
        sqlx::query(sql::BEGIN_HOLD)
            .bind(hold.reason.as_str())
            .bind(hold.note.as_deref())
            .bind(hold.since.as_millis())
            .execute(executor)
            .await?
            .rows_affected()
    }) == 1;
    if began {
        write_audits(tx, &events(spaces, hold, event)).await?;
    }
    Ok(began)
}

async fn find(tx: &mut Tx) -> Result<Option<Hold>, StoreError> {
    let row: Option<HoldRow> = on_tx!(tx, |executor| sqlx::query_as(sql::FIND_HOLD).fetch_optional(executor).await?);
    row.map_or(Ok(None), HoldRow::hold)
}

fn events(spaces: &[SpaceId], hold: &Hold, event: &HoldEvent<'_>) -> Vec<AuditEvent> {
    spaces.iter().map(|space| event(space, hold)).collect()
}
