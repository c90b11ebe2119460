//! A page of records: what one request reads.
//!
//! **Invariant**: a page holds at most its limits (one record may pass `max_bytes` if it is the first) and looks through at
//! most [`SCAN_BYTES`], so that a filter never makes one request read a whole log. An empty page is not the end;
//! `caught_up` is.

use super::SessionError;
use super::cursor::Cursor;
use super::json::RecordWriter;
use super::log_reader::{Fill, LogReader};
use super::pieces::Pieces;
use super::read_plan::Gap;
use super::snapshot::SnapshotWalk;
use crate::engine::{Engine, EngineError};
use crate::types::PartitionId;
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of records that one page looks through.
const SCAN_BYTES: usize = 32 << 20;

/// Bytes that a record takes where nothing else is known: memory is asked for by it, no more.
const USUAL_RECORD: usize = 2 << 10;

/// The limits of a page.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest {
    /// Most records.
    pub limit: usize,
    /// About the most bytes of JSON.
    pub max_bytes: usize,
    /// How long to wait for a first record.
    pub wait: Duration,
}

/// A page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The records as JSON, with commas between them.
    pub records: Pieces,
    /// How many.
    pub count: usize,
    /// Behind all that was looked at.
    pub cursor: Cursor,
    /// Nothing more was there.
    pub caught_up: bool,
    /// What the reader does not get.
    pub gaps: Vec<Gap>,
    /// Partitions that could not be read now.
    pub unavailable: Vec<PartitionId>,
    /// The smallest timestamp among the records, Unix ms.
    pub oldest_ms: Option<i64>,
}

impl Page {
    /// Reads a page and moves the reader behind it. `gaps` are those known before.
    ///
    /// # Errors
    /// What will not pass by itself.
    pub async fn read(
        reader: &mut LogReader,
        writer: &RecordWriter,
        request: PageRequest,
        mut gaps: Vec<Gap>,
    ) -> Result<Self, SessionError> {
        let deadline = Instant::now() + request.wait;
        let (mut records, mut count, mut caught_up) = (Pieces::default(), 0, false);
        let mut oldest_ms: Option<i64> = None;
        reader.resolve().await?;
        'page: loop {
            match reader.fill().await? {
                Fill::Records => {
                    let room = request.max_bytes.saturating_sub(records.len());
                    let left = request.limit.saturating_sub(count).saturating_mul(USUAL_RECORD);
                    records.expect((reader.held_bytes() / 4 * 5).min(room).min(left));
                    loop {
                        let enough = count >= request.limit || records.len() >= request.max_bytes;
                        if enough || reader.scanned() >= SCAN_BYTES {
                            caught_up = reader.is_at_end();
                            break 'page;
                        }
                        let written = reader.pop_with(|popped| {
                            let out = records.open(writer.about(&popped.record));
                            let before = out.len();
                            if count > 0 {
                                out.push(b',');
                            }
                            writer.write_view(out, popped.partition, &popped.record);
                            (popped.partition, popped.record.offset, popped.record.timestamp_ms, before)
                        })?;
                        let Some((partition, offset, timestamp_ms, before)) = written else { break };
                        if count > 0 && records.len() > request.max_bytes {
                            records.cut(before);
                            reader.unread(partition, offset);
                            break 'page;
                        }
                        count += 1;
                        oldest_ms = Some(oldest_ms.map_or(timestamp_ms, |ms| ms.min(timestamp_ms)));
                    }
                }
                Fill::Gap(gap) => gaps.push(gap),
                Fill::Idle => {
                    let in_vain = count > 0 || !gaps.is_empty() || Instant::now() >= deadline;
                    if in_vain || tokio::time::timeout_at(deadline, reader.wait()).await.is_err() {
                        caught_up = true;
                        break;
                    }
                }
                Fill::Done => {
                    caught_up = true;
                    break;
                }
                Fill::TopicGone => {
                    let name = reader.topic().name.to_string();
                    return Err(EngineError::UnknownTopic(name).into());
                }
            }
        }
        let (cursor, unavailable) = (reader.cursor(), reader.unavailable());
        Ok(Self { records, count, cursor, caught_up, gaps, unavailable, oldest_ms })
    }

    /// Reads a page of a snapshot. Behind its last row the cursor is where live begins.
    ///
    /// # Errors
    /// The engine's.
    pub async fn read_snapshot(
        engine: &dyn Engine,
        mut walk: SnapshotWalk,
        writer: &RecordWriter,
        request: PageRequest,
        mut cursor: Cursor,
    ) -> Result<Self, SessionError> {
        let (mut records, mut count) = (Pieces::default(), 0);
        while count < request.limit && records.len() < request.max_bytes {
            let room = request.max_bytes - records.len();
            let Some(rows) = walk.next_page(engine, room, request.limit - count).await? else { break };
            for (partition, record) in &rows {
                let out = records.open(record.value.as_ref().map_or(0, Bytes::len));
                if count > 0 {
                    out.push(b',');
                }
                writer.write(out, *partition, record);
                count += 1;
            }
        }
        cursor.positions = walk.positions();
        cursor.snapshot_after = if walk.is_done() { None } else { walk.after().cloned() };
        Ok(Self {
            records,
            count,
            cursor,
            caught_up: false,
            gaps: Vec::new(),
            unavailable: Vec::new(),
            oldest_ms: None,
        })
    }
}
