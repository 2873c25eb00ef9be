//! The tiles that stand for a connector and a provider: a letter, no logo that somebody else owns.

/// The first letter or digit of a name.
pub(super) fn initial(name: &str) -> String {
    name.chars().find(|c| c.is_alphanumeric()).map_or_else(|| "·".to_owned(), |c| c.to_uppercase().collect())
}
