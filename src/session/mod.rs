//! Subscriptions without a transport: where a reader starts, how history and tail become one stream, how a topic's tail
//! is encoded once for all.
//!
//! **Invariant**: a slow reader holds a cursor, never a buffer; catch-up and tail are one loop; nothing is skipped without
//! a gap that says so.
//!
//! Callers: `http` (pages, SSE, WebSocket). Threading: a subscription has one owner; sequencers are tasks of their own.

mod census;
mod conflater;
pub mod cursor;
mod error;
mod event;
mod frame;
mod group_reader;
pub mod json;
mod lane;
mod log_reader;
mod page;
mod pieces;
mod press;
mod read_plan;
mod ring;
mod sequencer;
mod sessions;
mod snapshot;
mod start;
mod subscription;

#[cfg(test)]
mod tests;

pub use census::Census;
pub use error::SessionError;
pub use event::{Budget, Ended, SessionEvent, SlowPolicy, SubscribeRequest};
pub use frame::{CHUNK_BYTES, Format, FrameBuffer, Frames, WS_OPENING, text_header, text_payload};
pub use group_reader::{GroupCursor, GroupGap, GroupPage, GroupReader};
pub use lane::Popped;
pub use log_reader::{FETCH_BYTES, Fill, LogReader};
pub use page::{Page, PageRequest};
pub use pieces::Pieces;
pub use read_plan::{Gap, GapReason, ReadPlan, Until};
pub use sequencer::{Sequencers, StreamKey};
pub use sessions::Sessions;
pub use snapshot::SnapshotWalk;
pub use start::{ReadRequest, StartPosition};
pub use subscription::Subscription;
