//! RecordBatch v2 (KIP-98): the unit on disk, in replication and on Kafka's wire.

use super::{Compression, DecompressLimit};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Record, StoredRecord};
use bytes::Bytes;

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// A batch's fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, length field and base offset included.
    pub size: usize,
    /// The leadership that wrote it.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of all from the attributes on.
    pub crc: u32,
    /// How the records are stored.
    pub compression: Compression,
    /// Timestamps are the leader's (`LogAppendTime`).
    pub log_append_time: bool,
    /// Part of a transaction.
    pub transactional: bool,
    /// Not data: a marker of Kafka's own.
    pub control: bool,
    /// Timestamp of the first record, Unix ms.
    pub base_timestamp_ms: i64,
    /// The greatest timestamp, Unix ms.
    pub max_timestamp_ms: i64,
    /// Offset of the last record less the base offset; compaction keeps it.
    pub last_offset_delta: i32,
    /// The idempotent producer, if one wrote it.
    pub producer: Option<BatchProducer>,
    /// Records in it.
    pub record_count: i32,
}

impl BatchHeader {
    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// The offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }
}

/// Who wrote a batch, and which of its batches it is (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchProducer {
    /// The producer.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// Sequence of the first record, wrapping at 2^31.
    pub base_sequence: i32,
}

/// Why bytes are no batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end within it.
    #[error("the batch is cut off")]
    Truncated,
    /// Anything that contradicts the format.
    #[error("the batch is corrupt: {0}")]
    Corrupt(&'static str),
    /// The checksum does not fit.
    #[error("the batch is corrupt: its CRC does not match")]
    Crc,
    /// A message format of before Kafka 0.11.
    #[error("message format {0} is not supported; use clients of Kafka 0.11 or newer (record batch version 2)")]
    OldFormat(u8),
    /// It would become too large.
    #[error("the batch decompresses to more than {0} bytes")]
    TooLarge(usize),
}

/// One whole batch. Cheap to clone; records share its memory unless it is compressed.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Takes one batch off the front of `bytes`. Checks length, version and every field of the header, but not the
    /// CRC and not the records.
    ///
    /// # Errors
    /// [`BatchError`]; `bytes` is left as it was.
    pub fn split_from(_bytes: &mut Bytes) -> Result<Self, BatchError> {
        todo!()
    }

    /// Checks the CRC.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        todo!()
    }

    /// The parsed header.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch as stored.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, decompressed within the limit.
    ///
    /// # Errors
    /// [`BatchError`] if it does not decompress; the iterator gives one more for a record that is corrupt, and then ends.
    pub fn records(&self, _limit: DecompressLimit) -> Result<Records, BatchError> {
        todo!()
    }
}

/// Iterates over a batch's records.
#[derive(Debug)]
pub struct Records {}

impl Iterator for Records {
    type Item = Result<StoredRecord, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        todo!()
    }
}

/// Builds one batch, record by record, in a buffer that is used again.
#[derive(Debug)]
pub struct BatchBuilder {}

impl BatchBuilder {
    /// Starts a batch.
    #[must_use]
    pub fn new(_base_offset: Offset, _leader_epoch: LeaderEpoch) -> Self {
        todo!()
    }

    /// Adds a record with the given timestamp; its offset is the next one.
    pub fn push(&mut self, _timestamp_ms: i64, _record: &Record) {
        todo!()
    }

    /// Bytes so far, uncompressed.
    #[must_use]
    pub fn size(&self) -> usize {
        todo!()
    }

    /// Finishes it: lengths, compression, CRC.
    ///
    /// # Panics
    /// If no record was pushed.
    #[must_use]
    pub fn finish(self, _compression: Compression) -> Bytes {
        todo!()
    }
}
