use super::*;
use crate::codec::fuzz_tests::{COMPRESSIONS, Source, exact, fuzz, peak_bytes};
use flate2::{Compression as GzipLevel, write::GzEncoder};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::io::Write as _;

/// What decompression may hold besides what comes out: windows and tables of the decoders.
const DECODER_BYTES: usize = 512 << 10;

/// The records of an uncompressed batch, in another form that the same compression has.
fn compressed_otherwise(source: &mut Source, compression: Compression, records: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => records.to_vec(),
        Compression::Gzip => {
            // Two members, which readers join.
            let (first, second) = records.split_at(source.below(records.len() + 1));
            let member = |part: &[u8]| {
                let mut encoder = GzEncoder::new(Vec::new(), GzipLevel::best());
                encoder.write_all(part).unwrap();
                encoder.finish().unwrap()
            };
            [member(first), member(second)].concat()
        }
        Compression::Snappy => snap::raw::Encoder::new().compress_vec(records).unwrap(),
        Compression::Lz4 => {
            let size = source.pick(&[BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB]);
            let mode = source.pick(&[BlockMode::Independent, BlockMode::Linked]);
            let frame = FrameInfo::new()
                .block_mode(mode)
                .block_size(size)
                .block_checksums(source.one_in(2))
                .content_checksum(source.one_in(2))
                .content_size(source.one_in(2).then_some(records.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(frame, Vec::new());
            // In pieces, so that there are several blocks.
            for piece in records.chunks(1 + records.len() / 3) {
                encoder.write_all(piece).unwrap();
                encoder.flush().unwrap();
            }
            encoder.finish().unwrap()
        }
        Compression::Zstd => {
            // A stream does not say how large it is.
            let mut encoder = zstd::Encoder::new(Vec::new(), source.pick(&[1, 3, 19])).unwrap();
            encoder.include_checksum(source.one_in(2)).unwrap();
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// Makes a batch's length and CRC fit what it holds.
fn seal(batch: &mut [u8]) {
    let Some(length) = batch.len().checked_sub(LENGTH_OVERHEAD) else { return };
    if batch.len() < HEADER_BYTES {
        return;
    }
    batch[8..12].copy_from_slice(&(length as i32).to_be_bytes());
    let crc = crc32c::crc32c(&batch[CRC_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A batch that a producer might send: right, or wrong in the header, the records, or the compressed form.
fn any_batch(source: &mut Source) -> Vec<u8> {
    let compression = source.pick(&COMPRESSIONS);
    let plain = source.batch(Compression::None);
    let (mut header, mut records) = (plain[..HEADER_BYTES].to_vec(), plain[HEADER_BYTES..].to_vec());
    if source.one_in(4) {
        source.damage(&mut records);
    }
    if source.one_in(20) {
        // A bomb: little that becomes much.
        records.resize(source.pick(&[1 << 12, 1 << 18, 3 << 20]), 0);
    }
    header[22] = header[22] & !7 | COMPRESSIONS.iter().position(|one| *one == compression).unwrap() as u8;
    let mut body = if source.one_in(2) {
        compressed_otherwise(source, compression, &records)
    } else {
        let mut out = Vec::new();
        compression.compress(&records, &mut out);
        out
    };
    if source.one_in(3) {
        source.damage(&mut body);
    }
    if source.one_in(4) {
        let mut tail = header.split_off(21);
        source.damage(&mut tail);
        tail.resize(HEADER_BYTES - 21, 0);
        header.extend(tail);
    }
    let mut batch = [header, body].concat();
    seal(&mut batch);
    if source.one_in(8) {
        source.damage(&mut batch);
    }
    batch
}

#[test]
fn any_batch_is_checked_within_its_bound() {
    let (mut taken, mut refused) = (0u64, 0u64);
    fuzz("batches", 2000, |source| {
        let bytes = exact(&any_batch(source));
        let limit = DecompressLimit { max_bytes: source.pick(&[200, 1 << 12, 1 << 16, 1 << 20]) };
        let mut rest = bytes.clone();
        let Ok(batch) = RecordBatch::split_from(&mut rest) else { return };
        let (verified, peak) = peak_bytes(|| batch.verify_produced(limit));
        // A buffer that grows is there twice for a moment.
        let bound = match batch.header().compression {
            Compression::None => 0,
            _ => 3 * limit.max_bytes.min(256 * bytes.len()) + DECODER_BYTES,
        };
        assert!(peak <= bound, "{peak} bytes for {bytes:?}");
        // The slow way comes to the same.
        let records: Result<Vec<_>, _> = batch.records(limit).and_then(Iterator::collect);
        match verified {
            Ok(found) => {
                taken += 1;
                let records = records.expect("what was verified can be read");
                assert_eq!(records.len() as i64, batch.header().next_offset().get() - batch.header().base_offset.get());
                assert_eq!(records.iter().map(|record| record.timestamp_ms).max(), Some(found.max_timestamp_ms));
                assert_eq!(records.iter().all(|record| record.key.is_some()), found.all_have_keys);
            }
            Err(_) => {
                refused += 1;
                let header = batch.header();
                let marked = header.control || header.log_append_time || header.delete_horizon_ms.is_some();
                let damaged = batch.verify_crc().is_err() || !header.is_dense() || marked;
                assert!(damaged || records.is_err(), "refused without a reason: {bytes:?}");
            }
        }
    });
    let alone = std::env::var_os("SLUICE_FUZZ_SEED").is_some();
    assert!(alone || taken > 500 && refused > 500, "{taken} taken and {refused} refused: neither is tried enough");
}
