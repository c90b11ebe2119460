//! Sluice: a partitioned log with a web-native front door, in one binary.
//!
//! The modules in reading order, from the bottom up. Each imports only what lies below it; `tests/tidy.rs` holds the
//! table. ARCHITECTURE.md says why.

pub mod types;

pub mod sys;

pub mod telemetry;

pub mod codec;

pub mod log;

pub mod view;

pub mod metadata;

pub mod client;

pub mod replication;

pub mod coordinator;

pub mod engine;

pub mod session;

pub mod kafka;

pub mod http;

pub mod config;

pub mod server;

pub mod cli;
