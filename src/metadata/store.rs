//! openraft's log and vote, in the write-ahead file.
//!
//! **Invariant**: what openraft was told is stored, is durable, in the order in which it asked. After the first failed
//! write or sync nothing is stored nor acknowledged any more: every call fails, openraft stops, and [`Failure`] says why.
//!
//! The whole log is also in memory (a snapshot every few thousand entries keeps it small). Calls put their records into
//! a queue; a job on the append lane writes what waits in one go, syncs, and answers. One job a store, so one writer.

use super::raft_types::{Entry, LogId, NodeId, StorageError, TypeConfig, Vote};
use super::{MetadataError, wal::WalFile};
use crate::sys::{Disk, IoPool, Job, Lane, Step, Sys};
use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageIOError,
    storage::{LogFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{oneshot, watch};

/// Bytes that one write takes from the queue.
const GROUP_BYTES: usize = 4 << 20;
/// The file is written anew when it is this long, and twice as long as after the last time. Tests get there.
const COMPACT_BYTES: u64 = if cfg!(test) { 8 << 10 } else { 4 << 20 };

/// Why the store takes nothing more, if it does not. Shared by the log and the snapshots.
#[derive(Clone)]
pub(super) struct Failure(watch::Sender<Option<String>>);

impl Failure {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Keeps the first reason.
    pub(super) fn set(&self, reason: String) {
        self.0.send_if_modified(|there| {
            let first = there.is_none();
            if first {
                tracing::error!(reason, "the metadata store failed: nothing can be changed until a restart");
                *there = Some(reason);
            }
            first
        });
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }
}

/// A record of the file.
#[derive(Serialize, Deserialize)]
enum WalRecord {
    Vote(Vote),
    Entry(Entry),
    /// Entries from this index on are gone.
    Truncate(u64),
    /// Entries up to this one are in a snapshot.
    Purge(LogId),
    Committed(Option<LogId>),
}

/// What all records together say.
#[derive(Default)]
struct LogContents {
    entries: BTreeMap<u64, Entry>,
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
}

impl LogContents {
    fn replay(&mut self, record: WalRecord) {
        match record {
            WalRecord::Vote(vote) => self.vote = Some(vote),
            WalRecord::Entry(entry) => {
                self.entries.insert(entry.log_id.index, entry);
            }
            WalRecord::Truncate(from) => drop(self.entries.split_off(&from)),
            WalRecord::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
            WalRecord::Committed(committed) => self.committed = committed,
        }
    }

    /// As few records as say the same.
    fn compacted(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut records = vec![encode(&WalRecord::Committed(self.committed))?];
        if let Some(vote) = self.vote {
            records.push(encode(&WalRecord::Vote(vote))?);
        }
        if let Some(purged) = self.purged {
            records.push(encode(&WalRecord::Purge(purged))?);
        }
        for entry in self.entries.values() {
            records.push(encode(&WalRecord::Entry(entry.clone()))?);
        }
        Ok(records)
    }
}

fn encode(record: &WalRecord) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(record)?)
}

/// Records that wait to be written, and who waits for them.
struct Write {
    payloads: Vec<Vec<u8>>,
    sync: bool,
    done: Done,
}

enum Done {
    Callback(LogFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
    Nobody,
}

impl Done {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Callback(callback) => callback.log_io_completed(result),
            Self::Reply(reply) => drop(reply.send(result)), // the one who asked may have gone
            Self::Nobody => {}
        }
    }
}

#[derive(Default)]
struct Queue {
    writes: VecDeque<Write>,
    /// The job is submitted and not done.
    running: bool,
}

/// What the job does next; between two steps a crash may fall.
enum Phase {
    Write,
    Sync(Vec<Done>),
    Tell(Vec<Done>),
    Compact,
}

struct Writer {
    wal: WalFile,
    phase: Phase,
    compact_at: u64,
}

struct Shared {
    io: Arc<dyn IoPool>,
    contents: Mutex<LogContents>,
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    failure: Failure,
}

/// The log as openraft sees it.
#[derive(Clone)]
pub(super) struct LogStore(Arc<Shared>);

impl LogStore {
    /// Opens the file, or makes it. Blocks.
    ///
    /// A vote by which this broker was the leader becomes one by which it was a candidate: the entries that it had sent
    /// and not synced itself are gone, so it must not go on in the same term, where it would number others alike.
    pub(super) fn open(sys: &Sys, path: PathBuf, me: NodeId, failure: Failure) -> Result<Self, MetadataError> {
        let disk: Arc<dyn Disk> = sys.disk.clone();
        let name = path.display().to_string();
        let (wal, payloads) = WalFile::open(disk, path)?;
        let mut contents = LogContents::default();
        for payload in payloads {
            let record = serde_json::from_slice(&payload)
                .map_err(|e| MetadataError::Corrupt(format!("{name} has a record that is none: {e}")))?;
            contents.replay(record);
        }
        if let Some(vote) = &mut contents.vote
            && vote.leader_id.node_id == me
        {
            vote.committed = false;
        }
        let compact_at = COMPACT_BYTES.max(2 * wal.len());
        Ok(Self(Arc::new(Shared {
            io: sys.io.clone(),
            contents: Mutex::new(contents),
            queue: Mutex::default(),
            writer: Mutex::new(Writer { wal, phase: Phase::Write, compact_at }),
            failure,
        })))
    }

    /// Whether nothing was ever stored.
    pub(super) fn is_empty(&self) -> bool {
        let contents = self.0.contents.lock();
        contents.entries.is_empty() && contents.vote.is_none() && contents.purged.is_none()
    }

    /// Makes all durable, with a mark that says so.
    pub(super) async fn close(&self) {
        // An empty payload is the mark.
        let closed = self.write_and_wait(vec![Vec::new()]).await;
        if let Err(error) = closed {
            tracing::warn!(%error, "the metadata log was not closed cleanly");
        }
    }

    fn enqueue(&self, write: Write) {
        let submit = {
            let mut queue = self.0.queue.lock();
            queue.writes.push_back(write);
            !std::mem::replace(&mut queue.running, true)
        };
        if submit {
            self.0.io.submit(Lane::Append, self.0.clone());
        }
    }

    async fn write_and_wait(&self, payloads: Vec<Vec<u8>>) -> io::Result<()> {
        let (reply, written) = oneshot::channel();
        self.enqueue(Write { payloads, sync: true, done: Done::Reply(reply) });
        written.await.unwrap_or_else(|_| Err(io::Error::other("the writer of the metadata log is gone")))
    }

    /// Changes the memory, and queues the same for the disk.
    fn record(&self, record: WalRecord) -> io::Result<Vec<u8>> {
        let payload = encode(&record)?;
        self.0.contents.lock().replay(record);
        Ok(payload)
    }
}

impl Job for Shared {
    fn step(&self) -> Step {
        let mut writer = self.writer.lock();
        match std::mem::replace(&mut writer.phase, Phase::Write) {
            Phase::Write => self.write(&mut writer),
            Phase::Sync(waiting) => match writer.wal.sync() {
                Ok(()) => {
                    writer.phase = Phase::Tell(waiting);
                    Step::Again
                }
                Err(error) => self.fail(&error, waiting),
            },
            Phase::Tell(waiting) => {
                waiting.into_iter().for_each(|done| done.tell(Ok(())));
                // Only a help to tell damage from a torn tail: without it the next opening still reads everything.
                let _ = writer.wal.mark();
                if writer.wal.len() >= writer.compact_at {
                    writer.phase = Phase::Compact;
                }
                Step::Requeue
            }
            Phase::Compact => {
                // The memory may be ahead of the file by what waits in the queue; written twice it says the same.
                let records = self.contents.lock().compacted();
                let replaced = records.and_then(|r| writer.wal.replace(r.iter().map(Vec::as_slice)));
                if let Err(error) = replaced {
                    return self.fail(&error, Vec::new());
                }
                writer.compact_at = COMPACT_BYTES.max(2 * writer.wal.len());
                Step::Requeue
            }
        }
    }

    /// Who waited for the group in hand learns of it by the reply that is gone.
    fn panicked(&self, text: &str) -> Step {
        self.failure.set(format!("the writer of the metadata log panicked: {text}"));
        Step::Requeue
    }
}

impl Shared {
    fn write(&self, writer: &mut Writer) -> Step {
        let group = {
            let mut queue = self.queue.lock();
            let mut group = Vec::new();
            let mut bytes = 0;
            while bytes < GROUP_BYTES
                && let Some(write) = queue.writes.pop_front()
            {
                bytes += write.payloads.iter().map(Vec::len).sum::<usize>();
                group.push(write);
            }
            if group.is_empty() {
                queue.running = false;
                return Step::Done;
            }
            group
        };
        let sync = group.iter().any(|w| w.sync);
        if let Some(reason) = self.failure.get() {
            group.into_iter().for_each(|w| w.done.tell(Err(io::Error::other(reason.clone()))));
            return Step::Requeue;
        }
        let written = writer.wal.append(group.iter().flat_map(|w| &w.payloads).map(Vec::as_slice));
        let waiting = group.into_iter().map(|w| w.done).collect();
        match written {
            Err(error) => return self.fail(&error, waiting),
            Ok(()) if sync => writer.phase = Phase::Sync(waiting),
            Ok(()) => waiting.into_iter().for_each(|done| done.tell(Ok(()))),
        }
        Step::Again
    }

    fn fail(&self, error: &io::Error, waiting: Vec<Done>) -> Step {
        self.failure.set(format!("writing the metadata log: {error}"));
        for done in waiting {
            done.tell(Err(io::Error::new(error.kind(), error.to_string())));
        }
        Step::Requeue
    }
}

fn write_failed(error: &io::Error) -> StorageError {
    StorageIOError::write_logs(error).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.0.contents.lock().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let contents = self.0.contents.lock();
        let last = contents.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: contents.purged, last_log_id: last.or(contents.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let failed = |e: io::Error| StorageError::from(StorageIOError::write_vote(&e));
        let payload = self.record(WalRecord::Vote(*vote)).map_err(failed)?;
        self.write_and_wait(vec![payload]).await.map_err(failed)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.0.contents.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let payload = self.record(WalRecord::Committed(committed)).map_err(|e| write_failed(&e))?;
        // Not synced: without it the entries are committed again before they are applied.
        self.enqueue(Write { payloads: vec![payload], sync: false, done: Done::Nobody });
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.0.contents.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let payloads: io::Result<Vec<_>> = entries.into_iter().map(|e| self.record(WalRecord::Entry(e))).collect();
        let payloads = payloads.map_err(|e| write_failed(&e))?;
        self.enqueue(Write { payloads, sync: true, done: Done::Callback(callback) });
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        let payload = self.record(WalRecord::Truncate(from.index)).map_err(|e| write_failed(&e))?;
        self.write_and_wait(vec![payload]).await.map_err(|e| write_failed(&e))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let payload = self.record(WalRecord::Purge(upto)).map_err(|e| write_failed(&e))?;
        self.write_and_wait(vec![payload]).await.map_err(|e| write_failed(&e))
    }
}

#[cfg(test)]
mod tests;
