//! The resources, one file each: handlers, their JSON and `routes()`, which registers each handler with its document.

pub mod events;
pub mod group_members;
pub mod groups;
pub mod ingest;
pub mod latest;
pub mod operations;
pub mod produce;
pub mod queues;
pub mod queues_dead;
pub mod queues_describe;
pub mod queues_receive;
pub mod queues_settle;
pub mod read_parameters;
pub mod records;
pub mod records_post;
pub mod schema;
pub mod stream;
pub mod topics;
pub mod ws;
mod ws_frames;
mod ws_queue;
