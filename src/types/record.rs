//! A record: what producers send and readers get, in Kafka's shape.

use super::{LeaderEpoch, Offset};
use bytes::Bytes;

/// A record header: a name and bytes, or no bytes at all. Names may repeat; order is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by Kafka's rule, but kept as bytes: what a client wrote comes out as it was.
    pub name: Bytes,
    /// `None` is Kafka's null value.
    pub value: Option<Bytes>,
}

/// A record that is not in a log yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Unix time in milliseconds; `None` lets the log's leader stamp it.
    pub timestamp_ms: Option<i64>,
    /// The key; `None` for a record without one (which is not the same as an empty key).
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone, which deletes the key in a compacted topic and in views.
    pub value: Option<Bytes>,
    /// Headers in the order they were given.
    pub headers: Vec<Header>,
}

impl Record {
    /// Bytes of key, value and headers together: what size limits count, and about what the log stores.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|h| h.name.len() + bytes(&h.value)).sum();
        bytes(&self.key) + bytes(&self.value) + headers
    }
}

/// A record as it lies in a log: the slices share the memory of the batch they came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in the partition.
    pub offset: Offset,
    /// The leadership that wrote it.
    pub leader_epoch: LeaderEpoch,
    /// Unix time in milliseconds.
    pub timestamp_ms: i64,
    /// The key, if it has one.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in the order they were given.
    pub headers: Vec<Header>,
}
