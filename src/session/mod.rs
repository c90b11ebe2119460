//! Subscriptions without a transport.
//!
//! To be written.

pub mod cursor;
pub mod json;
