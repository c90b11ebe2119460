//! Fetch 4-17: batches as they are stored, in incremental sessions, waiting for new ones as long as the client wants.
//!
//! What is not in the tail ring is read from the disk when it is sent, a piece at a time: a response costs its connection one
//! piece, however large it is. The CRCs are the client's to check, as with Kafka. At least one batch comes if there is one, even if it is larger than every limit (KIP-74). There are no transactions, so
//! what is committed is all that can be read.

use super::super::{
    Door,
    error_code::ErrorCode,
    fetch_session::{InSession, TopicKey, Wanted},
    listener::DOOR,
};
use super::{check_leader_epoch, millis, partition_id, topic_by_id, topic_by_name};
use crate::codec::RecordBytes;
use crate::codec::messages::fetch::{FetchRequest, FetchResponse, PartitionData};
use crate::engine::FetchRequest as Read;
use crate::telemetry::metrics;
use crate::types::{Offset, PartitionProgress};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use std::time::Duration;
use tokio::{sync::watch, time::Instant};

/// A consumer that reads committed records only is told of aborted transactions, of which there are none.
const READ_COMMITTED: i8 = 1;
/// The longest that a request may wait.
const MAX_WAIT: Duration = Duration::from_mins(5);

pub(super) async fn answer(door: Door, version: i16, request: FetchRequest) -> FetchResponse {
    let limits = Limits {
        deadline: Instant::now() + millis(request.max_wait_ms).min(MAX_WAIT),
        min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(door.settings().fetch_bytes),
        max_bytes: usize::try_from(request.max_bytes).unwrap_or(0).min(door.settings().fetch_bytes),
        read_committed: request.isolation_level == READ_COMMITTED,
    };
    let place = match door.0.sessions.begin(version, request) {
        Ok(place) => place,
        Err(code) => return FetchResponse { error_code: code.code(), ..FetchResponse::default() },
    };
    let read = read_or_wait(&door, &place, &limits).await;
    let responses = door.0.sessions.finish(&place, read);
    FetchResponse { session_id: place.id, responses, ..FetchResponse::default() }
}

struct Limits {
    deadline: Instant,
    min_bytes: usize,
    max_bytes: usize,
    read_committed: bool,
}

/// Reads until there are enough bytes, something is to be told, or the wait is over.
async fn read_or_wait(door: &Door, place: &InSession, limits: &Limits) -> Vec<(TopicKey, PartitionData)> {
    let mut sources: Vec<Source> = place.wanted.iter().map(|wanted| Source::open(door, wanted)).collect();
    loop {
        let mut read = Vec::with_capacity(sources.len());
        let (mut bytes, mut failed) = (0, false);
        for source in &mut sources {
            let data = source.read(door, limits, bytes).await;
            bytes += data.records.as_ref().map_or(0, RecordBytes::len);
            failed |= data.error_code != 0;
            read.push((source.wanted.topic.clone(), data));
        }
        let enough = bytes >= limits.min_bytes || failed || sources.is_empty() && place.id == 0;
        if enough || !wait(door, &mut sources, limits.deadline).await {
            let records = sources.iter().filter_map(|source| source.open.as_ref().ok()).map(|open| open.records).sum();
            metrics().fetched_records.get_or_create(&DOOR).inc_by(records);
            metrics().fetched_bytes.get_or_create(&DOOR).inc_by(bytes as u64);
            return read;
        }
    }
}

/// Comes back with true when a partition changed, with false when the time is over.
async fn wait(door: &Door, sources: &mut [Source<'_>], deadline: Instant) -> bool {
    let mut changes: FuturesUnordered<_> = sources
        .iter_mut()
        .filter_map(|source| source.open.as_mut().ok())
        // An error says that the partition is gone: reading it says so to the client.
        .map(|open| async { drop(open.progress.changed().await) })
        .collect();
    tokio::select! {
        biased;
        () = door.drained() => false,
        () = tokio::time::sleep_until(deadline) => false,
        Some(()) = changes.next() => true,
    }
}

/// A partition that is read.
struct Source<'a> {
    wanted: &'a Wanted,
    open: Result<Open, ErrorCode>,
}

struct Open {
    read: Read,
    progress: watch::Receiver<PartitionProgress>,
    /// How many were read last.
    records: u64,
}

impl<'a> Source<'a> {
    fn open(door: &Door, wanted: &'a Wanted) -> Self {
        let open = || {
            let topic = if wanted.topic.id == [0; 16] {
                topic_by_name(door, &wanted.topic.name)?
            } else {
                topic_by_id(door, wanted.topic.id)?
            };
            let partition = partition_id(wanted.partition)?;
            let progress = door.engine().watch(topic.id, partition)?;
            if wanted.offset < 0 {
                return Err(ErrorCode::OffsetOutOfRange);
            }
            let max_bytes = usize::try_from(wanted.max_bytes).unwrap_or(0);
            let read = Read { topic: topic.id, partition, from: Offset::new(wanted.offset), max_bytes };
            Ok(Open { read, progress, records: 0 })
        };
        Self { wanted, open: open() }
    }

    /// What there is now, when `before` bytes were read from other partitions.
    async fn read(&mut self, door: &Door, limits: &Limits, before: usize) -> PartitionData {
        let data = match &mut self.open {
            Ok(open) => open.read(door, self.wanted.leader_epoch, limits, before).await,
            Err(code) => Err(*code),
        };
        data.map_or_else(
            |code| PartitionData {
                partition_index: self.wanted.partition,
                error_code: code.code(),
                high_watermark: -1,
                records: Some(RecordBytes::default()),
                ..PartitionData::default()
            },
            |data| PartitionData { partition_index: self.wanted.partition, ..data },
        )
    }
}

impl Open {
    async fn read(
        &mut self,
        door: &Door,
        leader_epoch: i32,
        limits: &Limits,
        before: usize,
    ) -> Result<PartitionData, ErrorCode> {
        // Seen before it is read, so that what comes after wakes.
        let mut progress = *self.progress.borrow_and_update();
        check_leader_epoch(leader_epoch, progress.leader_epoch)?;
        let room = limits.max_bytes.saturating_sub(before);
        let at_the_end = progress.online && self.read.from == progress.high_watermark.offset();
        let mut pieces = Vec::new();
        self.records = 0;
        if !at_the_end && (before == 0 || room > 0) {
            let max_bytes = self.read.max_bytes.min(room);
            let fetched = door.engine().fetch_stored(Read { max_bytes, ..self.read }).await?;
            progress.high_watermark = fetched.high_watermark;
            progress.log_start = fetched.log_start;
            // Only the first partition's first batch may be larger than what is left.
            if before == 0 || fetched.first_batch <= max_bytes {
                // More than there are where compaction was; but nobody looks at each.
                self.records = (fetched.next_offset.get() - self.read.from.get()).max(0) as u64;
                pieces = fetched.pieces;
            }
        }
        Ok(PartitionData {
            high_watermark: progress.high_watermark.get(),
            last_stable_offset: progress.high_watermark.get(),
            log_start_offset: progress.log_start.get(),
            aborted_transactions: limits.read_committed.then(Vec::new),
            records: Some(RecordBytes::stored(pieces)),
            ..PartitionData::default()
        })
    }
}
