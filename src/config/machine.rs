//! How much memory the server may take: a quarter of what the machine or its control group gives.

use crate::sys::{Disk, OpenMode};
use std::path::Path;

/// Deepest control group that is followed up to the root.
const MAX_DEPTH: usize = 32;
/// The files of `/proc` and `/sys` that are read say what counts in their first bytes.
const MAX_BYTES: usize = 4096;
/// Below this the server would not run; it is also the default where nothing can be found out.
const LEAST: u64 = 64 << 20;

/// A quarter of the machine's memory, or of the smallest limit of the control groups around this process.
#[must_use]
pub fn default_memory(disk: &dyn Disk) -> u64 {
    let limits = group_limits(disk).into_iter().chain(machine_memory(disk));
    limits.min().map_or(LEAST, |limit| (limit / 4).max(LEAST))
}

/// `MemTotal:       24676288 kB`, where a kB is 1024 bytes.
fn machine_memory(disk: &dyn Disk) -> Option<u64> {
    let text = kernel_text(disk, "/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn group_limits(disk: &dyn Disk) -> Vec<u64> {
    let mut limits = Vec::new();
    let groups = kernel_text(disk, "/proc/self/cgroup").unwrap_or_default();
    // Version 2 has the one line `0::/path`; version 1 names its controllers.
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            c if c.split(',').any(|c| c == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(group.trim_start_matches('/')).ancestors().take(MAX_DEPTH) {
            let path = Path::new(root).join(group).join(file);
            // `max`, for no limit, is no number.
            limits.extend(kernel_text(disk, &path.to_string_lossy()).and_then(|text| text.trim().parse::<u64>().ok()));
        }
    }
    limits
}

/// The first 4 KiB of a file of the kernel's (`/proc`, `/sys`), which says that its length is 0.
#[must_use]
pub fn kernel_text(disk: &dyn Disk, path: &str) -> Option<String> {
    let file = disk.open(Path::new(path), OpenMode::Read).ok()?;
    let mut bytes = vec![0; MAX_BYTES];
    let n = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(n);
    String::from_utf8(bytes).ok()
}
