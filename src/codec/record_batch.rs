//! RecordBatch v2 (KIP-98): the unit on disk, in replication and on Kafka's wire.
//!
//! The bytes, all numbers big-endian:
//!
//! | at | field | |
//! |---|---|---|
//! | 0 | base offset, i64 | set by the leader, outside the CRC |
//! | 8 | length, i32 | of what follows it |
//! | 12 | partition leader epoch, i32 | set by the leader, outside the CRC; −1 from producers |
//! | 16 | magic, i8 | 2 |
//! | 17 | CRC-32C, u32 | of everything from 21 on |
//! | 21 | attributes, i16 | bits 0-2 compression, 3 log append time, 4 transactional, 5 control, 6 delete horizon |
//! | 23 | last offset delta, i32 | |
//! | 27 | base timestamp, i64 | with bit 6: the delete horizon (KIP-534); the records' deltas count from it all the same |
//! | 35 | max timestamp, i64 | with bit 3: the timestamp of every record |
//! | 43 | producer id, i64; epoch, i16; base sequence, i32 | −1 without one |
//! | 57 | record count, i32 | |
//! | 61 | the records, compressed together | |
//!
//! **Invariant**: a [`RecordBatch`] has a header that contradicts neither itself nor the number of bytes. Nothing is
//! said of its CRC and records until they were asked for.

#[cfg(test)]
mod fuzz_tests;
mod indexed;
#[cfg(test)]
mod tests;

pub use indexed::IndexedBatch;

use super::{Compression, DecompressLimit, varint::Cursor};
use crate::types::{Header, LeaderEpoch, Offset, ProducerEpoch, ProducerId, StoredRecord};
use bytes::{Bytes, BytesMut};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;
/// Bytes that the length field does not count: itself and the base offset.
pub(super) const LENGTH_OVERHEAD: usize = 12;
/// Where the CRC's bytes begin.
pub(super) const CRC_FROM: usize = 21;
/// The fewest bytes of a record: length, attributes, two deltas, two lengths and a count, a byte each.
const MIN_RECORD_BYTES: usize = 7;
/// The fewest bytes of a record's header: two lengths.
const MIN_HEADER_BYTES: usize = 2;

pub(super) mod attribute {
    pub(in crate::codec) const LOG_APPEND_TIME: i16 = 1 << 3;
    pub(in crate::codec) const TRANSACTIONAL: i16 = 1 << 4;
    pub(in crate::codec) const CONTROL: i16 = 1 << 5;
    pub(in crate::codec) const DELETE_HORIZON: i16 = 1 << 6;
}

/// A batch's fixed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, length field and base offset included.
    pub size: usize,
    /// The leadership that wrote it; 0 where a producer left it open (−1).
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
    /// Compaction was here, and may drop the batch's tombstones from this time on (Unix ms; KIP-534). The base
    /// timestamp is the same number then.
    pub delete_horizon_ms: Option<i64>,
    /// Timestamp of the first record, Unix ms.
    pub base_timestamp_ms: i64,
    /// The greatest timestamp, Unix ms.
    pub max_timestamp_ms: i64,
    /// Offset of the last record less the base offset; compaction keeps it.
    pub last_offset_delta: i32,
    /// The idempotent producer, if one wrote it.
    pub producer: Option<BatchProducer>,
    /// Records in it; 0 only after compaction.
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

    /// Every offset from the first to the last has a record, as in all that was not compacted.
    #[must_use]
    pub const fn is_dense(&self) -> bool {
        self.record_count > 0 && self.record_count - 1 == self.last_offset_delta
    }
}

/// Who wrote a batch, and which of its batches it is (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchProducer {
    /// The producer.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// Sequence of the first record, wrapping at 2^31; −1 in a control batch.
    pub base_sequence: i32,
}

/// What a producer's batch holds, as its records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducedRecords {
    /// The greatest timestamp, Unix ms.
    pub max_timestamp_ms: i64,
    /// No record is without a key.
    pub all_have_keys: bool,
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
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, BatchError> {
        let header = Self::parse_header(bytes)?;
        if bytes.len() < header.size {
            return Err(BatchError::Truncated);
        }
        Ok(Self { header, bytes: bytes.split_to(header.size) })
    }

    /// Reads the header at the front of `bytes`, which need not hold the rest of the batch: recovery walks over files
    /// by it.
    ///
    /// # Errors
    /// [`BatchError::Truncated`] if there are fewer than [`HEADER_BYTES`], and whatever contradicts the format.
    pub fn parse_header(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        // Before the length: an old message may be shorter than our header, and should hear the true reason.
        match bytes.get(16) {
            None => return Err(BatchError::Truncated),
            Some(2) => {}
            Some(old @ (0 | 1)) => return Err(BatchError::OldFormat(*old)),
            Some(_) => return Err(BatchError::Corrupt("unknown magic")),
        }
        let h: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(BatchError::Truncated)?;
        let size = usize::try_from(i32_at(h, 8)).map_err(|_| BatchError::Corrupt("its length is negative"))?;
        let size = size + LENGTH_OVERHEAD;
        if size < HEADER_BYTES {
            return Err(BatchError::Corrupt("its length is less than a header's"));
        }
        let base_offset = i64_at(h, 0);
        // So that no offset in it, nor the one after it, overflows.
        if !(0..=i64::MAX - (1 << 32)).contains(&base_offset) {
            return Err(BatchError::Corrupt("its base offset is out of range"));
        }
        let attributes = i16_at(h, 21);
        let compression = Compression::from_attributes(attributes).ok_or(BatchError::Corrupt("unknown compression"))?;
        let has = |bit| attributes & bit != 0;
        let control = has(attribute::CONTROL);
        let last_offset_delta = i32_at(h, 23);
        let record_count = i32_at(h, 57);
        if last_offset_delta < 0 || record_count < 0 {
            return Err(BatchError::Corrupt("a count is negative"));
        }
        if i64::from(record_count) > i64::from(last_offset_delta) + 1 {
            return Err(BatchError::Corrupt("it has more records than offsets"));
        }
        if compression == Compression::None && record_count as usize > (size - HEADER_BYTES) / MIN_RECORD_BYTES {
            return Err(BatchError::Corrupt("it counts more records than its bytes can hold"));
        }
        let base_timestamp_ms = i64_at(h, 27);
        Ok(BatchHeader {
            base_offset: Offset::new(base_offset),
            size,
            leader_epoch: LeaderEpoch::new(i32_at(h, 12).max(0)),
            crc: u32::from_be_bytes([h[17], h[18], h[19], h[20]]),
            compression,
            log_append_time: has(attribute::LOG_APPEND_TIME),
            transactional: has(attribute::TRANSACTIONAL),
            control,
            delete_horizon_ms: has(attribute::DELETE_HORIZON).then_some(base_timestamp_ms),
            base_timestamp_ms,
            max_timestamp_ms: i64_at(h, 35),
            last_offset_delta,
            producer: parse_producer(h, control)?,
            record_count,
        })
    }

    /// Checks the CRC.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        if crc32c::crc32c(&self.bytes[CRC_FROM..]) == self.header.crc { Ok(()) } else { Err(BatchError::Crc) }
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
    pub fn records(&self, limit: DecompressLimit) -> Result<Records, BatchError> {
        let header = &self.header;
        let body = match header.compression {
            Compression::None => self.bytes.slice(HEADER_BYTES..),
            compressed => Bytes::from(compressed.decompress(&self.bytes[HEADER_BYTES..], limit)?),
        };
        check_count(header, &body)?;
        let walk = Walk::new(header);
        Ok(Records { body, leader_epoch: header.leader_epoch, walk })
    }

    /// Checks what a leader must know of a batch that a client made: its CRC, that it is data with an offset for each
    /// record, and every record (decompressed within the limit).
    ///
    /// # Errors
    /// [`BatchError`]: the first thing wrong.
    pub fn verify_produced(&self, limit: DecompressLimit) -> Result<ProducedRecords, BatchError> {
        self.verify_crc()?;
        let header = &self.header;
        if header.control {
            return Err(BatchError::Corrupt("clients may not write control batches"));
        }
        if header.log_append_time || header.delete_horizon_ms.is_some() {
            return Err(BatchError::Corrupt("its timestamps are marked as the server's"));
        }
        if !header.is_dense() {
            return Err(BatchError::Corrupt("its record count and last offset differ"));
        }
        header.compression.look(&self.bytes[HEADER_BYTES..], limit, |body| {
            check_count(header, body)?;
            let mut found = ProducedRecords { max_timestamp_ms: i64::MIN, all_have_keys: true };
            let mut walk = Walk::new(header);
            while let Some(record) = walk.step(body) {
                let record = record?;
                found.max_timestamp_ms = found.max_timestamp_ms.max(record.timestamp_ms);
                found.all_have_keys &= record.key.is_some();
            }
            Ok(found)
        })
    }

    /// A copy in memory of its own, so that it does not keep the frame it came in, with the greatest timestamp put right
    /// if the producer got it wrong.
    #[must_use]
    pub fn detached(&self, max_timestamp_ms: i64) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        let mut header = self.header;
        if header.max_timestamp_ms != max_timestamp_ms {
            header.max_timestamp_ms = max_timestamp_ms;
            bytes[35..43].copy_from_slice(&max_timestamp_ms.to_be_bytes());
            header.crc = Self::write_crc(&mut bytes);
        }
        Self { header, bytes: bytes.freeze() }
    }

    /// Gives a ready-made batch its place: what a leader does to a client's batch. Both fields lie outside the CRC; with
    /// an append time (`LogAppendTime`) that is made anew. Works in place if nobody else holds the bytes, and on a copy
    /// otherwise.
    #[must_use]
    pub fn placed(self, base_offset: Offset, leader_epoch: LeaderEpoch, append_time_ms: Option<i64>) -> Self {
        let mut header = BatchHeader { base_offset, leader_epoch, ..self.header };
        let mut bytes = self.bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        Self::set_base_offset_and_epoch(&mut bytes, base_offset, leader_epoch);
        if let Some(time) = append_time_ms {
            header.crc = Self::set_log_append_time(&mut bytes, time);
            header.log_append_time = true;
            header.max_timestamp_ms = time;
        }
        Self { header, bytes: bytes.freeze() }
    }

    /// The same bytes behind another handle, such as one that counts them.
    ///
    /// # Panics
    /// In debug builds, if they are not the same.
    #[must_use]
    pub fn with_bytes(self, hand_over: impl FnOnce(Bytes) -> Bytes) -> Self {
        let len = self.bytes.len();
        let bytes = hand_over(self.bytes);
        debug_assert_eq!(bytes.len(), len);
        Self { header: self.header, bytes }
    }

    /// The same on the bytes of a batch.
    ///
    /// # Panics
    /// If `batch` is shorter than a header.
    pub fn set_base_offset_and_epoch(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
        batch[0..8].copy_from_slice(&base_offset.get().to_be_bytes());
        batch[12..16].copy_from_slice(&leader_epoch.get().to_be_bytes());
    }

    /// Makes every record's timestamp the leader's (`message.timestamp.type=LogAppendTime`), in the bytes of one whole
    /// batch, and puts the CRC right; gives that.
    ///
    /// # Panics
    /// If `batch` is shorter than a header.
    pub fn set_log_append_time(batch: &mut [u8], append_time_ms: i64) -> u32 {
        let attributes = i16::from_be_bytes([batch[21], batch[22]]) | attribute::LOG_APPEND_TIME;
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
        batch[35..43].copy_from_slice(&append_time_ms.to_be_bytes());
        Self::write_crc(batch)
    }

    fn write_crc(batch: &mut [u8]) -> u32 {
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        crc
    }
}

fn parse_producer(h: &[u8; HEADER_BYTES], control: bool) -> Result<Option<BatchProducer>, BatchError> {
    let (id, epoch, base_sequence) = (i64_at(h, 43), i16_at(h, 51), i32_at(h, 53));
    if id < 0 {
        return Ok(None);
    }
    if epoch < 0 || (base_sequence < 0 && !control) {
        return Err(BatchError::Corrupt("it has a producer id without an epoch or a sequence"));
    }
    Ok(Some(BatchProducer { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch), base_sequence }))
}

fn i16_at(h: &[u8; HEADER_BYTES], at: usize) -> i16 {
    i16::from_be_bytes([h[at], h[at + 1]])
}

fn i32_at(h: &[u8; HEADER_BYTES], at: usize) -> i32 {
    i32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

fn i64_at(h: &[u8; HEADER_BYTES], at: usize) -> i64 {
    let (high, low) = (i32_at(h, at), i32_at(h, at + 4));
    (i64::from(high) << 32) | i64::from(low as u32)
}

/// One record where it lies, without a copy and without a count on its memory.
#[derive(Debug, Clone, Copy)]
pub struct RecordView<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// Unix time in milliseconds.
    pub timestamp_ms: i64,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, each a name and a value.
    pub headers: HeaderViews<'a>,
}

impl RecordView<'_> {
    /// A record of its own, whose slices share `body`, the memory that this view lies in.
    #[must_use]
    pub fn to_stored(&self, body: &Bytes, leader_epoch: LeaderEpoch) -> StoredRecord {
        let share = |part: Option<&[u8]>| part.map(|part| body.slice_ref(part));
        StoredRecord {
            offset: self.offset,
            leader_epoch,
            timestamp_ms: self.timestamp_ms,
            key: share(self.key),
            value: share(self.value),
            headers: self
                .headers
                .map(|(name, value)| Header { name: body.slice_ref(name), value: share(value) })
                .collect(),
        }
    }
}

/// A record's headers where they lie. They were checked when the record was parsed.
#[derive(Debug, Clone, Copy)]
pub struct HeaderViews<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for HeaderViews<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = self.cursor.nullable().ok()??;
        Some((name, self.cursor.nullable().ok()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// Iterates over a batch's records, each parsed when it is asked for. It owns the memory of the records.
#[derive(Debug)]
pub struct Records {
    body: Bytes,
    leader_epoch: LeaderEpoch,
    walk: Walk,
}

/// The walk over a body, apart from it, so that what it gives borrows the body alone.
#[derive(Debug)]
struct Walk {
    at: usize,
    left: u32,
    done: bool,
    base_offset: Offset,
    base_timestamp_ms: i64,
    append_time_ms: Option<i64>,
    least_delta: i32,
    last_offset_delta: i32,
}

/// Before anything is done for each of them.
fn check_count(header: &BatchHeader, body: &[u8]) -> Result<(), BatchError> {
    if header.record_count as usize > body.len() / MIN_RECORD_BYTES {
        return Err(BatchError::Corrupt("it counts more records than its bytes can hold"));
    }
    Ok(())
}

impl Walk {
    fn new(header: &BatchHeader) -> Self {
        Self {
            at: 0,
            left: header.record_count as u32,
            done: false,
            base_offset: header.base_offset,
            base_timestamp_ms: header.base_timestamp_ms,
            append_time_ms: header.log_append_time.then_some(header.max_timestamp_ms),
            least_delta: 0,
            last_offset_delta: header.last_offset_delta,
        }
    }

    fn step<'a>(&mut self, body: &'a [u8]) -> Option<Result<RecordView<'a>, BatchError>> {
        if self.done {
            return None;
        }
        if self.left == 0 {
            self.done = true;
            let trailing = self.at < body.len();
            return trailing.then_some(Err(BatchError::Corrupt("bytes follow its last record")));
        }
        self.left -= 1;
        let view = self.parse(body);
        self.done = view.is_err();
        Some(view)
    }

    fn parse<'a>(&mut self, body: &'a [u8]) -> Result<RecordView<'a>, BatchError> {
        let mut cursor = Cursor::new(body, self.at);
        let raw = parse_record(&mut cursor)?;
        if !(self.least_delta..=self.last_offset_delta).contains(&raw.offset_delta) {
            return Err(BatchError::Corrupt("a record's offset is out of order"));
        }
        self.at = cursor.position();
        // After the greatest delta no record can follow; saturating would let one repeat it, were the count not less.
        self.least_delta = raw.offset_delta.saturating_add(1);
        // Wrapping, as Kafka's Java client computes it, so that no pair of timestamps is out of reach.
        let own_time = self.base_timestamp_ms.wrapping_add(raw.timestamp_delta);
        Ok(RecordView {
            offset: self.base_offset.plus(i64::from(raw.offset_delta)),
            timestamp_ms: self.append_time_ms.unwrap_or(own_time),
            key: raw.key,
            value: raw.value,
            headers: raw.headers,
        })
    }
}

impl Records {
    /// The next record where it lies, for who looks and does not keep; otherwise as [`Iterator::next`].
    pub fn next_view(&mut self) -> Option<Result<RecordView<'_>, BatchError>> {
        self.walk.step(&self.body)
    }

    /// The same, with the memory that it lies in, for who may keep it.
    pub fn next_in_body(&mut self) -> Option<Result<(RecordView<'_>, &Bytes), BatchError>> {
        let body = &self.body;
        Some(self.walk.step(body)?.map(|view| (view, body)))
    }

    /// Bytes of the records, decompressed.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }
}

impl Iterator for Records {
    type Item = Result<StoredRecord, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let leader_epoch = self.leader_epoch;
        Some(self.next_in_body()?.map(|(view, body)| view.to_stored(body, leader_epoch)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.walk.left as usize + 1))
    }
}

struct RawRecord<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: HeaderViews<'a>,
}

fn parse_record<'a>(cursor: &mut Cursor<'a>) -> Result<RawRecord<'a>, BatchError> {
    let length = usize::try_from(cursor.i32()?).map_err(|_| BatchError::Corrupt("a record's length is negative"))?;
    let mut inner = Cursor::new(cursor.take(length)?, 0);
    let _attributes = inner.byte()?;
    let timestamp_delta = inner.i64()?;
    let offset_delta = inner.i32()?;
    let key = inner.nullable()?;
    let value = inner.nullable()?;
    let count = usize::try_from(inner.i32()?).map_err(|_| BatchError::Corrupt("a header count is negative"))?;
    if count > inner.remaining() / MIN_HEADER_BYTES {
        return Err(BatchError::Corrupt("it counts more headers than its bytes can hold"));
    }
    let headers = HeaderViews { cursor: inner, left: count };
    for _ in 0..count {
        inner.nullable()?.ok_or(BatchError::Corrupt("a header has no name"))?;
        inner.nullable()?;
    }
    if inner.remaining() > 0 {
        return Err(BatchError::Corrupt("a record is longer than its fields"));
    }
    Ok(RawRecord { timestamp_delta, offset_delta, key, value, headers })
}
