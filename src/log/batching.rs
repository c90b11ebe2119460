//! A group's batches: records that came one by one are put together, batches that a producer made are placed as they are.
//!
//! **Invariant**: offsets are dense and in the order of the appends, and an idempotent producer's batch gets one only if it
//! follows its last one. Nothing is written here, and nothing noted: see `writer`.
//!
//! Called by `writer`, on the log's job.

use super::LogError;
use super::core::{Payload, StagedAppend};
use super::producer_state::{ProducerStateTable, SequenceCheck};
use super::tail_ring::TailBudget;
use super::writer::Writer;
use crate::codec::{BatchBuilder, BatchError, Compression, DecompressLimit, HEADER_BYTES, RecordBatch};
use crate::types::{CompressionType, LeaderEpoch, Offset, TimestampType, TopicConfig};
use bytes::BytesMut;

/// A produced batch was verified within a lower limit before it came here.
const MAX_DECOMPRESSED_BYTES: usize = 256 << 20;

/// An append with what became of it.
pub(super) struct PlacedAppend {
    pub(super) append: StagedAppend,
    /// Offset of its first record.
    pub(super) base_offset: Offset,
    /// The offset after its last one.
    pub(super) end: Offset,
    /// The timestamp to answer, if it is not the group's.
    pub(super) timestamp_ms: Option<i64>,
    /// Why it is not stored.
    pub(super) refused: Option<LogError>,
}

struct Batching<'a> {
    config: &'a TopicConfig,
    budget: &'a TailBudget,
    epoch: LeaderEpoch,
    now_ms: i64,
    append_time: Option<i64>,
    limit: usize,
    compression: Compression,
    /// Where the next batch begins, if none is open.
    next_offset: Offset,
    open: Option<BatchBuilder>,
    buffer: BytesMut,
    batches: Vec<RecordBatch>,
    /// What this group's producers have written, this group's batches included.
    producers: ProducerStateTable,
}

type Built = (Vec<RecordBatch>, Vec<PlacedAppend>);

/// The batches of a group of appends, as few as `max.message.bytes` allows, and what became of each append.
///
/// # Errors
/// The appends, and what is wrong with a batch of our own making.
pub(super) fn build(
    config: &TopicConfig,
    writer: &Writer,
    mut appends: Vec<StagedAppend>,
    now_ms: i64,
    budget: &TailBudget,
) -> Result<Built, (Vec<StagedAppend>, BatchError)> {
    let limit = config.max_message_bytes.min(config.segment_bytes) as usize;
    let producers = appends.iter().filter_map(|append| match &append.payload {
        Payload::Batch(Some(batch)) => batch.header().producer.map(|producer| producer.id),
        Payload::Batch(None) | Payload::Records(_) => None,
    });
    let records = appends.iter().filter(|append| matches!(append.payload, Payload::Records(_)));
    let bytes: usize = records.map(|append| append.bytes).sum();
    let room = if bytes == 0 { 0 } else { bytes + HEADER_BYTES * (2 + bytes / limit.max(1)) };
    let mut batching = Batching {
        config,
        budget,
        epoch: writer.epoch,
        now_ms,
        append_time: (config.timestamp_type == TimestampType::LogAppendTime).then_some(now_ms),
        limit,
        compression: match config.compression {
            CompressionType::Producer | CompressionType::Uncompressed => Compression::None,
            CompressionType::Gzip => Compression::Gzip,
            CompressionType::Snappy => Compression::Snappy,
            CompressionType::Lz4 => Compression::Lz4,
            CompressionType::Zstd => Compression::Zstd,
        },
        next_offset: writer.next_offset,
        open: None,
        buffer: BytesMut::with_capacity(room),
        batches: Vec::with_capacity(1),
        producers: writer.producers.part(producers),
    };
    let mut placements = Vec::with_capacity(appends.len());
    for append in &mut appends {
        match batching.append(&mut append.payload) {
            Ok(placement) => placements.push(placement),
            Err(error) => return Err((appends, error)),
        }
    }
    if let Err(error) = batching.close() {
        return Err((appends, error));
    }
    let placed = appends.into_iter().zip(placements).map(|(append, placement)| {
        let Placement { base_offset, end, timestamp_ms, refused } = placement;
        PlacedAppend { append, base_offset, end, timestamp_ms, refused }
    });
    Ok((batching.batches, placed.collect()))
}

struct Placement {
    base_offset: Offset,
    end: Offset,
    timestamp_ms: Option<i64>,
    refused: Option<LogError>,
}

impl Batching<'_> {
    fn append(&mut self, payload: &mut Payload) -> Result<Placement, BatchError> {
        match payload {
            Payload::Batch(batch) => {
                let batch = batch.take().ok_or(BatchError::Corrupt("a staged batch was taken twice"))?;
                self.place(batch)
            }
            Payload::Records(request) => {
                let base_offset = self.position();
                for record in &request.records {
                    self.push(record)?;
                }
                Ok(Placement { base_offset, end: self.position(), timestamp_ms: None, refused: None })
            }
        }
    }

    fn position(&self) -> Offset {
        self.open.as_ref().map_or(self.next_offset, BatchBuilder::next_offset)
    }

    fn push(&mut self, record: &crate::types::Record) -> Result<(), BatchError> {
        let full =
            |open: &BatchBuilder| open.count() > 0 && open.size() + BatchBuilder::record_bytes(record) > self.limit;
        if self.open.as_ref().is_some_and(full) {
            self.close()?;
        }
        let open = self.open.get_or_insert_with(|| {
            let buffer = std::mem::take(&mut self.buffer);
            let mut builder = BatchBuilder::with_buffer(buffer, self.next_offset, self.epoch);
            if let Some(time) = self.append_time {
                builder.set_log_append_time(time);
            }
            builder
        });
        open.push(self.append_time.or(record.timestamp_ms).unwrap_or(self.now_ms), record);
        Ok(())
    }

    /// Ends the batch that records are being put into.
    fn close(&mut self) -> Result<(), BatchError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        self.next_offset = open.next_offset();
        let (bytes, buffer) = open.finish_and_recycle(self.compression);
        self.buffer = buffer;
        self.batches.push(RecordBatch::split_from(&mut self.budget.count(bytes))?);
        Ok(())
    }

    fn place(&mut self, batch: RecordBatch) -> Result<Placement, BatchError> {
        let header = *batch.header();
        let at = |base_offset: Offset, timestamp_ms| Placement {
            base_offset,
            end: base_offset.plus(i64::from(header.last_offset_delta) + 1),
            timestamp_ms,
            refused: None,
        };
        if let Some(producer) = &header.producer {
            let refused = match self.producers.check(producer, header.last_offset_delta) {
                SequenceCheck::New => None,
                SequenceCheck::Duplicate { base_offset, timestamp_ms } => {
                    return Ok(at(base_offset, Some(timestamp_ms)));
                }
                SequenceCheck::OutOfOrder { expected } => Some(LogError::OutOfOrderSequence { expected }),
                SequenceCheck::Fenced { current } => Some(LogError::ProducerFenced { current }),
            };
            if refused.is_some() {
                return Ok(Placement { refused, ..at(self.position(), None) });
            }
        }
        self.close()?;
        let batch = self.in_the_topics_compression(batch)?.placed(self.next_offset, self.epoch, self.append_time);
        let batch = batch.with_bytes(|bytes| self.budget.count(bytes));
        self.producers.append(batch.header(), self.now_ms);
        let placement = at(self.next_offset, None);
        self.next_offset = placement.end;
        self.batches.push(batch);
        Ok(placement)
    }

    /// Compresses it anew where the topic names another compression than the producer used.
    fn in_the_topics_compression(&self, batch: RecordBatch) -> Result<RecordBatch, BatchError> {
        let header = batch.header();
        if self.config.compression == CompressionType::Producer || header.compression == self.compression {
            return Ok(batch);
        }
        let mut builder = BatchBuilder::new(self.next_offset, self.epoch);
        if let Some(producer) = header.producer {
            builder.set_producer(producer);
        }
        let mut records = batch.records(DecompressLimit { max_bytes: MAX_DECOMPRESSED_BYTES })?;
        while let Some(record) = records.next_view() {
            let record = record?;
            builder.push_parts(record.timestamp_ms, record.key, record.value, record.headers);
        }
        RecordBatch::split_from(&mut builder.finish(self.compression))
    }
}
