//! Writing batches: the leader's drains, the compaction's rewrites, the client's produces.
//!
//! **Invariant**: each record is encoded once, straight into the buffer that becomes the batch.

use super::{
    BatchHeader, BatchProducer, Compression, HEADER_BYTES,
    record_batch::{CRC_FROM, LENGTH_OVERHEAD, attribute},
    varint,
};
use crate::types::{LeaderEpoch, Offset, Record};
use bytes::{BufMut, Bytes, BytesMut};

/// Builds batches, record by record, in a buffer that is used again.
#[derive(Debug)]
pub struct BatchBuilder {
    buffer: BytesMut,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    /// Offset delta of the next record.
    next_delta: i32,
    /// Kept from the batch that is rewritten.
    last_offset_delta: Option<i32>,
    count: i32,
    /// Set by the first record, or by the batch that is rewritten.
    base_timestamp_ms: Option<i64>,
    max_timestamp_ms: i64,
    append_time_ms: Option<i64>,
    delete_horizon_ms: Option<i64>,
    producer: Option<BatchProducer>,
    transactional: bool,
    control: bool,
    /// The greatest timestamp of the batch that is rewritten: the new one may stay empty, and then keeps it.
    rewritten_max_timestamp_ms: Option<i64>,
}

impl BatchBuilder {
    /// Starts a batch.
    #[must_use]
    pub fn new(base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        Self::with_buffer(BytesMut::new(), base_offset, leader_epoch)
    }

    /// The same, in a buffer whose memory is used again.
    #[must_use]
    pub fn with_buffer(mut buffer: BytesMut, base_offset: Offset, leader_epoch: LeaderEpoch) -> Self {
        buffer.clear();
        buffer.put_bytes(0, HEADER_BYTES);
        Self {
            buffer,
            base_offset,
            leader_epoch,
            next_delta: 0,
            last_offset_delta: None,
            count: 0,
            base_timestamp_ms: None,
            max_timestamp_ms: i64::MIN,
            append_time_ms: None,
            delete_horizon_ms: None,
            producer: None,
            transactional: false,
            control: false,
            rewritten_max_timestamp_ms: None,
        }
    }

    /// Starts a batch that takes another one's place with some of its records: base offset, last offset, epoch,
    /// producer and kind are kept, and it may stay empty. Use [`Self::push_at`].
    #[must_use]
    pub fn rewriting(buffer: BytesMut, header: &BatchHeader) -> Self {
        let mut builder = Self::with_buffer(buffer, header.base_offset, header.leader_epoch);
        builder.last_offset_delta = Some(header.last_offset_delta);
        builder.producer = header.producer;
        builder.transactional = header.transactional;
        builder.control = header.control;
        builder.append_time_ms = header.log_append_time.then_some(header.max_timestamp_ms);
        builder.delete_horizon_ms = header.delete_horizon_ms;
        builder.rewritten_max_timestamp_ms = Some(header.max_timestamp_ms);
        builder
    }

    /// Marks every record with the leader's time (`LogAppendTime`).
    pub fn set_log_append_time(&mut self, append_time_ms: i64) {
        self.append_time_ms = Some(append_time_ms);
    }

    /// Names the idempotent producer.
    pub fn set_producer(&mut self, producer: BatchProducer) {
        self.producer = Some(producer);
    }

    /// Says from when on compaction may drop the tombstones (KIP-534).
    ///
    /// # Panics
    /// After the first record: their timestamps count from it.
    pub fn set_delete_horizon(&mut self, delete_horizon_ms: i64) {
        assert_eq!(self.count, 0, "the delete horizon is the base of the records' timestamps");
        self.delete_horizon_ms = Some(delete_horizon_ms);
    }

    /// Adds a record with the given timestamp; its offset is the next one.
    pub fn push(&mut self, timestamp_ms: i64, record: &Record) {
        let headers = record.headers.iter().map(|header| (&header.name[..], header.value.as_deref()));
        self.push_parts(timestamp_ms, record.key.as_deref(), record.value.as_deref(), headers);
    }

    /// The same from slices. The headers are walked twice, first for their size.
    pub fn push_parts<'a>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    ) {
        self.encode(self.next_delta, timestamp_ms, key, value, headers);
    }

    /// Adds a record that keeps its offset, which is above all before it; those between are holes.
    ///
    /// # Panics
    /// If the offset is not above those before it, or too far from the first.
    pub fn push_at<'a>(
        &mut self,
        offset: Offset,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    ) {
        let delta = offset.get() - self.base_offset.get();
        assert!(
            delta >= i64::from(self.next_delta) && delta <= i64::from(self.last_offset_delta.unwrap_or(i32::MAX - 1)),
            "offsets rise within a batch"
        );
        self.encode(delta as i32, timestamp_ms, key, value, headers);
    }

    fn encode<'a>(
        &mut self,
        offset_delta: i32,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    ) {
        let horizon = self.delete_horizon_ms;
        let base = *self.base_timestamp_ms.get_or_insert_with(|| horizon.unwrap_or(timestamp_ms));
        let timestamp_delta = timestamp_ms.wrapping_sub(base);
        let (header_count, header_bytes) = headers.clone().fold((0i64, 0), |(count, bytes), (name, value)| {
            (count + 1, bytes + nullable_size(Some(name)) + nullable_size(value))
        });
        let length = 1
            + varint::size(timestamp_delta)
            + varint::size(i64::from(offset_delta))
            + nullable_size(key)
            + nullable_size(value)
            + varint::size(header_count)
            + header_bytes;
        let buffer = &mut self.buffer;
        buffer.reserve(length + varint::MAX_I32);
        varint::put(buffer, length as i64);
        buffer.put_u8(0); // attributes: none are defined
        varint::put(buffer, timestamp_delta);
        varint::put(buffer, i64::from(offset_delta));
        put_nullable(buffer, key);
        put_nullable(buffer, value);
        varint::put(buffer, header_count);
        for (name, value) in headers {
            put_nullable(buffer, Some(name));
            put_nullable(buffer, value);
        }
        self.next_delta = offset_delta + 1;
        self.count += 1;
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
    }

    /// Bytes so far, header included, uncompressed.
    #[must_use]
    pub fn size(&self) -> usize {
        self.buffer.len()
    }

    /// Records so far.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count as usize
    }

    /// The offset that the next [`Self::push`] gives.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.next_delta))
    }

    /// The most bytes that a record with these parts adds to a batch, whatever its timestamp and place.
    #[must_use]
    pub fn record_bytes(record: &Record) -> usize {
        // Length, attributes, two deltas, two lengths and a count.
        const FIXED: usize = varint::MAX_I32 + 1 + varint::MAX_I64 + 4 * varint::MAX_I32;
        FIXED + record.payload_bytes() + record.headers.len() * 2 * varint::MAX_I32
    }

    /// Finishes it: lengths, compression, CRC.
    ///
    /// # Panics
    /// If no record was pushed, unless it rewrites another.
    #[must_use]
    pub fn finish(mut self, compression: Compression) -> Bytes {
        self.seal(compression)
    }

    /// Finishes it, and starts the next batch, a plain one, in what is left of the buffer.
    ///
    /// # Panics
    /// As [`Self::finish`].
    pub fn finish_and_restart(
        &mut self,
        compression: Compression,
        base_offset: Offset,
        leader_epoch: LeaderEpoch,
    ) -> Bytes {
        let batch = self.seal(compression);
        let buffer = std::mem::take(&mut self.buffer);
        *self = Self::with_buffer(buffer, base_offset, leader_epoch);
        batch
    }

    /// Finishes it, and gives what is left of the buffer back for another [`Self::with_buffer`] or
    /// [`Self::rewriting`].
    ///
    /// # Panics
    /// As [`Self::finish`].
    #[must_use]
    pub fn finish_and_recycle(mut self, compression: Compression) -> (Bytes, BytesMut) {
        let batch = self.seal(compression);
        (batch, self.buffer)
    }

    fn seal(&mut self, compression: Compression) -> Bytes {
        assert!(self.count > 0 || self.rewritten_max_timestamp_ms.is_some(), "a batch has records");
        if compression == Compression::None || self.count == 0 {
            let mut batch = self.buffer.split();
            self.write_header(&mut batch, Compression::None);
            return batch.freeze();
        }
        let mut batch = Vec::with_capacity(self.buffer.len() / 2 + 2 * HEADER_BYTES);
        batch.extend_from_slice(&self.buffer[..HEADER_BYTES]);
        compression.compress(&self.buffer[HEADER_BYTES..], &mut batch);
        self.write_header(&mut batch, compression);
        Bytes::from(batch)
    }

    fn write_header(&self, batch: &mut [u8], compression: Compression) {
        let length = i32::try_from(batch.len() - LENGTH_OVERHEAD).expect("batches are bounded far below 2 GiB");
        let flag = |on: bool, bit: i16| if on { bit } else { 0 };
        let attributes = compression.attributes()
            | flag(self.append_time_ms.is_some(), attribute::LOG_APPEND_TIME)
            | flag(self.transactional, attribute::TRANSACTIONAL)
            | flag(self.control, attribute::CONTROL)
            | flag(self.delete_horizon_ms.is_some(), attribute::DELETE_HORIZON);
        let max_timestamp = match (self.append_time_ms, self.rewritten_max_timestamp_ms) {
            (Some(append_time), _) => append_time,
            (None, Some(rewritten)) if self.count == 0 => rewritten,
            (None, _) => self.max_timestamp_ms,
        };
        let base_timestamp = self.delete_horizon_ms.or(self.base_timestamp_ms).unwrap_or(max_timestamp);
        let (producer_id, producer_epoch, base_sequence) =
            self.producer.map_or((-1, -1, -1), |p| (p.id.get(), p.epoch.get(), p.base_sequence));
        let mut header = &mut batch[..HEADER_BYTES];
        header.put_i64(self.base_offset.get());
        header.put_i32(length);
        header.put_i32(self.leader_epoch.get());
        header.put_i8(2);
        header.put_u32(0); // the CRC, below
        header.put_i16(attributes);
        header.put_i32(self.last_offset_delta.unwrap_or(self.next_delta - 1));
        header.put_i64(base_timestamp);
        header.put_i64(max_timestamp);
        header.put_i64(producer_id);
        header.put_i16(producer_epoch);
        header.put_i32(base_sequence);
        header.put_i32(self.count);
        let crc = crc32c::crc32c(&batch[CRC_FROM..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

fn nullable_size(part: Option<&[u8]>) -> usize {
    part.map_or(1, |bytes| varint::size(bytes.len() as i64) + bytes.len())
}

fn put_nullable(buffer: &mut BytesMut, part: Option<&[u8]>) {
    match part {
        None => varint::put(buffer, -1),
        Some(bytes) => {
            varint::put(buffer, bytes.len() as i64);
            buffer.put_slice(bytes);
        }
    }
}
