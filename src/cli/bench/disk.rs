//! The disk's own limits: how fast it writes, and how often it can sync.

use crate::cli::CliError;
use crate::sys::{Lane, OpenMode, Sys, run_blocking};
use hdrhistogram::Histogram;
use std::path::Path;

const SEQUENTIAL_BYTES: u64 = 256 << 20;
const WRITE_BYTES: usize = 1 << 20;
const SYNCS: u64 = 500;
const SYNCED_BYTES: usize = 1024;

/// What the disk can do.
#[derive(Debug)]
pub struct DiskLimits {
    /// Bytes a second into a fresh file, the final sync included.
    pub sequential_bytes_per_second: f64,
    /// Microseconds of an fdatasync after appending 1 KiB.
    pub sync_micros: Histogram<u64>,
}

/// Measures in a folder; takes a second or so.
pub async fn measure(sys: &Sys, folder: &Path) -> Result<DiskLimits, CliError> {
    let (inner, path) = (sys.clone(), folder.join("disk"));
    let limits = run_blocking(&*sys.io, Lane::Background, move || {
        let file = inner.disk.open(&path, OpenMode::CreateNew)?;
        let block = vec![0x5a; WRITE_BYTES];
        let started = inner.clock.monotonic();
        for at in (0..SEQUENTIAL_BYTES).step_by(WRITE_BYTES) {
            file.write_all_at(&block, at)?;
        }
        file.sync_all()?;
        let seconds = (inner.clock.monotonic() - started).as_secs_f64();
        let mut sync_micros = super::histogram();
        for i in 0..SYNCS {
            file.write_all_at(&block[..SYNCED_BYTES], SEQUENTIAL_BYTES + i * SYNCED_BYTES as u64)?;
            let started = inner.clock.monotonic();
            file.sync_data()?;
            sync_micros.saturating_record((inner.clock.monotonic() - started).as_micros() as u64);
        }
        inner.disk.remove_file(&path)?;
        Ok(DiskLimits { sequential_bytes_per_second: SEQUENTIAL_BYTES as f64 / seconds, sync_micros })
    });
    limits.await.map_err(|e: std::io::Error| CliError::failed(format!("cannot measure the disk: {e}")))
}
