//! Keyed quotas in this process, over governor.
//!
//! [`KeyedLimiter`] asks the injected clock, so that a test moves time by saying so. What replicas must share is counted in
//! the database instead.

mod keyed;

pub use keyed::{Bound, KeyedLimiter};
