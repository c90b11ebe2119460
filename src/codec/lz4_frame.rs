//! LZ4 frames, read straight into the buffer that they decompress to.
//!
//! A general decoder reserves the block size that a frame's header names, up to 4 MiB for a frame of ten bytes, and copies each
//! block once more. Here a block reserves no more than its own bytes can become.
//!
//! **Invariant**: memory in proportion to the input, and never above the limit; every checksum that the frame has is checked.
//! One frame, as Kafka's own reader takes it, and nothing after it. Pure; called by `compression`.

use super::{BatchError, DecompressLimit, compression::make_room};
use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

const MAGIC: [u8; 4] = 0x184d_2204u32.to_le_bytes();
/// Bits of the frame's flags.
const VERSION_MASK: u8 = 0xc0;
const VERSION_1: u8 = 0x40;
const INDEPENDENT_BLOCKS: u8 = 0x20;
const BLOCK_CHECKSUMS: u8 = 0x10;
const CONTENT_SIZE: u8 = 0x08;
const CONTENT_CHECKSUM: u8 = 0x04;
/// A bit that is reserved, and the one that says that a dictionary is needed, which nobody has.
const UNSUPPORTED: u8 = 0x03;
/// A block's length has this bit if it is not compressed.
const UNCOMPRESSED: u32 = 1 << 31;
/// How far back a linked block may look.
const WINDOW_BYTES: usize = 64 << 10;
/// A byte of a match's length stands for so many bytes at most.
const MAX_RATIO: usize = 255;

const CUT: BatchError = BatchError::Corrupt("the lz4 frame is cut off");
const BAD: BatchError = BatchError::Corrupt("bad lz4 data");
const CHECKSUM: BatchError = BatchError::Corrupt("a checksum of the lz4 frame does not match");

/// Takes bytes off the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, BatchError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CUT)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*taken))
    }

    fn check(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        if self.u32()? == XxHash32::oneshot(0, bytes) { Ok(()) } else { Err(CHECKSUM) }
    }
}

/// What a frame's header says of its blocks.
struct Descriptor {
    flags: u8,
    block_bytes: usize,
    content_bytes: Option<u64>,
}

impl Descriptor {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn take(input: &mut Input<'_>) -> Result<Self, BatchError> {
        if input.take(4)? != MAGIC {
            return Err(BAD);
        }
        let start = input.0;
        let (flags, sizes) = match input.take(2)? {
            [flags, sizes] => (*flags, *sizes),
            _ => return Err(CUT),
        };
        if flags & VERSION_MASK != VERSION_1 || flags & UNSUPPORTED != 0 || sizes & 0x8f != 0 {
            return Err(BAD);
        }
        // 4 to 7 stand for 64 KiB to 4 MiB, by the factor of 4.
        let block_bytes = match sizes >> 4 {
            n @ 4..=7 => 1 << (8 + 2 * n),
            _ => return Err(BAD),
        };
        let mut content_bytes = None;
        if flags & CONTENT_SIZE != 0 {
            let (size, rest) = input.0.split_first_chunk().ok_or(CUT)?;
            content_bytes = Some(u64::from_le_bytes(*size));
            input.0 = rest;
        }
        let described = &start[..start.len() - input.0.len()];
        let expected = (XxHash32::oneshot(0, described) >> 8) as u8;
        if input.take(1)? != [expected] {
            return Err(CHECKSUM);
        }
        Ok(Self { flags, block_bytes, content_bytes })
    }
}

/// Decompresses a frame into `out`, over what stands there; gives how many bytes came out.
pub(super) fn decompress(input: &[u8], limit: DecompressLimit, out: &mut Vec<u8>) -> Result<usize, BatchError> {
    let mut input = Input(input);
    let frame = Descriptor::take(&mut input)?;
    let mut filled = 0;
    loop {
        let length = input.u32()?;
        if length == 0 {
            break;
        }
        let block = input.take((length & !UNCOMPRESSED) as usize)?;
        if frame.has(BLOCK_CHECKSUMS) {
            input.check(block)?;
        }
        let room = limit.max_bytes - filled;
        if length & UNCOMPRESSED != 0 {
            if block.len() > frame.block_bytes {
                return Err(BAD);
            }
            if block.len() > room {
                return Err(BatchError::TooLarge(limit.max_bytes));
            }
            make_room(out, filled + block.len(), limit);
            out[filled..filled + block.len()].copy_from_slice(block);
            filled += block.len();
            continue;
        }
        let most = frame.block_bytes.min(block.len().saturating_mul(MAX_RATIO));
        make_room(out, filled + most.min(room), limit);
        let (before, after) = out.split_at_mut(filled);
        let space = &mut after[..most.min(room)];
        let written = if frame.has(INDEPENDENT_BLOCKS) || before.is_empty() {
            decompress_into(block, space)
        } else {
            decompress_into_with_dict(block, space, &before[before.len().saturating_sub(WINDOW_BYTES)..])
        };
        filled += match written {
            Ok(written) => written,
            // It has less space than a block may take only where the limit is.
            Err(_) if room < most => return Err(BatchError::TooLarge(limit.max_bytes)),
            Err(_) => return Err(BAD),
        };
    }
    if frame.has(CONTENT_CHECKSUM) {
        input.check(&out[..filled])?;
    }
    if frame.content_bytes.is_some_and(|size| size != filled as u64) {
        return Err(BatchError::Corrupt("an lz4 frame is not as large as it says"));
    }
    if input.0.is_empty() { Ok(filled) } else { Err(BatchError::Corrupt("bytes follow the lz4 frame")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write as _;

    const ROOMY: DecompressLimit = DecompressLimit { max_bytes: 8 << 20 };

    fn frame(info: FrameInfo, text: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        // In pieces, so that blocks are not full.
        for piece in text.chunks(50_000) {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, BatchError> {
        let mut out = Vec::new();
        let filled = decompress(bytes, ROOMY, &mut out)?;
        out.truncate(filled);
        Ok(out)
    }

    #[test]
    fn frames_of_every_kind_are_read() {
        let text: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
            for mode in [BlockMode::Independent, BlockMode::Linked] {
                for checksums in [false, true] {
                    let info = FrameInfo::new().block_size(size).block_mode(mode);
                    let info = info.block_checksums(checksums).content_checksum(checksums);
                    let info = info.content_size(checksums.then_some(text.len() as u64));
                    let bytes = frame(info, &text);
                    assert!(read(&bytes).unwrap() == text, "{size:?} {mode:?} {checksums}");
                    let cut = &bytes[..bytes.len() - 1];
                    assert!(read(cut).is_err());
                    assert_eq!(
                        read(&[&bytes[..], &[0]].concat()),
                        Err(BatchError::Corrupt("bytes follow the lz4 frame"))
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_its_checksum_is_refused() {
        let info = FrameInfo::new().block_checksums(true).content_checksum(true);
        let whole = frame(info, &b"some words, some words".repeat(20));
        // The header's flags, its checksum, a block's data, its checksum, the content's checksum.
        for at in [4, 6, 14, whole.len() - 9, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "at {at}");
        }
    }

    #[test]
    fn a_header_alone_reserves_nothing() {
        let whole = frame(FrameInfo::new().block_size(BlockSize::Max4MB), b"x");
        let mut out = Vec::new();
        assert_eq!(decompress(&whole, ROOMY, &mut out), Ok(1));
        assert!(out.capacity() < 4096, "{}", out.capacity());
    }
}
