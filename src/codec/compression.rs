//! The four compressions of a record batch, with a bound on what comes out.

/// A batch's compression, as its attributes name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Stored as it is.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// snappy, in snappy-java's framing (what Kafka's clients send) or raw.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// zstd.
    Zstd,
}

/// The most that decompression may give: bytes, and a ratio to what went in.
#[derive(Debug, Clone, Copy)]
pub struct DecompressLimit {
    /// At most this many bytes come out.
    pub max_bytes: usize,
}
