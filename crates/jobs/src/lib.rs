//! The scheduled work, each a plain function that returns a report, and the tick that calls it.
//!
//! The scheduler only says "look for work now": the work itself is claimed in the database, so that every replica may
//! run every job.

mod scheduler;
mod work;

pub use scheduler::{Jobs, JobsError};
pub use work::{Work, run};
