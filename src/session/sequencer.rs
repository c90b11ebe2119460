//! One order and one encoding of a topic's live tail for all who read it.
//!
//! A [`Sequencer`] is a task that reads new batches of a topic's partitions, puts them into one order, and makes each
//! record's frame, cursor included, once per format that someone listens to. Readers at the tail take the same bytes from
//! a ring. A reader that falls out of the ring reads the log on its own up to the sequencer's position, and joins again.
//!
//! **Invariant**: a reader joins only where its own place equals the sequencer's, partition by partition; so what it got
//! before and what it gets from the ring fit together without a gap or a repetition. The ring is bounded, and nobody
//! waits for a slow reader. Lines of keys are published before the ring, so that whoever sees a position in the ring
//! and nothing in its line has missed nothing.
//!
//! Threading: the task and the readers share two short locks; where both are taken, the index comes first.

use super::SessionError;
use super::cursor::{CursorEncoder, PendingPlace, Place, Position};
use super::frame::{CHUNK_BYTES, Format, FrameBuffer, Frames};
use super::json::{RecordWriter, ValueEncoding};
use super::log_reader::{Fill, Gap, LogReader, ReadPlan};
use crate::engine::{Engine, TopicInfo};
use crate::sys::Clock;
use crate::telemetry::{BudgetLabels, metrics};
use crate::types::{PartitionId, TopicId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{Notify, watch};

/// Bytes of frames that one ring keeps, all formats together.
const RING_BYTES: usize = 4 << 20;
/// The same while all rings together are over their budget.
const TIGHT_RING_BYTES: usize = 256 << 10;
/// Items that one ring keeps.
const RING_ITEMS: usize = 1024;
/// Items that one key's line keeps.
const LINE_ITEMS: usize = 128;
/// Bytes that one key's line keeps.
const LINE_BYTES: usize = 256 << 10;

/// Bytes looked at in one go, while nobody can join.
const SCAN_BYTES: usize = 1 << 20;

/// Which stream of a topic is shared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamKey {
    /// The topic.
    pub topic: TopicId,
    /// How values are given.
    pub encoding: ValueEncoding,
    /// The partitions, sorted; `None` for all, those added later too.
    pub partitions: Option<Vec<PartitionId>>,
}

/// Positions that many share.
pub type SharedPositions = Arc<[Position]>;

/// One piece of the order.
#[derive(Debug, Clone)]
pub enum Item {
    /// Records, by format (those that someone listened to), and where the reader is after them.
    Records([Option<Frames>; Format::COUNT], SharedPositions),
    /// A gap, and where the reader is after it.
    Gap(Gap, SharedPositions),
    /// The topic was deleted.
    TopicGone,
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Records(frames, _) => frames.iter().flatten().map(|f| f.bytes.len() + f.ends.len() * 4).sum(),
            Self::Gap(..) | Self::TopicGone => 0,
        }
    }
}

/// A bounded line of items, numbered without end.
#[derive(Debug, Default)]
struct Line {
    items: VecDeque<Item>,
    /// The number of the first item.
    first: u64,
    bytes: usize,
}

impl Line {
    fn next(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    fn push(&mut self, item: Item, max_items: usize, max_bytes: usize) -> isize {
        let before = self.bytes;
        self.bytes += item.bytes();
        self.items.push_back(item);
        while self.items.len() > 1 && (self.items.len() > max_items || self.bytes > max_bytes) {
            let Some(gone) = self.items.pop_front() else { break };
            self.first += 1;
            self.bytes -= gone.bytes();
        }
        self.bytes.cast_signed() - before.cast_signed()
    }

    /// From number `next` on: what is there, up to about `max_bytes` in one format; `None` if it is gone already.
    fn take(&self, next: &mut u64, format: Format, max_bytes: usize) -> Option<Vec<Item>> {
        let skip = usize::try_from(next.checked_sub(self.first)?).ok()?;
        let mut taken = Vec::new();
        let mut bytes = 0;
        for item in self.items.iter().skip(skip) {
            let size = match item {
                Item::Records(frames, _) => frames[format.index()].as_ref()?.bytes.len(),
                Item::Gap(..) | Item::TopicGone => 0,
            };
            if !taken.is_empty() && bytes + size > max_bytes {
                break;
            }
            bytes += size;
            taken.push(item.clone());
            *next += 1;
        }
        Some(taken)
    }

    /// Bytes from number `next` on, in one format.
    fn behind(&self, next: u64, format: Format) -> usize {
        let skip = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let size = |item: &Item| match item {
            Item::Records(frames, _) => frames[format.index()].as_ref().map_or(0, |f| f.bytes.len()),
            _ => 0,
        };
        self.items.iter().skip(skip).map(size).sum()
    }
}

/// The readers of one key.
struct KeyLine {
    line: Mutex<Line>,
    head: watch::Sender<u64>,
    readers: [AtomicUsize; Format::COUNT],
}

/// Who listens. Held by the task while it makes one chunk, so that a reader joins between two chunks.
#[derive(Default)]
struct Index {
    readers: [usize; Format::COUNT],
    keys: BTreeMap<Bytes, Arc<KeyLine>>,
}

struct Ring {
    line: Line,
    /// Where the order stands; `None` before it began.
    positions: Option<SharedPositions>,
    /// It has ended: the topic is gone, or reading failed.
    ended: bool,
}

/// One shared stream.
pub struct Sequencer {
    key: StreamKey,
    index: Mutex<Index>,
    ring: RwLock<Ring>,
    head: watch::Sender<u64>,
    /// Readers that are in it or on their way to it.
    attached: AtomicUsize,
    left: Notify,
}

/// All shared streams of a server.
pub struct Sequencers {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    running: Mutex<BTreeMap<StreamKey, Arc<Sequencer>>>,
    bytes: AtomicUsize,
    /// Bytes of frames that all rings may hold before each is held shorter.
    memory: usize,
}

/// Keeps a sequencer running.
pub struct Attachment {
    sequencer: Arc<Sequencer>,
    head: watch::Receiver<u64>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.sequencer.attached.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.sequencer.left.notify_one();
        }
    }
}

/// What came of an attempt to join.
pub enum Join {
    /// From here on the ring has everything.
    Joined(Ticket),
    /// The sequencer stands elsewhere: read up to there, and try again.
    Elsewhere(SharedPositions),
    /// It has not begun yet.
    NotYet,
    /// It has ended; read on alone.
    Ended,
}

/// What a ticket gives.
#[derive(Debug)]
pub enum Take {
    /// The next items.
    Items(Vec<Item>),
    /// Nothing new: [`Ticket::changed`].
    Nothing,
    /// The sequencer ended and nothing is left: read on alone.
    Ended,
    /// The reader was too slow, and what it needs is no longer there.
    Lagged,
}

/// A reader's place in the ring, or in its key's line.
pub struct Ticket {
    sequencer: Arc<Sequencer>,
    format: Format,
    key: Option<(Bytes, Arc<KeyLine>)>,
    next: u64,
    head: watch::Receiver<u64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut index = self.sequencer.index.lock();
        match &self.key {
            None => index.readers[self.format.index()] -= 1,
            Some((key, line)) => {
                line.readers[self.format.index()].fetch_sub(1, Ordering::Relaxed);
                if line.readers.iter().all(|n| n.load(Ordering::Relaxed) == 0) {
                    index.keys.remove(key);
                }
            }
        }
    }
}

impl Ticket {
    /// What is new, up to about `max_bytes`. `max_behind` makes a reader that is further behind count as too slow.
    pub fn take(&mut self, max_bytes: usize, max_behind: usize) -> Take {
        self.head.borrow_and_update();
        let mut next = self.next;
        let (items, behind) = match &self.key {
            None => {
                let ring = self.sequencer.ring.read();
                let behind = if max_behind < RING_BYTES { ring.line.behind(next, self.format) } else { 0 };
                (ring.line.take(&mut next, self.format, max_bytes), behind)
            }
            Some((_, line)) => (line.line.lock().take(&mut next, self.format, max_bytes), 0),
        };
        match items {
            None => Take::Lagged,
            Some(_) if behind > max_behind => Take::Lagged,
            Some(items) if items.is_empty() && self.sequencer.ring.read().ended => Take::Ended,
            Some(items) if items.is_empty() => Take::Nothing,
            Some(items) => {
                self.next = next;
                Take::Items(items)
            }
        }
    }

    /// Waits until [`Self::take`] may have something.
    pub async fn changed(&mut self) {
        if self.head.changed().await.is_err() {
            // The sender lives in the sequencer that this ticket holds.
            std::future::pending::<()>().await;
        }
    }

    /// Where a reader is that has taken all there is; `None` if it has not.
    #[must_use]
    pub fn position(&self) -> Option<SharedPositions> {
        let ring = self.sequencer.ring.read();
        let positions = ring.positions.clone();
        let caught_up = match &self.key {
            None => ring.line.next() == self.next,
            Some((_, line)) => {
                drop(ring);
                line.line.lock().next() == self.next
            }
        };
        if caught_up { positions } else { None }
    }
}

impl Attachment {
    /// Joins, if the reader stands where the sequencer does.
    #[must_use]
    pub fn join(&mut self, positions: &[Position], format: Format, key: Option<&Bytes>) -> Join {
        self.head.borrow_and_update();
        let sequencer = &self.sequencer;
        let mut index = sequencer.index.lock();
        let ring = sequencer.ring.read();
        if ring.ended {
            return Join::Ended;
        }
        let Some(stands) = &ring.positions else { return Join::NotYet };
        if !same_places(stands, positions) {
            return Join::Elsewhere(stands.clone());
        }
        let ticket = match key {
            None => {
                index.readers[format.index()] += 1;
                let next = ring.line.next();
                Ticket { sequencer: sequencer.clone(), format, key: None, next, head: sequencer.head.subscribe() }
            }
            Some(key) => {
                let line = index.keys.entry(key.clone()).or_insert_with(|| {
                    Arc::new(KeyLine {
                        line: Mutex::default(),
                        head: watch::Sender::new(0),
                        readers: Default::default(),
                    })
                });
                line.readers[format.index()].fetch_add(1, Ordering::Relaxed);
                let next = line.line.lock().next();
                let head = line.head.subscribe();
                Ticket { sequencer: sequencer.clone(), format, key: Some((key.clone(), line.clone())), next, head }
            }
        };
        Join::Joined(ticket)
    }

    /// Waits until the sequencer has moved since the last look.
    pub async fn changed(&mut self) {
        if self.head.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn same_places(a: &[Position], b: &[Position]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            a.partition == b.partition
                && match (a.place, b.place) {
                    (Place::At(a, _), Place::At(b, _)) => a == b,
                    (a, b) => a == b,
                }
        })
}

impl Sequencers {
    /// None running; `memory` bytes of frames in all rings.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>, memory: usize) -> Self {
        let limit = i64::try_from(memory).unwrap_or(i64::MAX);
        metrics().memory_budget_bytes.get_or_create(&BudgetLabels { budget: "sequencer" }).set(limit);
        Self { engine, clock, running: Mutex::default(), bytes: AtomicUsize::new(0), memory }
    }

    /// How many run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.lock().len()
    }

    /// Bytes of frames in all rings.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The sequencer of a stream, started if it does not run.
    #[must_use]
    pub fn attach(self: &Arc<Self>, key: &StreamKey, topic: &Arc<TopicInfo>) -> Attachment {
        let mut running = self.running.lock();
        let sequencer = running.entry(key.clone()).or_insert_with(|| {
            let sequencer = Arc::new(Sequencer {
                key: key.clone(),
                index: Mutex::default(),
                ring: RwLock::new(Ring { line: Line::default(), positions: None, ended: false }),
                head: watch::Sender::new(0),
                attached: AtomicUsize::new(0),
                left: Notify::new(),
            });
            tokio::spawn(run(self.clone(), sequencer.clone(), topic.clone()));
            sequencer
        });
        sequencer.attached.fetch_add(1, Ordering::AcqRel);
        Attachment { sequencer: sequencer.clone(), head: sequencer.head.subscribe() }
    }

    /// Takes a sequencer out of the map, if it has ended or nobody is attached.
    fn retire(&self, sequencer: &Arc<Sequencer>, ended: bool) -> bool {
        let mut running = self.running.lock();
        if !ended && sequencer.attached.load(Ordering::Acquire) > 0 {
            return false;
        }
        if running.get(&sequencer.key).is_some_and(|other| Arc::ptr_eq(other, sequencer)) {
            running.remove(&sequencer.key);
        }
        true
    }

    fn account(&self, change: isize) {
        self.bytes.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        metrics().memory_bytes.get_or_create(&BudgetLabels { budget: "sequencer" }).inc_by(change as i64);
    }
}

async fn run(all: Arc<Sequencers>, sequencer: Arc<Sequencer>, topic: Arc<TopicInfo>) {
    let partitions = sequencer.key.partitions.clone();
    let every = partitions.is_none();
    let partitions = partitions.unwrap_or_else(|| (0..topic.partitions).map(PartitionId::new).collect());
    let at_end = |partition| Position { partition, place: Place::Pending(PendingPlace::Latest) };
    let plan = ReadPlan {
        topic: topic.clone(),
        all: every,
        positions: partitions.into_iter().map(at_end).collect(),
        key: None,
        until: None,
        refuse_retention_gap: false,
    };
    let mut reader = LogReader::new(all.engine.clone(), all.clock.clone(), plan);
    let mut press = Press::new(&sequencer, &reader);
    let outcome = press.run(&all, &sequencer, &mut reader).await;
    if let Err(error) = outcome {
        tracing::warn!(topic = %topic.name, %error, "a shared stream ended; its readers go on alone");
    }
    all.retire(&sequencer, true);
    let mut ring = sequencer.ring.write();
    ring.ended = true;
    all.account(-ring.line.bytes.cast_signed());
    drop(ring);
    sequencer.head.send_modify(|n| *n += 1);
    sequencer.index.lock().keys.values().for_each(|line| line.head.send_modify(|n| *n += 1));
}

/// The task's own state: buffers that are used again.
struct Press {
    writer: RecordWriter,
    cursors: CursorEncoder,
    cursor: Vec<u8>,
    json: Vec<u8>,
    buffers: [FrameBuffer; Format::COUNT],
}

impl Press {
    fn new(sequencer: &Sequencer, reader: &LogReader) -> Self {
        Self {
            writer: RecordWriter::new(&reader.topic().name, sequencer.key.encoding),
            cursors: CursorEncoder::new(&reader.cursor()),
            cursor: Vec::new(),
            json: Vec::new(),
            buffers: Default::default(),
        }
    }

    async fn run(
        &mut self,
        all: &Sequencers,
        seq: &Arc<Sequencer>,
        reader: &mut LogReader,
    ) -> Result<(), SessionError> {
        reader.resolve().await?;
        self.cursors = CursorEncoder::new(&reader.cursor());
        let mut version = reader.version();
        seq.ring.write().positions = Some(reader.positions().into());
        seq.head.send_modify(|n| *n += 1);
        loop {
            if seq.attached.load(Ordering::Acquire) == 0 && all.retire(seq, false) {
                return Ok(());
            }
            let fill = reader.fill().await?;
            if reader.version() != version {
                version = reader.version();
                self.cursors = CursorEncoder::new(&reader.cursor());
            }
            match fill {
                Fill::Records => {
                    self.press(all, seq, reader)?;
                    // The readers go first: what comes in meanwhile makes the next chunk larger.
                    tokio::task::yield_now().await;
                }
                Fill::Gap(gap) => {
                    let index = seq.index.lock();
                    let positions: SharedPositions = reader.positions().into();
                    self.publish(all, seq, &index, Item::Gap(gap, positions.clone()), positions, None);
                }
                Fill::Idle => {
                    self.stand(seq, reader);
                    tokio::select! {
                        biased;
                        () = reader.wait() => {}
                        () = seq.left.notified() => {}
                    }
                }
                Fill::Done => return Ok(()),
                Fill::TopicGone => {
                    let index = seq.index.lock();
                    self.publish(all, seq, &index, Item::TopicGone, reader.positions().into(), None);
                    return Ok(());
                }
            }
        }
    }

    /// Tells where the order stands, when that changed without a record.
    fn stand(&self, seq: &Sequencer, reader: &LogReader) {
        let positions = reader.positions();
        let _index = seq.index.lock();
        let mut ring = seq.ring.write();
        if ring.positions.as_deref() != Some(&positions) {
            ring.positions = Some(positions.into());
            drop(ring);
            seq.head.send_modify(|n| *n += 1);
        }
    }

    /// Makes the frames of what was fetched, one chunk after the other.
    fn press(&mut self, all: &Sequencers, seq: &Sequencer, reader: &mut LogReader) -> Result<(), SessionError> {
        while reader.holds_records() {
            let index = seq.index.lock();
            let mut lines: BTreeMap<Bytes, [FrameBuffer; Format::COUNT]> = BTreeMap::new();
            let (mut made, scanned) = (0, reader.scanned());
            while made < CHUNK_BYTES && reader.scanned() - scanned < SCAN_BYTES {
                let Some((partition, record)) = reader.pop()? else { break };
                let position = reader.index_of(partition);
                self.cursors.set(position, reader.place(position));
                let line = record.key.as_ref().filter(|_| !index.keys.is_empty()).and_then(|k| index.keys.get(k));
                let wants = |format: Format| {
                    let all = index.readers[format.index()] > 0;
                    (all, line.is_some_and(|line| line.readers[format.index()].load(Ordering::Relaxed) > 0))
                };
                if Format::ALL.iter().all(|format| wants(*format) == (false, false)) {
                    continue;
                }
                self.json.clear();
                self.writer.write(&mut self.json, partition, &record);
                self.cursor.clear();
                self.cursors.append_to(&mut self.cursor);
                made += self.json.len() + self.cursor.len();
                for format in Format::ALL {
                    let (for_all, for_key) = wants(format);
                    if for_all {
                        self.buffers[format.index()].push(format, Some(&self.cursor), &self.json);
                    }
                    if for_key && let Some(key) = &record.key {
                        let key_buffers = match lines.get_mut(key) {
                            Some(buffers) => buffers,
                            // A copy: a slice would hold the whole batch.
                            None => lines.entry(Bytes::copy_from_slice(key)).or_default(),
                        };
                        key_buffers[format.index()].push(format, Some(&self.cursor), &self.json);
                    }
                }
            }
            let frames = Format::ALL
                .map(|format| (index.readers[format.index()] > 0).then(|| self.buffers[format.index()].take()));
            let positions: SharedPositions = reader.positions().into();
            let item = Item::Records(frames, positions.clone());
            self.publish(all, seq, &index, item, positions, Some(lines));
        }
        Ok(())
    }

    /// To the lines first, then to the ring. `lines`: the keys' own frames; `None` gives the item itself to each line.
    fn publish(
        &self,
        all: &Sequencers,
        seq: &Sequencer,
        index: &Index,
        item: Item,
        positions: SharedPositions,
        lines: Option<BTreeMap<Bytes, [FrameBuffer; Format::COUNT]>>,
    ) {
        let to_line = |line: &KeyLine, item: Item| {
            line.line.lock().push(item, LINE_ITEMS, LINE_BYTES);
            line.head.send_modify(|n| *n += 1);
        };
        match lines {
            Some(lines) => {
                for (key, mut buffers) in lines {
                    let Some(line) = index.keys.get(&key) else { continue };
                    let frames = Format::ALL.map(|format| {
                        (line.readers[format.index()].load(Ordering::Relaxed) > 0)
                            .then(|| buffers[format.index()].take())
                    });
                    to_line(line, Item::Records(frames, positions.clone()));
                }
            }
            None => index.keys.values().for_each(|line| to_line(line, item.clone())),
        }
        let empty = matches!(&item, Item::Records(frames, _) if frames.iter().flatten().all(|f| f.count() == 0));
        let tight = all.bytes() > all.memory;
        let mut ring = seq.ring.write();
        ring.positions = Some(positions);
        if !empty {
            let change = ring.line.push(item, RING_ITEMS, if tight { TIGHT_RING_BYTES } else { RING_BYTES });
            all.account(change);
        }
        drop(ring);
        seq.head.send_modify(|n| *n += 1);
    }
}
