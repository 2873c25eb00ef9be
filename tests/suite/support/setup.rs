//! What an app is started with.

use std::{fmt, time::Duration};

use valetkey_broker::Boundaries;
use valetkey_sandbox::SandboxSettings;
use valetkey_server::{Config, Patience};

use crate::{Engine, network::Network};

type Change = Box<dyn FnOnce(&mut Config) + Send>;

/// What an app is started with.
pub struct Setup {
    pub(crate) engine: Engine,
    pub(crate) changes: Vec<Change>,
    pub(crate) sandbox: SandboxSettings,
    pub(crate) deadline: Option<Duration>,
    pub(crate) patience: Option<Patience>,
    pub(crate) boundaries: Boundaries,
}

impl Setup {
    /// The defaults of the service, and a sandbox that consents by itself and knows any account.
    pub fn on(engine: Engine) -> Self {
        let sandbox = SandboxSettings { clients: Vec::new(), any_account: true, ..SandboxSettings::automatic() };
        Self { engine, changes: Vec::new(), sandbox, deadline: None, patience: None, boundaries: Boundaries::default() }
    }

    /// Changes the server's configuration.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    /// Gives providers this long to answer, in real time, instead of twenty seconds.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Puts a network between the server and PostgreSQL, which is waited for this long, in real time.
    #[must_use]
    pub fn network(mut self, network: &Network, patience: Duration) -> Self {
        let network = network.clone();
        let longer = patience * 2;
        self.patience = Some(Patience { connection: patience, look: patience, statement: longer, sweep: longer });
        self.config(move |config| network.put_between(config))
    }

    /// Tells this where refreshes stand.
    #[must_use]
    pub fn boundaries(mut self, boundaries: Boundaries) -> Self {
        self.boundaries = boundaries;
        self
    }

    /// Changes what the sandbox is started with. Most of it can be changed later by [`TestApp::provider`].
    ///
    /// [`TestApp::provider`]: crate::TestApp::provider
    #[must_use]
    pub fn sandbox(mut self, change: impl FnOnce(&mut SandboxSettings)) -> Self {
        change(&mut self.sandbox);
        self
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("engine", &self.engine).finish_non_exhaustive()
    }
}
