//! The settings, one section after the other: name, meaning, default, bounds. `deploy/valetkey.toml` and
//! `docs/configuration.md` say the same, and a test compares.

use std::{
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use url::Url;
use valetkey_broker::{Limits, RefreshSettings, Retention};
use valetkey_core::Secret;
use valetkey_providers::{CaFile, OutboundSettings};

use super::{
    CallLimits, DATABASE_FILE, DatabaseConfig, GuardConfig, LogConfig, LogFormat, MIB, ServerConfig,
    reader::{Origin, Reader},
    setting::quoted,
};

/// The port where nobody said another.
const PORT: u16 = 8743;

pub(super) fn server(reader: &mut Reader) -> ServerConfig {
    ServerConfig {
        listen: reader.read(
            "server.listen",
            "where to listen; beyond loopback only with tls_terminated",
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT),
        ),
        public_url: reader.read_optional(
            "server.public_url",
            "the address of browsers and providers; links and redirect URIs are made from it alone",
            "http:// and the address of listen",
        ),
        trusted_proxies: reader.read(
            "server.trusted_proxies",
            "networks of proxies whose X-Forwarded-For is believed",
            Vec::new(),
        ),
        tls_terminated: reader.read("server.tls_terminated", "a proxy in front speaks HTTPS to browsers", false),
    }
}

/// The database, and the settings that go with it.
pub(super) struct DatabaseSection {
    pub(super) database: DatabaseConfig,
    pub(super) max_connections: u32,
    pub(super) cache_bytes: u64,
    /// A password stands in the setting itself.
    pub(super) open_password: bool,
}

pub(super) fn database(reader: &mut Reader, data_dir: &Path) -> DatabaseSection {
    let default = format!("sqlite:{DATABASE_FILE}");
    let url: String = reader.read(
        "database.url",
        "where things are stored: sqlite:FILE for one process, postgres://… for replicas",
        default.clone(),
    );
    let url_file: Option<PathBuf> = reader.read_optional(
        "database.url_file",
        "a file that holds the address instead, with its password",
        "url counts",
    );
    let both = url_file.is_some() && reader.is_given("database.url");
    if both {
        reader.fault("database.url_file", "database.url is set as well", "set one of the two");
    }
    let (name, url) = match url_file {
        Some(file) => {
            let file = data_dir.join(file);
            let read = secret_file(reader, "database.url_file", &file);
            ("database.url_file", read.unwrap_or_else(|| Secret::from(default)))
        }
        None => ("database.url", Secret::from(url)),
    };
    let database = database_of(reader, name, url.expose(), data_dir);
    let has_password = Url::parse(url.expose()).is_ok_and(|url| url.password().is_some());
    if let Some(shown) = reader.in_force.iter_mut().find(|setting| setting.name == "database.url") {
        shown.value = quoted(&without_password(url.expose()));
        if name == "database.url_file" {
            shown.origin = Origin::File { place: "database.url_file".to_owned() };
        }
    }
    DatabaseSection {
        open_password: has_password && name == "database.url",
        database,
        max_connections: reader.read_number(
            "database.max_connections",
            "connections to PostgreSQL that this process opens at most; half of them for token calls alone",
            16,
            2..=1000,
        ),
        cache_bytes: MIB
            * reader.read_number(
                "database.cache_mib",
                "sealed rows kept in memory on SQLite, in MiB; 0 keeps none",
                64,
                0..=65_536,
            ),
    }
}

fn database_of(reader: &mut Reader, name: &str, url: &str, data_dir: &Path) -> DatabaseConfig {
    let fallback = || DatabaseConfig::Sqlite { path: data_dir.join(DATABASE_FILE) };
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains(['?', '#']) || path.starts_with(':') {
            reader.fault(
                name,
                "it names no file",
                "write sqlite: and a path, as in \"sqlite:valetkey.db\"; it has no options",
            );
            return fallback();
        }
        let path = data_dir.join(path);
        let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
        if climbs || !path.starts_with(data_dir) {
            reader.fault(
                name,
                "the file lies outside of the data directory, whose lock would not guard it",
                "write only a file name, and name its directory with --data-dir",
            );
        }
        return DatabaseConfig::Sqlite { path };
    }
    let parsed = Url::parse(url).ok();
    match parsed {
        Some(parsed)
            if matches!(parsed.scheme(), "postgres" | "postgresql")
                && (parsed.has_host() || parsed.query().is_some()) =>
        {
            DatabaseConfig::Postgres { url: Secret::from(url) }
        }
        _ => {
            reader.fault(
                name,
                "it is the address of no database that is known",
                "write \"sqlite:valetkey.db\" or \"postgres://user@host/name\"",
            );
            fallback()
        }
    }
}

/// The address as it may be shown.
fn without_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) if url.password().is_some() => match url.set_password(Some("…")) {
            Ok(()) => url.to_string().replace("%E2%80%A6", "…"),
            Err(()) => "(not shown)".to_owned(),
        },
        // The parameters of the address may hold a password too.
        Ok(url) if url.query().is_some() => "(not shown)".to_owned(),
        _ => url.to_owned(),
    }
}

pub(super) fn outbound(reader: &mut Reader, data_dir: &Path) -> OutboundSettings {
    let allow_networks = reader.read(
        "outbound.allow_networks",
        "networks that providers may be in although they are private",
        Vec::new(),
    );
    let allow_http_hosts = reader.read(
        "outbound.allow_http_hosts",
        "hosts, as name or name:port, that may be reached over plain HTTP",
        Vec::new(),
    );
    let ca_files: Vec<String> = reader.read(
        "outbound.ca_files",
        "certificates of private authorities, PEM, beside those of the system",
        Vec::new(),
    );
    let ca_file = |text: &String| {
        let Ok(CaFile { host, file }) = text.parse();
        CaFile { host, file: data_dir.join(file) }
    };
    let ca_files = ca_files.iter().map(ca_file).collect();
    OutboundSettings { allow_networks, allow_http_hosts, ca_files }
}

pub(super) fn providers(reader: &mut Reader, data_dir: &Path) -> Option<PathBuf> {
    let directory: Option<PathBuf> = reader.read_optional(
        "providers.directory",
        "provider profiles (*.toml) beside the built-in ones; the same name replaces one",
        "built-in profiles only",
    );
    directory.map(|directory| data_dir.join(directory))
}

pub(super) fn limits(reader: &mut Reader) -> (Limits, CallLimits) {
    let default = Limits::default();
    let limits = Limits {
        flow_life: reader.read_duration(
            "limits.flow_life_s",
            "how long a user may take from the start link to finish",
            default.flow_life,
            60..=3600,
        ),
        handle_life: reader.read_duration(
            "limits.handle_life_s",
            "how long the application may take from the callback to finish",
            default.handle_life,
            10..=600,
        ),
        starts_per_hour_and_user: reader.read_number(
            "limits.starts_per_hour_and_user",
            "flows started for one user in an hour",
            default.starts_per_hour_and_user,
            1..=1_000_000,
        ),
        starts_per_minute_and_user: reader.read_number(
            "limits.starts_per_minute_and_user",
            "flows started for one user in a minute",
            default.starts_per_minute_and_user,
            1..=1_000_000,
        ),
        open_flows_per_user: reader.read_number(
            "limits.pending_flows_per_user",
            "flows of one user that are not over; above it new ones are refused",
            default.open_flows_per_user,
            1..=1_000_000_000,
        ),
        open_flows_per_caller: reader.read_number(
            "limits.pending_flows_per_key",
            "flows of one API key that are not over",
            default.open_flows_per_caller,
            1..=1_000_000_000,
        ),
        open_flows_total: reader.read_number(
            "limits.pending_flows",
            "flows that are not over, in all",
            default.open_flows_total,
            1..=1_000_000_000,
        ),
    };
    let default = CallLimits::default();
    let calls = CallLimits {
        token_calls_per_second_and_key: reader.read_number(
            "limits.token_calls_per_second_and_key",
            "token calls of one API key in a second, in this process",
            default.token_calls_per_second_and_key,
            1..=10_000_000,
        ),
        failing_callbacks_per_minute: reader.read_number(
            "limits.failing_callbacks_per_minute",
            "callbacks from one address that fail the check of state or cookie",
            default.failing_callbacks_per_minute,
            1..=1_000_000,
        ),
    };
    (limits, calls)
}

pub(super) fn refresh(reader: &mut Reader) -> RefreshSettings {
    let default = RefreshSettings::default();
    RefreshSettings {
        default_min_ttl: reader.read_duration(
            "refresh.min_ttl_s",
            "the least remaining life of a token whose caller names none",
            default.default_min_ttl,
            0..=3600,
        ),
        wait: reader.read_duration("refresh.wait_s", "how long a caller waits for a refresh", default.wait, 1..=30),
        per_second_and_connector: reader.read_number(
            "refresh.per_second_and_connector",
            "refreshes of one connector in a second",
            default.per_second_and_connector,
            1..=100_000,
        ),
        concurrency: reader.read_number(
            "refresh.concurrency",
            "refreshes in flight at once, over all providers",
            default.concurrency,
            1..=10_000,
        ),
        dormant_after: reader.read_duration(
            "refresh.dormant_after_days",
            "days without a caller after which only the next caller brings a refresh",
            default.dormant_after,
            1..=3650,
        ),
        first_backoff: reader.read_duration(
            "refresh.first_backoff_s",
            "the first pause after a refresh that failed",
            default.first_backoff,
            1..=3600,
        ),
        longest_backoff: reader.read_duration(
            "refresh.longest_backoff_s",
            "the longest pause between tries",
            default.longest_backoff,
            1..=86_400,
        ),
        rejected_interval: reader.read_duration(
            "refresh.rejected_interval_s",
            "how soon a second `rejected` may refresh the same connection",
            default.rejected_interval,
            1..=3600,
        ),
    }
}

pub(super) fn retention(reader: &mut Reader) -> Retention {
    let default = Retention::default();
    let days = 1..=36_500;
    Retention {
        flows: reader.read_duration(
            "retention.flows_days",
            "days that flows stay once they are over",
            default.flows,
            days.clone(),
        ),
        revoked_connections: reader.read_duration(
            "retention.revoked_connections_days",
            "days that revoked connections stay",
            default.revoked_connections,
            days.clone(),
        ),
        unused_connections: reader.read_duration(
            "retention.unused_connections_days",
            "days that connections stay which nobody uses and nothing can refresh",
            default.unused_connections,
            days.clone(),
        ),
        attempts: reader.read_duration(
            "retention.attempts_days",
            "days that settled attempts stay",
            default.attempts,
            days.clone(),
        ),
        revocations: reader.read_duration(
            "retention.revocations_days",
            "days that ended revocations stay",
            default.revocations,
            days.clone(),
        ),
        audit: reader.read_duration("retention.audit_days", "days that audit events stay", default.audit, days),
    }
}

pub(super) fn guard(reader: &mut Reader, data_dir: &Path, database: &DatabaseConfig) -> GuardConfig {
    let directory: Option<PathBuf> = reader.read_optional(
        "guard.witness_dir",
        "a durable directory of this process alone, outside of the database, for the witness that tells a restored one",
        "the data directory on SQLite, none on PostgreSQL",
    );
    let default = database.is_sqlite().then(|| data_dir.to_owned());
    GuardConfig { witness_dir: directory.map(|directory| data_dir.join(directory)).or(default) }
}

pub(super) fn log(reader: &mut Reader) -> LogConfig {
    let format = match reader.read_choice("log.format", "for people or for machines", &["text", "json"]) {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
    let level: String =
        reader.read("log.level", "error, warn, info, debug, trace or off; or by module", "info".to_owned());
    if !level.split(',').all(is_directive) {
        reader.fault(
            "log.level",
            format!("it is {level:?}, which names no level"),
            "write error, warn, info, debug, trace or off, or by module as in \"info,valetkey_broker=debug\"",
        );
    }
    LogConfig { format, level }
}

fn is_directive(part: &str) -> bool {
    let (module, level) = part.split_once('=').unwrap_or(("", part));
    let is_module = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':');
    is_module(module) && matches!(level, "error" | "warn" | "info" | "debug" | "trace" | "off")
}

/// A file that holds one secret, less the line end. A group may read it, because that is how credentials of systemd
/// and secrets of Kubernetes are handed over; others may not, and nobody else may write it.
pub(super) fn secret_file(reader: &mut Reader, name: &str, path: &Path) -> Option<Secret> {
    match read_secret_file(path) {
        Ok(secret) => Some(secret),
        Err((what, mend)) => {
            reader.fault(name, what, mend);
            None
        }
    }
}

/// Reads it, or says what is wrong and what would be right; never the path, which may be a secret in the wrong place.
pub(crate) fn read_secret_file(path: &Path) -> Result<Secret, (String, &'static str)> {
    const LIMIT: u64 = 64 * 1024;
    let failed = |error: std::io::Error| {
        (
            format!("the file cannot be read: {}", error.kind()),
            "name a file that exists and that the user of the service may read",
        )
    };
    // NONBLOCK: opening a pipe must not wait for its writer.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > LIMIT {
        return Err(("it is not a small file".to_owned(), "name a file that holds the secret and nothing else"));
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o027 != 0 {
        return Err((
            format!("the file has mode {mode:04o} and is open to others"),
            "run chmod 600 on it, and replace the secret if others may have read it",
        ));
    }
    let mut text = String::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    let read = (&file).take(LIMIT).read_to_string(&mut text);
    let whole = Secret::from(text);
    read.map_err(failed)?;
    let secret = Secret::from(whole.expose().trim());
    if secret.is_empty() {
        return Err(("the file is empty".to_owned(), "write the secret into it"));
    }
    Ok(secret)
}
