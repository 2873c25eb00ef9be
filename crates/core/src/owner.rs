//! Whose grant a connection is.

use serde::Serialize;

use crate::UserId;

/// The owner of a connection: everybody's in the space, or one user's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", content = "user_id", rename_all = "snake_case")]
pub enum Owner {
    /// One grant for all callers that may use the connector.
    Shared,
    /// One user's own grant.
    User(UserId),
}

impl Owner {
    /// The column value: never null, and no user id can make a shared one.
    pub fn key(&self) -> String {
        match self {
            Self::Shared => "s".to_owned(),
            Self::User(user) => ["u:", user.as_str()].concat(),
        }
    }

    /// Reads a column value back.
    pub fn from_key(key: &str) -> Option<Self> {
        match key.split_once(':') {
            None => (key == "s").then_some(Self::Shared),
            Some(("u", user)) => user.parse().ok().map(Self::User),
            Some(_) => None,
        }
    }

    /// The user, if it is one user's.
    pub fn user_id(&self) -> Option<&UserId> {
        match self {
            Self::Shared => None,
            Self::User(user) => Some(user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_id_is_mistaken_for_the_shared_owner() {
        for text in ["s", "u:", ":", "shared", "u:s"] {
            let owner = Owner::User(text.parse().unwrap());
            assert_ne!(owner.key(), Owner::Shared.key());
            assert_eq!(Owner::from_key(&owner.key()), Some(owner));
        }
        assert_eq!(Owner::from_key("s"), Some(Owner::Shared));
        assert_eq!(Owner::from_key("x:1"), None);
        assert_eq!(Owner::from_key("u:"), None);
    }
}
