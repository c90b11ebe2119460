//! What the subscriptions of a server share: the streams of live tails, who reads, and the memory of frames that are made
//! for one reader alone.
//!
//! **Invariant**: frames for single readers take a bounded memory together, and the less of it is left, the less a reader
//! gets at once.
//!
//! Callers: `http`, which opens subscriptions with it. Any thread.

use super::census::{Census, Enrolled};
use super::frame::{CHUNK_BYTES, Format};
use super::log_reader::LogReader;
use super::read_plan::ReadPlan;
use super::sequencer::Sequencers;
use crate::engine::Engine;
use crate::sys::Clock;
use crate::telemetry::{MemoryBudget, Reserved};
use bytes::Bytes;
use std::sync::Arc;

/// A reader of the log gets at most this part of the memory that is left for all of them,
const PARTS_OF_WHAT_IS_LEFT: usize = 16;
/// and at least so many bytes.
const LEAST_CHUNK_BYTES: usize = 4 << 10;
/// A chunk is full a little before its memory is, so that records of usual size never make it grow.
pub(super) const SPARE_BYTES: usize = 8 << 10;

/// What subscriptions share.
pub struct Sessions {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sequencers: Arc<Sequencers>,
    pub(super) census: Arc<Census>,
    /// Frames that were made for one reader alone, until its connection has taken them.
    pub(super) alone: Arc<MemoryBudget>,
}

/// Frames that count until nobody holds them.
pub(super) struct Counted {
    pub(super) bytes: Bytes,
    pub(super) _reserved: Reserved,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Sessions {
    /// For this engine; `memory` bytes of frames for shared streams, and as many for readers of the log.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, memory: usize) -> Self {
        let sequencers = Arc::new(Sequencers::new(engine.clone(), clock.clone(), memory));
        let (census, alone) = (Arc::default(), MemoryBudget::new("stream", memory));
        Self { engine, clock, sequencers, census, alone }
    }

    /// How many bytes a reader of the log gets at once: less, the fewer are left, so that thousands which do not take
    /// theirs leave something for the others.
    pub(super) fn chunk_bytes(&self) -> usize {
        let left = self.alone.limit().saturating_sub(self.alone.used());
        (left / PARTS_OF_WHAT_IS_LEFT).clamp(LEAST_CHUNK_BYTES, CHUNK_BYTES - SPARE_BYTES)
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The shared streams.
    #[must_use]
    pub fn sequencers(&self) -> &Arc<Sequencers> {
        &self.sequencers
    }

    /// Where each live reader stands.
    #[must_use]
    pub fn census(&self) -> &Arc<Census> {
        &self.census
    }

    pub(super) fn enrol(&self, plan: &ReadPlan, format: Format) -> Enrolled {
        let partitions = (!plan.all).then(|| plan.positions.iter().map(|p| p.partition).collect());
        self.census.enrol(format, plan.topic.id, partitions)
    }

    /// A reader of the log from these places.
    #[must_use]
    pub fn reader(&self, plan: ReadPlan) -> LogReader {
        LogReader::new(self.engine.clone(), self.clock.clone(), plan)
    }
}
