//! What is wrong with a configuration: all of it at once.

use std::fmt;

/// One fault: where it is, what is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// File and line, a variable of the environment, or what the file system calls it.
    pub place: String,
    /// The setting as `section.field`; empty where the fault is none of a setting.
    pub setting: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub mend: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.place.is_empty(), self.setting.is_empty()) {
            (true, true) => {}
            (true, false) => write!(f, "{}: ", self.setting)?,
            (false, true) => write!(f, "{}: ", self.place)?,
            (false, false) => write!(f, "{}: {}: ", self.place, self.setting)?,
        }
        write!(f, "{}\n    mend: {}", self.what, self.mend)
    }
}

/// Every fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(pub Vec<ConfigFault>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has 1 fault")?,
            count => write!(f, "the configuration has {count} faults")?,
        }
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}
