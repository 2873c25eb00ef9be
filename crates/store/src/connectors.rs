//! Connectors: one client registration each, its secrets sealed as one list.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use valetkey_core::{
    AuditEvent, Binding, Connector, ConnectorId, Endpoints, ObservedRotation, RotationSetting, Secret, SpaceId,
    Timestamp,
};
use valetkey_sealing::RecordIdentity;

use crate::{
    StoreError, TokenStore,
    access::next_revision,
    audit::write_audit,
    db::{Tx, on_db, on_db_write, on_tx},
    lists::only_text,
    rows::{from_json, instant, parse, to_json},
    sql,
};

const TABLE: &str = "connectors";
const SECRETS: &str = "secrets";

/// After so many refreshes without a new refresh token nothing more is counted: two are all that anybody asks for.
const UNROTATED_MAX: i64 = 8;

/// Secrets of a deleted connector stay this long at least, in milliseconds: an exchange or a refresh that is under way
/// ends within two minutes and may still queue a revocation.
const ERASE_AFTER_MILLIS: i64 = 5 * 60 * 1_000;

/// What is stored as JSON, because no statement asks for it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Details {
    scopes: Vec<String>,
    optional_scopes: Vec<String>,
    settings: BTreeMap<String, String>,
    issuer: Option<String>,
    endpoints: Endpoints,
    rotation: RotationSetting,
    binding: Binding,
    return_urls: Vec<String>,
    origins: Vec<String>,
}

impl From<&Connector> for Details {
    fn from(connector: &Connector) -> Self {
        Self {
            scopes: connector.scopes.clone(),
            optional_scopes: connector.optional_scopes.clone(),
            settings: connector.settings.clone(),
            issuer: connector.issuer.clone(),
            endpoints: connector.endpoints.clone(),
            rotation: connector.rotation,
            binding: connector.binding,
            return_urls: connector.return_urls.clone(),
            origins: connector.origins.clone(),
        }
    }
}

#[derive(sqlx::FromRow)]
struct ConnectorRow {
    id: String,
    space_id: String,
    name: String,
    provider: String,
    auth_mode: String,
    grant_type: String,
    client_id: String,
    details: String,
    secret_count: i64,
    rotated: bool,
    unrotated_in_a_row: i64,
    version: i64,
    created_at: i64,
    updated_at: i64,
    deleted_at: Option<i64>,
}

/// The text of a unit variant, which is its serde name.
fn enum_text<T: Serialize>(value: &T) -> String {
    to_json(value).trim_matches('"').to_owned()
}

fn parse_enum<T: DeserializeOwned>(column: &'static str, row: &str, text: &str) -> Result<T, StoreError> {
    from_json(TABLE, column, row, &to_json(&text))
}

impl TryFrom<ConnectorRow> for Connector {
    type Error = StoreError;

    fn try_from(row: ConnectorRow) -> Result<Self, StoreError> {
        let details: Details = from_json(TABLE, "details", &row.id, &row.details)?;
        let secret_count = usize::try_from(row.secret_count);
        Ok(Self {
            id: parse(TABLE, "id", &row.id, &row.id)?,
            space: parse(TABLE, "space_id", &row.id, &row.space_id)?,
            auth_mode: parse_enum("auth_mode", &row.id, &row.auth_mode)?,
            grant: parse_enum("grant_type", &row.id, &row.grant_type)?,
            secret_count: secret_count.map_err(|_| StoreError::inconsistent(TABLE, "secret_count", &row.id))?,
            name: row.name,
            provider: row.provider,
            client_id: row.client_id,
            scopes: details.scopes,
            optional_scopes: details.optional_scopes,
            settings: details.settings,
            issuer: details.issuer,
            endpoints: details.endpoints,
            rotation: details.rotation,
            observed_rotation: ObservedRotation { rotated: row.rotated, unrotated_in_a_row: row.unrotated_in_a_row },
            binding: details.binding,
            return_urls: details.return_urls,
            origins: details.origins,
            version: row.version,
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
            deleted_at: instant(row.deleted_at),
        })
    }
}

/// Whether two versions of a connector are the same client of the same server, so that what was stored for one may be
/// sent by the other.
fn same_client(left: &Connector, right: &Connector) -> bool {
    left.provider == right.provider
        && left.issuer == right.issuer
        && left.endpoints == right.endpoints
        && left.settings == right.settings
        && left.client_id == right.client_id
        && left.auth_mode == right.auth_mode
        && left.grant == right.grant
}

/// A connector's client secrets as they are stored.
#[derive(Debug, Clone)]
pub(crate) struct SealedSecrets {
    space: String,
    record: Vec<u8>,
    number: i64,
}

pub(crate) fn identity<'a>(space: &'a str, id: &'a str, secrets_no: i64) -> RecordIdentity<'a> {
    RecordIdentity {
        space,
        table: TABLE,
        column: SECRETS,
        row: id,
        owner: None,
        label: None,
        connector: Some(id),
        generation: Some(secrets_no),
    }
}

impl TokenStore {
    /// Stores a new connector with its client secrets.
    pub async fn insert_connector(
        &self,
        connector: &Connector,
        secrets: &[Secret],
        event: &AuditEvent,
    ) -> Result<(), StoreError> {
        let sealed = self.seal_secrets(connector, connector.version, secrets)?;
        let mut tx = self.db.begin_write().await?;
        on_tx!(&mut tx, |connection| {
            sqlx::query(sql::admin::INSERT_CONNECTOR)
                .bind(connector.id.to_string())
                .bind(connector.space.as_str())
                .bind(connector.name.as_str())
                .bind(connector.provider.as_str())
                .bind(enum_text(&connector.auth_mode))
                .bind(enum_text(&connector.grant))
                .bind(connector.client_id.as_str())
                .bind(to_json(&Details::from(connector)))
                .bind(sealed)
                .bind(connector.version)
                .bind(count(secrets))
                .bind(connector.observed_rotation.rotated)
                .bind(connector.observed_rotation.unrotated_in_a_row)
                .bind(connector.version)
                .bind(connector.created_at.as_millis())
                .bind(connector.updated_at.as_millis())
                .execute(connection)
                .await?;
        });
        write_audit(&mut tx, event).await?;
        tx.commit().await?;
        self.cache.forget_connector(connector.id);
        Ok(())
    }

    /// A space's connector; `None` if it is another's or deleted.
    pub async fn find_connector(&self, space: &SpaceId, id: ConnectorId) -> Result<Option<Connector>, StoreError> {
        let row: Option<ConnectorRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_CONNECTOR)
                .bind(space.as_str())
                .bind(id.to_string())
                .fetch_optional(pool)
                .await?
        });
        row.map(Connector::try_from).transpose()
    }

    /// A connector of any space, deleted or not: for what its id alone leads to, which is callbacks, refreshes and
    /// revocations.
    pub async fn find_connector_any(&self, id: ConnectorId) -> Result<Option<Connector>, StoreError> {
        let row: Option<ConnectorRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_CONNECTOR_ANY).bind(id.to_string()).fetch_optional(pool).await?
        });
        row.map(Connector::try_from).transpose()
    }

    /// A space's connectors by id, that is oldest first; `only` narrows to those that exist for the caller.
    pub async fn list_connectors(
        &self,
        space: &SpaceId,
        only: Option<&[ConnectorId]>,
        after: Option<ConnectorId>,
        limit: i64,
    ) -> Result<Vec<Connector>, StoreError> {
        let rows: Vec<ConnectorRow> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::LIST_CONNECTORS)
                .bind(space.as_str())
                .bind(only.map(only_text))
                .bind(after.map(|id| id.to_string()))
                .bind(limit)
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(Connector::try_from).collect()
    }

    /// Stores an edit of the version that the caller saw, and new secrets if there are any; the version rises by one.
    ///
    /// `false` if the connector has changed or is gone, and if the edit would make it another client while a flow or a
    /// connection exists: stored secrets would then be sent to another host.
    pub async fn update_connector(
        &self,
        connector: &Connector,
        expected_version: i64,
        secrets: Option<&[Secret]>,
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let version = expected_version + 1;
        // A version is stored once, so it numbers the list of secrets too.
        let sealed = secrets.map(|secrets| self.seal_secrets(connector, version, secrets)).transpose()?;
        let mut tx = self.db.begin_write().await?;
        let edited = match &tx {
            Tx::Sqlite(_) => sql::admin::EDITED_CONNECTOR_SQLITE,
            Tx::Postgres(_) => sql::admin::EDITED_CONNECTOR_POSTGRES,
        };
        let updated = on_tx!(&mut tx, |connection| {
            let found: Option<ConnectorRow> = sqlx::query_as(edited)
                .bind(connector.space.as_str())
                .bind(connector.id.to_string())
                .fetch_optional(&mut *connection)
                .await?;
            let Some(found) = found.map(Connector::try_from).transpose()? else {
                return Ok(false);
            };
            if !same_client(&found, connector) {
                let in_use: bool = sqlx::query_scalar(sql::admin::CONNECTOR_IN_USE)
                    .bind(connector.id.to_string())
                    .fetch_one(&mut *connection)
                    .await?;
                if in_use {
                    return Ok(false);
                }
            }
            sqlx::query(sql::admin::UPDATE_CONNECTOR)
                .bind(connector.space.as_str())
                .bind(connector.id.to_string())
                .bind(expected_version)
                .bind(connector.name.as_str())
                .bind(connector.provider.as_str())
                .bind(enum_text(&connector.auth_mode))
                .bind(enum_text(&connector.grant))
                .bind(connector.client_id.as_str())
                .bind(to_json(&Details::from(connector)))
                .bind(connector.updated_at.as_millis())
                .execute(connection)
                .await?
                .rows_affected()
        });
        if updated == 0 {
            return Ok(false);
        }
        if let (Some(sealed), Some(secrets)) = (sealed, secrets) {
            replace_secrets(&mut tx, connector.id, sealed, version, count(secrets)).await?;
        }
        next_revision(&mut tx).await?;
        write_audit(&mut tx, event).await?;
        tx.commit().await?;
        self.cache.forget_connector(connector.id);
        Ok(true)
    }

    /// Opens a connector's client secrets, in the order in which they are tried; none once they were erased.
    pub async fn connector_secrets(&self, connector: &Connector) -> Result<Vec<Secret>, StoreError> {
        match self.sealed_secrets(connector.id).await? {
            Some(sealed) => self.open_secrets(connector.id, &sealed),
            None => Ok(Vec::new()),
        }
    }

    pub(crate) async fn sealed_secrets(&self, id: ConnectorId) -> Result<Option<SealedSecrets>, StoreError> {
        let row: Option<(String, Vec<u8>, i64)> = on_db!(&self.db, |pool| {
            sqlx::query_as(sql::admin::FIND_CONNECTOR_SECRETS).bind(id.to_string()).fetch_optional(pool).await?
        });
        Ok(row.filter(|(_, record, _)| !record.is_empty()).map(|(space, record, number)| SealedSecrets {
            space,
            record,
            number,
        }))
    }

    pub(crate) fn open_secrets(&self, id: ConnectorId, sealed: &SealedSecrets) -> Result<Vec<Secret>, StoreError> {
        let id = id.to_string();
        let list = self
            .sealer
            .open_secret(&identity(&sealed.space, &id, sealed.number), &sealed.record)
            .map_err(|source| StoreError::Open { column: SECRETS, row: id.clone(), source })?;
        from_json(TABLE, SECRETS, &id, list.expose())
    }

    /// Marks a connector deleted, which makes it absent to everyone, and ends its open flows; `false` if it is absent
    /// already. Its connections are the caller's to revoke.
    pub async fn delete_connector(
        &self,
        space: &SpaceId,
        id: ConnectorId,
        now: Timestamp,
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let mut tx = self.db.begin_write().await?;
        let deleted = on_tx!(&mut tx, |connection| {
            let deleted = sqlx::query(sql::admin::DELETE_CONNECTOR)
                .bind(space.as_str())
                .bind(id.to_string())
                .bind(now.as_millis())
                .execute(&mut *connection)
                .await?
                .rows_affected();
            if deleted > 0 {
                sqlx::query(sql::admin::END_CONNECTOR_FLOWS)
                    .bind(id.to_string())
                    .bind(now.as_millis())
                    .execute(connection)
                    .await?;
            }
            deleted
        });
        if deleted == 0 {
            return Ok(false);
        }
        next_revision(&mut tx).await?;
        write_audit(&mut tx, event).await?;
        tx.commit().await?;
        self.cache.forget_connector(id);
        Ok(true)
    }

    /// Whether a flow or a connection of the connector is stored, in whatever state.
    pub async fn connector_in_use(&self, id: ConnectorId) -> Result<bool, StoreError> {
        Ok(on_db!(&self.db, |pool| {
            sqlx::query_scalar(sql::admin::CONNECTOR_IN_USE).bind(id.to_string()).fetch_one(pool).await?
        }))
    }

    /// Notes whether a refresh brought a new refresh token. One that did is never forgotten.
    pub async fn observe_rotation(&self, id: ConnectorId, rotated: bool) -> Result<(), StoreError> {
        let mut tx = self.db.begin_write().await?;
        let changed = on_tx!(&mut tx, |executor| {
            sqlx::query(sql::admin::OBSERVE_ROTATION)
                .bind(id.to_string())
                .bind(rotated)
                .bind(UNROTATED_MAX)
                .execute(executor)
                .await?
                .rows_affected()
        });
        if changed > 0 {
            next_revision(&mut tx).await?;
        }
        tx.commit().await?;
        if changed > 0 {
            self.cache.forget_connector(id);
        }
        Ok(())
    }

    /// Erases the client secrets of deleted connectors whose connections are over and whose revocations are all
    /// terminal; says how many connectors that were.
    pub async fn erase_deleted_connectors(&self, now: Timestamp) -> Result<u64, StoreError> {
        let erased: Vec<String> = on_db_write!(&self.db, |pool| {
            sqlx::query_scalar(sql::admin::ERASE_CONNECTOR_SECRETS)
                .bind(now.as_millis() - ERASE_AFTER_MILLIS)
                .bind([0_u8; 0].as_slice())
                .fetch_all(pool)
                .await?
        });
        for id in &erased {
            self.cache.forget_connector(parse(TABLE, "id", id, id)?);
        }
        Ok(u64::try_from(erased.len()).unwrap_or(u64::MAX))
    }

    fn seal_secrets(&self, connector: &Connector, secrets_no: i64, secrets: &[Secret]) -> Result<Vec<u8>, StoreError> {
        let list: Vec<&str> = secrets.iter().map(Secret::expose).collect();
        let list = Secret::from(to_json(&list));
        let id = connector.id.to_string();
        Ok(self.sealer.seal_secret(&identity(connector.space.as_str(), &id, secrets_no), &list)?)
    }
}

fn count(secrets: &[Secret]) -> i64 {
    i64::try_from(secrets.len()).unwrap_or(i64::MAX)
}

/// Whether a connector is still what was read, and stays so until this transaction ends: what begins at it now was made
/// for this client and this server.
pub(crate) async fn is_unchanged(tx: &mut Tx, connector: ConnectorId, version: i64) -> Result<bool, StoreError> {
    let text = match tx {
        Tx::Sqlite(_) => sql::admin::VERSION_SQLITE,
        Tx::Postgres(_) => sql::admin::VERSION_POSTGRES,
    };
    let found: Option<i64> = on_tx!(tx, |connection| {
        sqlx::query_scalar(text).bind(connector.to_string()).fetch_optional(connection).await?
    });
    Ok(found == Some(version))
}

async fn replace_secrets(
    tx: &mut Tx,
    id: ConnectorId,
    sealed: Vec<u8>,
    secrets_no: i64,
    count: i64,
) -> Result<(), StoreError> {
    on_tx!(tx, |connection| {
        sqlx::query(sql::admin::REPLACE_CONNECTOR_SECRETS)
            .bind(id.to_string())
            .bind(sealed)
            .bind(secrets_no)
            .bind(count)
            .execute(connection)
            .await?;
    });
    Ok(())
}
