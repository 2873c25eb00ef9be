//! What each verb does.

mod check_config;
mod connections;
mod connectors;
mod hold;
mod keyring;
mod keys;
mod migrate;
mod purge;
mod serve;
mod spaces;

use super::{
    arguments::{Arguments, Common, Connections, Connectors, Keys, Spaces, Verb},
    client::Client,
    failure::Failure,
    output::{Output, print},
};
use crate::{
    Environment, LoadedConfig, Sources,
    config::{LogConfig, LogFormat},
    telemetry,
};

/// What a verb works with.
struct Context {
    common: Common,
    environment: Environment,
    output: Output,
}

impl Context {
    fn load(&self) -> Result<LoadedConfig, Failure> {
        let sources = Sources {
            file: self.common.config.clone(),
            data_dir: self.common.data_dir.clone(),
            environment: self.environment.clone(),
        };
        Ok(sources.load()?)
    }

    /// A way to the API; `holder` names the verb to whoever finds the data directory held.
    async fn client(&self, holder: &str) -> Result<Client, Failure> {
        let config = self.load()?.config;
        self.log_warnings();
        Client::open(&config, self.common.space.clone(), holder).await
    }

    /// A verb that ends at once says only what is wrong, and to a program nothing beside its answer.
    fn log_warnings(&self) {
        let level = if self.common.json { "off" } else { "warn" };
        telemetry::start(&LogConfig { format: LogFormat::Text, level: level.to_owned() }, &self.environment);
    }
}

/// Does what was said.
pub(super) async fn run(arguments: Arguments, environment: Environment, output: Output) -> Result<(), Failure> {
    let context = Context { common: arguments.common, environment, output };
    match arguments.verb {
        Verb::Serve => serve::serve(&context).await,
        Verb::CheckConfig => check_config::check_config(&context),
        Verb::Migrate => migrate::migrate(&context).await,
        Verb::Openapi => print(&valetkey_api::openapi()),
        Verb::Spaces(Spaces::Create { name }) => spaces::create(&context, &name).await,
        Verb::Spaces(Spaces::List) => spaces::list(&context).await,
        Verb::Keys(Keys::Create(new)) => keys::create(&context, new).await,
        Verb::Keys(Keys::List) => keys::list(&context).await,
        Verb::Keys(Keys::Revoke { id, yes }) => keys::revoke(&context, id, yes).await,
        Verb::Keyring(verb) => keyring::run(&context, verb).await,
        Verb::Connectors(Connectors::Add(new)) => connectors::add(&context, *new).await,
        Verb::Connectors(Connectors::List) => connectors::list(&context).await,
        Verb::Connections(Connections::List { filter }) => connections::list(&context, &filter).await,
        Verb::Connections(Connections::Revoke(revoke)) => connections::revoke(&context, revoke).await,
        Verb::Hold { reason } => hold::hold(&context, reason.as_deref()).await,
        Verb::ReleaseHold { yes } => hold::release(&context, yes).await,
        Verb::Purge { dry_run, .. } => purge::purge(&context, dry_run).await,
    }
}
