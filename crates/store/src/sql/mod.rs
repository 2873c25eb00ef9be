//! Every statement, as one text for both engines unless its name says otherwise.
//!
//! Placeholders are `$1..$n`; times are epoch milliseconds bound from the injected clock. A test prepares each of them
//! on both engines.

pub(crate) mod admin;
pub(crate) mod attempts;
pub(crate) mod connections;
pub(crate) mod flows;
pub(crate) mod groups;
pub(crate) mod lists;
pub(crate) mod notices;
pub(crate) mod revocations;
pub(crate) mod sealed;
