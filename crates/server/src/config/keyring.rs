//! The section `[keyring]`: where key-encryption keys come from, which one wraps, and when data keys are replaced.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use url::Url;
use valetkey_broker::KeyringSettings;
use valetkey_core::Secret;
use valetkey_providers::{OutboundSettings, TransitError, TransitKeyWrapper, TransitSettings};

use super::{
    KEYRING_FILE,
    reader::Reader,
    sections::{read_secret_file, secret_file},
};

/// What unlocks the database: one key-encryption key, or a ring of them.
#[derive(Debug, Clone)]
pub enum KeyringConfig {
    /// A key ring file, made at the first start on SQLite.
    File(PathBuf),
    /// A file with one key, such as a systemd credential.
    KeyFile(PathBuf),
    /// One key, base64 of 32 bytes; from code or from the environment, never from the configuration file.
    Key(Secret),
    /// A key at a transit service.
    Transit(Box<TransitConfig>),
}

/// A key at a transit service (Vault, OpenBao).
#[derive(Debug, Clone)]
pub struct TransitConfig {
    /// The service, without `/v1`.
    pub url: Url,
    /// Where the transit engine is mounted.
    pub mount: String,
    /// The key's name.
    pub key: String,
    /// The namespace, where the service has some.
    pub namespace: Option<String>,
    /// The token.
    pub token: TransitTokenConfig,
    /// What may be reached: the exceptions for this service alone.
    pub outbound: OutboundSettings,
}

/// Where the token of a transit service comes from.
#[derive(Clone)]
pub enum TransitTokenConfig {
    /// A file that is read for each call: agents replace it.
    File(PathBuf),
    /// The token itself; from code or from the environment.
    Value(Secret),
}

impl fmt::Debug for TransitTokenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(..)"),
        }
    }
}

impl TransitConfig {
    /// The key-encryption key that it leads to. Asks nothing of the service.
    pub(crate) fn wrapper(&self) -> Result<TransitKeyWrapper, TransitError> {
        let token = self.token.clone();
        TransitKeyWrapper::new(TransitSettings {
            address: self.url.clone(),
            mount: self.mount.clone(),
            key: self.key.clone(),
            namespace: self.namespace.clone(),
            token: Arc::new(move || token.read()),
            outbound: self.outbound.clone(),
        })
    }
}

impl TransitTokenConfig {
    /// The token as it is now; else what is wrong.
    pub(crate) fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Value(token) => Ok(token.clone()),
            Self::File(path) => read_secret_file(path)
                .map_err(|(what, mend)| format!("the token in {} cannot be had: {what}; {mend}", path.display())),
        }
    }
}

/// The section as it was read.
pub(super) struct KeyringSection {
    pub(super) keyring: KeyringConfig,
    pub(super) previous: Vec<KeyringConfig>,
    pub(super) rotation: KeyringSettings,
}

/// Everything about the service but the key.
struct Service {
    url: Option<Url>,
    mount: String,
    namespace: Option<String>,
    token: Option<TransitTokenConfig>,
    outbound: OutboundSettings,
}

impl Service {
    /// A key of the service, or a fault of `setting`.
    fn key(&self, reader: &mut Reader, setting: &str, key: &str) -> Option<KeyringConfig> {
        let (Some(url), Some(token)) = (&self.url, &self.token) else {
            let (what, mend) = if self.url.is_none() {
                ("nothing says where the transit service is", "set keyring.transit_url")
            } else {
                ("nothing says with which token to ask", "set keyring.transit_token_file")
            };
            reader.fault(setting, what, mend);
            return None;
        };
        let config = TransitConfig {
            url: url.clone(),
            mount: self.mount.clone(),
            key: key.to_owned(),
            namespace: self.namespace.clone(),
            token: token.clone(),
            outbound: self.outbound.clone(),
        };
        if let Err(error) = config.wrapper() {
            reader.fault(setting, crate::error::chain(&error), "correct what it names");
            return None;
        }
        Some(KeyringConfig::Transit(Box::new(config)))
    }
}

pub(super) fn keyring(reader: &mut Reader, data_dir: &Path, credentials: Option<&Path>) -> KeyringSection {
    let file: PathBuf = reader.read(
        "keyring.file",
        "the keys that everything stored is sealed under; made at the first start on SQLite",
        PathBuf::from(KEYRING_FILE),
    );
    let key_file: Option<PathBuf> = reader.read_optional(
        "keyring.key_file",
        "instead of a key ring, a file with one key: base64 of 32 bytes",
        "file counts",
    );
    let credential: Option<String> = reader.read_optional(
        "keyring.credential",
        "instead, a systemd credential with one key, by its name in $CREDENTIALS_DIRECTORY",
        "file counts",
    );
    let key = reader.read_secret(
        "keyring.key",
        "instead, the key itself; from the environment alone, where processes of the same user can read it",
        "file counts",
    );
    let service = service(reader, data_dir);
    let transit_key: Option<String> = reader.read_optional(
        "keyring.transit_key",
        "instead, the name of a key at a transit service (Vault, OpenBao)",
        "file counts",
    );
    let previous: Vec<String> = reader.read(
        "keyring.previous",
        "keys that only unwrap, for a change: file:PATH, key_file:PATH, credential:NAME or transit:KEY",
        Vec::new(),
    );
    let rotate_after: Duration = reader.read_duration(
        "keyring.rotate_after_days",
        "the age at which the active data key is replaced by itself; 0 for never",
        KeyringSettings::default().rotate_after.unwrap_or_default(),
        0..=36_500,
    );
    let keyring = match (key_file, &credential, key, &transit_key) {
        _ if !is_one(reader) => None,
        (Some(path), ..) => Some(one_key(reader, "keyring.key_file", data_dir.join(path))),
        (_, Some(name), ..) => of_credential(reader, "keyring.credential", name, credentials),
        (_, _, Some(key), _) => {
            if let Err(error) = valetkey_sealing::KeyRing::from_base64(&key) {
                reader.fault("keyring.key", "it holds no key", error.to_string());
            }
            Some(KeyringConfig::Key(key))
        }
        (.., Some(name)) => service.key(reader, "keyring.transit_key", name),
        _ => None,
    };
    let previous = previous
        .iter()
        .filter_map(|source| match source.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Some(KeyringConfig::File(data_dir.join(path))),
            Some(("key_file", path)) if !path.is_empty() => {
                Some(one_key(reader, "keyring.previous", data_dir.join(path)))
            }
            Some(("credential", name)) => of_credential(reader, "keyring.previous", name, credentials),
            Some(("transit", name)) => service.key(reader, "keyring.previous", name),
            _ => {
                reader.fault(
                    "keyring.previous",
                    "an entry names no source of a key",
                    "write file:PATH, key_file:PATH, credential:NAME or transit:KEY",
                );
                None
            }
        })
        .collect();
    KeyringSection {
        keyring: keyring.unwrap_or_else(|| KeyringConfig::File(data_dir.join(file))),
        previous,
        rotation: KeyringSettings { rotate_after: Some(rotate_after).filter(|after| !after.is_zero()) },
    }
}

/// Two sources would leave open which one wraps.
fn is_one(reader: &mut Reader) -> bool {
    const SOURCES: [&str; 5] =
        ["keyring.file", "keyring.key_file", "keyring.credential", "keyring.key", "keyring.transit_key"];
    let given: Vec<_> = SOURCES.into_iter().filter(|name| reader.is_given(name)).collect();
    let [first, second, ..] = given[..] else { return true };
    reader.fault(
        second,
        format!("{first} is set as well"),
        "set one of the two; keyring.previous names keys that only unwrap",
    );
    false
}

fn service(reader: &mut Reader, data_dir: &Path) -> Service {
    let url =
        reader.read_optional("keyring.transit_url", "where the transit service is, without /v1", "no transit service");
    let mount = reader.read("keyring.transit_mount", "where its transit engine is mounted", "transit".to_owned());
    let namespace = reader.read_optional("keyring.transit_namespace", "its namespace", "none");
    let token_file: Option<PathBuf> =
        reader.read_optional("keyring.transit_token_file", "a file with its token, read for each call", "none");
    let token = reader.read_secret("keyring.transit_token", "its token; from the environment alone", "none");
    let allow_networks: Vec<IpNet> = reader.read(
        "keyring.transit_allow_networks",
        "private networks that it may be in; for this service alone",
        Vec::new(),
    );
    let allow_http: bool =
        reader.read("keyring.transit_allow_http", "it may be spoken to over plain HTTP, as on loopback", false);
    let ca_files: Vec<PathBuf> =
        reader.read("keyring.transit_ca_files", "certificates of its authority, PEM", Vec::new());
    if token.is_some() && token_file.is_some() {
        reader.fault("keyring.transit_token", "keyring.transit_token_file is set as well", "set one of the two");
    }
    let host = url.as_ref().and_then(Url::host_str).map(ToOwned::to_owned);
    Service {
        url,
        mount,
        namespace,
        token: token_file
            .map(|file| TransitTokenConfig::File(data_dir.join(file)))
            .or(token.map(TransitTokenConfig::Value)),
        outbound: OutboundSettings {
            allow_networks,
            allow_http_hosts: host.filter(|_| allow_http).into_iter().collect(),
            ca_files: ca_files.iter().map(|file| data_dir.join(file).into()).collect(),
        },
    }
}

/// A file with one key. It is read again when it is used: what is checked here is only that it will do.
fn one_key(reader: &mut Reader, setting: &'static str, path: PathBuf) -> KeyringConfig {
    if let Some(key) = secret_file(reader, setting, &path)
        && let Err(error) = valetkey_sealing::KeyRing::from_base64(&key)
    {
        reader.fault(setting, "what the file holds is no key", error.to_string());
    }
    KeyringConfig::KeyFile(path)
}

fn of_credential(
    reader: &mut Reader,
    setting: &'static str,
    name: &str,
    credentials: Option<&Path>,
) -> Option<KeyringConfig> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        reader.fault(setting, "it is the name of no credential", "write the name that LoadCredential= gives it");
        return None;
    }
    let Some(credentials) = credentials else {
        reader.fault(
            setting,
            "there are no credentials: CREDENTIALS_DIRECTORY is not set",
            "start it by systemd with LoadCredential= or LoadCredentialEncrypted=",
        );
        return None;
    };
    Some(one_key(reader, setting, credentials.join(name)))
}
