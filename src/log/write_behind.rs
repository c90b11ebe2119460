//! Syncs behind the appends of a log that does not wait for them (`flush=interval|os`).
//!
//! A segment is begun only after the one before it was synced. If all of that were left to the roll, appends would stand
//! still while a whole segment goes to the disk; and what a crash leaves to be walked, or a power cut to be lost, would be
//! as much. So after every few groups' worth ([`STEP_GROUPS`]) what was written is synced by a background thread, while appends
//! go on.
//!
//! **Invariant**: one such sync at a time for each log, and the durable end rises to what was written before it began. If it
//! fails the log goes offline, as after any other; a roll waits for the one under way, and fails with it.
//!
//! Called by `writer`, within the log's job; the sync itself runs on the background lane.

use super::core::LogCore;
use super::writer::Writer;
use crate::sys::{File, Job, Lane, Step};
use crate::types::Offset;
use std::sync::{Arc, Weak};

/// A sync for so many times the bytes of the largest group (8 MiB in all).
const STEP_GROUPS: u64 = 2;

/// How much of the active segment is not known to be on the disk.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    unsynced: u64,
    under_way: bool,
}

impl WriteBehind {
    /// The whole log was synced.
    pub(super) fn all_is_synced(&mut self) {
        self.unsynced = 0;
    }
}

struct Sync {
    log: Weak<LogCore>,
    file: Arc<dyn File>,
    /// What was written when it was asked for.
    end: Offset,
}

impl LogCore {
    /// Counts a group that was written to the active segment's file, and has it synced if that is due.
    pub(super) fn sync_behind(&self, writer: &mut Writer, file: &Arc<dyn File>, bytes: u64, end: Offset) {
        let behind = &mut writer.write_behind;
        behind.unsynced += bytes;
        if behind.unsynced >= STEP_GROUPS * self.context.settings.group_bytes as u64 && !behind.under_way {
            *behind = WriteBehind { unsynced: 0, under_way: true };
            let sync = Sync { log: self.weak(), file: Arc::clone(file), end };
            self.context.sys.io.submit(Lane::Background, Arc::new(sync));
        }
    }

    fn synced_behind(&self, writer: &mut Writer, end: Offset) {
        writer.write_behind.under_way = false;
        if self.check_online().is_ok() && end > self.durable_end() {
            self.set_durable_end(end);
            self.note_recovery_point(writer, end);
        }
    }
}

impl Job for Sync {
    fn step(&self) -> Step {
        let Some(log) = self.log.upgrade() else { return Step::Done };
        match log.sync_file(&*self.file) {
            Ok(()) => {
                let end = self.end;
                // A log that was closed meanwhile has synced everything itself.
                let _ = log.enqueue_control(false, move |log, writer| log.synced_behind(writer, end));
            }
            Err(error) => {
                log.go_offline(format!("syncing {} behind its appends: {error}", log.folder.display()));
            }
        }
        Step::Done
    }
}
