//! A batch of which single records are wanted again and again: each is found by its offset, without a walk over the others.
//!
//! **Invariant**: what it gives is what a walk over the batch gives. Called by `engine`, for queues.

use super::{BatchError, Cursor, DecompressLimit, RecordBatch, RecordView, Records, parse_record};
use crate::types::{LeaderEpoch, Offset, StoredRecord};
use bytes::Bytes;

/// A batch, decompressed, with the place of each of its records.
#[derive(Debug)]
pub struct IndexedBatch {
    body: Bytes,
    leader_epoch: LeaderEpoch,
    base_offset: Offset,
    base_timestamp_ms: i64,
    append_time_ms: Option<i64>,
    last_offset_delta: i32,
    /// Offset less the base offset, and where the record begins; in order.
    places: Box<[(u32, u32)]>,
}

impl IndexedBatch {
    /// Walks over the batch once, and shows each record on the way.
    ///
    /// # Errors
    /// [`BatchError`]: the first thing wrong.
    pub fn new(
        batch: &RecordBatch,
        limit: DecompressLimit,
        mut each: impl FnMut(&RecordView<'_>),
    ) -> Result<Self, BatchError> {
        let mut records = batch.records(limit)?;
        let base_offset = batch.header().base_offset;
        let mut places = Vec::with_capacity(records.walk.left as usize);
        loop {
            let at = records.walk.at as u32;
            let Some(view) = records.next_view() else { break };
            let view = view?;
            places.push(((view.offset.get() - base_offset.get()) as u32, at));
            each(&view);
        }
        let Records { body, leader_epoch, walk } = records;
        Ok(Self {
            body,
            leader_epoch,
            base_offset,
            base_timestamp_ms: walk.base_timestamp_ms,
            append_time_ms: walk.append_time_ms,
            last_offset_delta: walk.last_offset_delta,
            places: places.into(),
        })
    }

    /// The offset after the last that it covers.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta) + 1)
    }

    /// The record at an offset, if there is one. It shares the batch's memory.
    #[must_use]
    pub fn get(&self, offset: Offset) -> Option<StoredRecord> {
        let delta = u32::try_from(offset.get() - self.base_offset.get()).ok()?;
        // Where nothing was compacted, the record's number is its place.
        let dense = self.places.get(delta as usize).filter(|place| place.0 == delta);
        let &(delta, at) = match dense {
            Some(place) => place,
            None => self.places.get(self.places.binary_search_by_key(&delta, |place| place.0).ok()?)?,
        };
        let raw = parse_record(&mut Cursor::new(&self.body, at as usize)).ok()?;
        let own_time = self.base_timestamp_ms.wrapping_add(raw.timestamp_delta);
        let view = RecordView {
            offset: self.base_offset.plus(i64::from(delta)),
            timestamp_ms: self.append_time_ms.unwrap_or(own_time),
            key: raw.key,
            value: raw.value,
            headers: raw.headers,
        };
        Some(view.to_stored(&self.body, self.leader_epoch))
    }

    /// Bytes that it keeps in memory.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.body.len() + size_of_val(&*self.places)
    }
}
