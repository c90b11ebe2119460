//! Kafka's bytes: record batches, their compression, and its messages.
//!
//! **Invariant**: no I/O, and no allocation above a small multiple of the input's size, whatever the input says.
//! Everything here is a plain function of its input, and may be called from any thread.

mod batch_builder;
mod compression;
#[cfg(test)]
pub(crate) mod fuzz_tests;
mod lz4_frame;
pub mod messages;
mod record_batch;
mod varint;
mod wire;

pub use batch_builder::BatchBuilder;
pub use compression::{Compression, DecompressLimit};
pub use record_batch::{
    BatchError, BatchHeader, BatchProducer, HEADER_BYTES, HeaderViews, IndexedBatch, ProducedRecords, RecordBatch,
    RecordView, Records,
};
pub use wire::{Frame, MEMORY_PER_BYTE, Piece, RecordBytes, StoredBytes, Uuid, WireError};
