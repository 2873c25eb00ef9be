//! Runs the sandbox provider as a process of its own.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use valetkey_sandbox::{Sandbox, SandboxSettings};

const USAGE: &str = "\
usage: valetkey-sandbox [--port N] [--class CLASS] [--auto-consent] [--settings JSON] [--until-eof]

  --port N          port on 127.0.0.1 (default: a free one)
  --class CLASS     rotation class of every client: non_rotating, soft, soft_until_successor_used,
                    grace:SECONDS, strict, strict_wide
  --auto-consent    authorize at once, without a page
  --settings JSON   settings as JSON, or @FILE; the other options are applied to them
  --until-eof       stop when standard input ends, so that it dies with its parent
";

#[derive(Debug, Default)]
struct Options {
    settings: SandboxSettings,
    until_eof: bool,
    help: bool,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(io::stderr(), "valetkey-sandbox: {why}\n\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut arguments = arguments;
    let mut options = Options::default();
    let (mut port, mut class, mut auto_consent) = (None, None, false);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--port" => {
                let number = value()?.parse();
                port = Some(number.map_err(|_| "the port is not a number up to 65535".to_owned())?);
            }
            "--class" => class = Some(value()?.parse()?),
            "--auto-consent" => auto_consent = true,
            "--until-eof" => options.until_eof = true,
            "--help" => options.help = true,
            "--settings" => {
                let text = value()?;
                let text = match text.strip_prefix('@') {
                    Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?,
                    None => text,
                };
                options.settings = serde_json::from_str(&text).map_err(|error| format!("settings: {error}"))?;
            }
            other => return Err(format!("there is no option {other}")),
        }
    }
    if let Some(port) = port {
        options.settings.port = port;
    }
    if let Some(class) = class {
        for client in &mut options.settings.clients {
            client.rotation = class;
        }
    }
    options.settings.auto_consent |= auto_consent;
    Ok(options)
}

fn run(options: Options) -> Result<(), String> {
    if options.help {
        return write!(io::stdout(), "{USAGE}").map_err(|error| error.to_string());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let served = runtime.block_on(async {
        let sandbox = Sandbox::start(options.settings).await.map_err(|error| error.to_string())?;
        // The first line of standard output is the address: whoever started the process reads it.
        let mut out = io::stdout();
        writeln!(out, "{}", sandbox.base_url()).and_then(|()| out.flush()).map_err(|error| error.to_string())?;
        if options.until_eof {
            let ended = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink()));
            tokio::select! {
                _ = ended => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        } else {
            tokio::signal::ctrl_c().await.map_err(|error| error.to_string())?;
        }
        sandbox.stop().await;
        Ok(())
    });
    // A thread may still be reading standard input.
    runtime.shutdown_background();
    served
}
