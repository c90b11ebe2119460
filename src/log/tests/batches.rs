//! Producers' own batches: stored as they are, once each, in order.

use super::*;
use crate::codec::{BatchBuilder, BatchProducer, Compression, RecordBatch};
use crate::types::{CompressionType, ProducerEpoch, ProducerId, TimestampType};

fn producer(id: i64, epoch: i16, base_sequence: i32) -> Option<BatchProducer> {
    Some(BatchProducer { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch), base_sequence })
}

/// A batch as a client makes it: offsets from 0, no epoch.
fn batch(values: &[&str], compression: Compression, producer: Option<BatchProducer>) -> RecordBatch {
    let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::ZERO);
    if let Some(producer) = producer {
        builder.set_producer(producer);
    }
    for (i, value) in values.iter().enumerate() {
        builder.push(START_MS - 100 + i as i64, &record(*value));
    }
    RecordBatch::split_from(&mut builder.finish(compression)).unwrap()
}

async fn send(log: &PartitionLog, values: &[&str], producer: Option<BatchProducer>) -> Result<i64, LogError> {
    Ok(log.append_batch(batch(values, Compression::None, producer))?.await?.base_offset.get())
}

#[tokio::test(start_paused = true)]
async fn batches_are_stored_as_they_are_between_records() {
    let machine = Machine::new(1, config());
    let (_manager, log) = machine.start().await;
    log.become_leader(LeaderEpoch::new(7)).await.unwrap();
    let compressions = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    let mut waiting = vec![log.append(request(&["a"])).unwrap()];
    for compression in compressions {
        waiting.push(log.append_batch(batch(&["x", "y"], compression, None)).unwrap());
        waiting.push(log.append(request(&["b"])).unwrap());
        waiting.push(log.append(request(&["c"])).unwrap());
    }
    let mut bases = Vec::new();
    for append in waiting {
        bases.push(append.await.unwrap().base_offset.get());
    }
    assert_eq!(bases, [0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 19, 20]);
    let values: String = read_all(&log).await.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, format!("a{}", "xybc".repeat(5)));
    let stored = log.read(Offset::ZERO, Offset::new(21), 1 << 20).await.unwrap();
    for (stored, compression) in stored.iter().filter(|b| b.header().base_offset.get() % 4 == 1).zip(compressions) {
        let sent = batch(&["x", "y"], compression, None);
        assert_eq!(stored.header().leader_epoch, LeaderEpoch::new(7));
        assert_eq!(stored.bytes()[16..], sent.bytes()[16..], "nothing but the place is the leader's");
        stored.verify_crc().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_resent_batch_gets_the_first_answer() {
    let machine = Machine::new(2, config());
    let (manager, log) = machine.start().await;
    assert_eq!(send(&log, &["a", "b"], producer(5, 0, 0)).await.unwrap(), 0);
    assert_eq!(send(&log, &["c"], producer(5, 0, 2)).await.unwrap(), 2);
    assert_eq!(send(&log, &["a", "b"], producer(5, 0, 0)).await.unwrap(), 0, "stored before");
    let missing = send(&log, &["e"], producer(5, 0, 4)).await;
    assert!(matches!(missing, Err(LogError::OutOfOrderSequence { expected: 3 })), "{missing:?}");
    // The same batch twice in one group, and the refused one does not take the next one with it.
    let twice =
        [batch(&["d"], Compression::None, producer(5, 0, 3)), batch(&["d"], Compression::None, producer(5, 0, 3))];
    let after =
        [batch(&["x"], Compression::None, producer(5, 0, 9)), batch(&["e"], Compression::None, producer(5, 0, 4))];
    let waiting: Vec<_> = twice.into_iter().chain(after).map(|batch| log.append_batch(batch).unwrap()).collect();
    let mut answers = Vec::new();
    for append in waiting {
        answers.push(append.await.map(|outcome| outcome.base_offset.get()));
    }
    assert!(
        matches!(answers[..], [Ok(3), Ok(3), Err(LogError::OutOfOrderSequence { expected: 4 }), Ok(4)]),
        "{answers:?}"
    );
    assert_eq!(send(&log, &["n"], producer(5, 1, 0)).await.unwrap(), 5, "a new epoch");
    let fenced = send(&log, &["f"], producer(5, 0, 5)).await;
    assert!(matches!(fenced, Err(LogError::ProducerFenced { .. })), "{fenced:?}");
    let producers = log.producers().await.unwrap();
    assert_eq!(
        producers.iter().map(|p| (p.id.get(), p.epoch.get(), p.last_sequence)).collect::<Vec<_>>(),
        [(5, 1, Some(0))]
    );
    manager.close().await;

    let (_manager, log) = machine.start().await;
    assert_eq!(send(&log, &["n"], producer(5, 1, 0)).await.unwrap(), 5, "known after a restart");
    assert_eq!(read_all(&log).await.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_a_resend_is_known() {
    let machine = Machine::new(3, small_segments());
    let (_manager, log) = machine.start().await;
    let large = "z".repeat(5000);
    for sequence in 0..8 {
        // Segments of 16 KiB: rolls, and with them snapshots, come between.
        assert_eq!(send(&log, &[&large], producer(9, 0, sequence)).await.unwrap(), i64::from(sequence));
    }
    drop((_manager, log));
    machine.disk.power_cut();
    let (_manager, log) = machine.start().await;
    for sequence in 3..8 {
        assert_eq!(send(&log, &[&large], producer(9, 0, sequence)).await.unwrap(), i64::from(sequence));
    }
    assert_eq!(send(&log, &["next"], producer(9, 0, 8)).await.unwrap(), 8);
}

#[tokio::test(start_paused = true)]
async fn the_topics_clock_and_compression_win() {
    let mut config = config();
    config.topic.timestamp_type = TimestampType::LogAppendTime;
    config.topic.compression = CompressionType::Zstd;
    let machine = Machine::new(4, config);
    let (_manager, log) = machine.start().await;
    let sent = batch(&["a", "b"], Compression::Gzip, producer(1, 0, 0));
    let outcome = log.append_batch(sent).unwrap().await.unwrap();
    let stored = log.read(Offset::ZERO, Offset::new(2), 1 << 20).await.unwrap();
    let header = stored[0].header();
    stored[0].verify_crc().unwrap();
    assert_eq!((header.compression, header.log_append_time), (Compression::Zstd, true));
    assert_eq!(header.producer, producer(1, 0, 0));
    assert_eq!((header.max_timestamp_ms, outcome.append_time_ms >= START_MS), (outcome.append_time_ms, true));
    assert_eq!(read_all(&log).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_above_the_limit_is_refused() {
    let mut config = config();
    config.topic.max_message_bytes = 1024;
    let machine = Machine::new(5, config);
    let (_manager, log) = machine.start().await;
    let large = "z".repeat(2000);
    assert!(matches!(send(&log, &[&large], None).await, Err(LogError::TooLarge { limit: 1024, .. })));
    let fits = batch(&[&large], Compression::Zstd, None);
    assert_eq!(log.append_batch(fits).unwrap().await.unwrap().base_offset, Offset::ZERO, "what counts is what is sent");
}
