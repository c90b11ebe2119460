//! Reads that leave the bytes on the disk until they are sent.

use super::*;
use crate::codec::{Piece, RecordBatch};

/// The bytes, read in pieces as a connection does.
async fn bytes_of(read: &StoredRead) -> Bytes {
    let mut all = Vec::new();
    for piece in &read.pieces {
        match piece {
            Piece::Memory(bytes) => all.extend_from_slice(bytes),
            Piece::Stored(stored) => {
                for at in (0..stored.len()).step_by(700) {
                    let mut part = vec![0; 700.min(stored.len() - at)];
                    stored.read(at, &mut part).await.unwrap();
                    all.extend_from_slice(&part);
                }
            }
        }
    }
    all.into()
}

async fn batches_of(read: &StoredRead) -> Vec<RecordBatch> {
    let mut bytes = bytes_of(read).await;
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        batches.push(RecordBatch::split_from(&mut bytes).expect("only whole batches"));
    }
    batches
}

/// A log of many batches in several segments, none of which is in memory.
async fn filled(machine: &mut Machine) -> (Arc<LogManager>, Arc<PartitionLog>) {
    machine.settings.tail_ring_bytes = 0;
    let (manager, log) = machine.start().await;
    log.become_leader(LeaderEpoch::new(1)).await.unwrap();
    for n in 0..160usize {
        let values: Vec<String> = (0..1 + n % 3).map(|i| format!("{n}.{i} {}", "x".repeat(n * 37 % 1900))).collect();
        append(&log, &values.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    }
    (manager, log)
}

#[tokio::test(start_paused = true)]
async fn a_stored_read_is_what_a_read_is() {
    let mut machine = Machine::new(1, small_segments());
    let (_manager, log) = filled(&mut machine).await;
    let whole = log.progress().high_watermark.offset();
    assert!(log.size_bytes() > 5 * (16 << 10), "several segments");
    for from in (0..whole.get()).step_by(3).map(Offset::new) {
        for end in [whole, Offset::new((from.get() + 7).min(whole.get()))] {
            for max_bytes in [1, 900, 5_000, 1 << 20] {
                let stored = log.read_stored(from, end, max_bytes).await.unwrap();
                let batches = batches_of(&stored).await;
                let what = format!("from {from} to {end}, {max_bytes} bytes");
                let read = log.read(from, end, max_bytes).await.unwrap();
                assert_eq!(stored.first_batch, read.first().map_or(0, |first| first.header().size), "{what}");
                let offsets =
                    |batches: &[RecordBatch]| batches.iter().map(|b| b.header().base_offset).collect::<Vec<_>>();
                // The other one may stop where its window of the file ends.
                assert!(offsets(&batches).starts_with(&offsets(&read)), "{what}");
                let last = batches.last().map_or(from, |last| last.header().next_offset());
                assert_eq!(stored.next_offset, last, "{what}");
                let bytes: usize = batches.iter().map(|batch| batch.header().size).sum();
                assert!(last <= end && bytes <= max_bytes.max(stored.first_batch), "{what}");
                for batch in &batches {
                    batch.verify_crc().unwrap();
                }
            }
        }
    }
    let nothing = log.read_stored(whole, whole, 1 << 20).await.unwrap();
    assert!(nothing.pieces.is_empty() && nothing.next_offset == whole);
    let beyond = log.read_stored(whole.plus(1), whole, 1 << 20).await;
    assert!(matches!(beyond, Err(LogError::OffsetOutOfRange { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_reader_goes_from_read_to_read_through_all_segments() {
    let mut machine = Machine::new(2, small_segments());
    let (_manager, log) = filled(&mut machine).await;
    let end = log.progress().high_watermark.offset();
    let mut next = Offset::ZERO;
    while next < end {
        let read = log.read_stored(next, end, 6_000).await.unwrap();
        let batches = batches_of(&read).await;
        assert_eq!(batches[0].header().base_offset, next, "nothing is passed over");
        assert!(read.next_offset > next);
        next = read.next_offset;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_outlives_its_segment() {
    let mut machine = Machine::new(3, small_segments());
    let (_manager, log) = filled(&mut machine).await;
    let end = log.progress().high_watermark.offset();
    let read = log.read_stored(Offset::ZERO, end, 1 << 20).await.unwrap();
    log.truncate_prefix(end).await.unwrap();
    let batches = batches_of(&read).await;
    assert_eq!(batches[0].header().base_offset, Offset::ZERO);
    batches.iter().for_each(|batch| batch.verify_crc().unwrap());
}
