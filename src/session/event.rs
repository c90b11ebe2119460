//! What a subscriber asks for, and what it gets.

use super::cursor::Cursor;
use super::frame::{Format, Frames, text_payload};
use super::json::ValueEncoding;
use super::read_plan::Gap;
use super::start::ReadRequest;

/// What to do with a reader that falls behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowPolicy {
    /// It reads on from the log, at its own pace.
    #[default]
    Park,
    /// It gets the newest record of each key, and is told what was left out.
    Conflate,
    /// It is sent away.
    Close,
}

/// What a subscriber asks for.
#[derive(Debug, Clone)]
pub struct SubscribeRequest {
    /// What to read. A retention gap is never an error here.
    pub read: ReadRequest,
    /// The transport's form.
    pub format: Format,
    /// How values are given.
    pub encoding: ValueEncoding,
    /// At most so many records.
    pub limit: Option<u64>,
    /// What happens when it falls behind.
    pub slow: SlowPolicy,
    /// First the latest record of each key, then live. Only without a cursor.
    pub view_latest: bool,
}

/// How much the next event may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Records.
    pub records: u64,
    /// Bytes of frames; the last record may pass it.
    pub bytes: u64,
}

impl Budget {
    /// As much as a chunk holds.
    pub const UNLIMITED: Self = Self { records: u64::MAX, bytes: u64::MAX };
}

/// Why the server ended a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The range asked for was read.
    Complete,
    /// The topic was deleted.
    TopicDeleted,
    /// The reader was too slow, and asked to be sent away then.
    TooSlow,
}

impl Ended {
    /// The name in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::TopicDeleted => "topic-deleted",
            Self::TooSlow => "too-slow",
        }
    }
}

/// What a subscriber gets.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// Records, as frames.
    Records(Vec<Frames>),
    /// Records that it does not get, and the cursor behind them.
    Gap(Gap, String),
    /// All that was there has been given.
    CaughtUp(String),
    /// The snapshot is whole; live begins at this cursor.
    SnapshotEnd(String),
    /// Nothing follows.
    End(Ended, String),
}

/// How many of the frames the budget covers.
pub(super) fn fitting(frames: &Frames, budget: Budget) -> usize {
    let records = usize::try_from(budget.records).unwrap_or(usize::MAX).min(frames.count());
    let start_fits = |end: u32, start: u32| u64::from(start) < budget.bytes && end > 0;
    let starts = std::iter::once(0).chain(frames.ends.iter().copied());
    starts.zip(frames.ends.iter()).take(records).take_while(|(start, end)| start_fits(**end, *start)).count()
}

pub(super) fn cut(frames: &Frames, count: usize) -> Frames {
    let end = frames.ends[count - 1] as usize;
    Frames { bytes: frames.bytes.slice(..end), ends: frames.ends[..count].into() }
}

/// The cursor that a record's frame carries.
pub(super) fn frame_cursor(format: Format, frame: &[u8]) -> Option<Cursor> {
    let between = |bytes: &[u8], opening: &[u8], end: u8| -> Option<Cursor> {
        let rest = &bytes[memchr::memmem::find(bytes, opening)? + opening.len()..];
        Cursor::parse(std::str::from_utf8(&rest[..memchr::memchr(end, rest)?]).ok()?).ok()
    };
    match format {
        Format::Sse => between(frame, b"id: ", b'\n'),
        Format::WebSocket => between(text_payload(frame), b"\"cursor\":\"", b'"'),
    }
}
