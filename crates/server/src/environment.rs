//! The environment of the process, read once and handed on.

use std::collections::BTreeMap;

/// The variables of a process; the only way to them.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    not_text: Vec<String>,
}

impl Environment {
    /// What this process was started with.
    pub fn of_process() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    environment.variables.insert(name, value);
                }
                Err(_) => environment.not_text.push(name),
            }
        }
        environment
    }

    /// These variables and no others.
    pub fn of<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, not_text: Vec::new() }
    }

    /// A variable, if it is there, is text and is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The variables whose names start so, by name.
    pub(crate) fn starting_with<'a>(&'a self, start: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.variables
            .iter()
            .filter(move |(name, _)| name.starts_with(start))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The variables whose names start so and whose values are not UTF-8.
    pub(crate) fn not_text<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        self.not_text.iter().map(String::as_str).filter(move |name| name.starts_with(start))
    }
}
