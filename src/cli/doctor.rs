//! `sluice doctor`: looks at the data folder of a server that is stopped, and says what is there and what is wrong.
//!
//! **Invariant**: it changes nothing, and it does not look at a folder that a server uses. It reads every batch of every
//! segment as the recovery would, but also those that the recovery trusts.

use super::{
    CliError,
    output::{self, OutputArgs},
};
use crate::codec::{BatchError, HEADER_BYTES, RecordBatch};
use crate::metadata::DataFolder;
use crate::sys::{Disk, File, OpenMode, Sys};
use crate::types::Offset;
use bytes::Bytes;
use serde_json::json;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Zeros behind the last batch are read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;
/// The longest batch that can be: `max.message.bytes` takes no more.
const MAX_BATCH_BYTES: usize = (1 << 30) + HEADER_BYTES;
/// Digits of the base offset in a segment's name.
const OFFSET_DIGITS: usize = 20;

/// Check the data folder of a server that is stopped
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It reads everything and changes nothing. Exit status: 0 all is well, 1 something is damaged, 3 the \
                        folder cannot be used.\n\nExamples:\n  sluice doctor\n  sluice doctor --data /var/lib/sluice -o json"
)]
pub struct DoctorArgs {
    /// The data folder
    #[arg(long, value_name = "DIR", env = "SLUICE_DATA", default_value = "./sluice-data")]
    data: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// What a partition's folder holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    segments: u64,
    batches: u64,
    records: u64,
    bytes: u64,
    first_offset: Option<Offset>,
    next_offset: Option<Offset>,
    /// What the next start cuts off: a batch at the end that was not written whole.
    cut_off: Option<String>,
    /// What should not be.
    damage: Vec<String>,
}

/// Looks, and prints what it saw.
///
/// # Errors
/// The folder cannot be used (3), or something in it is damaged (1).
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let sys = Sys::real();
    let folder = DataFolder::inspect(&sys, &args.data).map_err(|e| CliError::data_folder(e.to_string()))?;
    let identity = folder.identity();
    eprintln!("data of node {} in cluster {}", identity.node_id, identity.cluster_id);
    let topics = folder.topics();
    let unreadable = |e: io::Error| CliError::data_folder(format!("{} cannot be read: {e}", topics.display()));
    let mut rows = Vec::new();
    let mut damaged = 0_usize;
    for entry in sys.disk.read_dir(&topics).map_err(unreadable)?.into_iter().filter(|e| e.is_dir) {
        let path = topics.join(&entry.name);
        if !looks_like_partition(&*sys.disk, &path) {
            continue; // the folder of what nobody knew, whose contents are nobody's now
        }
        let findings = examine(&*sys.disk, &path);
        damaged += usize::from(!findings.damage.is_empty());
        for text in findings.damage.iter().chain(&findings.cut_off) {
            eprintln!("{}: {text}", path.display());
        }
        if args.output.is_json() {
            output::json_line(&to_json(&entry.name, &findings))?;
        } else {
            rows.push(to_row(&entry.name, &findings));
        }
    }
    if !args.output.is_json() {
        output::table(&["PARTITION", "FIRST", "NEXT", "RECORDS", "BATCHES", "SEGMENTS", "SIZE", "STATE"], &rows)?;
    }
    match damaged {
        0 => Ok(()),
        n => Err(CliError::failed(format!(
            "{n} damaged partitions: with replicas, remove their folders and let them be copied again; without, put \
             them back from a backup"
        ))),
    }
}

fn state(findings: &Findings) -> &'static str {
    match (findings.damage.is_empty(), &findings.cut_off) {
        (false, _) => "damaged",
        (true, Some(_)) => "not closed",
        (true, None) => "well",
    }
}

fn to_row(name: &str, findings: &Findings) -> Vec<String> {
    let offset = |o: Option<Offset>| o.map_or("-".to_owned(), |o| o.get().to_string());
    vec![
        name.to_owned(),
        offset(findings.first_offset),
        offset(findings.next_offset),
        findings.records.to_string(),
        findings.batches.to_string(),
        findings.segments.to_string(),
        output::bytes(findings.bytes),
        state(findings).to_owned(),
    ]
}

fn to_json(name: &str, findings: &Findings) -> serde_json::Value {
    let mut line = json!({
        "partition": name, "records": findings.records, "batches": findings.batches, "segments": findings.segments,
        "size_bytes": findings.bytes, "state": state(findings), "damage": findings.damage,
    });
    let fields = [("first_offset", findings.first_offset), ("next_offset", findings.next_offset)];
    for (name, offset) in fields {
        if let Some(offset) = offset {
            line[name] = offset.get().into();
        }
    }
    if let Some(text) = &findings.cut_off {
        line["cut_off"] = text.as_str().into();
    }
    line
}

/// The base offset in a segment's name (`00000000000000000000.log`).
fn base_offset(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(".log").filter(|d| d.len() == OFFSET_DIGITS)?;
    digits.parse().ok().filter(|n| *n >= 0).map(Offset::new)
}

fn looks_like_partition(disk: &dyn Disk, path: &Path) -> bool {
    disk.read_dir(path).is_ok_and(|entries| entries.iter().any(|e| base_offset(&e.name).is_some()))
}

/// Reads a partition's segments in the order of their offsets.
fn examine(disk: &dyn Disk, folder: &Path) -> Findings {
    let mut findings = Findings::default();
    let entries = match disk.read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => {
            findings.damage.push(format!("it cannot be read: {e}"));
            return findings;
        }
    };
    // Sorted by name, and so by offset: the names have leading zeros.
    let segments: Vec<_> = entries.iter().filter_map(|e| base_offset(&e.name).map(|base| (base, &e.name))).collect();
    for (i, (base, name)) in segments.iter().enumerate() {
        findings.segments += 1;
        if findings.next_offset.is_some_and(|next| *base < next) {
            findings.damage.push(format!("{name}: it begins before the segment in front of it ends"));
        }
        let file = match disk.open(&folder.join(name), OpenMode::Read) {
            Ok(file) => file,
            Err(e) => {
                findings.damage.push(format!("{name}: it cannot be opened: {e}"));
                continue;
            }
        };
        let mut walk = Walk { file: &*file, name, base: *base, is_last: i + 1 == segments.len() };
        if let Err(e) = walk.run(&mut findings) {
            findings.damage.push(format!("{name}: it cannot be read: {e}"));
        }
    }
    findings
}

/// One segment.
struct Walk<'a> {
    file: &'a dyn File,
    name: &'a str,
    base: Offset,
    is_last: bool,
}

impl Walk<'_> {
    fn run(&mut self, findings: &mut Findings) -> io::Result<()> {
        let length = self.file.len()?;
        let mut position = 0;
        let mut least = findings.next_offset.unwrap_or(self.base).max(self.base);
        while position < length {
            let batch = match self.batch(position, length)? {
                Ok(batch) => batch,
                Err(_) if self.is_zero(position, length)? => break, // room that no batch has taken yet
                Err(what) => {
                    let text = format!("{}: at byte {position}: {what}", self.name);
                    // Behind the last batch of the last segment anything may stand that a crash cut short.
                    match self.is_last && self.none_follows(position, length, least)? {
                        true => findings.cut_off = Some(format!("{text}; the next start cuts it off")),
                        false => findings.damage.push(text),
                    }
                    break;
                }
            };
            let header = batch.header();
            if header.base_offset < least {
                findings.damage.push(format!(
                    "{}: at byte {position}: offset {} comes after offset {}",
                    self.name,
                    header.base_offset.get(),
                    least.get() - 1
                ));
                break;
            }
            findings.first_offset.get_or_insert(header.base_offset);
            findings.batches += 1;
            if !header.control {
                findings.records += u64::try_from(header.record_count).unwrap_or_default();
            }
            least = header.next_offset();
            position += batch.bytes().len() as u64;
        }
        findings.bytes += position;
        findings.next_offset = Some(least);
        Ok(())
    }

    /// The batch that begins there, its CRC checked; else what is wrong.
    fn batch(&self, position: u64, length: u64) -> io::Result<Result<RecordBatch, BatchError>> {
        let mut head = vec![0; HEADER_BYTES.min((length - position) as usize)];
        self.file.read_exact_at(&mut head, position)?;
        let header = match RecordBatch::parse_header(&head) {
            Ok(header) => header,
            Err(e) => return Ok(Err(e)),
        };
        let size = header.size;
        if size > MAX_BATCH_BYTES {
            return Ok(Err(BatchError::TooLarge(size)));
        }
        if size as u64 > length - position {
            return Ok(Err(BatchError::Truncated));
        }
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, position)?;
        let batch = RecordBatch::split_from(&mut Bytes::from(bytes));
        Ok(batch.and_then(|batch| batch.verify_crc().map(|()| batch)))
    }

    fn is_zero(&self, mut position: u64, length: u64) -> io::Result<bool> {
        let mut piece = vec![0; PIECE_BYTES];
        while position < length {
            let n = PIECE_BYTES.min((length - position) as usize);
            self.file.read_exact_at(&mut piece[..n], position)?;
            if piece[..n].iter().any(|b| *b != 0) {
                return Ok(false);
            }
            position += n as u64;
        }
        Ok(true)
    }

    /// Whether no whole batch stands behind a bad one that could belong to this log: then nothing acknowledged is behind it.
    fn none_follows(&self, position: u64, length: u64, least: Offset) -> io::Result<bool> {
        let mut piece = vec![0; PIECE_BYTES + HEADER_BYTES];
        let mut start = position + 1;
        while start + HEADER_BYTES as u64 <= length {
            let n = piece.len().min((length - start) as usize);
            self.file.read_exact_at(&mut piece[..n], start)?;
            for (i, head) in piece[..n].windows(HEADER_BYTES).enumerate() {
                let could_be = RecordBatch::parse_header(head).is_ok_and(|h| h.base_offset >= least);
                if could_be && self.batch(start + i as u64, length)?.is_ok() {
                    return Ok(false);
                }
            }
            start += (n - HEADER_BYTES + 1) as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
