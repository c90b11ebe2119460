//! What a sequencer has put into order, for a while: one line for all readers, and one for each key.
//!
//! **Invariant**: a line is bounded in items and in bytes, and its items are numbered without end: whoever comes back for
//! a number that is gone is told so. Called under the sequencer's locks.

use super::cursor::Position;
use super::frame::{Format, Frames};
use super::read_plan::Gap;
use std::{collections::VecDeque, sync::Arc};

/// Bytes of frames that one ring keeps, all formats together.
pub(super) const RING_BYTES: usize = 4 << 20;
/// The same while all rings together are over their budget.
pub(super) const TIGHT_RING_BYTES: usize = 256 << 10;
/// Items that one ring keeps.
pub(super) const RING_ITEMS: usize = 1024;
/// Items that one key's line keeps.
pub(super) const LINE_ITEMS: usize = 128;
/// Bytes that one key's line keeps.
pub(super) const LINE_BYTES: usize = 256 << 10;

/// Positions that many share.
pub type SharedPositions = Arc<[Position]>;

/// One piece of the order.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// Records, by format (those that someone listened to), and where the reader is after them.
    Records([Option<Frames>; Format::COUNT], SharedPositions),
    /// A gap, and where the reader is after it.
    Gap(Gap, SharedPositions),
    /// The topic was deleted.
    TopicGone,
}

/// The same for a reader of one format.
#[derive(Debug)]
pub enum Taken {
    /// Records, and where the reader is after them.
    Records(Frames, SharedPositions),
    /// A gap, and where the reader is after it.
    Gap(Gap, SharedPositions),
    /// The topic was deleted.
    TopicGone,
}

impl Taken {
    fn bytes(&self) -> usize {
        match self {
            Self::Records(frames, _) => frames.bytes.len(),
            Self::Gap(..) | Self::TopicGone => 0,
        }
    }
}

impl Item {
    /// `None` if nobody listened in this format.
    fn in_format(&self, format: Format) -> Option<Taken> {
        Some(match self {
            Self::Records(frames, after) => Taken::Records(frames[format.index()].clone()?, after.clone()),
            Self::Gap(gap, after) => Taken::Gap(*gap, after.clone()),
            Self::TopicGone => Taken::TopicGone,
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Records(frames, _) => frames.iter().flatten().map(|f| f.bytes.len() + f.ends.len() * 4).sum(),
            Self::Gap(..) | Self::TopicGone => 0,
        }
    }
}

/// A bounded line of items, numbered without end.
#[derive(Debug, Default)]
pub(super) struct Line {
    items: VecDeque<Item>,
    /// The number of the first item.
    first: u64,
    pub bytes: usize,
}

impl Line {
    /// The number of the next item.
    pub fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    /// Adds an item, and lets go of the oldest beyond the bounds; gives by how many bytes the line grew.
    pub fn push(&mut self, item: Item, max_items: usize, max_bytes: usize) -> isize {
        let before = self.bytes;
        self.bytes += item.bytes();
        self.items.push_back(item);
        while self.items.len() > 1 && (self.items.len() > max_items || self.bytes > max_bytes) {
            let Some(gone) = self.items.pop_front() else { break };
            self.first += 1;
            self.bytes -= gone.bytes();
        }
        self.bytes.cast_signed() - before.cast_signed()
    }

    /// From number `next` on: what is there, up to about `max_bytes` in one format; `None` if it is gone already.
    pub fn take(&self, next: &mut u64, format: Format, max_bytes: usize) -> Option<Vec<Taken>> {
        let skip = usize::try_from(next.checked_sub(self.first)?).ok()?;
        let mut taken = Vec::new();
        let mut bytes = 0;
        for item in self.items.iter().skip(skip) {
            let item = item.in_format(format)?;
            let size = item.bytes();
            if !taken.is_empty() && bytes + size > max_bytes {
                break;
            }
            bytes += size;
            taken.push(item);
            *next += 1;
        }
        Some(taken)
    }

    /// Bytes from number `next` on, in one format.
    pub fn behind(&self, next: u64, format: Format) -> usize {
        let skip = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let size = |item: &Item| match item {
            Item::Records(frames, _) => frames[format.index()].as_ref().map_or(0, |f| f.bytes.len()),
            _ => 0,
        };
        self.items.iter().skip(skip).map(size).sum()
    }
}
