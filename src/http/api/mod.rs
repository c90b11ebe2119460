//! The resources, one file each: handlers, their JSON and `routes()`, which registers each handler with its document.

pub mod records;
pub mod stream;
pub mod ws;
