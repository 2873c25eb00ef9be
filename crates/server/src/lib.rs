//! The `valetkey` service: configuration, wiring, command line, telemetry, shutdown.
//!
//! [`Server`] is the whole of it in one value; several may run in one process. [`run`] is the binary.

mod background;
mod cli;
mod config;
mod data_dir;
mod environment;
mod error;
mod foundation;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
mod json_lines;
mod keyring;
mod notify;
mod operator;
mod process;
mod server;
mod socket;
mod telemetry;
mod unlock;
mod witness;

pub use cli::run;
pub use config::{
    CallLimits, Config, ConfigFault, ConfigFaults, DatabaseConfig, GuardConfig, KeyringConfig, LoadedConfig, LogConfig,
    LogFormat, Origin, ServerConfig, SettingInForce, Sources, TransitConfig, TransitTokenConfig,
};
pub use data_dir::{DataDir, DataDirError};
pub use environment::Environment;
pub use error::StartError;
pub use server::{Server, ServerBuilder};
pub use unlock::UnlockError;
pub use valetkey_store::Patience;
pub use witness::WitnessError;
