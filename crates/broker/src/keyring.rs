//! The keys that everything stored is sealed under: looked at, rotated while serving, wrapped anew.
//!
//! A rotation has no record of its own: the states in the key table and the key id in every sealed field say where it
//! stands, so that whoever looks next goes on with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;
use valetkey_core::{Action, Actor, AuditEvent, SpaceId, Subject, Timestamp};
use valetkey_store::{DataKeyRow, DataKeyState, Engine, SealedTable};

use crate::{Broker, BrokerError};

/// Rows looked at in one transaction: a few milliseconds of work.
const WINDOW: i64 = 64;

/// The share of the time that a rotation works while this database is being served from.
const SERVING_SHARE: u32 = 10;

/// A replica that said nothing for so long is not waited for.
const READER_LIFE: Duration = Duration::from_secs(60);

/// One replica at a time seals anew, so that the work is not done twice; another may take over after this. A step renews it.
const LEASE: Duration = Duration::from_secs(15);
const LEASE_NAME: &str = "data-key-rotation";

/// How long one run of the scheduled work goes on with a rotation.
const RUN: Duration = Duration::from_millis(4_500);

/// When the scheduled work looks again at fields that did not open.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);

/// How fast a rotation may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationPace {
    /// A tenth of the time, so that token calls hardly notice.
    Serving,
    /// Without pauses: nobody is served from this database.
    Alone,
}

/// Where a rotation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum RotationPhase {
    /// One key seals, and nothing is left of others.
    Done,
    /// A new key is not used before these replicas hold it, or an old one not retired before they use the new one.
    Waiting {
        /// Their names in leases.
        replicas: Vec<String>,
    },
    /// Fields are being sealed anew.
    Resealing,
    /// Another replica is at it.
    Elsewhere,
    /// All is done but for fields that do not open; the old key stays for them.
    Stuck {
        /// How many.
        unreadable: u64,
    },
}

/// What one step of a rotation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RotationStep {
    /// The key that seals now.
    pub active_key: u32,
    /// Fields that this step sealed anew.
    pub fields: u64,
    /// Where it stands.
    #[serde(flatten)]
    pub phase: RotationPhase,
}

/// A data key, and what it has sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataKeyStatus {
    /// Its id.
    pub id: u32,
    /// `active`, `decrypt_only`, `pending` or `retired`.
    pub state: &'static str,
    /// The key-encryption key that wraps it.
    pub wrapper: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// How many fields it has sealed.
    pub fields: u64,
    /// The same, by table and column.
    pub by_column: BTreeMap<String, u64>,
    /// Why this process does not hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A replica, and what it knows of the data keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// Its name in leases.
    pub holder: String,
    /// The highest data key that it holds.
    pub newest_key: u32,
    /// The one that it seals with.
    pub active_key: u32,
}

/// All that is sealed under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyringStatus {
    /// The key-encryption key that wraps new data keys.
    pub wrapper: String,
    /// When the next rotation begins by itself; absent where it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_due_at: Option<Timestamp>,
    /// The data keys.
    pub keys: Vec<DataKeyStatus>,
    /// The other replicas, on PostgreSQL.
    pub replicas: Vec<ReplicaStatus>,
}

/// What wrapping anew did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RewrapReport {
    /// The key-encryption key that wraps from now on.
    pub wrapper: String,
    /// Data keys that were wrapped anew.
    pub wrapped: u64,
    /// Data keys that are not here; nothing is sealed with them.
    pub missing: Vec<u32>,
}

/// What opening everything showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SealedReport {
    /// Fields that were opened.
    pub fields: u64,
    /// Fields that do not open.
    pub unreadable: u64,
}

/// Where this process is in its pass over the sealed tables.
#[derive(Debug, Default)]
pub(crate) struct RotationPass {
    begun: bool,
    active_key: u32,
    table: usize,
    after: String,
    /// What was found since the pass began.
    touched: u64,
    unreadable: u64,
    /// Every replica sealed with the new key when the pass began, so that a pass that finds nothing is the last.
    is_final: bool,
    /// The scheduled work leaves unreadable fields alone until then.
    rests_until: Option<Timestamp>,
}

impl Broker {
    /// The data keys, what each has sealed, and who knows of them. Reads every sealed table once.
    pub async fn keyring_status(&self) -> Result<KeyringStatus, BrokerError> {
        let store = self.store();
        let rows = store.data_keys().await?;
        let missing = store.missing_data_keys();
        let mut by_key: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
        for counted in store.count_sealed_fields().await? {
            let columns = by_key.entry(counted.key_id).or_default();
            *columns.entry(format!("{}.{}", counted.table, counted.column)).or_default() += counted.fields;
        }
        let rotation_due_at = self.rotation_due_at(&rows);
        let keys = rows
            .into_iter()
            .map(|row| {
                let by_column = by_key.remove(&row.id).unwrap_or_default();
                DataKeyStatus {
                    id: row.id,
                    state: row.state.as_str(),
                    wrapper: row.wrapper,
                    created_at: row.created_at,
                    fields: by_column.values().sum(),
                    by_column,
                    missing: missing.get(&row.id).cloned(),
                }
            })
            .collect();
        let replicas = store.data_key_readers(self.now().minus(READER_LIFE)).await?;
        let replicas = replicas
            .into_iter()
            .map(|reader| ReplicaStatus {
                holder: reader.holder,
                newest_key: reader.newest_key,
                active_key: reader.active_key,
            })
            .collect();
        Ok(KeyringStatus { wrapper: store.key_wrapper()?, rotation_due_at, keys, replicas })
    }

    /// Makes a new data key. It seals once every replica holds it, and then takes over all that older ones sealed:
    /// [`Broker::step_rotation`] does that. While a key waits for its turn it is the new one and no other is made; a key that
    /// is made during a rotation takes over from all before it.
    pub async fn begin_rotation(&self, actor: Actor) -> Result<u32, BrokerError> {
        let event = self.keyring_event(actor, Action::DataKeyCreated, None);
        let id = self.store().add_data_key(self.entropy(), self.now(), &event).await?;
        self.learn_data_keys().await?;
        Ok(id)
    }

    /// Goes on with a rotation for about as long as `budget`.
    pub async fn step_rotation(&self, pace: RotationPace, budget: Duration) -> Result<RotationStep, BrokerError> {
        let until = Instant::now() + budget;
        let mut pass = self.inner.rotation.lock().await;
        let step = |active_key, fields, phase| Ok(RotationStep { active_key, fields, phase });
        self.learn_data_keys().await?;
        if !self.is_rotating().await? {
            *pass = RotationPass::default();
            return step(self.store().active_data_key(), 0, RotationPhase::Done);
        }
        if !self.take_rotation_lease().await? {
            return step(self.store().active_data_key(), 0, RotationPhase::Elsewhere);
        }
        if let Some(replicas) = self.activate_pending().await? {
            return step(self.store().active_data_key(), 0, RotationPhase::Waiting { replicas });
        }
        let active_key = self.store().active_data_key();
        let mut fields = 0;
        while Instant::now() < until {
            let begun = Instant::now();
            if !pass.begun || pass.active_key != active_key {
                let is_final = self.replicas_behind(|reader| reader.active_key != active_key).await?.is_empty();
                *pass = RotationPass { begun: true, active_key, is_final, ..RotationPass::default() };
            }
            let table = SealedTable::ALL[pass.table];
            let window = self.store().reseal(table, &pass.after, WINDOW).await?;
            fields += window.fields;
            pass.touched += window.fields + window.put_off;
            pass.unreadable += window.unreadable;
            match window.end {
                Some(end) => pass.after = end,
                None if pass.table + 1 < SealedTable::ALL.len() => {
                    pass.table += 1;
                    pass.after.clear();
                }
                None => {
                    let ended = std::mem::take(&mut *pass);
                    if let Some(phase) = self.end_pass(&ended, &mut pass).await? {
                        self.drop_rotation_lease().await?;
                        return step(active_key, fields, phase);
                    }
                }
            }
            if pace == RotationPace::Serving {
                tokio::time::sleep(begun.elapsed() * (SERVING_SHARE - 1)).await;
            }
        }
        step(active_key, fields, RotationPhase::Resealing)
    }

    /// What a whole pass leads to; `None` to another one.
    async fn end_pass(
        &self,
        ended: &RotationPass,
        next: &mut RotationPass,
    ) -> Result<Option<RotationPhase>, BrokerError> {
        if ended.touched > 0 {
            return Ok(None);
        }
        if ended.unreadable > 0 {
            next.rests_until = Some(self.now().plus(LOOK_AGAIN));
            return Ok(Some(RotationPhase::Stuck { unreadable: ended.unreadable }));
        }
        if !ended.is_final {
            let replicas = self.replicas_behind(|reader| reader.active_key != ended.active_key).await?;
            // They may have come meanwhile: then the next pass is the last.
            return Ok(if replicas.is_empty() { None } else { Some(RotationPhase::Waiting { replicas }) });
        }
        for row in self.store().data_keys().await? {
            if row.state == DataKeyState::DecryptOnly {
                let event = self.keyring_event(Actor::System, Action::DataKeyRetired, Some(row.id));
                self.store().retire_data_key(row.id, &event).await?;
                tracing::info!("data key {} is retired: nothing is left that it sealed", row.id);
            }
        }
        Ok(Some(RotationPhase::Done))
    }

    /// Scheduled: learns of new data keys, says so to the other replicas, begins a rotation whose time has come, and goes
    /// on with one that is under way. Answers with the fields that were sealed anew.
    pub async fn tend_keyring(&self) -> Result<u64, BrokerError> {
        self.learn_data_keys().await?;
        let rows = self.store().data_keys().await?;
        let is_due = self.rotation_due_at(&rows).is_some_and(|due| due <= self.now());
        if !is_due && !is_rotating(&rows) {
            return Ok(0);
        }
        // Also while fields that do not open keep an older key from being retired.
        if is_due && !rows.iter().any(|row| row.state == DataKeyState::Pending) {
            let id = self.begin_rotation(Actor::System).await?;
            tracing::info!("the active data key is old: made data key {id}, which takes over what is sealed");
        }
        let rests = self.inner.rotation.lock().await.rests_until.is_some_and(|until| until > self.now());
        // Stuck since the last look, and no new key since: nothing to be done but by an operator.
        if rests && !is_due && !rows.iter().any(|row| row.state == DataKeyState::Pending) {
            return Ok(0);
        }
        Ok(self.step_rotation(RotationPace::Serving, RUN).await?.fields)
    }

    /// Wraps the data keys by the key-encryption key that wraps from now on: those that another one wraps, or `all`.
    pub async fn rewrap(&self, actor: Actor, all: bool) -> Result<RewrapReport, BrokerError> {
        self.learn_data_keys().await?;
        let (count, missing) = self.store().rewrap_data_keys(all).await?;
        let wrapper = self.store().key_wrapper()?;
        let mut event = self.keyring_event(actor, Action::DataKeysRewrapped, None);
        event.detail = serde_json::json!({ "wrapper": wrapper, "data_keys": count });
        self.store().append_audit(&[event]).await?;
        Ok(RewrapReport { wrapper, wrapped: count, missing })
    }

    /// Which key-encryption keys data keys are wrapped by.
    pub async fn key_wrappers_in_use(&self) -> Result<BTreeSet<String>, BrokerError> {
        Ok(self.store().data_keys().await?.into_iter().map(|row| row.wrapper).collect())
    }

    /// Opens every sealed field.
    pub async fn check_sealed(&self, pace: RotationPace) -> Result<SealedReport, BrokerError> {
        let mut report = SealedReport::default();
        for table in SealedTable::ALL {
            let mut after = String::new();
            loop {
                let begun = Instant::now();
                let window = self.store().check_sealed(table, &after, WINDOW).await?;
                report.fields += window.fields;
                report.unreadable += window.unreadable;
                let Some(end) = window.end else { break };
                after = end;
                if pace == RotationPace::Serving {
                    tokio::time::sleep(begun.elapsed() * (SERVING_SHARE - 1)).await;
                }
            }
        }
        Ok(report)
    }

    /// Lets another replica go on at once.
    async fn drop_rotation_lease(&self) -> Result<(), BrokerError> {
        if self.store().engine() == Engine::Postgres {
            self.store().drop_lease(LEASE_NAME, &self.inner.holder).await?;
        }
        Ok(())
    }

    /// Says to the other replicas that this one stops: nobody waits for it, and another goes on at once.
    pub(crate) async fn leave_keyring(&self) -> Result<(), BrokerError> {
        if self.store().engine() == Engine::Postgres {
            self.drop_rotation_lease().await?;
            self.store().drop_data_key_reader(&self.inner.holder).await?;
        }
        Ok(())
    }

    async fn take_rotation_lease(&self) -> Result<bool, BrokerError> {
        // Alone with its database, a process that was killed leaves nobody to wait for.
        if self.store().engine() == Engine::Sqlite {
            return Ok(true);
        }
        let now = self.now();
        Ok(self.store().take_lease(LEASE_NAME, &self.inner.holder, now.plus(LEASE), now).await?)
    }

    /// Takes over what changed in the key table and says so to the other replicas. What cannot be had now is no reason not
    /// to say what can.
    pub async fn learn_data_keys(&self) -> Result<(), BrokerError> {
        let learnt = self.store().learn_data_keys().await;
        if self.store().engine() == Engine::Postgres {
            self.store().note_data_key_reader(&self.inner.holder, self.now()).await?;
        }
        if learnt? {
            tracing::info!("learnt of a change in the key table: data key {} seals", self.store().active_data_key());
        }
        Ok(())
    }

    async fn is_rotating(&self) -> Result<bool, BrokerError> {
        Ok(is_rotating(&self.store().data_keys().await?))
    }

    /// Puts a key that waits to use, if every replica holds it; else says who does not.
    async fn activate_pending(&self) -> Result<Option<Vec<String>>, BrokerError> {
        let rows = self.store().data_keys().await?;
        let Some(pending) = rows.iter().find(|row| row.state == DataKeyState::Pending).map(|row| row.id) else {
            return Ok(None);
        };
        let mut behind = self.replicas_behind(|reader| reader.newest_key < pending).await?;
        if !self.store().has_data_key(pending) && !behind.contains(&self.inner.holder) {
            behind.push(self.inner.holder.clone());
        }
        if !behind.is_empty() {
            return Ok(Some(behind));
        }
        let event = self.keyring_event(Actor::System, Action::DataKeyActivated, Some(pending));
        if self.store().activate_data_key(pending, &event).await? {
            tracing::info!("data key {pending} seals from now on");
        }
        self.learn_data_keys().await?;
        Ok(None)
    }

    async fn replicas_behind(
        &self,
        is_behind: impl Fn(&valetkey_store::DataKeyReader) -> bool,
    ) -> Result<Vec<String>, BrokerError> {
        let readers = self.store().data_key_readers(self.now().minus(READER_LIFE)).await?;
        Ok(readers.into_iter().filter(is_behind).map(|reader| reader.holder).collect())
    }

    fn rotation_due_at(&self, rows: &[DataKeyRow]) -> Option<Timestamp> {
        let rotate_after = self.settings().keyring.rotate_after?;
        let active = rows.iter().find(|row| row.state == DataKeyState::Active)?;
        Some(active.created_at.plus(rotate_after))
    }

    fn keyring_event(&self, actor: Actor, action: Action, key_id: Option<u32>) -> AuditEvent {
        let mut event = self.event(&SpaceId::default_space(), actor, action, Subject::default());
        if let Some(id) = key_id {
            event.detail = serde_json::json!({ "data_key": id });
        }
        event
    }
}

/// Whether a key waits for its turn, or an older one may have sealed something that is left.
fn is_rotating(rows: &[DataKeyRow]) -> bool {
    rows.iter().any(|row| matches!(row.state, DataKeyState::Pending | DataKeyState::DecryptOnly))
}
