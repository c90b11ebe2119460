//! The job that writes one log: groups of appends, and the changes between them.
//!
//! **Invariant**: an append is answered with success only after its bytes are where `flush` says; a group that failed
//! leaves nothing behind it on the disk, or the log is offline. A sync that failed is never tried again.
//!
//! A group goes through the phases write, sync, publish, each a [`Step`] of its own, so that a power cut in the
//! simulation can fall between any two. Runs on the pool's append threads, one step of one log at a time.

use super::backlog::Pace;
use super::batching::{self, PlacedAppend};
use super::core::{AwaitingAppend, LogCore, Payload, StagedAppend};
use super::gathering::Gathering;
use super::layout::{self, FileKind, file_path};
use super::open_files::Access;
use super::preallocation::Preallocation;
use super::producer_state::ProducerStateTable;
use super::recovery_point::RecoveryPoint;
use super::segment::{LogSegment, NO_TIMESTAMP};
use super::write_behind::WriteBehind;
use super::{AppendOutcome, LogError, WatermarkSource};
use crate::codec::RecordBatch;
use crate::sys::{File, Job, Step};
use crate::telemetry::metrics;
use crate::types::{FlushPolicy, LeaderEpoch, Offset, TimestampType, TopicConfig};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Bytes of batches between two snapshots of producers and Idempotency-Keys.
const SNAPSHOT_BYTES: u64 = 16 << 20;
/// A snapshot that is large itself is written less often: once for so many times its bytes of batches.
const SNAPSHOT_RATIO: u64 = 8;
/// The most that an async thread writes in one step: so much goes into the page cache in a fraction of a millisecond.
const QUICK_BYTES: usize = 256 << 10;

/// What only the job touches.
pub(super) struct Writer {
    pub(super) segment: Arc<LogSegment>,
    /// Where the next batch goes: the end of what was written.
    pub(super) position: u64,
    pub(super) next_offset: Offset,
    pub(super) epoch: LeaderEpoch,
    pub(super) producers: ProducerStateTable,
    /// The policy that the recovery point knows of.
    pub(super) flush: FlushPolicy,
    /// What must be durable before the next record is written.
    pub(super) unsettled: Unsettled,
    /// Something was appended since the log was opened.
    pub(super) touched: bool,
    /// Bytes since the last snapshot of producers and Idempotency-Keys.
    pub(super) unsnapshotted: u64,
    pub(super) write_behind: WriteBehind,
    pub(super) preallocation: Preallocation,
    pub(super) gathering: Gathering,
    pub(super) pace: Pace,
    /// The last turn ended with a wait.
    pub(super) gathers: bool,
    pub(super) phase: Phase,
}

/// What names a log, and is not known to be durable. It becomes so with the first record that needs it: ten thousand
/// partitions that nothing is written to cost no sync, neither when they are made nor at any start.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Unsettled {
    /// The folder with its description and first segment.
    pub(super) folder: bool,
    /// The epoch that the log is led under.
    pub(super) epochs: bool,
}

/// How far the group in hand is.
#[derive(Default)]
pub(super) enum Phase {
    #[default]
    Idle,
    Write(Group),
    Sync(Group),
    Publish(Group),
    /// A snapshot is due, after a group of so many appends.
    Snapshot(usize),
}

/// Appends that are written together.
pub(super) struct Group {
    appends: Vec<PlacedAppend>,
    batches: Vec<RecordBatch>,
    file: Arc<dyn File>,
    /// Batches that were written.
    written: usize,
    /// Where it began.
    start_position: u64,
    start_offset: Offset,
    now_ms: i64,
    /// When it was begun, by the monotonic clock.
    begun: Duration,
    /// It was published before it was synced, and so many appends were answered (see `acknowledges_early`).
    published: Option<usize>,
}

impl Job for LogCore {
    fn step(&self) -> Step {
        let mut writer = self.writer.lock();
        let writer = &mut *writer;
        match std::mem::take(&mut writer.phase) {
            Phase::Idle => self.begin(writer, self.group_limit()),
            Phase::Write(group) => self.write_group(writer, group),
            Phase::Sync(group) => self.sync_group(writer, group),
            Phase::Publish(group) => self.publish_group(writer, group),
            Phase::Snapshot(answered) => {
                self.take_snapshot(writer);
                self.end_turn(writer, answered)
            }
        }
    }

    fn quick_step(&self) -> Option<Step> {
        let mut writer = self.writer.try_lock()?;
        let writer = &mut *writer;
        let quick = match &writer.phase {
            Phase::Idle => self.begins_quickly(writer),
            Phase::Write(_) | Phase::Publish(_) => writer.flush != FlushPolicy::Commit,
            Phase::Sync(_) | Phase::Snapshot(_) => false,
        };
        quick.then(|| match std::mem::take(&mut writer.phase) {
            Phase::Write(group) => self.write_group(writer, group),
            Phase::Publish(group) => self.publish_group(writer, group),
            _ => self.begin(writer, QUICK_BYTES),
        })
    }

    /// What the group in hand left on the disk is not known, so the log goes offline. The job goes on: what waits, and what
    /// still comes, is answered by it.
    fn panicked(&self, text: &str) -> Step {
        self.go_offline(format!("its writer panicked: {text}; a restart recovers it"));
        Step::Requeue
    }
}

impl LogCore {
    /// Whether what is to do next is a small group that goes into the active segment, with no sync and no file to open.
    fn begins_quickly(&self, writer: &Writer) -> bool {
        let Unsettled { folder, epochs } = writer.unsettled;
        if writer.flush == FlushPolicy::Commit || folder || epochs {
            return false;
        }
        let first = {
            let front = self.front.lock();
            if !front.controls.is_empty() || !front.finals.is_empty() {
                return false;
            }
            front.staged.front().map_or(0, |append| append.bytes)
        };
        let (now_ms, config) = (self.context.sys.clock.now_ms(), self.config.load());
        // As large as the group may become; batches' own headers are small beside it.
        let bytes = 2 * QUICK_BYTES as u64;
        first <= QUICK_BYTES
            && !self.wants_roll(writer, &config, bytes, writer.next_offset.plus(bytes as i64), now_ms)
            && self.context.files.get(&writer.segment.log, Access::Resident).is_ok()
    }

    /// Takes the next thing to do: a change, a group of about so many bytes, or nothing.
    fn begin(&self, writer: &mut Writer, limit: usize) -> Step {
        let appends = {
            let mut front = self.front.lock();
            if writer.gathers {
                let ran_out = front.gathering.is_some();
                if ran_out && let Some(slice) = writer.gathering.goes_on(self.now(), front.staged.len()) {
                    return Step::Gather(slice);
                }
                (writer.gathers, front.gathering) = (false, None);
                writer.gathering.ended(!ran_out, front.staged.len());
            }
            if let Some(control) = front.controls.pop_front() {
                drop(front);
                control(self, writer);
                return Step::Again;
            }
            let mut bytes = 0;
            let mut fits = |append: &StagedAppend| {
                let first = bytes == 0;
                bytes += append.bytes;
                first || bytes <= limit
            };
            let count = front.staged.iter().take_while(|append| fits(append)).count();
            let appends: Vec<StagedAppend> = front.staged.drain(..count).collect();
            front.staged_bytes -= appends.iter().map(|append| append.bytes).sum::<usize>();
            if appends.is_empty() {
                let Some(last) = front.finals.pop_front() else {
                    front.enqueued = false;
                    return Step::Done;
                };
                drop(front);
                last(self, writer);
                return Step::Again;
            }
            appends
        };
        if let Err(error) = self.check_online() {
            appends.into_iter().for_each(|append| self.fail_append(append, &error));
            return Step::Again;
        }
        self.begin_group(writer, appends)
    }

    /// A group fits one segment, unless a single append does not.
    pub(super) fn group_limit(&self) -> usize {
        self.context.settings.group_bytes.min(self.config.load().segment_bytes as usize)
    }

    fn begin_group(&self, writer: &mut Writer, appends: Vec<StagedAppend>) -> Step {
        if let Err(error) = self.settle(writer) {
            self.fail_appends(appends, &error);
            return Step::Again;
        }
        writer.touched = true;
        let mut begun = self.now();
        let now_ms = self.context.sys.clock.now_ms();
        let config = self.config.load_full();
        let (batches, appends) = match batching::build(&config, writer, appends, now_ms, self.tail.budget()) {
            Ok(built) => built,
            Err((appends, error)) => {
                // Our own bytes: this is never the producer's fault, and never seen unless there is a bug.
                self.fail_appends(appends, &LogError::Corrupt(error.to_string()));
                return Step::Again;
            }
        };
        if batches.is_empty() {
            // Nothing but resends and refusals.
            self.answer_placed(appends, writer.next_offset, now_ms);
            return self.end_turn(writer, 0);
        }
        let bytes: usize = batches.iter().map(|batch| batch.header().size).sum();
        let last = batches[batches.len() - 1].header().last_offset();
        if self.wants_roll(writer, &config, bytes as u64, last, now_ms) {
            let before = self.now();
            if let Err(error) = self.roll(writer) {
                self.fail_placed(appends, &error);
                return Step::Again;
            }
            // The disk's own time, as a sync is, and none of the group's.
            let took = self.now().saturating_sub(before);
            writer.pace.synced(took);
            begun += took;
        }
        let file = match self.log_file(writer) {
            Ok(file) => file,
            Err(error) => {
                self.fail_placed(appends, &error);
                return Step::Again;
            }
        };
        if writer.segment.first_append_ms.load(Ordering::Relaxed) == NO_TIMESTAMP {
            writer.segment.first_append_ms.store(now_ms, Ordering::Relaxed);
        }
        if writer.flush == FlushPolicy::Commit {
            writer.preallocation.prepare(&*file, self.now(), writer.position, bytes as u64, config.segment_bytes);
        }
        let (start_position, start_offset) = (writer.position, writer.next_offset);
        let group =
            Group { appends, batches, file, written: 0, start_position, start_offset, now_ms, begun, published: None };
        self.write_group(writer, group)
    }

    /// The active segment's file. A sync that failed when it was closed once takes the log offline here.
    pub(super) fn log_file(&self, writer: &Writer) -> Result<Arc<dyn File>, LogError> {
        let slot = &writer.segment.log;
        if slot.sync_failed() {
            return Err(self.go_offline(format!("syncing {} failed", slot.path().display())));
        }
        let file = self.context.files.get(slot, Access::Blocking);
        file.map_err(|error| LogError::io(format!("opening {}", slot.path().display()), &error))
    }

    fn fail_appends(&self, appends: Vec<StagedAppend>, error: &LogError) {
        appends.into_iter().for_each(|append| self.fail_append(append, error));
    }

    fn fail_placed(&self, appends: Vec<PlacedAppend>, error: &LogError) {
        self.fail_appends(appends.into_iter().map(|placed| placed.append).collect(), error);
    }

    /// Writes the group's batches, or the next of them where it is larger than a sync should cover.
    fn write_group(&self, writer: &mut Writer, mut group: Group) -> Step {
        let mut bytes = 0;
        while let Some(batch) = group.batches.get(group.written) {
            let size = batch.header().size as u64;
            if bytes > 0 && bytes + size > self.context.settings.group_bytes as u64 {
                break; // what recovery may find torn is one group
            }
            if let Err(error) = group.file.write_all_at(batch.bytes(), writer.position) {
                return self.abandon_group(writer, group, &error);
            }
            writer.position += size;
            writer.next_offset = batch.header().next_offset();
            bytes += size;
            group.written += 1;
        }
        if acknowledges_early() && group.written == group.batches.len() {
            writer.phase = Phase::Publish(group);
        } else if writer.flush == FlushPolicy::Commit {
            writer.phase = Phase::Sync(group);
        } else {
            writer.segment.log.mark_dirty();
            writer.phase =
                if group.written < group.batches.len() { Phase::Write(group) } else { Phase::Publish(group) };
        }
        Step::Again
    }

    /// The disk did not take the group. Without room, the file is cut back to where it was, and the log goes on.
    fn abandon_group(&self, writer: &mut Writer, group: Group, error: &io::Error) -> Step {
        let path = writer.segment.log.path().display().to_string();
        let cut = |file: &dyn File| file.set_len(group.start_position).and_then(|()| self.sync_file(file));
        let error = if error.kind() != io::ErrorKind::StorageFull {
            self.go_offline(format!("writing {path}: {error}"))
        } else if let Err(error) = cut(&*group.file) {
            self.go_offline(format!("cutting {path} back after the disk was full: {error}"))
        } else {
            writer.preallocation.forget();
            writer.position = group.start_position;
            writer.next_offset = group.start_offset;
            LogError::DiskFull
        };
        self.fail_placed(group.appends, &error);
        Step::Again
    }

    fn sync_group(&self, writer: &mut Writer, group: Group) -> Step {
        let before = self.now();
        if let Err(error) = self.sync_file(&*group.file) {
            let path = writer.segment.log.path().display();
            let error = self.go_offline(format!("syncing {path}: {error}"));
            self.fail_placed(group.appends, &error);
            return Step::Again;
        }
        writer.pace.synced(self.now().saturating_sub(before));
        writer.segment.log.mark_clean();
        writer.phase = if group.written < group.batches.len() {
            Phase::Write(group)
        } else if let Some(answered) = group.published {
            return self.end_turn(writer, answered);
        } else {
            Phase::Publish(group)
        };
        Step::Again
    }

    /// Syncs a segment's file, one at a time: the kernel tells of a failure once for each descriptor, so of two syncs at once one
    /// would hear that all is well. For the same reason none is well after one that failed.
    pub(super) fn sync_file(&self, file: &dyn File) -> io::Result<()> {
        let mut failed = self.sync_failed.lock();
        if *failed {
            return Err(io::Error::other("a sync before it failed"));
        }
        let before = self.context.sys.clock.monotonic();
        if let Err(error) = file.sync_data() {
            *failed = true;
            return Err(error);
        }
        metrics().fsyncs.inc();
        metrics().fsync_seconds.observe((self.context.sys.clock.monotonic() - before).as_secs_f64());
        Ok(())
    }

    /// Lets readers and producers see the group.
    fn publish_group(&self, writer: &mut Writer, mut group: Group) -> Step {
        let segment = &writer.segment;
        let mut position = group.start_position;
        for batch in &group.batches {
            segment.index_batch(batch.header(), position);
            writer.producers.append(batch.header(), group.now_ms);
            position += batch.header().size as u64;
        }
        segment.publish(position);
        let end = group.batches.last().map_or(group.start_offset, |batch| batch.header().next_offset());
        let bytes = position - group.start_position;
        writer.pace.published(bytes as usize, self.group_limit(), self.now().saturating_sub(group.begun));
        metrics().log_bytes.inc_by(bytes as i64);
        metrics().group_commit_records.observe((end.get() - group.start_offset.get()) as f64);
        writer.unsnapshotted += bytes;
        self.tail.extend(std::mem::take(&mut group.batches));
        self.set_log_end(end);
        let durable = writer.flush == FlushPolicy::Commit;
        if durable {
            self.set_durable_end(end);
        }
        let answered = group.appends.len();
        self.answer_group(&mut group, end);
        // After the answers: nothing of this is needed for what they say to be true.
        if durable {
            self.note_recovery_point(writer, end);
        }
        if let Err(error) = segment.flush_indexes(&self.context.files, false) {
            // It can be rebuilt, and stays in memory until then.
            tracing::warn!(path = %segment.log.path().display(), %error, "writing an index failed");
        }
        if acknowledges_early() && durable {
            group.published = Some(answered);
            writer.phase = Phase::Sync(group);
            return Step::Again;
        }
        if !durable {
            self.sync_behind(writer, &group.file, bytes, end);
        }
        if self.snapshot_is_due(writer) {
            writer.phase = Phase::Snapshot(answered);
            return Step::Again;
        }
        self.end_turn(writer, answered)
    }

    /// Keeps what a start after a crash must go over again within [`SNAPSHOT_BYTES`], or a few times the snapshot.
    fn snapshot_is_due(&self, writer: &Writer) -> bool {
        writer.unsnapshotted >= SNAPSHOT_BYTES
            && writer.unsnapshotted >= SNAPSHOT_RATIO * self.front.lock().idempotency.memory_bytes() as u64
    }

    fn take_snapshot(&self, writer: &mut Writer) {
        if let Err(error) = self.write_snapshot(writer) {
            writer.unsnapshotted = 0; // not again with each group
            tracing::warn!(topic = %self.name, partition = %self.id.partition, %error, "writing a snapshot failed");
        }
    }

    /// Answers the appends of a published group that ends at `end`, or lets them wait for the high watermark.
    fn answer_group(&self, group: &mut Group, end: Offset) {
        self.answer_placed(std::mem::take(&mut group.appends), group.start_offset, group.now_ms);
        if self.watermark_source() == WatermarkSource::Local {
            self.advance_high_watermark(end);
        }
    }

    /// Lets appends of a group that begins at `start` wait for the high watermark, each until what came before it in the
    /// group is committed as well: so a batch that was stored before never overtakes.
    fn answer_placed(&self, appends: Vec<PlacedAppend>, start: Offset, now_ms: i64) {
        let log_append_time = self.config.load().timestamp_type == TimestampType::LogAppendTime;
        let mut end = start;
        let mut awaiting = Vec::with_capacity(appends.len());
        for placed in appends {
            let PlacedAppend { append, base_offset, end: own_end, refused, timestamp_ms } = placed;
            if let Some(error) = refused {
                self.fail_append(append, &error);
                continue;
            }
            end = end.max(own_end);
            if let Some(mark) = append.payload.mark()
                && let Payload::Records(request) = &append.payload
            {
                let stamp = |given: Option<i64>| given.filter(|_| !log_append_time).unwrap_or(now_ms);
                let timestamps = request.records.iter().map(|record| stamp(record.timestamp_ms));
                self.front.lock().idempotency.complete(mark, base_offset, timestamps, now_ms);
            }
            let hold = match append.payload {
                Payload::Records(request) => request.hold,
                Payload::Batch(_) => None,
            };
            let outcome = AppendOutcome { base_offset, append_time_ms: timestamp_ms.unwrap_or(now_ms) };
            awaiting.push(AwaitingAppend { end, since: append.since, outcome, reply: append.reply, hold });
        }
        self.await_watermark(awaiting.into_iter());
        // Resends alone move nothing, and may be committed already.
        self.answer_awaiting();
    }

    /// To the back of the pool's line if more waits, or comes soon; `answered` appends were just answered.
    fn end_turn(&self, writer: &mut Writer, answered: usize) -> Step {
        let mut front = self.front.lock();
        front.pace = writer.pace;
        if !front.controls.is_empty() || !front.finals.is_empty() {
            return Step::Requeue;
        }
        let staged = (front.staged.len(), front.staged_bytes);
        if writer.flush == FlushPolicy::Commit
            && let Some((expected, slice)) = writer.gathering.wait(self.now(), answered, staged.0, staged.1)
        {
            front.gathering = Some(expected);
            writer.gathers = true;
            return Step::Gather(slice);
        }
        if front.staged.is_empty() {
            front.enqueued = false;
            return Step::Done;
        }
        Step::Requeue
    }

    fn now(&self) -> Duration {
        self.context.sys.clock.monotonic()
    }

    /// Writes down that all below `end` is durable. Not synced: a stale value costs a longer recovery.
    pub(super) fn note_recovery_point(&self, writer: &Writer, end: Offset) {
        let point = RecoveryPoint { durable_end: end, strict: writer.flush == FlushPolicy::Commit };
        if let Err(error) = self.context.points.set(self.id, point) {
            tracing::warn!(%error, "writing the recovery point failed");
        }
    }

    // ---- segments -----------------------------------------------------------------------------------------------

    fn wants_roll(&self, writer: &Writer, config: &TopicConfig, bytes: u64, last: Offset, now_ms: i64) -> bool {
        let first = writer.segment.first_append_ms.load(Ordering::Relaxed);
        let age = i64::try_from(config.segment_age.as_millis()).unwrap_or(i64::MAX);
        let old = first != NO_TIMESTAMP && now_ms.saturating_sub(first) >= age;
        writer.position > 0
            && (writer.position + bytes > u64::from(config.segment_bytes) || old || writer.segment.is_full_for(last))
    }

    /// Closes the active segment and begins the next. When it fails for want of room, the old one stays active.
    pub(super) fn roll(&self, writer: &mut Writer) -> Result<(), LogError> {
        let files = &self.context.files;
        self.sync_active(writer)?;
        let full = |what: &str, error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull => LogError::DiskFull,
            _ => self.go_offline(format!("{what}: {error}")),
        };
        let base = writer.next_offset;
        writer.segment.flush_indexes(files, true).map_err(|error| full("writing an index", error))?;
        self.write_snapshot(writer).map_err(|error| full("writing a snapshot", error))?;
        let made = LogSegment::create(files, &self.folder, base)
            .and_then(|segment| files.disk().sync_dir(&self.folder).map(|()| segment));
        let segment = match made {
            Ok(segment) => Arc::new(segment),
            Err(error) => {
                // A segment after this one says that this one is complete: it must not stay.
                let path = file_path(&self.folder, base, FileKind::Log);
                if files.disk().exists(&path)
                    && let Err(error) = files.disk().remove_file(&path)
                {
                    return Err(self.go_offline(format!("removing {}: {error}", path.display())));
                }
                return Err(full("making a segment", error));
            }
        };
        let mut segments = self.segments.load().to_vec();
        segments.push(Arc::clone(&segment));
        self.segments.store(Arc::new(segments));
        metrics().segments.inc();
        writer.segment = segment;
        writer.position = 0;
        Ok(())
    }

    /// Makes the active segment durable; what lies past its end is cut off first.
    pub(super) fn sync_active(&self, writer: &mut Writer) -> Result<(), LogError> {
        let file = self.log_file(writer)?;
        let trimmed =
            file.len().and_then(|len| if len > writer.position { file.set_len(writer.position) } else { Ok(()) });
        if let Err(error) = trimmed.and_then(|()| self.sync_file(&*file)) {
            return Err(self.go_offline(format!("syncing {}: {error}", writer.segment.log.path().display())));
        }
        writer.preallocation.forget();
        writer.write_behind.all_is_synced();
        writer.segment.log.mark_clean();
        self.set_durable_end(writer.next_offset);
        self.note_recovery_point(writer, writer.next_offset);
        Ok(())
    }

    /// Writes producers and Idempotency-Keys as of the next offset, and removes the snapshot before the last.
    pub(super) fn write_snapshot(&self, writer: &mut Writer) -> io::Result<()> {
        let disk = self.context.files.disk();
        let bytes = {
            let front = self.front.lock();
            super::snapshot::encode(&writer.producers, &front.idempotency)
        };
        disk.write_atomic(&file_path(&self.folder, writer.next_offset, FileKind::Snapshot), &bytes)?;
        writer.unsnapshotted = 0;
        let mut old: Vec<_> = disk.read_dir(&self.folder)?;
        old.retain(|entry| matches!(layout::parse_file_name(&entry.name), Some((_, FileKind::Snapshot))));
        let keep = 2; // the last one, and one more in case it is damaged
        for entry in &old[..old.len().saturating_sub(keep)] {
            disk.remove_file(&self.folder.join(&entry.name))?;
        }
        Ok(())
    }
}

#[cfg(feature = "sabotage")]
fn acknowledges_early() -> bool {
    super::sabotage::ACK_BEFORE_FSYNC.load(Ordering::Relaxed)
}

#[cfg(not(feature = "sabotage"))]
const fn acknowledges_early() -> bool {
    false
}
