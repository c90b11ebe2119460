//! Changes of a log other than appends, as its job makes them between two groups.
//!
//! **Invariant**: whatever is taken away is first said, durably, to be gone: the log start before the segments below
//! it, the recovery point before the tail. Runs on the pool's threads, inside the log's job.

use super::LogError;
use super::compaction::closed_segments;
use super::core::LogCore;
use super::layout::{self, DELETED_SUFFIX, EPOCH_FILE, LOG_START_FILE, META_FILE, encode_log_start};
use super::recovery_point::RecoveryPoint;
use super::retention::expired_segments;
use super::segment::{LogSegment, NO_TIMESTAMP};
use super::writer::{Unsettled, Writer};
use crate::telemetry::metrics;
use crate::types::{FlushPolicy, LeaderEpoch, Offset};
use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

impl LogCore {
    /// See [`super::PartitionLog::become_leader`].
    pub(super) fn lead(&self, writer: &mut Writer, epoch: LeaderEpoch) -> Result<(), LogError> {
        self.check_online()?;
        let news = self.epochs.write().assign(epoch, writer.next_offset);
        // Durable with the first record under it: until then there is nothing to tell from another history.
        writer.unsettled.epochs |= news.map_err(|error| LogError::Corrupt(error.to_string()))?;
        writer.epoch = epoch;
        self.update_progress(|progress| progress.leader_epoch = epoch);
        Ok(())
    }

    /// Makes durable what the next record relies on: the folder that it lies in, and the epoch that it is under.
    pub(super) fn settle(&self, writer: &mut Writer) -> Result<(), LogError> {
        let Unsettled { folder, epochs } = writer.unsettled;
        if !folder && !epochs {
            return Ok(());
        }
        let disk = self.context.files.disk();
        let settled = || -> io::Result<()> {
            if folder {
                // Written anew, and not only synced: after a sync that failed, its pages pass for clean.
                disk.write_atomic(&self.folder.join(META_FILE), &layout::encode_meta(self.id, &self.name))?;
            }
            if epochs {
                let bytes = self.epochs.read().to_bytes();
                disk.write_atomic(&self.folder.join(EPOCH_FILE), &bytes)?;
            }
            if folder {
                disk.sync_dir(&self.folder)?;
                disk.sync_dir(self.folder.parent().unwrap_or(Path::new(".")))?;
            }
            Ok(())
        };
        match settled() {
            Ok(()) => {
                writer.unsettled = Unsettled::default();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(LogError::DiskFull),
            // What a failed sync left is not known: it is not tried again.
            Err(error) => {
                if folder {
                    // Nothing in it was acknowledged: the next start makes another, whose names are not on the disk either.
                    // Where this fails as well there is still the description, which is written anew.
                    let _ = disk.rename(&self.folder, &layout::with_suffix(&self.folder, DELETED_SUFFIX));
                }
                Err(self.go_offline(format!("syncing {}: {error}", self.folder.display())))
            }
        }
    }

    /// Moves the log start up to `before`, at most to the high watermark, and removes the segments that are wholly
    /// below it. Gives the log start.
    pub(super) fn raise_log_start(&self, before: Offset) -> Result<Offset, LogError> {
        self.check_online()?;
        let progress = self.progress();
        let (old, limit) = (progress.log_start.offset(), progress.high_watermark.offset());
        let start = before.min(limit);
        if start <= old {
            return Ok(old);
        }
        let path = self.folder.join(LOG_START_FILE);
        let written = self.context.files.disk().write_atomic(&path, &encode_log_start(start));
        written.map_err(|error| LogError::io(format!("writing {}", path.display()), &error))?;
        self.update_progress(|progress| progress.log_start = start.into());
        self.front.lock().idempotency.truncate_from_start(start);
        self.drop_segments_below(start);
        Ok(start)
    }

    /// Forgets and removes closed segments that end at or below the log start, which must be durable already.
    fn drop_segments_below(&self, start: Offset) {
        let segments = self.segments.load_full();
        let gone = segments.windows(2).take_while(|pair| pair[1].base <= start).count();
        if gone == 0 {
            return;
        }
        self.segments.store(Arc::new(segments[gone..].to_vec()));
        segments[..gone].iter().for_each(|segment| self.remove_segment(segment));
        let mut epochs = self.epochs.read().clone();
        if epochs.truncate_from_start(start) {
            // A failure here costs nothing but entries of epochs that no record has any more.
            let written = self.context.files.disk().write_atomic(&self.folder.join(EPOCH_FILE), &epochs.to_bytes());
            if let Err(error) = written {
                tracing::warn!(topic = %self.name, partition = %self.id.partition, %error, "writing the epochs failed");
            }
            *self.epochs.write() = epochs;
        }
    }

    pub(super) fn remove_segment(&self, segment: &LogSegment) {
        metrics().segments.dec();
        metrics().log_bytes.dec_by(segment.size() as i64);
        if let Err(error) = segment.remove(&self.context.files) {
            // What is below the log start is removed at the next start.
            tracing::warn!(path = %segment.log.path().display(), %error, "removing a segment failed");
        }
    }

    /// Takes a changed flush policy. Before the first append under a laxer one, the recovery point says durably that
    /// its tail is no longer synced group by group: recovery reads a gap in it as loss, and not as corruption.
    pub(super) fn set_flush(&self, writer: &mut Writer, flush: FlushPolicy) {
        if flush == writer.flush || self.check_online().is_err() {
            return;
        }
        if flush != FlushPolicy::Commit {
            let point = RecoveryPoint { durable_end: self.durable_end(), strict: false };
            let noted = self.context.points.set(self.id, point).and_then(|()| self.context.points.sync());
            if let Err(error) = noted {
                // The stricter policy stays: it is safe, and only slower.
                tracing::error!(topic = %self.name, partition = %self.id.partition, %error, "flush stays as it was");
                return;
            }
            writer.flush = flush;
        } else {
            writer.flush = flush;
            // All that is there becomes durable now, so that from here on at most one group is not.
            if self.sync_active(writer).is_ok() {
                self.advance_local_watermark();
            }
        }
    }

    fn advance_local_watermark(&self) {
        if self.watermark_source() == super::WatermarkSource::Local {
            self.advance_high_watermark(self.log_end());
        }
    }

    /// Rolls by age, and drops what retention no longer keeps.
    pub(super) fn retain(&self, writer: &mut Writer) -> Result<(), LogError> {
        self.roll_by_age(writer)?;
        let (config, progress) = (self.config.load(), self.progress());
        let closed = closed_segments(&self.segments.load());
        let (start, watermark) = (progress.log_start, progress.high_watermark);
        let now_ms = self.context.sys.clock.now_ms();
        let gone = expired_segments(&closed, writer.segment.size(), &config, start, watermark, now_ms);
        match gone.checked_sub(1) {
            // Also for those already below the log start: an interrupted removal is finished here.
            Some(last) if closed[last].end > start.offset() => self.raise_log_start(closed[last].end).map(drop),
            Some(_) => {
                self.drop_segments_below(start.offset());
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Syncs what `flush=interval` left, if anything.
    pub(super) fn flush_interval(&self, writer: &mut Writer) -> Result<(), LogError> {
        self.check_online()?;
        if self.durable_end() < writer.next_offset { self.sync_active(writer) } else { Ok(()) }
    }

    /// Begins a new segment if the active one is old enough; called for logs that get no appends.
    pub(super) fn roll_by_age(&self, writer: &mut Writer) -> Result<(), LogError> {
        self.check_online()?;
        let first = writer.segment.first_append_ms.load(Ordering::Relaxed);
        let age = i64::try_from(self.config.load().segment_age.as_millis()).unwrap_or(i64::MAX);
        let old = first != NO_TIMESTAMP && self.context.sys.clock.now_ms().saturating_sub(first) >= age;
        if writer.position > 0 && old { self.roll(writer) } else { Ok(()) }
    }

    /// A clean stop: everything synced, the tail trimmed, indexes and snapshot whole. Nothing to do where nothing came
    /// since the start.
    pub(super) fn finish(&self, writer: &mut Writer) {
        if writer.touched && self.check_online().is_ok() && self.sync_active(writer).is_ok() {
            let closed = writer.segment.flush_indexes(&self.context.files, true);
            let closed = closed.and_then(|()| self.write_snapshot(writer));
            if let Err(error) = closed {
                tracing::warn!(topic = %self.name, partition = %self.id.partition, %error, "the next start takes longer");
            }
        }
        self.fail_all(&LogError::Closed);
    }
}
