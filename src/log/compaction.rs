//! Compaction's files: a run of closed segments is rewritten beside them, and then takes their place.
//!
//! A pass plans, fills the offset map segment by segment, and then goes group by group, oldest first: read, clean,
//! write `<base>-<end>.log.cleaned`, sync; and as a change of the log's job rename it to `.swap`, remove what it
//! replaces, and rename it to the segment's own name. A folder sync stands between each two, so that after a crash
//! - a `.cleaned` file means nothing and is removed;
//! - a `.swap` file is whole, and its name says what it replaces: recovery goes on from there ([`finish_swaps`]).
//!
//! **Invariant**: at any moment the folder says either all old segments of a group or the new one, never a mixture. A
//! batch that does not check stops the pass, and nothing is replaced by a copy of damage.
//!
//! Reading, cleaning and writing run on the background lane, the replacing on the log's own job. One pass of a log at a
//! time; called by `log_manager`.

use super::LogError;
use super::batch_walk::{BatchWalk, Walked};
use super::cleaner::{
    CleanedBatch, Cleaner, CleanerCheckpoint, CleaningPlan, CleaningRules, OffsetMap, group_segments, plan_cleaning,
};
use super::core::LogCore;
use super::frame::{frame, unframe};
use super::layout::{self, CLEANED_SUFFIX, FileKind, SWAP_SUFFIX, file_path};
use super::open_files::Access;
use super::producer_state::ProducerStateTable;
use super::recovery::DECOMPRESS_BYTES;
use super::retention::ClosedSegment;
use super::segment::LogSegment;
use crate::codec::{BatchHeader, DecompressLimit, RecordBatch};
use crate::sys::{Disk, File, Lane, OpenMode, run_blocking};
use crate::telemetry::metrics;
use crate::types::Offset;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of a pass's offset map: half a million keys. A log with more dirty keys takes more passes.
const MAP_BYTES: usize = 32 << 20;
/// How long a log rests after a pass that brought nothing: superseded records wait for their Idempotency-Keys to be
/// forgotten, and a pass over the whole log would find them there again.
const REST_MS: i64 = 10 * 60 * 1000;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;
const LIMIT: DecompressLimit = DecompressLimit { max_bytes: DECOMPRESS_BYTES };

/// The file with the [`CleanerCheckpoint`].
const CHECKPOINT_FILE: &str = "cleaner-offset-checkpoint";
const CHECKPOINT_MAGIC: [u8; 4] = *b"SLCC";
const CHECKPOINT_VERSION: u16 = 1;

/// What a log keeps of its last pass.
#[derive(Debug, Default)]
pub(super) struct CompactionState {
    /// Read at the first pass.
    checkpoint: Option<CleanerCheckpoint>,
    rests_until_ms: i64,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactionOutcome {
    /// Records that went.
    pub dropped_records: u64,
    /// Bytes of the segments replaced.
    pub bytes_before: u64,
    /// Bytes of those in their place.
    pub bytes_after: u64,
}

/// A group's new segment, written and synced under a name that means nothing yet.
struct CleanedSegment {
    segment: LogSegment,
    path: PathBuf,
    /// It differs from what it stands for.
    changed: bool,
    checkpoint: CleanerCheckpoint,
    dropped_records: u64,
}

/// What the steps of a pass share.
struct Pass {
    map: OffsetMap,
    producers: ProducerStateTable,
    now_ms: i64,
    delete_retention_ms: i64,
    log_start: Offset,
    idempotent_from: Option<Offset>,
}

/// Retention's and compaction's view of the segments that take no more appends.
pub(super) fn closed_segments(segments: &[Arc<LogSegment>]) -> Vec<ClosedSegment> {
    let closed = segments.windows(2).map(|pair| ClosedSegment {
        base: pair[0].base,
        end: pair[1].base,
        bytes: pair[0].size(),
        max_timestamp_ms: pair[0].max_timestamp_ms(),
    });
    closed.collect()
}

impl LogCore {
    /// One pass, if it is due. `None` if not, or while another one runs.
    ///
    /// # Errors
    /// What stopped the pass. What was replaced until then is in order.
    pub(super) async fn compact(self: &Arc<Self>) -> Result<Option<CompactionOutcome>, LogError> {
        let config = self.config.load_full();
        if !config.cleanup_policy.compact || self.check_online().is_err() {
            return Ok(None);
        }
        let Ok(mut state) = self.compaction.try_lock() else { return Ok(None) };
        let now_ms = self.context.sys.clock.now_ms();
        let before = match state.checkpoint {
            Some(checkpoint) => checkpoint.truncated(self.log_end()),
            None => {
                let core = Arc::clone(self);
                self.blocking(move || core.read_checkpoint()).await?.truncated(self.log_end())
            }
        };
        state.checkpoint = Some(before);
        let progress = self.progress();
        let closed = closed_segments(&self.segments.load());
        let (log_start, watermark) = (progress.log_start, progress.high_watermark);
        let Some(plan) = plan_cleaning(&closed, before, &config, log_start, watermark, now_ms) else { return Ok(None) };
        if now_ms < state.rests_until_ms {
            return Ok(None);
        }
        let map = self.fill_map(plan).await?;
        let producers = self.control(|_, writer| writer.producers.clone()).await?;
        let pass = Pass {
            map,
            producers,
            now_ms,
            delete_retention_ms: i64::try_from(config.delete_retention.as_millis()).unwrap_or(i64::MAX),
            log_start: log_start.offset(),
            idempotent_from: self.front.lock().idempotency.oldest_offset(),
        };
        let (after, outcome) = self.replace_groups(pass, u64::from(config.segment_bytes)).await?;
        if outcome.dropped_records == 0 && after.clean_to <= before.clean_to {
            state.rests_until_ms = now_ms.saturating_add(REST_MS);
        }
        let core = Arc::clone(self);
        self.blocking(move || core.write_checkpoint(after)).await?;
        state.checkpoint = Some(after);
        Ok(Some(outcome))
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        run_blocking(&*self.context.sys.io, Lane::Background, work).await
    }

    // ---- the map --------------------------------------------------------------------------------------------------

    async fn fill_map(self: &Arc<Self>, plan: CleaningPlan) -> Result<OffsetMap, LogError> {
        let mut map = OffsetMap::new(plan.map_from, MAP_BYTES);
        let segments = self.segments.load_full();
        let dirty = segments.windows(2).filter(|pair| pair[1].base > plan.map_from && pair[1].base <= plan.end);
        for segment in dirty.map(|pair| Arc::clone(&pair[0])) {
            let core = Arc::clone(self);
            let end = segments.iter().map(|s| s.base).find(|base| *base > segment.base).unwrap_or(plan.end);
            let (filled, whole) = self.blocking(move || core.index_segment(&segment, end, map)).await?;
            map = filled;
            if !whole {
                break;
            }
        }
        Ok(map)
    }

    fn index_segment(
        &self,
        segment: &LogSegment,
        end: Offset,
        mut map: OffsetMap,
    ) -> Result<(OffsetMap, bool), LogError> {
        let mut whole = true;
        self.each_closed_batch(segment, |batch| {
            whole = whole && map.index(batch, LIMIT).map_err(|error| self.damaged(segment, &error.to_string()))?;
            Ok(())
        })?;
        if whole {
            map.skip_to(end); // what an earlier pass took out at its end
        }
        Ok((map, whole))
    }

    fn each_closed_batch(
        &self,
        segment: &LogSegment,
        mut see: impl FnMut(&RecordBatch) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let failed = |error: io::Error| LogError::io(format!("reading {}", segment.log.path().display()), &error);
        let file = self.context.files.get(&segment.log, Access::Blocking).map_err(failed)?;
        let mut walk = BatchWalk::new(&*file, 0, segment.size());
        loop {
            match walk.next().map_err(failed)? {
                Walked::Batch(_, batch) => see(&batch)?,
                Walked::End => return Ok(()),
                Walked::Bad(why) => return Err(self.damaged(segment, &why)),
            }
        }
    }

    fn damaged(&self, segment: &LogSegment, why: &str) -> LogError {
        LogError::Corrupt(format!("{}: {why}", segment.log.path().display()))
    }

    // ---- the groups -----------------------------------------------------------------------------------------------

    async fn replace_groups(
        self: &Arc<Self>,
        pass: Pass,
        segment_bytes: u64,
    ) -> Result<(CleanerCheckpoint, CompactionOutcome), LogError> {
        let pass = Arc::new(pass);
        let mut outcome = CompactionOutcome::default();
        let mut after = CleanerCheckpoint { clean_to: pass.map.end(), map_from: pass.map.end() };
        let segments = self.segments.load_full();
        let closed = closed_segments(&segments);
        for group in group_segments(&closed, pass.map.end(), segment_bytes) {
            let end = closed[group.end - 1].end;
            let old = segments[group].to_vec();
            let (core, shared, read) = (Arc::clone(self), Arc::clone(&pass), old.clone());
            let cleaned = self.blocking(move || core.write_cleaned(&read, end, &shared)).await?;
            after.map_from = after.map_from.min(cleaned.checkpoint.map_from);
            if !cleaned.changed && old.len() == 1 {
                let core = Arc::clone(self);
                self.blocking(move || core.discard(&cleaned.path)).await;
                continue;
            }
            outcome.dropped_records += cleaned.dropped_records;
            outcome.bytes_before += old.iter().map(|segment| segment.size()).sum::<u64>();
            outcome.bytes_after += cleaned.segment.size();
            self.control(move |core, _| core.replace(&old, cleaned)).await??;
        }
        Ok((after, outcome))
    }

    /// Cleans a run of segments into a file of its own. Leaves no file behind if that fails.
    fn write_cleaned(&self, old: &[Arc<LogSegment>], end: Offset, pass: &Pass) -> Result<CleanedSegment, LogError> {
        let base = old[0].base;
        let path = self.folder.join(format!("{}{CLEANED_SUFFIX}", replacement_name(base, end)));
        let disk = self.context.files.disk();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull => LogError::DiskFull,
            _ => LogError::io(format!("writing {}", path.display()), &error),
        };
        if disk.exists(&path) {
            disk.remove_file(&path).map_err(failed)?; // of a pass that was stopped
        }
        let file = disk.open(&path, OpenMode::CreateNew).map_err(failed)?;
        let is_last = |header: &BatchHeader| pass.producers.is_last_batch(header);
        let rules = CleaningRules {
            now_ms: pass.now_ms,
            delete_retention_ms: pass.delete_retention_ms,
            log_start: pass.log_start,
            idempotent_from: pass.idempotent_from,
            is_last_of_producer: &is_last,
            limit: LIMIT,
        };
        let mut cleaner = Cleaner::new(&pass.map, rules);
        let mut output =
            Output { file: &*file, segment: LogSegment::replacing(&self.folder, base), buffer: vec![], at: 0 };
        let mut changed = false;
        let cleaned = old.iter().try_for_each(|segment| {
            self.each_closed_batch(segment, |batch| {
                let cleaned = cleaner.clean(batch).map_err(|error| self.damaged(segment, &error.to_string()))?;
                changed |= cleaned != CleanedBatch::Kept;
                match cleaned {
                    CleanedBatch::Kept => output.push(batch.header(), batch.bytes()).map_err(failed),
                    CleanedBatch::Rewritten(bytes) => {
                        let header = RecordBatch::parse_header(&bytes);
                        let header = header.map_err(|error| self.damaged(segment, &error.to_string()))?;
                        output.push(&header, &bytes).map_err(failed)
                    }
                    CleanedBatch::Dropped => Ok(()),
                }
            })
        });
        if let Err(error) = cleaned.and_then(|()| output.flush().and_then(|()| file.sync_all()).map_err(failed)) {
            self.discard(&path);
            return Err(error);
        }
        let Output { segment, at, .. } = output;
        segment.publish(at);
        let dropped_records = cleaner.dropped_records();
        Ok(CleanedSegment { segment, path, changed, checkpoint: cleaner.finish(), dropped_records })
    }

    fn discard(&self, path: &Path) {
        if let Err(error) = self.context.files.disk().remove_file(path) {
            // The next pass or start removes it.
            tracing::warn!(path = %path.display(), %error, "removing an unused file failed");
        }
    }

    /// Puts a cleaned segment in the place of those that it was made of. Runs as a change of the log's job.
    fn replace(&self, old: &[Arc<LogSegment>], cleaned: CleanedSegment) -> Result<(), LogError> {
        let segments = self.segments.load_full();
        let first = segments.partition_point(|segment| segment.base < cleaned.segment.base);
        let still_there = segments.get(first..first + old.len()).is_some_and(|now| {
            now.iter().zip(old).all(|(now, old)| Arc::ptr_eq(now, old)) && first + old.len() < segments.len()
        });
        if !still_there || self.check_online().is_err() {
            // Retention was faster. The next pass sees what is there then.
            self.discard(&cleaned.path);
            return self.check_online();
        }
        let files = &self.context.files;
        let committed = commit(&**files.disk(), &self.folder, &cleaned.path);
        // Before the old names get new files: whoever holds an old segment and has to open it must not find these.
        old.iter().for_each(|segment| segment.retire(files));
        let replaced = old.iter().map(|segment| segment.base).collect::<Vec<_>>();
        let swapped = committed.and_then(|swap| finish_swap(&**files.disk(), &self.folder, &swap, &replaced));
        if let Err(error) = swapped {
            return Err(self.go_offline(format!("replacing segments in {}: {error}", self.folder.display())));
        }
        let segment = Arc::new(cleaned.segment);
        metrics().segments.dec_by(old.len() as i64 - 1);
        metrics().log_bytes.inc_by(segment.size() as i64 - old.iter().map(|s| s.size() as i64).sum::<i64>());
        let mut now = segments[..first].to_vec();
        now.push(Arc::clone(&segment));
        now.extend_from_slice(&segments[first + old.len()..]);
        self.segments.store(Arc::new(now));
        if let Err(error) = segment.flush_indexes(files, true) {
            // They are in memory until the next start, which builds them anew.
            tracing::warn!(path = %segment.log.path().display(), %error, "writing an index failed");
        }
        Ok(())
    }

    // ---- the checkpoint -------------------------------------------------------------------------------------------

    fn read_checkpoint(&self) -> Result<CleanerCheckpoint, LogError> {
        let path = self.folder.join(CHECKPOINT_FILE);
        let disk = self.context.files.disk();
        if !disk.exists(&path) {
            return Ok(CleanerCheckpoint::default());
        }
        let what = path.display().to_string();
        let bytes = disk.read(&path).map_err(|error| LogError::io(format!("reading {what}"), &error))?;
        match decode_checkpoint(&what, &bytes) {
            Err(error @ LogError::Corrupt(_)) => {
                tracing::warn!(%error, "the whole log counts as dirty");
                Ok(CleanerCheckpoint::default())
            }
            result => result,
        }
    }

    fn write_checkpoint(&self, checkpoint: CleanerCheckpoint) -> Result<(), LogError> {
        let path = self.folder.join(CHECKPOINT_FILE);
        let written = self.context.files.disk().write_atomic(&path, &encode_checkpoint(checkpoint));
        written.map_err(|error| LogError::io(format!("writing {}", path.display()), &error))
    }
}

/// Batches on their way into a cleaned file.
struct Output<'a> {
    file: &'a dyn File,
    segment: LogSegment,
    buffer: Vec<u8>,
    /// Where the next batch goes.
    at: u64,
}

impl Output<'_> {
    fn push(&mut self, header: &BatchHeader, bytes: &[u8]) -> io::Result<()> {
        self.segment.index_batch(header, self.at);
        self.buffer.extend_from_slice(bytes);
        self.at += bytes.len() as u64;
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at - self.buffer.len() as u64)?;
        self.buffer.clear();
        Ok(())
    }
}

fn encode_checkpoint(checkpoint: CleanerCheckpoint) -> Vec<u8> {
    let payload = [checkpoint.clean_to, checkpoint.map_from].map(|offset| offset.get().to_be_bytes()).concat();
    frame(CHECKPOINT_MAGIC, CHECKPOINT_VERSION, &payload)
}

fn decode_checkpoint(what: &str, bytes: &[u8]) -> Result<CleanerCheckpoint, LogError> {
    let corrupt = || LogError::Corrupt(format!("{what}: its content does not fit"));
    let payload = unframe(what, CHECKPOINT_MAGIC, CHECKPOINT_VERSION, bytes)?;
    let ([clean_to, map_from], []) = payload.as_chunks::<8>() else { return Err(corrupt()) };
    let (clean_to, map_from) = (i64::from_be_bytes(*clean_to), i64::from_be_bytes(*map_from));
    if map_from < 0 || clean_to < map_from {
        return Err(corrupt());
    }
    Ok(CleanerCheckpoint { clean_to: Offset::new(clean_to), map_from: Offset::new(map_from) })
}

// ---- replacing files ----------------------------------------------------------------------------------------------

/// The name of a file that stands for all segments from `base` up to `end`, without its last suffix.
fn replacement_name(base: Offset, end: Offset) -> String {
    format!("{:020}-{:020}{}", base.get(), end.get(), FileKind::Log.suffix())
}

/// The reverse of [`replacement_name`] with [`SWAP_SUFFIX`].
fn parse_swap_name(name: &str) -> Option<(Offset, Offset)> {
    let range = name.strip_suffix(SWAP_SUFFIX)?.strip_suffix(FileKind::Log.suffix())?;
    let (base, end) = range.split_once('-')?;
    let (base, end): (i64, i64) = (base.parse().ok()?, end.parse().ok()?);
    (0 <= base && base < end).then(|| (Offset::new(base), Offset::new(end)))
}

/// From here on the new file counts, whatever happens. Gives its new path.
fn commit(disk: &dyn Disk, folder: &Path, cleaned: &Path) -> io::Result<PathBuf> {
    let swap = cleaned.with_extension(&SWAP_SUFFIX[1..]);
    disk.rename(cleaned, &swap)?;
    disk.sync_dir(folder)?;
    Ok(swap)
}

/// Removes the segments that a swap file stands for, and gives it the name of the first.
fn finish_swap(disk: &dyn Disk, folder: &Path, swap: &Path, replaced: &[Offset]) -> io::Result<()> {
    let Some((first, others)) = replaced.split_first() else { return Ok(()) };
    let log = file_path(folder, *first, FileKind::Log);
    // The first segment's own file is replaced by the rename; its indexes would lead into the wrong one.
    let indexes = [FileKind::Index, FileKind::TimeIndex];
    let gone = indexes.map(|kind| file_path(folder, *first, kind)).into_iter();
    let whole = [FileKind::Log, FileKind::Index, FileKind::TimeIndex];
    let gone = gone.chain(others.iter().flat_map(|base| whole.map(|kind| file_path(folder, *base, kind))));
    for path in gone.filter(|path| disk.exists(path)) {
        disk.remove_file(&path)?;
    }
    disk.sync_dir(folder)?;
    disk.rename(swap, &log)?;
    disk.sync_dir(folder)
}

/// Ends what a crash interrupted between the two renames of a replacement. Called before anything else looks at the
/// segments.
pub(super) fn finish_swaps(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let entries = disk.read_dir(folder)?;
    for (name, (base, end)) in entries.iter().filter_map(|e| Some((&e.name, parse_swap_name(&e.name)?))) {
        let logs = entries.iter().filter_map(|entry| layout::parse_file_name(&entry.name));
        let covered = logs.filter(|(at, kind)| *kind == FileKind::Log && *at > base && *at < end).map(|(at, _)| at);
        let replaced: Vec<Offset> = [base].into_iter().chain(covered).collect();
        finish_swap(disk, folder, &folder.join(name), &replaced)?;
    }
    Ok(())
}
