//! A provider, a database, a clock, and connections of every rotation class.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context;
use valetkey_core::{ConnectionId, ConnectorId, RotationClass};
use valetkey_sandbox::{ClientSettings, Control, Rotation, Sandbox, SandboxSettings};

use crate::{
    child::Child,
    database::{EngineChoice, Place},
    order::{NewClient, NewGrant, Order, ServeSettings},
};

/// The life of access tokens.
pub(crate) const LIFE: Duration = Duration::from_secs(3_600);

/// The grace of class G.
pub(crate) const GRACE: Duration = Duration::from_secs(120);

/// A rotation class, as proofs tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    /// N.
    NonRotating,
    /// S: the old token lives until its successor is used.
    Soft,
    /// G.
    Grace,
    /// X.
    Strict,
    /// W, the only connection of its user.
    WideAlone,
    /// W, with siblings.
    WideSiblings,
}

impl Class {
    pub(crate) const ALL: [Self; 6] =
        [Self::NonRotating, Self::Soft, Self::Grace, Self::Strict, Self::WideAlone, Self::WideSiblings];

    /// Its name in tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NonRotating => "N",
            Self::Soft => "S",
            Self::Grace => "G",
            Self::Strict => "X",
            Self::WideAlone => "W",
            Self::WideSiblings => "W+",
        }
    }

    /// The client at the sandbox.
    pub(crate) fn client_id(self) -> String {
        format!("client-{}", self.as_str().replace('+', "-siblings").to_lowercase())
    }

    fn at_sandbox(self) -> Rotation {
        match self {
            Self::NonRotating => Rotation::NonRotating,
            Self::Soft => Rotation::SoftUntilSuccessorUsed,
            Self::Grace => Rotation::Grace { seconds: GRACE.as_secs() },
            Self::Strict => Rotation::Strict,
            Self::WideAlone | Self::WideSiblings => Rotation::StrictWide,
        }
    }

    fn at_broker(self) -> RotationClass {
        match self {
            Self::NonRotating => RotationClass::NonRotating,
            Self::Soft => RotationClass::Soft,
            Self::Grace => RotationClass::Grace { seconds: u32::try_from(GRACE.as_secs()).unwrap_or(u32::MAX) },
            Self::Strict => RotationClass::Strict,
            Self::WideAlone | Self::WideSiblings => RotationClass::StrictWide,
        }
    }
}

/// One connection and the grant behind it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) class: Class,
    pub(crate) user: String,
    pub(crate) label: String,
    pub(crate) connection: ConnectionId,
    pub(crate) connector: ConnectorId,
    /// The grant's name at the sandbox.
    pub(crate) grant: String,
    /// Fingerprints of the tokens that were imported.
    pub(crate) imported: (String, String),
    /// When they were, by the sandbox's clock.
    pub(crate) imported_at_ms: i64,
}

/// Everything around the brokers of one proof.
#[derive(Debug)]
pub(crate) struct World {
    sandbox: Sandbox,
    pub(crate) place: Place,
    /// How far every clock is ahead of the machine's.
    offset: Duration,
    /// The life of access tokens.
    life: Duration,
    pub(crate) connectors: BTreeMap<Class, ConnectorId>,
}

impl World {
    /// A provider with one client for each class, and an empty database. No broker runs.
    pub(crate) async fn new(choice: &EngineChoice) -> anyhow::Result<Self> {
        Self::with_life(choice, LIFE).await
    }

    /// The same with access tokens of another life.
    pub(crate) async fn with_life(choice: &EngineChoice, life: Duration) -> anyhow::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let clients = Class::ALL.into_iter().map(|class| {
            let mut client = ClientSettings::new(class.client_id(), "proof-secret").rotation(class.at_sandbox());
            client.access_life_seconds = Some(life.as_secs());
            client
        });
        let settings =
            SandboxSettings { clients: clients.collect(), any_account: true, ..SandboxSettings::automatic() };
        let sandbox = Sandbox::start(settings).await?;
        let place = Place::new(choice, NUMBER.fetch_add(1, Ordering::Relaxed)).await?;
        Ok(Self { sandbox, place, offset: Duration::ZERO, life, connectors: BTreeMap::new() })
    }

    /// The sandbox: faults and ledger.
    pub(crate) fn provider(&self) -> Control {
        self.sandbox.control()
    }

    /// What the next broker process is started with. Replicas are numbered from 0; SQLite has only that one.
    pub(crate) fn serve(&self, replica: usize, jobs: bool) -> ServeSettings {
        ServeSettings {
            data_dir: self.place.data_dir(replica),
            postgres: self.place.postgres(),
            offset_ms: u64::try_from(self.offset.as_millis()).unwrap_or(u64::MAX),
            clock_file: None,
            jobs,
        }
    }

    /// Moves the clock of the provider and of brokers that start later.
    pub(crate) fn advance_without_broker(&mut self, by: Duration) {
        // Whole milliseconds on all sides: what is cut off would add up.
        let by = Duration::from_millis(u64::try_from(by.as_millis()).unwrap_or(0));
        self.offset += by;
        self.provider().advance(by);
    }

    /// Moves every clock.
    pub(crate) async fn advance(&mut self, child: &mut Child, by: Duration) -> anyhow::Result<()> {
        self.advance_without_broker(by);
        child.order(&Order::Advance { ms: u64::try_from(by.as_millis()).unwrap_or(0) }).await?;
        Ok(())
    }

    /// Makes a connector for each class.
    pub(crate) async fn make_connectors(&mut self, child: &mut Child) -> anyhow::Result<()> {
        for class in Class::ALL {
            let client = NewClient {
                provider: self.sandbox.base_url().to_owned(),
                client_id: class.client_id(),
                client_secret: "proof-secret".to_owned(),
                rotation: class.at_broker(),
            };
            let made = child.order(&Order::MakeConnector(client)).await?;
            self.connectors.insert(class, serde_json::from_value(made["id"].clone())?);
        }
        Ok(())
    }

    /// Makes a key. Its text.
    pub(crate) async fn make_key(&self, child: &mut Child, roles: &[&str]) -> anyhow::Result<String> {
        let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
        let connectors = roles.iter().any(|role| role == "connector");
        let connectors = connectors.then(|| self.connectors.values().copied().collect());
        let made = child.order(&Order::MakeKey { roles, connectors }).await?;
        Ok(made["key"].as_str().context("no key")?.to_owned())
    }

    /// Gives users (and labels) of a class new grants at the provider, and imports them.
    pub(crate) async fn connect(
        &self,
        child: &mut Child,
        class: Class,
        owners: &[(String, String)],
    ) -> anyhow::Result<Vec<Member>> {
        let provider = self.provider();
        let connector = *self.connectors.get(&class).context("make_connectors comes first")?;
        let users = owners.iter().map(|(user, _)| user.clone());
        let seeded = provider.seed_grants(&class.client_id(), users, &["read"]).map_err(anyhow::Error::msg)?;
        let imported_at_ms = provider.now_ms();
        let expires_at_ms = imported_at_ms.checked_add(i64::try_from(self.life.as_millis()).unwrap_or(i64::MAX));
        let new = seeded.iter().zip(owners).map(|(seeded, (user, label))| NewGrant {
            connector,
            user: user.clone(),
            label: label.clone(),
            access_token: seeded.access_token.clone(),
            refresh_token: seeded.refresh_token.clone(),
            expires_at_ms,
        });
        let made = child.order(&Order::Import(new.collect())).await?;
        let ids: Vec<ConnectionId> = serde_json::from_value(made["ids"].clone())?;
        let members = seeded.into_iter().zip(owners).zip(ids).map(|((seeded, (user, label)), connection)| Member {
            class,
            user: user.clone(),
            label: label.clone(),
            connection,
            connector,
            grant: seeded.grant,
            imported: (
                valetkey_sandbox::fingerprint(&seeded.access_token),
                valetkey_sandbox::fingerprint(seeded.refresh_token.as_deref().unwrap_or_default()),
            ),
            imported_at_ms,
        });
        Ok(members.collect())
    }

    /// Stops the provider and removes the database. Brokers have to be gone.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        self.sandbox.stop().await;
        self.place.remove().await
    }
}
