//! The binary, run as its users run it, and the server as tests and demonstrations start it.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod configuration;
mod data_directory;
mod deployment;
mod hold;
mod keyring;
mod library;
mod memory;
mod serving;
mod support;
mod verbs;
