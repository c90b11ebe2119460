//! One partition of a [`super::LogReader`]: its place, and what was fetched of it.
//!
//! **Invariant**: a place moves with what is handed out, never back, and not past a bound.

use super::SessionError;
use super::cursor::{Place, Position};
use super::read_plan::Until;
use crate::engine::{BatchError, DecompressLimit, EngineError, RecordBatch, RecordView, Records};
use crate::types::{LeaderEpoch, Offset, PartitionId, PartitionProgress, StoredRecord};
use bytes::Bytes;
use std::{collections::VecDeque, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How soon a partition that could not be asked is asked again, if nothing tells of it earlier.
pub(super) const RETRY: Duration = Duration::from_millis(250);
/// The most that one compressed batch may grow to: what the log takes is bounded by the same number.
const DECOMPRESSED_BATCH: DecompressLimit = DecompressLimit { max_bytes: 64 << 20 };
/// What a record counts for when bytes looked at are counted, besides its key and value.
const RECORD_BYTES: usize = 32;

/// See the module.
pub(super) struct Lane {
    pub partition: PartitionId,
    pub place: Place,
    pub progress: Option<watch::Receiver<PartitionProgress>>,
    /// A waiter on `progress` is among the reader's waits.
    pub armed: bool,
    /// The leadership under which the place was last checked.
    pub checked_epoch: Option<LeaderEpoch>,
    /// Not asked again before, because it could not answer.
    pub retry_at: Option<Instant>,
    /// It could not be asked the last time.
    pub unavailable: bool,
    /// Read up to the bound.
    pub done: bool,
    /// Read only up to here for now.
    pub stop: Option<Offset>,
}

impl Lane {
    pub const fn new(position: Position) -> Self {
        Self {
            partition: position.partition,
            place: position.place,
            progress: None,
            armed: false,
            checked_epoch: None,
            retry_at: None,
            unavailable: false,
            done: false,
            stop: None,
        }
    }

    /// Moves on to `offset`, but not past a bound, and never back.
    fn advance(&mut self, offset: Offset, epoch: LeaderEpoch, bound: Option<Offset>) {
        let bound = bound.into_iter().chain(self.stop).min();
        let to = bound.map_or(offset, |bound| bound.min(offset));
        if let Place::At(at, _) = self.place
            && to > at
        {
            self.place = Place::At(to, epoch);
        }
    }

    pub fn block(&mut self) {
        self.retry_at = Some(Instant::now() + RETRY);
        self.unavailable = true;
    }
}

/// Fetched of one lane and not handed out yet.
pub(super) struct Fetched {
    /// The lane's index, and its position's.
    pub lane: usize,
    batches: VecDeque<RecordBatch>,
    /// The records of the batch before `batches`, where it ends, and its epoch.
    open: Option<(Records, Offset, LeaderEpoch)>,
}

/// A record where it lies, as a reader hands it out.
#[derive(Debug, Clone, Copy)]
pub struct Popped<'a> {
    /// Its partition.
    pub partition: PartitionId,
    /// The index of its partition among the reader's positions.
    pub index: usize,
    /// Where the reader is behind it.
    pub place: Place,
    /// The record.
    pub record: RecordView<'a>,
    body: &'a Bytes,
    leader_epoch: LeaderEpoch,
}

impl Popped<'_> {
    /// A record of its own, which shares the batch's memory.
    #[must_use]
    pub fn to_stored(&self) -> StoredRecord {
        self.record.to_stored(self.body, self.leader_epoch)
    }
}

/// Which records are handed out.
pub(super) struct Wanted<'a> {
    pub until: Option<Until>,
    pub key: Option<&'a [u8]>,
}

impl Fetched {
    pub fn new(lane: usize, batches: Vec<RecordBatch>) -> Self {
        Self { lane, batches: batches.into(), open: None }
    }

    /// Gives the next record to `take`, and moves the lane's place behind it. `None` when this is used up, or the rest of
    /// it lies behind a bound. What was looked at is added to `scanned`.
    pub fn pop_with<T>(
        &mut self,
        lane: &mut Lane,
        wanted: &Wanted<'_>,
        scanned: &mut usize,
        take: impl FnOnce(Popped<'_>) -> T,
    ) -> Result<Option<T>, SessionError> {
        let bound = match wanted.until {
            Some(Until::Offset(end)) => Some(end),
            _ => None,
        };
        while let Place::At(at, _) = lane.place {
            let Some((records, next, epoch)) = &mut self.open else {
                let Some(batch) = self.batches.pop_front() else { break };
                let (header, next) = (batch.header(), batch.header().next_offset());
                if next <= at {
                    continue;
                }
                if header.control {
                    lane.advance(next, header.leader_epoch, bound);
                    continue;
                }
                let (epoch, records) = (header.leader_epoch, batch.records(DECOMPRESSED_BATCH));
                self.open = Some((records.map_err(|e| corrupt(lane.partition, at, e))?, next, epoch));
                continue;
            };
            let (next, leader_epoch) = (*next, *epoch);
            let Some(record) = records.next_in_body() else {
                self.open = None;
                lane.advance(next, leader_epoch, bound);
                continue;
            };
            let (record, body) = record.map_err(|e| corrupt(lane.partition, at, e))?;
            if record.offset < at {
                continue;
            }
            if let Some(stop) = lane.stop
                && record.offset >= stop
            {
                lane.advance(stop, leader_epoch, bound);
                break;
            }
            lane.done |= match wanted.until {
                Some(Until::Offset(end)) => record.offset >= end,
                Some(Until::Time(end)) => record.timestamp_ms >= end,
                None => false,
            };
            if lane.done {
                break;
            }
            lane.place = Place::At(record.offset.plus(1), leader_epoch);
            *scanned += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + RECORD_BYTES;
            if wanted.key.is_some() && wanted.key != record.key {
                continue;
            }
            let (partition, index, place) = (lane.partition, self.lane, lane.place);
            return Ok(Some(take(Popped { partition, index, place, record, body, leader_epoch })));
        }
        Ok(None)
    }

    /// Bytes of the batches that were not opened yet.
    pub fn unopened_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.header().size).sum()
    }
}

fn corrupt(partition: PartitionId, at: Offset, error: BatchError) -> SessionError {
    EngineError::Internal(format!("partition {partition} at offset {at}: {error}")).into()
}
