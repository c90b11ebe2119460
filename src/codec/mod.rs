//! Kafka's bytes: record batches, their compression, and later its messages.
//!
//! **Invariant**: no I/O, and no allocation above a small multiple of the input's size, whatever the input says.

mod compression;
mod record_batch;

pub use compression::{Compression, DecompressLimit};
pub use record_batch::{BatchBuilder, BatchError, BatchHeader, BatchProducer, HEADER_BYTES, RecordBatch, Records};
