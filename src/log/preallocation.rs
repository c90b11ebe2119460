//! Zeros ahead of the log's end, so that a sync has no new length and no new extent to write down.
//!
//! **Invariant**: what lies past the log's end is zero. (`fallocate` would leave unwritten extents, whose conversion
//! costs what this saves.) Roll, clean stop and every cut take the zeros off again, and recovery reads them as the end.
//!
//! Only for logs that sync many small groups: there it saves a quarter of each sync, while for large groups the zeros
//! would cost a second write of every byte. Called by `writer`, within the log's job.

use crate::sys::File;
use std::{io, time::Duration};

/// Bytes written ahead at once.
const STEP_BYTES: u64 = 8 << 20;
/// Bytes of zeros in one write.
const WRITE_BYTES: u64 = 1 << 20;
/// Groups are counted over this long.
const WINDOW: Duration = Duration::from_secs(1);
/// A log is busy from so many groups in a window on.
const BUSY_GROUPS: u32 = 100;
/// And their groups are small up to this many bytes each.
const SMALL_GROUP_BYTES: u64 = 32 << 10;

/// How far ahead a log's file is written, and whether it should be.
#[derive(Debug, Default)]
pub(super) struct Preallocation {
    /// The file's end; `None` if nothing was written ahead.
    end: Option<u64>,
    window_start: Duration,
    groups: u32,
    bytes: u64,
}

impl Preallocation {
    /// Counts a group of so many bytes that goes to `position`, and writes zeros ahead if that is worth it. Never past
    /// `segment_bytes`, where the log rolls. If the disk has no room for them, there just are none.
    pub(super) fn prepare(&mut self, file: &dyn File, now: Duration, position: u64, bytes: u64, segment_bytes: u32) {
        if now.saturating_sub(self.window_start) > WINDOW {
            (self.window_start, self.groups, self.bytes) = (now, 0, 0);
        }
        self.groups += 1;
        self.bytes += bytes;
        let busy = self.groups >= BUSY_GROUPS && self.bytes / u64::from(self.groups) <= SMALL_GROUP_BYTES;
        let end = self.end.unwrap_or(position).max(position);
        let limit = u64::from(segment_bytes);
        if !busy || position + bytes <= end || end >= limit {
            return;
        }
        let target = (end + STEP_BYTES).min(limit);
        if write_zeros(file, end, target).is_ok() {
            self.end = Some(target);
        } else {
            // Whatever was written is zeros past the end, and goes with the next cut; a full disk shows at the group.
            self.groups = 0;
        }
    }

    /// The file was cut to the log's end.
    pub(super) fn forget(&mut self) {
        self.end = None;
    }
}

fn write_zeros(file: &dyn File, mut from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; WRITE_BYTES.min(to - from) as usize];
    while from < to {
        let n = WRITE_BYTES.min(to - from);
        if let Err(error) = file.write_all_at(&zeros[..n as usize], from) {
            file.set_len(from)?; // gives the room back that the group needs
            return Err(error);
        }
        from += n;
    }
    Ok(())
}
