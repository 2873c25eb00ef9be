//! Runs the service until it is told to stop.

use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Context;
use crate::{
    Config, Server,
    cli::failure::{Exit, Failure},
    notify::Notify,
    telemetry,
};

pub(super) async fn serve(context: &Context) -> Result<(), Failure> {
    let started = Instant::now();
    let loaded = context.load()?;
    telemetry::start(&loaded.config.log, &context.environment);
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let notify = Notify::from_environment(&context.environment);
    // From here on a signal is kept for later instead of ending the process half way.
    let mut signals = Signals::listen()?;
    let server = tokio::select! {
        server = Server::start(loaded.config.clone()) => server?,
        () = signals.next() => {
            return Err(Failure::local(Exit::Failed, "interrupted", "interrupted while starting"));
        }
    };
    announce(&server, &loaded.config, started);
    notify.tell("READY=1");
    signals.next().await;
    notify.tell("STOPPING=1");
    tracing::info!("stopping: no new requests are taken; a second signal stops at once");
    tokio::select! {
        clean = server.stop() => {
            if clean {
                tracing::info!("stopped");
            } else {
                tracing::warn!("stopped with work left unfinished; another process or the next start takes it up");
            }
            Ok(())
        }
        () = signals.next() => {
            tracing::warn!("stopped at once by a second signal");
            Err(Failure::local(Exit::Failed, "interrupted", "stopped at once by a second signal"))
        }
    }
}

fn announce(server: &Server, config: &Config, started: Instant) {
    let address = server.local_addr();
    let url = server.public_url();
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let engine = if config.database.is_sqlite() { "sqlite" } else { "postgres" };
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(
        %address,
        public_url = %url,
        engine,
        version,
        start_millis = millis,
        "valetkey {version} listens on {address}, ready after {millis} ms"
    );
}

/// SIGTERM and SIGINT; SIGHUP is taken and ignored.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the service is to stop.
    async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                // Unhandled it would end the process without a drain, when a terminal closes or a script means `reload`.
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP is ignored: nothing is reloaded while running; restart to apply a configuration");
                }
            }
        }
    }
}
