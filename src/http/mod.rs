//! The web door: axum on our own accept loop.
//!
//! One file per resource under [`api`]; each names its routes and documents in one place. [`router()`] puts them
//! together with what all share: trace ids, limits, the check of where a request comes from, problems for whatever goes
//! wrong.
//!
//! **Invariant**: this layer names no file, offset index or replica. Whatever it refuses, it refuses as a
//! [`Problem`](problem::Problem); whatever it buffers, it bounds first.
//!
//! Callers: the server (`listener::serve`, `router`), the command line (`openapi::document`). Threading: handlers run on
//! tokio's threads and never block.

pub mod api;
pub mod assets;
pub mod body;
pub mod drain;
pub mod extract;
pub mod listener;
mod long_answer;
pub mod openapi;
mod outgoing;
mod pieces;
pub mod problem;
mod query;
pub mod record_json;
pub mod security;
pub mod sse;
pub mod state;
pub mod trace;
pub mod websocket;

#[cfg(test)]
mod fake_tests;
mod router;

pub use router::{Door, router};
pub use state::{App, AppState, Limits, Settings};
