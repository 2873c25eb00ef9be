//! A value as a file or the environment gives it, before anybody asked what it should be.

use toml::{Spanned, de::DeValue};

/// A TOML value without what no setting is: times and tables.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Raw>),
    /// Anything else, by its TOML name.
    Other(&'static str),
}

impl Raw {
    /// Reads the value of a variable: as TOML if it is TOML, else as text.
    pub(crate) fn from_variable(text: &str) -> Self {
        DeValue::parse(text).map_or_else(|_| Self::Text(text.to_owned()), |value| Self::from(&value))
    }

    /// The value's type, as people call it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }
}

impl From<&Spanned<DeValue<'_>>> for Raw {
    fn from(value: &Spanned<DeValue<'_>>) -> Self {
        match value.get_ref() {
            DeValue::String(text) => Self::Text(text.clone().into_owned()),
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Integer(value) => i64::from_str_radix(value.as_str(), value.radix())
                .map_or(Self::Other("a number beyond 64 bits"), Self::Integer),
            DeValue::Array(values) => Self::List(values.iter().map(Self::from).collect()),
            DeValue::Float(_) => Self::Other("a fraction"),
            DeValue::Datetime(_) => Self::Other("a time"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }
}
