//! Explains a configuration, or names everything that is wrong with it.

use std::sync::Arc;

use serde_json::{Value, json};
use valetkey_core::SystemClock;
use valetkey_providers::{Catalogue, HttpAuthorizationServer};
use valetkey_sealing::KeyRing;

use super::Context;
use crate::{
    Config, ConfigFault, ConfigFaults, LoadedConfig,
    cli::{
        failure::Failure,
        table::{Column, Kind, Table},
    },
    config::KeyringConfig,
    data_dir,
    error::chain,
};

const COLUMNS: &[Column] = &[
    ("SETTING", "name", Kind::Plain),
    ("VALUE", "value", Kind::Whole),
    ("FROM", "origin", Kind::Whole),
    ("MEANING", "meaning", Kind::Whole),
];

pub(super) fn check_config(context: &Context) -> Result<(), Failure> {
    let loaded = context.load()?;
    let faults = look_around(&loaded.config);
    if !faults.is_empty() {
        return Err(ConfigFaults(faults).into());
    }
    let settings = in_force(&loaded);
    context.output.show(&settings, || Table::of(COLUMNS, &settings))?;
    for note in &loaded.notes {
        context.output.tell(&format!("note: {note}"));
    }
    context.output.tell(&format!("data directory: {}", loaded.config.data_dir.display()));
    context.output.tell("the configuration is sound");
    Ok(())
}

fn in_force(loaded: &LoadedConfig) -> Vec<Value> {
    let of = |setting: &crate::SettingInForce| {
        json!({
            "name": setting.name,
            "value": setting.value,
            "origin": setting.origin.to_string(),
            "meaning": setting.meaning,
        })
    };
    loaded.settings.iter().map(of).collect()
}

/// What settings lead to: profiles, certificates, key ring and data directory, as far as they are there. Reads alone.
fn look_around(config: &Config) -> Vec<ConfigFault> {
    let mut faults = Vec::new();
    let catalogue = Catalogue::load(config.providers_directory.as_deref()).or_else(|error| {
        faults.extend(error.faults.into_iter().map(|fault| ConfigFault {
            place: fault.file,
            setting: fault.place,
            what: fault.what,
            mend: "correct the profile, or take it out of providers.directory".to_owned(),
        }));
        Catalogue::embedded()
    });
    if let Ok(catalogue) = catalogue {
        let clock = Arc::new(SystemClock::new());
        if let Err(error) = HttpAuthorizationServer::new(Arc::new(catalogue), config.outbound.clone(), clock) {
            faults.push(fault("outbound.ca_files", chain(&error), "name files of certificates in PEM"));
        }
    }
    if config.database.is_sqlite()
        && config.data_dir.exists()
        && let Err(error) = data_dir::check(&config.data_dir)
    {
        faults.push(fault("--data-dir", chain(&error), "as above"));
    }
    let rings = std::iter::once(("keyring.file", &config.keyring))
        .chain(config.previous_keys.iter().map(|previous| ("keyring.previous", previous)));
    for (setting, source) in rings {
        if let KeyringConfig::File(path) = source
            && (path.exists() || setting == "keyring.previous")
            && let Err(error) = KeyRing::load(path)
        {
            faults.push(fault(setting, chain(&error), "as above"));
        }
    }
    faults
}

fn fault(setting: &str, what: String, mend: &str) -> ConfigFault {
    ConfigFault { place: String::new(), setting: setting.to_owned(), what, mend: mend.to_owned() }
}
