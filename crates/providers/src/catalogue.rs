//! The catalogue: the profiles that are embedded, and those of the operator's directory.

use std::{collections::BTreeMap, fmt, fs, path::Path, sync::Arc};

use serde::Serialize;
use valetkey_core::{Grant, Reach};

use crate::{
    check::check,
    embedded::PROFILES,
    pattern::placeholders,
    profile::{Discovery, Profile, RevocationStyle, ScopeMeaning},
};

/// The largest profile that is read.
const FILE_LIMIT: u64 = 256 * 1024;

/// Every profile, by name.
#[derive(Debug, Clone)]
pub struct Catalogue {
    profiles: BTreeMap<String, Arc<Profile>>,
}

/// Every fault of every file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueError {
    /// The faults, in the order of the files.
    pub faults: Vec<ProfileFault>,
}

/// One fault of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileFault {
    /// The file.
    pub file: String,
    /// Where in it.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ProfileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            write!(f, "{}: {}", self.file, self.what)
        } else {
            write!(f, "{}: {}: {}", self.file, self.place, self.what)
        }
    }
}

impl fmt::Display for CatalogueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} faults in provider profiles", self.faults.len())?;
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CatalogueError {}

impl Catalogue {
    /// The profiles that come with Valetkey.
    pub fn embedded() -> Result<Self, CatalogueError> {
        Self::load(None)
    }

    /// The embedded profiles, and the `*.toml` files of a directory: a file of the same name replaces an embedded one.
    pub fn load(directory: Option<&Path>) -> Result<Self, CatalogueError> {
        let mut loading = Loading::default();
        for (name, text) in PROFILES {
            loading.take(&format!("{name}.toml"), name, text);
        }
        if let Some(directory) = directory {
            loading.read(directory);
        }
        if loading.faults.is_empty() {
            Ok(Self { profiles: loading.profiles })
        } else {
            Err(CatalogueError { faults: loading.faults })
        }
    }

    /// A profile.
    pub fn find(&self, name: &str) -> Option<&Arc<Profile>> {
        self.profiles.get(name)
    }

    /// Every profile, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.values().map(AsRef::as_ref)
    }

    /// What `GET /v1/providers` shows.
    pub fn summaries(&self) -> Vec<ProviderSummary> {
        self.iter().map(ProviderSummary::of).collect()
    }

    /// What `GET /v1/providers/{name}` shows.
    pub fn summary(&self, name: &str) -> Option<ProviderSummary> {
        self.find(name).map(|profile| ProviderSummary::of(profile))
    }
}

#[derive(Default)]
struct Loading {
    profiles: BTreeMap<String, Arc<Profile>>,
    faults: Vec<ProfileFault>,
}

impl Loading {
    fn fault(&mut self, file: &str, place: &str, what: impl Into<String>) {
        self.faults.push(ProfileFault { file: file.to_owned(), place: place.to_owned(), what: what.into() });
    }

    fn read(&mut self, directory: &Path) {
        let shown = directory.display().to_string();
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                return self.fault(&shown, "", format!("the directory cannot be read: {}", error.kind()));
            }
        };
        let mut files: Vec<_> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        files.sort();
        for path in files {
            let file = path.display().to_string();
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            match fs::metadata(&path) {
                Ok(metadata) if metadata.len() > FILE_LIMIT => {
                    self.fault(&file, "", "larger than 256 KiB");
                    continue;
                }
                _ => {}
            }
            match fs::read_to_string(&path) {
                Ok(text) => self.take(&file, &stem, &text),
                Err(error) => self.fault(&file, "", format!("the file cannot be read: {}", error.kind())),
            }
        }
    }

    fn take(&mut self, file: &str, stem: &str, text: &str) {
        let profile: Profile = match toml::from_str(text) {
            Ok(profile) => profile,
            Err(error) => {
                let place = error.span().map(|span| position(text, span.start)).unwrap_or_default();
                return self.fault(file, &place, error.message().replace('\n', ", "));
            }
        };
        let faults = check(&profile, stem);
        if faults.is_empty() {
            self.profiles.insert(profile.name.clone(), Arc::new(profile));
        }
        for (place, what) in faults {
            self.fault(file, &place, what);
        }
    }
}

fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!("line {line}, column {column}")
}

/// What people who choose a provider want to know of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderSummary {
    /// The name that connectors use.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// Its own documentation.
    pub docs: String,
    /// When the profile was last compared with that documentation.
    pub reviewed_on: String,
    /// What a connector must or may supply.
    pub settings: Vec<SettingSummary>,
    /// How metadata is found.
    pub discovery: Discovery,
    /// The connector names issuer or endpoints.
    pub endpoints_from_connector: bool,
    /// The grants on offer.
    pub grants: Vec<Grant>,
    /// The letter of the rotation class, or `unknown`.
    pub rotation: &'static str,
    /// The letter once an answer has brought a new refresh token, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation_when_rotating: Option<&'static str>,
    /// What the provider can be told of a revocation.
    pub revocation: RevocationSummary,
    /// Where users remove access themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manual_url: Option<String>,
    /// PKCE is used.
    pub pkce: bool,
    /// What its scopes mean.
    pub scopes: Vec<ScopeMeaning>,
}

/// A setting as `GET /v1/providers` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingSummary {
    /// Its name.
    pub name: String,
    /// What it is.
    pub title: String,
    /// Whether a connector must supply it.
    pub required: bool,
    /// Its value where a connector supplies none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Values that fit as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
}

/// What the provider can be told of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RevocationSummary {
    /// Whether it can be told at all; with discovery, whether it says so itself.
    pub supported: bool,
    /// How far it reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
}

impl ProviderSummary {
    /// The summary of a profile.
    pub fn of(profile: &Profile) -> Self {
        let letter = |rotated| profile.rotation.as_ref().map(|rotation| rotation.class(rotated).letter());
        let revocable = profile.revocation.style != RevocationStyle::None;
        Self {
            name: profile.name.clone(),
            title: profile.title.clone(),
            docs: profile.docs.clone(),
            reviewed_on: profile.reviewed_on.clone(),
            settings: profile
                .settings
                .iter()
                .map(|(name, setting)| SettingSummary {
                    name: name.clone(),
                    title: setting.title.clone(),
                    required: setting.default.is_none() && is_in_a_template(profile, name),
                    default: setting.default.clone(),
                    allowed: setting.allowed.clone(),
                })
                .collect(),
            discovery: profile.endpoints.discovery,
            endpoints_from_connector: profile.endpoints.from_connector,
            grants: profile.grants.clone(),
            rotation: letter(false).unwrap_or("unknown"),
            rotation_when_rotating: profile
                .rotation
                .as_ref()
                .filter(|rotation| rotation.class_when_rotating.is_some())
                .map(|rotation| rotation.class(true).letter()),
            revocation: RevocationSummary {
                supported: revocable,
                reach: revocable.then(|| profile.revocation.reach.unwrap_or(Reach::UserClient)),
            },
            manual_url: profile.revocation.manual_url.clone(),
            pkce: profile.authorize.pkce,
            scopes: profile.scopes.clone(),
        }
    }
}

/// Whether an address of the profile cannot be made without this setting.
pub(crate) fn is_in_a_template(profile: &Profile, setting: &str) -> bool {
    let endpoints = &profile.endpoints;
    let own = [
        &endpoints.issuer,
        &endpoints.authorization,
        &endpoints.token,
        &endpoints.refresh,
        &endpoints.revocation,
        &endpoints.userinfo,
    ];
    let accounts = profile.account.iter().flat_map(|account| [&account.url, &account.issuer]);
    own.into_iter()
        .chain(accounts)
        .flatten()
        .any(|template| placeholders(template).is_some_and(|names| names.contains(&setting)))
}
