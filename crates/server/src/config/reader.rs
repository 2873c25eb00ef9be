//! Reads settings by name from the file and the environment, and notes what was wrong and what is in force.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Range, RangeInclusive},
    path::Path,
    time::Duration,
};

use toml::de::{DeTable, DeValue};
use valetkey_core::Secret;

use super::{ConfigFault, fault::ConfigFaults, raw::Raw, setting::Setting};
use crate::Environment;

/// What every variable that sets something starts with.
pub(crate) const PREFIX: &str = "VALETKEY__";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File {
        /// File and line, as `valetkey.toml:12`.
        place: String,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { place } => f.write_str(place),
            Self::Environment { variable } => f.write_str(variable),
        }
    }
}

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingInForce {
    /// `section.field`
    pub name: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// Its value as TOML, or why there is none.
    pub value: String,
    /// Where the value comes from.
    pub origin: Origin,
}

/// A value of the file or of the environment.
struct Given {
    value: Raw,
    /// What the variable says, letter by letter: a text may look like another kind of value.
    verbatim: Option<String>,
    origin: Origin,
    asked: bool,
}

/// Reads settings by name.
#[derive(Default)]
pub(crate) struct Reader {
    given: BTreeMap<String, Given>,
    names: Vec<&'static str>,
    pub(crate) in_force: Vec<SettingInForce>,
    pub(crate) faults: Vec<ConfigFault>,
}

impl Reader {
    /// Takes the settings of a file. False if it is not TOML: then what was read of it is not all that it says.
    pub(crate) fn take_file(&mut self, file: &Path, text: &str) -> bool {
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            self.faults.push(ConfigFault {
                place: place(file, text, error.span()),
                setting: String::new(),
                what: error.message().replace('\n', ", "),
                mend: "write it as TOML: `name = value`, texts in double quotes".to_owned(),
            });
        }
        for (section, fields) in document.get_ref() {
            let DeValue::Table(fields) = fields.get_ref() else {
                self.faults.push(ConfigFault {
                    place: place(file, text, Some(section.span())),
                    setting: section.get_ref().clone().into_owned(),
                    what: "a setting stands outside of any section".to_owned(),
                    mend: "put it under its section, as in [server]".to_owned(),
                });
                continue;
            };
            if fields.is_empty() {
                let origin = Origin::File { place: place(file, text, Some(section.span())) };
                self.give(section.get_ref(), Raw::Other("a table"), None, origin);
            }
            for (field, value) in fields {
                let origin = Origin::File { place: place(file, text, Some(field.span())) };
                let name = format!("{}.{}", section.get_ref(), field.get_ref());
                self.give(&name, Raw::from(value), None, origin);
            }
        }
        errors.is_empty()
    }

    /// Takes the settings of the environment, which win over those of the file.
    pub(crate) fn take_environment(&mut self, environment: &Environment) {
        for variable in environment.not_text(PREFIX) {
            self.faults.push(ConfigFault {
                place: variable.to_owned(),
                setting: String::new(),
                what: "its value is not text".to_owned(),
                mend: "set it to UTF-8 text".to_owned(),
            });
        }
        for (variable, value) in environment.starting_with(PREFIX) {
            let name = variable[PREFIX.len()..].to_ascii_lowercase();
            let origin = Origin::Environment { variable: variable.to_owned() };
            let name = name.replacen("__", ".", 1);
            self.give(&name, Raw::from_variable(value), Some(value.to_owned()), origin);
        }
    }

    fn give(&mut self, name: &str, value: Raw, verbatim: Option<String>, origin: Origin) {
        let given = Given { value, verbatim, origin, asked: false };
        self.given.insert(name.to_owned(), given);
    }

    /// A setting with a default.
    pub(crate) fn read<T: Setting>(&mut self, name: &'static str, meaning: &'static str, default: T) -> T {
        let (value, origin) = self.take(name, T::read, &T::fits());
        let value = value.unwrap_or(default);
        self.note(name, meaning, value.show(), origin);
        value
    }

    /// A setting that may be absent; `absent` says what then happens.
    pub(crate) fn read_optional<T: Setting>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        absent: &str,
    ) -> Option<T> {
        let (value, origin) = self.take(name, T::read, &T::fits());
        let shown = value.as_ref().map_or_else(|| format!("({absent})"), T::show);
        self.note(name, meaning, shown, origin);
        value
    }

    /// A secret that may be absent. The environment alone may hold it: a file of settings is copied, shown and kept.
    pub(crate) fn read_secret(&mut self, name: &'static str, meaning: &'static str, absent: &str) -> Option<Secret> {
        if let Some(Given { origin: Origin::File { .. }, asked, .. }) = self.given.get_mut(name) {
            *asked = true;
            self.names.push(name);
            self.fault(name, "a secret stands in the file", "name a file that holds it, or set it in the environment");
            return None;
        }
        // As it stands there, also where it looks like a number.
        let verbatim = self.given.get(name).and_then(|given| given.verbatim.clone()).filter(|text| !text.is_empty());
        let (value, origin) = self.take(name, |_| verbatim.clone(), "a text that is not empty");
        let shown = if value.is_some() { "(set)".to_owned() } else { format!("({absent})") };
        self.note(name, meaning, shown, origin);
        value.map(Secret::from)
    }

    /// A text out of a few.
    pub(crate) fn read_choice(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        choices: &[&'static str],
    ) -> &'static str {
        let read = |raw: &Raw| {
            let text = String::read(raw)?;
            choices.iter().copied().find(|choice| *choice == text)
        };
        let quoted: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
        let (value, origin) = self.take(name, read, &quoted.join(" or "));
        let value = value.or_else(|| choices.first().copied()).unwrap_or_default();
        self.note(name, meaning, format!("\"{value}\""), origin);
        value
    }

    /// A whole number within bounds.
    pub(crate) fn read_number<T>(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> T
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display + Copy,
    {
        let fits = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        let read = |raw: &Raw| match raw {
            Raw::Integer(value) => T::try_from(*value).ok().filter(|value| bounds.contains(value)),
            _ => None,
        };
        let (value, origin) = self.take(name, read, &fits);
        let value = value.unwrap_or(default);
        self.note(name, meaning, value.to_string(), origin);
        value
    }

    /// A duration in the unit that ends the name, `_s` or `_days`.
    pub(crate) fn read_duration(
        &mut self,
        name: &'static str,
        meaning: &'static str,
        default: Duration,
        bounds: RangeInclusive<u64>,
    ) -> Duration {
        let unit = if name.ends_with("_days") { 86_400 } else { 1 };
        let value = self.read_number(name, meaning, default.as_secs() / unit, bounds);
        Duration::from_secs(value * unit)
    }

    /// Notes a fault of a setting, at the place where it was set.
    pub(crate) fn fault(&mut self, name: &str, what: impl Into<String>, mend: impl Into<String>) {
        let place = match self.given.get(name).map(|given| &given.origin) {
            Some(origin) => origin.to_string(),
            None => String::new(),
        };
        self.faults.push(ConfigFault { place, setting: name.to_owned(), what: what.into(), mend: mend.into() });
    }

    /// An empty section is one as well.
    fn is_section(&self, name: &str) -> bool {
        self.names.iter().any(|known| known.split_once('.').is_some_and(|(section, _)| section == name))
    }

    /// Whether somebody set it.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Refuses what nobody asked for, and gives the settings in force if nothing was wrong.
    pub(crate) fn finish(mut self) -> Result<Vec<SettingInForce>, ConfigFaults> {
        let unknown: Vec<_> = self
            .given
            .iter()
            .filter(|(name, given)| !given.asked && !self.is_section(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in unknown {
            let mend = match self.nearest(&name) {
                Some(nearest) => format!("perhaps `{nearest}` was meant"),
                None => "take it away; `valetkey check-config` lists every setting".to_owned(),
            };
            self.fault(&name, "there is no such setting", mend);
        }
        if self.faults.is_empty() { Ok(self.in_force) } else { Err(ConfigFaults(self.faults)) }
    }

    fn note(&mut self, name: &'static str, meaning: &'static str, value: String, origin: Origin) {
        self.in_force.push(SettingInForce { name, meaning, value, origin });
    }

    fn take<T>(&mut self, name: &'static str, read: impl Fn(&Raw) -> Option<T>, fits: &str) -> (Option<T>, Origin) {
        self.names.push(name);
        let Some(given) = self.given.get_mut(name) else {
            return (None, Origin::Default);
        };
        given.asked = true;
        let origin = given.origin.clone();
        let verbatim = given.verbatim.clone().map(Raw::Text);
        let value = read(&given.value).or_else(|| read(&verbatim?));
        if value.is_none() {
            let what = match &given.value {
                Raw::Text(text) if text.is_empty() => "it is empty".to_owned(),
                Raw::Integer(number) => format!("it is {number}"),
                // In these sections a text may be a secret that was put into the wrong place.
                Raw::Text(text) if !name.starts_with("database.") && !name.starts_with("keyring.") => {
                    format!("it is {text:.80?}")
                }
                other => format!("it is {}", other.kind()),
            };
            self.fault(name, format!("{what}, which does not fit"), format!("it must be {fits}"));
        }
        (value, origin)
    }

    /// The known name that a slip of the pen could have turned into this one.
    fn nearest(&self, name: &str) -> Option<&'static str> {
        let field = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
        self.names
            .iter()
            .map(|known| {
                let distance = distance(known, name);
                let elsewhere = field(known) == field(name);
                (if elsewhere { distance.min(1) } else { distance }, *known)
            })
            .min()
            .filter(|(distance, _)| *distance <= 3)
            .map(|(_, known)| known)
    }
}

/// The line of an offset in a file, as `valetkey.toml:12`.
fn place(file: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let name = file.display();
    match span {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            format!("{name}:{}", before.matches('\n').count() + 1)
        }
        None => name.to_string(),
    }
}

/// How many letters differ (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, other) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
