//! Replicas that share a database and a clock, and one connection of each class.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;

use crate::{
    calls::Caller,
    child::Child,
    database::{Engine, EngineChoice},
    shared_clock::SharedClock,
    world::{Class, Member, World},
};

/// Everything that a round needs.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) world: World,
    pub(crate) replicas: Vec<Child>,
    pub(crate) caller: Caller,
    pub(crate) members: BTreeMap<Class, Member>,
    clock: PathBuf,
    ahead: Duration,
}

impl House {
    pub(crate) async fn build(replicas: usize, postgres: &str, jobs: bool) -> anyhow::Result<Self> {
        let choice = EngineChoice { engine: Engine::Postgres, postgres: Some(postgres.to_owned()) };
        let mut world = World::new(&choice).await?;
        let directory = world.place.data_dir(0).parent().context("a directory has a parent")?.to_owned();
        let clock = directory.join("clock");
        SharedClock::set(&clock, Duration::ZERO)?;
        let mut children = Vec::new();
        for number in 0..replicas {
            let mut settings = world.serve(number, jobs);
            settings.clock_file = Some(clock.clone());
            children.push(Child::start(&settings).await?);
        }
        let first = children.first_mut().context("no replica")?;
        world.make_connectors(first).await?;
        let key = world.make_key(first, &["connector"]).await?;
        let mut members = BTreeMap::new();
        for class in Class::ALL {
            let mut owners = vec![("u-1".to_owned(), String::new())];
            if class == Class::WideSiblings {
                owners.push(("u-1".to_owned(), "second".to_owned()));
            }
            let made = world.connect(first, class, &owners).await?;
            members.insert(class, made.into_iter().next().context("no connection")?);
        }
        Ok(Self { world, replicas: children, caller: Caller::new(key)?, members, clock, ahead: Duration::ZERO })
    }

    pub(crate) fn member(&self, class: Class) -> anyhow::Result<Member> {
        self.members.get(&class).cloned().context("no connection of this class")
    }

    /// The address of a replica; numbers go round.
    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        self.replicas[number % self.replicas.len()].ready.address
    }

    /// Moves every clock, also of those who are frozen.
    pub(crate) fn advance(&mut self, by: Duration) -> anyhow::Result<()> {
        self.ahead += by;
        self.world.advance_without_broker(by);
        Ok(SharedClock::set(&self.clock, self.ahead)?)
    }

    pub(crate) async fn tear_down(self) -> anyhow::Result<()> {
        for replica in self.replicas {
            anyhow::ensure!(replica.terminate().await?, "a replica left something unfinished");
        }
        self.world.remove().await
    }
}
