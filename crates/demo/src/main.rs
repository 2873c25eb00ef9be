//! The newcomer's first minute: broker, sandbox provider and a small application, all on loopback.
//!
//! The application is what a team would write itself: a page, a session, and a backend that holds API keys and calls the
//! broker over HTTP. `--headless` walks through it without a browser.

mod application;
mod broker_api;
mod headless;
mod house;
mod registration;
mod screen;

use std::{
    io::{self, Read},
    process::ExitCode,
};

use clap::Parser;

use crate::house::House;

/// Broker, sandbox provider and a small application on this machine.
#[derive(Debug, Parser)]
#[command(name = "valetkey-demo", disable_version_flag = true)]
struct Options {
    /// Walk the whole path without a browser, print each step, and end
    #[arg(long, conflicts_with_all = ["json", "until_eof"])]
    headless: bool,
    /// Print the three addresses as one line of JSON
    #[arg(long)]
    json: bool,
    /// Stop when standard input ends, so that it dies with its parent
    #[arg(long)]
    until_eof: bool,
    /// Port of the application's page on 127.0.0.1; a free one if 0
    #[arg(long, default_value_t = 0, value_name = "N")]
    port: u16,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen::complain(&format!("valetkey-demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    // One per process; reqwest asks for it even where all there is to speak to is plain HTTP on loopback.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let house = House::open(options.port).await?;
        let done = if options.headless { headless::walk(&house).await } else { stay(options, &house).await };
        house.close().await;
        done
    });
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    done
}

/// Says what is running, and waits for Ctrl-C or whatever else was asked for.
async fn stay(options: &Options, house: &House) -> anyhow::Result<()> {
    if options.json {
        screen::say(&serde_json::to_string(&house.addresses)?)?;
    } else {
        screen::say(&screen::welcome(house))?;
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
        () = end_of_input(), if options.until_eof => {}
    }
    if !options.json {
        screen::say("\nStopping. Everything that was stored is deleted.")?;
    }
    Ok(())
}

async fn end_of_input() {
    let read = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink()));
    // However reading ended, there is nothing more to come.
    let _ = read.await;
}
