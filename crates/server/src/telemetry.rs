//! The log: readable or JSON lines on standard error, without secrets at any level.

use std::{
    io::{self, IsTerminal},
    panic::PanicHookInfo,
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, filter_fn},
    fmt::{self, format::JsonFields},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    Environment,
    config::{LogConfig, LogFormat},
    json_lines::JsonLines,
};

/// Starts logging for the whole process, and logs panics from now on. The first call counts.
pub(crate) fn start(config: &LogConfig, environment: &Environment) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(&config.level);
    // Libraries debug with headers and addresses, which may hold secrets: they get to warn, and no more.
    let of_ours = filter_fn(|event| event.target().starts_with("valetkey") || *event.level() <= tracing::Level::WARN);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal() && environment.get("NO_COLOR").is_none();
            fmt::layer().with_writer(io::stderr).with_ansi(colours).boxed()
        }
        LogFormat::Json => {
            fmt::layer().with_writer(io::stderr).fmt_fields(JsonFields::new()).event_format(JsonLines).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(of_ours).with_filter(filter));
    if subscriber.try_init().is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    tracing::error!(panic.place = %place, "panicked at {place}: {}", panic_message(panic.payload()));
}

/// The message, if it is a literal of the program. One that was put together may quote what nobody should read.
fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(a message that is not logged)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_tells_no_value() {
        let quoting: Box<dyn std::any::Any + Send> = Box::new(format!("of `{}`", "hunter2"));
        assert!(!panic_message(&*quoting).contains("hunter2"));
        let literal: Box<dyn std::any::Any + Send> = Box::new("a literal");
        assert_eq!(panic_message(&*literal), "a literal");
    }
}
