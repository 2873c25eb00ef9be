//! Wrapping of data keys by a key-encryption key that lives elsewhere.

use async_trait::async_trait;

/// What a wrapped data key is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrapContext {
    /// The instance.
    pub instance: String,
    /// The data key.
    pub key_id: u32,
}

/// Why a data key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// The service that holds the key-encryption key does not answer.
    #[error("the key service is unavailable: {0}")]
    Unavailable(String),
    /// The wrapped key is not this key-encryption key's, or was made for another instance or id.
    #[error("the data key was wrapped by another key, for another instance, or is damaged")]
    Refused,
}

/// Holds a key-encryption key: a file, the environment, or a transit service.
#[async_trait]
pub trait KeyWrapper: Send + Sync + std::fmt::Debug {
    /// Which key-encryption key this is, stored beside what it wrapped.
    fn id(&self) -> &str;

    /// Wraps 32 bytes.
    async fn wrap(&self, context: &WrapContext, key: &[u8; 32]) -> Result<Vec<u8>, WrapError>;

    /// Unwraps what `wrap` made.
    async fn unwrap(&self, context: &WrapContext, wrapped: &[u8]) -> Result<[u8; 32], WrapError>;
}
