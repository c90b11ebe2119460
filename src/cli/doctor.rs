//! `sluice doctor`: looks at the data folder of a server that is stopped, and says what is there and what is wrong.
//!
//! **Invariant**: it changes nothing, and it does not look at a folder that a server uses. What is looked at, and what is
//! wrong with it, is [`log::inspect`]'s to say; here it is only shown.

use super::{
    CliError,
    output::{self, OutputArgs},
};
use crate::log::{self, PartitionReport};
use crate::metadata::DataFolder;
use crate::sys::Sys;
use crate::types::{PartitionId, TopicId};
use serde_json::json;
use std::{io, path::PathBuf};

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
    let entries = sys.disk.read_dir(&topics).map_err(unreadable)?;
    let mut rows = Vec::new();
    let mut damaged = 0_usize;
    // The folder of what nobody knew is among them, whose contents are nobody's now.
    for entry in entries.into_iter().filter(|e| e.is_dir && is_partition(&e.name)) {
        let report =
            log::inspect(&*sys.disk, &topics.join(&entry.name)).map_err(|e| CliError::failed(e.to_string()))?;
        damaged += usize::from(state(&report) == DAMAGED);
        report.problems.iter().for_each(|problem| eprintln!("{problem}"));
        if args.output.is_json() {
            output::json_line(&to_json(&entry.name, &report))?;
        } else {
            rows.push(to_row(&entry.name, &report));
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

/// A partition's folder is named by its topic's id and its number.
fn is_partition(name: &str) -> bool {
    let parts = name.rsplit_once('-');
    parts.is_some_and(|(topic, number)| topic.parse::<TopicId>().is_ok() && number.parse::<i32>().is_ok_and(|n| n >= 0))
}

const DAMAGED: &str = "damaged";

fn state(report: &PartitionReport) -> &'static str {
    if report.problems.iter().any(|problem| !problem.repaired_at_start) {
        DAMAGED
    } else if report.problems.is_empty() && report.unfinished_bytes == 0 {
        "well"
    } else {
        "not closed"
    }
}

/// The topic's name and the partition's number where the folder says them, else the folder's own name.
fn label(folder: &str, report: &PartitionReport) -> String {
    match (&report.topic, report.id) {
        (Some(topic), Some(id)) => format!("{topic}/{}", id.partition),
        _ => folder.to_owned(),
    }
}

fn to_row(folder: &str, report: &PartitionReport) -> Vec<String> {
    vec![
        label(folder, report),
        report.log_start.to_string(),
        report.log_end.to_string(),
        report.records.to_string(),
        report.batches.to_string(),
        report.segments.to_string(),
        output::bytes(report.bytes),
        state(report).to_owned(),
    ]
}

fn to_json(folder: &str, report: &PartitionReport) -> serde_json::Value {
    let problems = report.problems.iter().map(|problem| {
        json!({
            "file": problem.file.display().to_string(), "position": problem.position, "what": problem.what,
            "repaired_at_start": problem.repaired_at_start,
        })
    });
    let mut line = json!({
        "folder": folder, "log_start_offset": report.log_start.get(), "log_end_offset": report.log_end.get(),
        "records": report.records, "batches": report.batches, "segments": report.segments, "size_bytes": report.bytes,
        "unfinished_bytes": report.unfinished_bytes, "state": state(report), "problems": problems.collect::<Vec<_>>(),
    });
    if let Some(topic) = &report.topic {
        line["topic"] = topic.as_str().into();
    }
    if let Some(partition) = report.id.map(|id| id.partition).map(PartitionId::get) {
        line["partition"] = partition.into();
    }
    line
}
