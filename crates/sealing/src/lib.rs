//! Seals secrets for storage: key ring, record format, row identity as associated data.
//!
//! Three layers: a key-encryption key outside the database ([`KeyRing`], or any other
//! [`KeyWrapper`](valetkey_core::KeyWrapper)), data keys that it wraps and that every replica finds in a table
//! ([`DataKeyRow`]), and a key of its own for each record, derived by the [`Sealer`].

mod associated;
mod data_key;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
mod key_ring;
mod local_wrapper;
mod ring_file;
mod seal;
mod sealer;
#[cfg(test)]
mod tests;

pub use data_key::{DataKeyRow, DataKeyState, UnknownState, UnlockError, new_data_key};
pub use identity::RecordIdentity;
pub use key_ring::{KeyRing, new_instance_id};
pub use local_wrapper::LocalKeyWrapper;
pub use ring_file::KeyRingError;
pub use seal::{OVERHEAD, OpenError, PLAINTEXT_MAX, SealError};
pub use sealer::Sealer;
