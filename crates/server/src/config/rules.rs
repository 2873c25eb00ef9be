//! Rules that hold between settings.

use std::net::IpAddr;

use url::{Host, Url};

use super::{Config, DatabaseConfig, KeyringConfig, reader::Reader};

/// Checks a configuration whose settings fit one by one. Returns what is allowed and still worth saying.
pub(super) fn check(reader: &mut Reader, config: &Config, open_password: bool) -> Vec<String> {
    address(reader, config);
    proxies(reader, config);
    limits(reader, config);
    shared_key(reader, config);
    notes(reader, config, open_password)
}

/// Replicas share one key, so none of them makes one.
fn shared_key(reader: &mut Reader, config: &Config) {
    let (DatabaseConfig::Postgres { .. }, KeyringConfig::File(path)) = (&config.database, &config.keyring) else {
        return;
    };
    if !reader.is_given("keyring.file") {
        reader.fault(
            "keyring.key_file",
            "on PostgreSQL nothing says which key the replicas share",
            "make one with `openssl rand -base64 32` in a file of mode 0600, the same for every replica, and name it here",
        );
    } else if !path.exists() {
        reader.fault(
            "keyring.file",
            "there is no such key ring, and on PostgreSQL none is made: replicas would each have their own",
            "name the one that belongs to the database, or use keyring.key_file",
        );
    }
}

fn address(reader: &mut Reader, config: &Config) {
    let server = &config.server;
    let local = server.listen.ip().is_loopback();
    if !local && !server.tls_terminated {
        reader.fault(
            "server.listen",
            format!("{} is reached from outside, and nothing says that HTTPS stands before it", server.listen),
            "put a proxy that speaks HTTPS in front and set server.tls_terminated = true, or listen on 127.0.0.1",
        );
    }
    let Some(url) = &server.public_url else {
        if !local {
            reader.fault(
                "server.public_url",
                "it is not set, and cannot be guessed from where the service listens",
                "set it to the address that browsers use, as in \"https://keys.example.org\"",
            );
        }
        return;
    };
    if !matches!(url.scheme(), "https" | "http") {
        reader.fault("server.public_url", format!("its scheme is {}", url.scheme()), "write it with https");
    } else if url.scheme() == "http" && !is_loopback(url) {
        reader.fault(
            "server.public_url",
            "it is plain http beyond this machine: codes and handles could be read on the way",
            "write it with https; plain http is for 127.0.0.1, [::1] and localhost",
        );
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        reader.fault(
            "server.public_url",
            "it is more than scheme, host and port",
            "take path, query and user away: the service has a host name of its own",
        );
    }
}

/// Whether browsers treat the host as this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

fn proxies(reader: &mut Reader, config: &Config) {
    if config.server.trusted_proxies.iter().any(|net| net.prefix_len() == 0) {
        reader.fault(
            "server.trusted_proxies",
            "it holds every address there is, so that any client could claim to be another",
            "name the addresses of your proxies",
        );
    }
}

fn limits(reader: &mut Reader, config: &Config) {
    if config.limits.handle_life > config.limits.flow_life {
        reader.fault(
            "limits.handle_life_s",
            "it is longer than limits.flow_life_s",
            "make it shorter: a handle ends with its flow",
        );
    }
    if config.refresh.first_backoff > config.refresh.longest_backoff {
        reader.fault(
            "refresh.first_backoff_s",
            "it is longer than refresh.longest_backoff_s",
            "make the first pause the shorter one",
        );
    }
}

fn notes(reader: &Reader, config: &Config, open_password: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if open_password {
        notes.push(
            "database.url holds a password: move the address to a file and name it as database.url_file".to_owned(),
        );
    }
    if config.server.tls_terminated && config.server.trusted_proxies.is_empty() {
        notes.push(
            "server.trusted_proxies is empty: every client has the address of the proxy, and shares its limits"
                .to_owned(),
        );
    }
    if matches!(config.keyring, KeyringConfig::Key(_)) {
        notes.push(
            "keyring.key is in the environment, which processes of the same user can read: a file or a systemd credential \
             keeps it better"
                .to_owned(),
        );
    }
    let wide = config.outbound.allow_networks.iter().any(|net| net.prefix_len() == 0);
    if wide {
        notes.push(
            "outbound.allow_networks holds every address there is: nothing keeps a connector away from inner services"
                .to_owned(),
        );
    }
    if config.database.is_sqlite() && reader.is_given("database.max_connections") {
        notes.push("database.max_connections has no effect on SQLite".to_owned());
    }
    if !config.database.is_sqlite() && reader.is_given("database.cache_mib") {
        notes.push("database.cache_mib has no effect on PostgreSQL, where other replicas write too".to_owned());
    }
    if config.guard.witness_dir.is_none() {
        notes.push(
            "guard.witness_dir names no durable directory: the restore guard is off, and a database that was restored \
             is used as if nothing had happened"
                .to_owned(),
        );
    }
    if let IpAddr::V4(address) = config.server.listen.ip()
        && address.is_unspecified()
        && config.server.tls_terminated
    {
        notes.push("server.listen takes connections on every interface: see that only the proxy reaches it".to_owned());
    }
    notes
}
