//! The binary, run as its users run it, and the server as tests and demonstrations start it.

mod configuration;
mod data_directory;
mod library;
mod serving;
mod support;
mod verbs;
