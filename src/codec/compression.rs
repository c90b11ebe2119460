//! The four compressions of a record batch, with a bound on what comes out.
//!
//! **Invariant**: decompression gives at most [`DecompressLimit::max_bytes`], and reserves memory in proportion to
//! what came out so far and not to what the input claims.

use super::{BatchError, lz4_frame};
use flate2::{read::MultiGzDecoder, write::GzEncoder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::cell::RefCell;
use std::io::{Read, Write};
use zstd::zstd_safe;

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

/// The most that decompression may give.
#[derive(Debug, Clone, Copy)]
pub struct DecompressLimit {
    /// At most this many bytes come out.
    pub max_bytes: usize,
}

/// snappy-java writes this before its blocks, then two big-endian numbers: its version and the oldest that reads it.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_BYTES: usize = 16;
/// snappy-java's block size, which its readers size their buffers for.
const XERIAL_BLOCK_BYTES: usize = 32 << 10;
/// The densest element of snappy is a copy of 64 bytes in 3.
const SNAPPY_MAX_RATIO: usize = 22;
/// zstd's own default; Kafka's too.
const ZSTD_LEVEL: i32 = 3;
/// zstd's `dstSize_tooSmall`: its errors are negative numbers in a `size_t`.
const ZSTD_DESTINATION_TOO_SMALL: usize = 0usize.wrapping_sub(70);
/// How much more room gzip gets at once.
const GZIP_STEP: usize = 32 << 10;
/// How much comes out for a byte in, as the first guess of a decompressed size.
const FIRST_GUESS_RATIO: usize = 4;

impl Compression {
    /// The compression that the three low bits of a batch's attributes name.
    pub(super) const fn from_attributes(attributes: i16) -> Option<Self> {
        Some(match attributes & 7 {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// Those bits.
    pub(super) const fn attributes(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Appends the compressed `input` to `out`.
    pub(super) fn compress(self, input: &[u8], out: &mut Vec<u8>) {
        const NEVER: &str = "writing to memory does not fail";
        match self {
            Self::None => out.extend_from_slice(input),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, flate2::Compression::default());
                encoder.write_all(input).expect(NEVER);
                encoder.finish().expect(NEVER);
            }
            Self::Snappy => compress_xerial(input, out),
            Self::Lz4 => {
                // Kafka's own reader takes independent blocks only.
                let frame = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
                let mut encoder = FrameEncoder::with_frame_info(frame, out);
                encoder.write_all(input).expect(NEVER);
                encoder.finish().expect(NEVER);
            }
            Self::Zstd => {
                let start = out.len();
                out.resize(start + zstd_safe::compress_bound(input.len()), 0);
                let written = zstd_safe::compress(&mut out[start..], input, ZSTD_LEVEL)
                    .expect("zstd fails only for want of room, and has the bound that it gave");
                out.truncate(start + written);
            }
        }
    }

    /// What `input` decompresses to.
    pub(super) fn decompress(self, input: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, BatchError> {
        let mut out = Vec::new();
        let filled = self.decompress_into(input, limit, &mut out)?;
        out.truncate(filled);
        Ok(out)
    }

    /// Hands what `input` decompresses to on, for a look: in a buffer that each thread keeps, so that batch after batch costs
    /// no memory and finds it in the processor's cache.
    pub(super) fn look<T>(
        self,
        input: &[u8],
        limit: DecompressLimit,
        look: impl FnOnce(&[u8]) -> Result<T, BatchError>,
    ) -> Result<T, BatchError> {
        if self == Self::None {
            return look(input);
        }
        LOOKED_AT.with(|kept| {
            let mut out = kept.take();
            let looked = self.decompress_into(input, limit, &mut out).and_then(|filled| look(&out[..filled]));
            if out.capacity() <= KEPT_BYTES {
                kept.replace(out);
            }
            looked
        })
    }

    /// Decompresses over what stands in `out`; gives how many bytes came out.
    fn decompress_into(self, input: &[u8], limit: DecompressLimit, out: &mut Vec<u8>) -> Result<usize, BatchError> {
        match self {
            Self::None if input.len() > limit.max_bytes => Err(BatchError::TooLarge(limit.max_bytes)),
            Self::None => {
                make_room(out, input.len(), limit);
                out[..input.len()].copy_from_slice(input);
                Ok(input.len())
            }
            Self::Gzip => decompress_gzip(input, limit, out),
            Self::Snappy => decompress_snappy(input, limit, out),
            Self::Lz4 => lz4_frame::decompress(input, limit, out),
            Self::Zstd => decompress_zstd(input, limit, out),
        }
    }
}

thread_local! {
    /// What [`Compression::look`] decompresses into.
    static LOOKED_AT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// zstd's tables, some 100 KiB.
    static ZSTD: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
}

/// The most that a thread keeps of a buffer: what ordinary batches decompress to.
const KEPT_BYTES: usize = 2 << 20;

/// Makes `out` at least so long; what it gains is zero. It grows by half at least, but not past the limit.
pub(super) fn make_room(out: &mut Vec<u8>, len: usize, limit: DecompressLimit) {
    if out.len() < len {
        let more = len.max((out.len() + out.len() / 2).min(limit.max_bytes));
        out.reserve_exact(more - out.len());
        out.resize(more, 0);
    }
}

fn first_guess(input: usize, limit: DecompressLimit) -> usize {
    input.saturating_mul(FIRST_GUESS_RATIO).min(limit.max_bytes)
}

fn decompress_gzip(input: &[u8], limit: DecompressLimit, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    let bad = |_| BatchError::Corrupt("bad gzip data");
    let mut decoder = MultiGzDecoder::new(input);
    make_room(out, first_guess(input.len(), limit), limit);
    let mut filled = 0;
    loop {
        if filled == limit.max_bytes {
            // Is there more?
            return match decoder.read(&mut [0]).map_err(bad)? {
                0 => Ok(filled),
                _ => Err(BatchError::TooLarge(limit.max_bytes)),
            };
        }
        if filled == out.len() {
            make_room(out, (filled + GZIP_STEP).min(limit.max_bytes), limit);
        }
        let end = out.len().min(limit.max_bytes);
        match decoder.read(&mut out[filled..end]).map_err(bad)? {
            0 => return Ok(filled),
            n => filled += n,
        }
    }
}

fn compress_xerial(input: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let length_at = out.len();
        let start = length_at + 4;
        out.resize(start + snap::raw::max_compress_len(block.len()), 0);
        let written =
            encoder.compress(block, &mut out[start..]).expect("the block is small and the bound is snappy's own");
        out[length_at..start].copy_from_slice(&(written as u32).to_be_bytes());
        out.truncate(start + written);
    }
}

fn decompress_snappy(input: &[u8], limit: DecompressLimit, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    let mut decoder = snap::raw::Decoder::new();
    if !input.starts_with(&XERIAL_MAGIC) {
        return decompress_snappy_block(&mut decoder, input, limit, out, 0);
    }
    let mut rest = input;
    let mut filled = 0;
    while !rest.is_empty() {
        // Streams may be joined, each with its header.
        if rest.starts_with(&XERIAL_MAGIC) {
            rest = rest.get(XERIAL_HEADER_BYTES..).ok_or(BatchError::Corrupt("the snappy header is cut off"))?;
            continue;
        }
        let (length, after) = rest.split_first_chunk::<4>().ok_or(BatchError::Corrupt("a snappy block is cut off"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = after.get(..length).ok_or(BatchError::Corrupt("a snappy block is cut off"))?;
        filled = decompress_snappy_block(&mut decoder, block, limit, out, filled)?;
        rest = &after[length..];
    }
    Ok(filled)
}

/// Decompresses a block behind what is filled; gives how far it is filled then.
fn decompress_snappy_block(
    decoder: &mut snap::raw::Decoder,
    block: &[u8],
    limit: DecompressLimit,
    out: &mut Vec<u8>,
    filled: usize,
) -> Result<usize, BatchError> {
    let bad = |_| BatchError::Corrupt("bad snappy data");
    let size = snap::raw::decompress_len(block).map_err(bad)?;
    if size > limit.max_bytes - filled {
        return Err(BatchError::TooLarge(limit.max_bytes));
    }
    if size > block.len().saturating_mul(SNAPPY_MAX_RATIO) {
        return Err(BatchError::Corrupt("a snappy block claims more than it can hold"));
    }
    let end = filled + size;
    make_room(out, end, limit);
    decoder.decompress(block, &mut out[filled..end]).map_err(bad)?;
    Ok(end)
}

/// In one call, into a buffer that grows when it was too small: zstd's streaming decoder would allocate the window
/// that the input asks for.
fn decompress_zstd(input: &[u8], limit: DecompressLimit, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    let claimed = zstd_safe::get_frame_content_size(input).ok().flatten().and_then(|n| usize::try_from(n).ok());
    // A claim is trusted as far as ordinary data compresses; what is denser than that takes another round.
    let most = input.len().saturating_mul(16 * FIRST_GUESS_RATIO).min(limit.max_bytes);
    let mut size = claimed.map_or_else(|| first_guess(input.len(), limit), |n| n.min(most)).max(1);
    ZSTD.with_borrow_mut(|context| {
        loop {
            make_room(out, size, limit);
            let room = out.len().min(limit.max_bytes);
            match context.decompress(&mut out[..room], input) {
                Ok(filled) => return Ok(filled),
                Err(ZSTD_DESTINATION_TOO_SMALL) if room < limit.max_bytes => {
                    size = room.saturating_mul(4).min(limit.max_bytes);
                }
                Err(ZSTD_DESTINATION_TOO_SMALL) => return Err(BatchError::TooLarge(limit.max_bytes)),
                Err(_) => return Err(BatchError::Corrupt("bad zstd data")),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    const ROOMY: DecompressLimit = DecompressLimit { max_bytes: 1 << 20 };

    fn compressed(compression: Compression, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compression.compress(input, &mut out);
        out
    }

    #[test]
    fn attributes_name_each() {
        for compression in ALL {
            assert_eq!(Compression::from_attributes(compression.attributes() | 0x38), Some(compression));
        }
        assert_eq!(Compression::from_attributes(5), None);
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0; 4 << 20];
        for compression in ALL {
            let bomb = compressed(compression, &zeros);
            assert_eq!(compression.decompress(&bomb, ROOMY), Err(BatchError::TooLarge(1 << 20)), "{compression:?}");
            let exactly = DecompressLimit { max_bytes: zeros.len() };
            assert_eq!(compression.decompress(&bomb, exactly).as_deref(), Ok(&zeros[..]), "{compression:?}");
            let one_less = DecompressLimit { max_bytes: zeros.len() - 1 };
            assert!(compression.decompress(&bomb, one_less).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn snappy_comes_raw_framed_and_joined() {
        let text = b"the same words, the same words, the same words".repeat(3000);
        let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        assert_eq!(Compression::Snappy.decompress(&raw, ROOMY).unwrap(), text);
        let framed = compressed(Compression::Snappy, &text);
        assert_eq!(framed[..8], *b"\x82SNAPPY\0");
        assert_eq!(framed[8..16], [0, 0, 0, 1, 0, 0, 0, 1]);
        let joined = [framed.clone(), framed.clone()].concat();
        assert_eq!(Compression::Snappy.decompress(&joined, ROOMY).unwrap(), text.repeat(2));
        for cut in [9, 17, 19, framed.len() - 1] {
            assert!(Compression::Snappy.decompress(&framed[..cut], ROOMY).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_snappy_length_is_not_believed() {
        // 900,000 bytes, says the varint, and there are two more.
        let lie = [0xa0, 0xf7, 0x36, 0, 0];
        assert!(matches!(Compression::Snappy.decompress(&lie, ROOMY), Err(BatchError::Corrupt(_))));
    }

    #[test]
    fn lz4_is_written_as_kafka_reads_it() {
        let frame = compressed(Compression::Lz4, &[7; 1000]);
        assert_eq!(frame[..4], 0x184d_2204u32.to_le_bytes());
        assert_eq!(frame[4] & 0xe0, 0x60, "version 1, blocks independent");
        assert_eq!(frame[5], 4 << 4, "64 KiB blocks");
    }

    proptest! {
        #[test]
        fn round_trip(input in prop::collection::vec(0u8..8, 0..100_000)) {
            for compression in ALL {
                prop_assert_eq!(&compression.decompress(&compressed(compression, &input), ROOMY).unwrap(), &input);
            }
        }

        #[test]
        fn noise_never_panics_nor_passes_the_limit(input in prop::collection::vec(any::<u8>(), 0..300), max_bytes in 0usize..500) {
            for compression in ALL {
                if let Ok(out) = compression.decompress(&input, DecompressLimit { max_bytes }) {
                    prop_assert!(out.len() <= max_bytes);
                }
            }
        }

        #[test]
        fn damage_never_panics(
            input in prop::collection::vec(any::<u8>(), 1..500),
            at: prop::sample::Index,
            byte: u8,
        ) {
            for compression in ALL {
                let mut bytes = compressed(compression, &input);
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let _ = compression.decompress(&bytes, DecompressLimit { max_bytes: 4096 });
                let _ = compression.decompress(&bytes[..at], DecompressLimit { max_bytes: 4096 });
            }
        }
    }
}
