//! From a file, the environment and a directory to a configuration.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Config, ConfigFault, ConfigFaults, SettingInForce,
    keyring::{KeyringSection, keyring},
    reader::Reader,
    rules,
    sections::{self, DatabaseSection},
};
use crate::Environment;

/// The variable that names the data directory where no flag does.
pub(crate) const DATA_DIR_VARIABLE: &str = "VALETKEY_DATA_DIR";

/// Where systemd puts the credentials of a service.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Where the data directory is if nobody says so.
pub(crate) const DATA_DIR: &str = "valetkey-data";

/// The largest configuration that is read.
const FILE_LIMIT: u64 = 1024 * 1024;

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file; without one, everything is as it is by default.
    pub file: Option<PathBuf>,
    /// The data directory that a flag named.
    pub data_dir: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
}

/// A configuration, and how it came about.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// Every setting, in the order of the sections.
    pub settings: Vec<SettingInForce>,
    /// What is allowed and still worth saying.
    pub notes: Vec<String>,
}

impl Sources {
    /// Reads and checks everything. Touches nothing.
    pub fn load(&self) -> Result<LoadedConfig, ConfigFaults> {
        let data_dir = self.data_dir()?;
        let mut reader = Reader::default();
        let mut whole = true;
        if let Some(file) = &self.file {
            match read_file(file) {
                Ok(text) => whole = reader.take_file(file, &text),
                Err(error) => {
                    whole = false;
                    reader.faults.push(ConfigFault {
                        place: file.display().to_string(),
                        setting: String::new(),
                        what: format!("the file cannot be read: {error}"),
                        mend: "name a file of TOML that exists and may be read with --config".to_owned(),
                    });
                }
            }
        }
        reader.take_environment(&self.environment);
        let (config, open_password) =
            read(&mut reader, data_dir, self.environment.get(CREDENTIALS_VARIABLE).map(Path::new));
        // Half a file breaks rules that the whole keeps.
        let notes = if whole { rules::check(&mut reader, &config, open_password) } else { Vec::new() };
        let settings = reader.finish()?;
        Ok(LoadedConfig { config, settings, notes })
    }

    /// The data directory: the flag, the variable, or the default in the working directory.
    fn data_dir(&self) -> Result<PathBuf, ConfigFaults> {
        let named = self
            .data_dir
            .as_deref()
            .or_else(|| self.environment.get(DATA_DIR_VARIABLE).map(Path::new))
            .unwrap_or(Path::new(DATA_DIR));
        std::path::absolute(named).map_err(|error| {
            ConfigFaults(vec![ConfigFault {
                place: "--data-dir".to_owned(),
                setting: String::new(),
                what: format!("it has no absolute path: {error}"),
                mend: "name a directory that exists or can be made".to_owned(),
            }])
        })
    }
}

/// Reads and checks a text that stands for a file.
#[cfg(feature = "fuzzing")]
pub(crate) fn load_text(file: &Path, text: &str, data_dir: &Path) -> Result<LoadedConfig, ConfigFaults> {
    let mut reader = Reader::default();
    let whole = reader.take_file(file, text);
    let (config, open_password) = read(&mut reader, data_dir.to_owned(), None);
    let notes = if whole { rules::check(&mut reader, &config, open_password) } else { Vec::new() };
    let settings = reader.finish()?;
    Ok(LoadedConfig { config, settings, notes })
}

fn read_file(file: &Path) -> io::Result<String> {
    let metadata = fs::metadata(file)?;
    if metadata.len() > FILE_LIMIT {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    fs::read_to_string(file)
}

fn read(reader: &mut Reader, data_dir: PathBuf, credentials: Option<&Path>) -> (Config, bool) {
    let server = sections::server(reader);
    let DatabaseSection { database, max_connections, cache_bytes, open_password } =
        sections::database(reader, &data_dir);
    let KeyringSection { keyring, previous, rotation } = keyring(reader, &data_dir, credentials);
    let outbound = sections::outbound(reader, &data_dir);
    let providers_directory = sections::providers(reader, &data_dir);
    let (limits, calls) = sections::limits(reader);
    let refresh = sections::refresh(reader);
    let retention = sections::retention(reader);
    let guard = sections::guard(reader, &data_dir, &database);
    let log = sections::log(reader);
    let config = Config {
        data_dir,
        server,
        database,
        max_connections,
        cache_bytes,
        keyring,
        previous_keys: previous,
        rotation,
        outbound,
        providers_directory,
        limits,
        calls,
        jobs: true,
        refresh,
        retention,
        guard,
        log,
    };
    (config, open_password)
}
