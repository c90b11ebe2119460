//! Subscriptions without a transport: where a reader starts, how history and tail become one stream, how a topic's tail
//! is encoded once for all.
//!
//! **Invariant**: a slow reader holds a cursor, never a buffer; catch-up and tail are one loop; nothing is skipped without
//! a gap that says so.
//!
//! Callers: `http` (pages, SSE, WebSocket). Threading: a subscription has one owner; sequencers are tasks of their own.

mod conflater;
pub mod cursor;
mod error;
mod frame;
mod group_reader;
pub mod json;
mod log_reader;
mod page;
mod sequencer;
mod snapshot;
mod start;
mod subscription;

#[cfg(test)]
mod tests;

pub use error::SessionError;
pub use frame::{CHUNK_BYTES, Format, FrameBuffer, Frames, WS_OPENING, text_header, text_payload};
pub use group_reader::{GroupCursor, GroupGap, GroupPage, GroupReader};
pub use log_reader::{FETCH_BYTES, Fill, Gap, GapReason, LogReader, ReadPlan, Until};
pub use page::{Page, PageRequest};
pub use sequencer::{Sequencers, StreamKey};
pub use snapshot::SnapshotWalk;
pub use start::{ReadRequest, StartPosition};
pub use subscription::{Budget, Ended, SessionEvent, Sessions, SlowPolicy, SubscribeRequest, Subscription};
