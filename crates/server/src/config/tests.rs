use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{ConfigFaults, DatabaseConfig, KeyringConfig, LoadedConfig, LogFormat, Origin, Sources};
use crate::Environment;

const SAMPLE: &str = include_str!("../../../../deploy/valetkey.toml");
const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");

fn load_with(file: &str, variables: &[(&str, &str)]) -> Result<LoadedConfig, ConfigFaults> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("valetkey.toml");
    fs::write(&path, file).unwrap();
    Sources {
        file: Some(path),
        data_dir: Some(PathBuf::from("/var/lib/valetkey")),
        environment: Environment::of(variables.iter().copied()),
    }
    .load()
}

fn load(file: &str) -> Result<LoadedConfig, ConfigFaults> {
    load_with(file, &[])
}

/// The settings that are at fault.
fn faulty(file: &str) -> Vec<String> {
    let faults = load(file).unwrap_err().0;
    faults.into_iter().map(|fault| fault.setting).collect()
}

fn write(directory: &TempDir, name: &str, content: &str, mode: u32) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn without_any_configuration_it_is_loopback_and_sqlite_in_the_data_directory() {
    let sources = Sources { data_dir: Some(PathBuf::from("/srv/keys")), ..Sources::default() };
    let loaded = sources.load().unwrap();
    let config = loaded.config;
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8743");
    assert!(config.server.public_url.is_none());
    assert!(matches!(config.database, DatabaseConfig::Sqlite { path } if path == Path::new("/srv/keys/valetkey.db")));
    assert!(matches!(config.keyring, KeyringConfig::File(path) if path == Path::new("/srv/keys/keyring.json")));
    assert!(loaded.settings.iter().all(|setting| setting.origin == Origin::Default));
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
}

#[test]
fn the_data_directory_is_the_flag_then_the_variable_then_a_default() {
    let from = |flag: Option<&str>, variable: &[(&str, &str)]| {
        let sources = Sources {
            file: None,
            data_dir: flag.map(PathBuf::from),
            environment: Environment::of(variable.iter().copied()),
        };
        sources.load().unwrap().config.data_dir
    };
    let variable = [("VALETKEY_DATA_DIR", "/b")];
    assert_eq!(from(Some("/a"), &variable), Path::new("/a"));
    assert_eq!(from(None, &variable), Path::new("/b"));
    assert_eq!(from(None, &[]), std::path::absolute("valetkey-data").unwrap());
}

#[test]
fn every_fault_is_reported_at_once_with_its_place_and_its_mend() {
    let faults = load(
        r#"
[server]
listen = "localhost"
public_url = "http://keys.example.org/broker"
tls_terminated = "yes"
trusted_proxies = ["10.0.0.1/8"]

[limits]
flow_life_s = 5
flow_live_s = 600

[log]
level = "verbose"
format = "yaml"

[colour]
red = 1
"#,
    )
    .unwrap_err()
    .0;
    let found: BTreeSet<_> = faults.iter().map(|fault| fault.setting.as_str()).collect();
    let expected = BTreeSet::from([
        "server.listen",
        "server.public_url",
        "server.tls_terminated",
        "server.trusted_proxies",
        "limits.flow_life_s",
        "limits.flow_live_s",
        "log.level",
        "log.format",
        "colour.red",
    ]);
    assert_eq!(found, expected, "{faults:#?}");
    let lines: BTreeMap<_, _> =
        faults.iter().map(|fault| (fault.setting.as_str(), fault.place.rsplit(':').next().unwrap())).collect();
    assert_eq!(lines["server.listen"], "3");
    assert_eq!(lines["limits.flow_life_s"], "9");
    assert_eq!(lines["colour.red"], "17");
    assert!(faults.iter().all(|fault| !fault.mend.is_empty() && !fault.what.is_empty()));
    let misspelt = faults.iter().find(|fault| fault.setting == "limits.flow_live_s").unwrap();
    assert!(misspelt.mend.contains("limits.flow_life_s"), "{misspelt}");
}

#[test]
fn what_is_no_toml_is_named_by_its_line_and_the_rest_is_still_checked() {
    let faults = load("[server]\nlisten = \n\n[limits]\nflow_life_s = true\n").unwrap_err().0;
    assert!(faults.iter().any(|fault| fault.place.ends_with(":2")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.setting == "limits.flow_life_s"), "{faults:?}");
}

#[test]
fn unknown_sections_and_settings_outside_of_sections_are_refused() {
    assert_eq!(faulty("listen = \"127.0.0.1:1\"\n"), ["listen"]);
    assert_eq!(faulty("[serverr]\n"), ["serverr"]);
    assert_eq!(faulty("[limits]\nlisten = \"127.0.0.1:1\"\n"), ["limits.listen"]);
    assert!(load("[server]\n").is_ok());
}

#[test]
fn a_setting_in_the_wrong_section_is_pointed_to_the_right_one() {
    let faults = load("[database]\npublic_url = \"https://keys.example.org\"\n").unwrap_err();
    assert!(faults.to_string().contains("server.public_url"), "{faults}");
}

#[test]
fn variables_win_over_the_file_and_are_toml_or_else_text() {
    let loaded = load_with(
        "[server]\nlisten = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"\n",
        &[
            ("VALETKEY__SERVER__LISTEN", "127.0.0.1:2"),
            ("VALETKEY__SERVER__TRUSTED_PROXIES", "[\"10.0.0.5/32\"]"),
            ("VALETKEY__LIMITS__FLOW_LIFE_S", "300"),
            ("VALETKEY__LOG__FORMAT", "\"json\""),
            ("VALETKEY__PROVIDERS__DIRECTORY", "2024-01-01"),
            ("UNRELATED", "x"),
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.server.listen.port(), 2);
    assert_eq!(config.server.trusted_proxies[0].to_string(), "10.0.0.5/32");
    assert_eq!(config.limits.flow_life.as_secs(), 300);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.level, "warn");
    assert_eq!(config.providers_directory.unwrap(), Path::new("/var/lib/valetkey/2024-01-01"));
    let origin = |name: &str| {
        let setting = loaded.settings.iter().find(|setting| setting.name == name);
        setting.unwrap().origin.to_string()
    };
    assert_eq!(origin("server.listen"), "VALETKEY__SERVER__LISTEN");
    assert!(origin("log.level").ends_with("valetkey.toml:4"), "{}", origin("log.level"));
}

#[test]
fn a_variable_that_sets_nothing_is_refused() {
    let faults = load_with("", &[("VALETKEY__SERVER__LISTN", "127.0.0.1:2")]).unwrap_err().0;
    assert_eq!(faults[0].place, "VALETKEY__SERVER__LISTN");
    assert!(faults[0].mend.contains("server.listen"), "{:?}", faults[0]);
}

#[test]
fn an_address_beyond_loopback_needs_a_declared_tls_terminator_and_a_public_url() {
    assert_eq!(faulty("[server]\nlisten = \"0.0.0.0:8743\"\n"), ["server.listen", "server.public_url"]);
    assert_eq!(
        faulty("[server]\nlisten = \"[::]:8743\"\npublic_url = \"https://keys.example.org\"\n"),
        ["server.listen"]
    );
    let open =
        "[server]\nlisten = \"0.0.0.0:8743\"\npublic_url = \"https://keys.example.org\"\ntls_terminated = true\n";
    assert!(load(open).is_ok());
    let behind_a_local_proxy = "[server]\npublic_url = \"https://keys.example.org\"\n";
    assert!(load(behind_a_local_proxy).is_ok());
}

#[test]
fn plain_http_is_for_loopback_alone() {
    for url in ["http://127.0.0.1:8743", "http://[::1]:8743", "http://localhost:8743"] {
        assert!(load(&format!("[server]\npublic_url = \"{url}\"\n")).is_ok(), "{url}");
    }
    for url in [
        "http://keys.example.org",
        "http://10.0.0.1",
        "http://localhost.example.org",
        "ftp://localhost",
        "https://keys.example.org/path",
        "https://keys.example.org/?a=b",
        "https://user@keys.example.org",
        "keys.example.org",
        "",
    ] {
        let file = format!("[server]\npublic_url = \"{url}\"\n");
        assert_eq!(faulty(&file), ["server.public_url"], "{url}");
    }
}

#[test]
fn a_proxy_that_could_be_anybody_is_refused() {
    assert_eq!(faulty("[server]\ntrusted_proxies = [\"0.0.0.0/0\"]\n"), ["server.trusted_proxies"]);
}

#[test]
fn databases_are_sqlite_files_and_postgres_addresses() {
    let database = |url: &str| {
        load(&format!("[database]\nurl = \"{url}\"\n[keyring]\nfile = \"/\"\n")).map(|loaded| loaded.config.database)
    };
    let path_of = |url: &str| match database(url).unwrap() {
        DatabaseConfig::Sqlite { path } => path,
        DatabaseConfig::Postgres { .. } => panic!("{url} is SQLite"),
    };
    assert_eq!(path_of("sqlite:keys.db"), Path::new("/var/lib/valetkey/keys.db"));
    assert_eq!(path_of("sqlite:/var/lib/valetkey/a.db"), Path::new("/var/lib/valetkey/a.db"));
    assert_eq!(path_of("sqlite:///var/lib/valetkey/a.db"), Path::new("/var/lib/valetkey/a.db"));
    assert!(matches!(database("postgres://valetkey@db.internal/valetkey").unwrap(), DatabaseConfig::Postgres { .. }));
    for bad in [
        "sqlite:",
        "sqlite::memory:",
        "sqlite:a.db?mode=ro",
        "mysql://h/d",
        "postgres:",
        "keys.db",
        "sqlite:/srv/a.db",
        "sqlite:../a.db",
    ] {
        let faults = database(bad).unwrap_err().0;
        assert_eq!(faults[0].setting, "database.url", "{bad}");
    }
}

#[test]
fn a_password_in_an_address_is_never_shown_and_is_worth_a_note() {
    let loaded =
        load("[database]\nurl = \"postgres://valetkey:hunter2@db.internal/valetkey\"\n[keyring]\nfile = \"/\"\n")
            .unwrap();
    assert!(loaded.notes.iter().any(|note| note.contains("database.url_file")));
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let hidden =
        load("[database]\nurl = \"postgres://db.internal/valetkey?password=hunter2\"\n[keyring]\nfile = \"/\"\n")
            .unwrap();
    assert!(!format!("{hidden:?}").contains("hunter2"));
}

#[test]
fn secrets_come_from_files_that_others_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=\n";
    let url = write(&directory, "url", "postgres://valetkey:hunter2@db.internal/valetkey\n", 0o600);
    let key_file = write(&directory, "key", key, 0o440);
    let file = format!(
        "[database]\nurl_file = {url:?}\n[keyring]\nkey_file = {key_file:?}\n[guard]\nwitness_dir = \"witness\"\n"
    );
    let loaded = load(&file).unwrap();
    assert!(matches!(loaded.config.database, DatabaseConfig::Postgres { url } if url.expose().ends_with("/valetkey")));
    assert!(matches!(loaded.config.keyring, KeyringConfig::KeyFile(_)));
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);

    let cases = [
        ("open", key, 0o644, "mode 0644"),
        ("writable", key, 0o620, "mode 0620"),
        ("short", "AQID", 0o600, "no key"),
        ("empty", "\n", 0o600, "empty"),
    ];
    for (name, content, mode, reason) in cases {
        let path = write(&directory, name, content, mode);
        let faults = load(&format!("[keyring]\nkey_file = {path:?}\n")).unwrap_err();
        assert!(faults.to_string().contains(reason), "{name}: {faults}");
        assert_eq!(faults.0.len(), 1);
    }
    let misplaced = load(&format!("[keyring]\nkey_file = {key:?}\n")).unwrap_err();
    assert!(!misplaced.to_string().contains("AQIDBA"), "a key in the wrong place stays unseen: {misplaced}");
}

#[test]
fn two_settings_for_one_thing_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let url = write(&directory, "url", "sqlite:a.db", 0o600);
    assert_eq!(faulty(&format!("[database]\nurl = \"sqlite:b.db\"\nurl_file = {url:?}\n")), ["database.url_file"]);
    assert_eq!(faulty("[keyring]\nfile = \"a\"\nkey_file = \"b\"\n"), ["keyring.key_file"]);
}

#[test]
fn a_key_comes_from_a_credential_or_the_environment_and_never_from_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";
    let credential = write(&directory, "kek", key, 0o440);
    let credentials = ("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap());
    let file = "[keyring]\ncredential = \"kek\"\n";
    let loaded = load_with(file, &[credentials]).unwrap();
    assert!(matches!(&loaded.config.keyring, KeyringConfig::KeyFile(path) if *path == credential));
    assert!(load(file).unwrap_err().to_string().contains("CREDENTIALS_DIRECTORY"));
    for name in ["../kek", "/etc/passwd", ".", "absent"] {
        let file = format!("[keyring]\ncredential = {name:?}\n");
        let faults = load_with(&file, &[credentials]).unwrap_err().0;
        assert_eq!((faults.len(), faults[0].setting.as_str()), (1, "keyring.credential"), "{name}");
    }

    let loaded = load_with("", &[("VALETKEY__KEYRING__KEY", key)]).unwrap();
    assert!(matches!(&loaded.config.keyring, KeyringConfig::Key(found) if found.expose() == key));
    assert!(loaded.notes.iter().any(|note| note.contains("keyring.key")), "{:?}", loaded.notes);
    assert!(!format!("{loaded:?}").contains(key), "the key is nowhere shown");
    let refused = load(&format!("[keyring]\nkey = {key:?}\n")).unwrap_err();
    assert!(refused.to_string().contains("in the file") && !refused.to_string().contains(key), "{refused}");
    for bad in ["12345678", "true", "AQID"] {
        let faults = load_with("", &[("VALETKEY__KEYRING__KEY", bad)]).unwrap_err().0;
        assert_eq!((faults.len(), faults[0].setting.as_str()), (1, "keyring.key"), "{bad}");
    }
}

#[test]
fn a_transit_key_needs_a_service_and_a_token_and_its_exceptions_are_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let token = write(&directory, "token", "hvs.hunter2", 0o600);
    let service = format!(
        "transit_url = \"http://vault.internal:8200\"\ntransit_token_file = {token:?}\ntransit_allow_http = true\n\
         transit_allow_networks = [\"10.0.0.0/8\"]\n"
    );
    let loaded = load(&format!("[keyring]\ntransit_key = \"valetkey\"\n{service}")).unwrap();
    let KeyringConfig::Transit(transit) = &loaded.config.keyring else { panic!("{:?}", loaded.config.keyring) };
    assert_eq!((transit.mount.as_str(), transit.key.as_str()), ("transit", "valetkey"));
    assert_eq!(transit.outbound.allow_http_hosts, ["vault.internal"]);
    assert!(loaded.config.outbound.allow_networks.is_empty() && loaded.config.outbound.allow_http_hosts.is_empty());

    assert_eq!(faulty("[keyring]\ntransit_key = \"valetkey\"\n"), ["keyring.transit_key"]);
    assert_eq!(
        faulty("[keyring]\ntransit_key = \"valetkey\"\ntransit_url = \"https://vault.internal\"\n"),
        ["keyring.transit_key"]
    );
    assert_eq!(faulty(&format!("[keyring]\ntransit_key = \"a/b\"\n{service}")), ["keyring.transit_key"]);
    let environment = [("VALETKEY__KEYRING__TRANSIT_TOKEN", "hvs.hunter2")];
    let file = "[keyring]\ntransit_key = \"k\"\ntransit_url = \"https://vault.internal\"\n";
    let loaded = load_with(file, &environment).unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn a_key_that_is_changed_for_another_goes_on_unwrapping() {
    let directory = tempfile::tempdir().unwrap();
    let key = write(&directory, "key", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=", 0o600);
    let file =
        format!("[keyring]\nkey_file = {key:?}\nprevious = [\"file:keyring.json\", \"key_file:{}\"]\n", key.display());
    let previous = load(&file).unwrap().config.previous_keys;
    assert!(
        matches!(&previous[..], [KeyringConfig::File(ring), KeyringConfig::KeyFile(_)] if ring.ends_with("keyring.json"))
    );
    for bad in ["nothing", "file:", "vault:x", "transit:k", "credential:k"] {
        assert_eq!(faulty(&format!("[keyring]\nprevious = [{bad:?}]\n")), ["keyring.previous"], "{bad}");
    }
    assert_eq!(load("[keyring]\nrotate_after_days = 0\n").unwrap().config.rotation.rotate_after, None);
    assert_eq!(load("").unwrap().config.rotation.rotate_after.unwrap().as_secs(), 365 * 86_400);
}

#[test]
fn replicas_are_told_to_share_a_key() {
    assert_eq!(
        faulty("[database]\nurl = \"postgres://valetkey@db.internal/valetkey\"\n[keyring]\nfile = \"nowhere\"\n"),
        ["keyring.file"]
    );
    assert_eq!(faulty("[database]\nurl = \"postgres://valetkey@db.internal/valetkey\"\n"), ["keyring.key_file"]);
}

#[test]
fn numbers_out_of_bounds_and_orders_that_cannot_hold_are_refused() {
    assert_eq!(faulty("[limits]\nflow_life_s = 59\n"), ["limits.flow_life_s"]);
    assert_eq!(faulty("[limits]\nflow_life_s = -1\n"), ["limits.flow_life_s"]);
    assert_eq!(faulty("[limits]\nflow_life_s = 600.0\n"), ["limits.flow_life_s"]);
    assert_eq!(faulty("[limits]\npending_flows = 99999999999999999999\n"), ["limits.pending_flows"]);
    assert_eq!(faulty("[limits]\nflow_life_s = 60\nhandle_life_s = 61\n"), ["limits.handle_life_s"]);
    assert_eq!(faulty("[refresh]\nfirst_backoff_s = 1000\n"), ["refresh.first_backoff_s"]);
}

/// The settings of the sample, each with its value: those in force and those behind a `#`.
fn sample_settings() -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut settings = BTreeMap::new();
    for line in SAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        }
        let line = line.strip_prefix('#').unwrap_or(line);
        let is_setting = line.starts_with(|letter: char| letter.is_ascii_lowercase());
        if let Some((field, value)) = line.split_once(" = ").filter(|_| is_setting) {
            let other = settings.insert(format!("{section}.{field}"), value.to_owned());
            assert!(other.is_none(), "{section}.{field} is there twice");
        }
    }
    settings
}

#[test]
fn the_witness_is_in_the_data_directory_on_sqlite_and_on_postgres_where_it_is_said() {
    let place = |file: &str| {
        let loaded = load(file).unwrap();
        let is_noted = loaded.notes.iter().any(|note| note.contains("restore guard is off"));
        (loaded.config.guard.witness_dir, is_noted)
    };
    let data_dir = PathBuf::from("/var/lib/valetkey");
    let postgres = "[database]\nurl = \"postgres://db.internal/valetkey\"\n[keyring]\nfile = \"/\"\n";
    assert_eq!(place(""), (Some(data_dir.clone()), false));
    assert_eq!(place("[guard]\nwitness_dir = \"w\""), (Some(data_dir.join("w")), false));
    assert_eq!(place(postgres), (None, true));
    let said = format!("{postgres}[guard]\nwitness_dir = \"/srv/witness\"\n");
    assert_eq!(place(&said), (Some(PathBuf::from("/srv/witness")), false));
}

#[test]
fn the_sample_means_what_no_configuration_means() {
    let sample = load(SAMPLE).unwrap();
    let nothing = load("").unwrap();
    assert!(sample.notes.is_empty(), "{:?}", sample.notes);
    for (left, right) in sample.settings.iter().zip(&nothing.settings) {
        if left.name != "server.public_url" {
            assert_eq!((left.name, &left.value), (right.name, &right.value));
        }
    }
}

#[test]
fn the_sample_and_the_document_show_every_setting_with_its_default() {
    let settings = load("").unwrap().settings;
    let sample = sample_settings();
    let known: BTreeSet<_> = settings.iter().map(|setting| setting.name.to_owned()).collect();
    assert_eq!(sample.keys().cloned().collect::<BTreeSet<_>>(), known);
    for setting in &settings {
        let has_default = !setting.value.starts_with('(');
        if has_default {
            assert_eq!(sample[setting.name], setting.value, "{}", setting.name);
        }
        let (section, field) = setting.name.split_once('.').unwrap();
        let of_section = DOCUMENT
            .split("\n## ")
            .find(|part| part.starts_with(&format!("`[{section}]`")))
            .unwrap_or_else(|| panic!("docs/configuration.md has no section {section}"));
        let row = of_section
            .lines()
            .find(|line| line.starts_with(&format!("| `{field}` |")))
            .unwrap_or_else(|| panic!("docs/configuration.md does not name {}", setting.name));
        if has_default {
            assert!(row.contains(&format!("`{}`", setting.value)), "{}: {row}", setting.name);
        }
    }
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `") && !line.contains("VALETKEY"));
    assert_eq!(rows.count(), known.len(), "docs/configuration.md names settings that are none");
}
