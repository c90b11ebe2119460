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

use super::cursor::{Place, Position};
use super::frame::Format;
use super::json::ValueEncoding;
use super::press::run;
use super::ring::{Line, RING_BYTES, SharedPositions, Taken};
use crate::engine::{Engine, TopicInfo};
use crate::sys::Clock;
use crate::telemetry::{BudgetLabels, metrics};
use crate::types::{PartitionId, TopicId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{Notify, watch};

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

/// The readers of one key.
pub(super) struct KeyLine {
    pub line: Mutex<Line>,
    pub head: watch::Sender<u64>,
    pub readers: [AtomicUsize; Format::COUNT],
}

/// Who listens. Held by the task while it makes one chunk, so that a reader joins between two chunks.
#[derive(Default)]
pub(super) struct Index {
    pub readers: [usize; Format::COUNT],
    pub keys: BTreeMap<Bytes, Arc<KeyLine>>,
}

pub(super) struct Ring {
    pub line: Line,
    /// Where the order stands; `None` before it began.
    pub positions: Option<SharedPositions>,
    /// It has ended: the topic is gone, or reading failed.
    pub ended: bool,
}

/// One shared stream.
pub struct Sequencer {
    pub(super) key: StreamKey,
    pub(super) index: Mutex<Index>,
    pub(super) ring: RwLock<Ring>,
    pub(super) head: watch::Sender<u64>,
    /// Readers that are in it or on their way to it.
    pub(super) attached: AtomicUsize,
    pub(super) left: Notify,
}

/// All shared streams of a server.
pub struct Sequencers {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<dyn Clock>,
    running: Mutex<BTreeMap<StreamKey, Arc<Sequencer>>>,
    bytes: AtomicUsize,
    /// Bytes of frames that all rings may hold before each is held shorter.
    pub(super) memory: usize,
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
    Items(Vec<Taken>),
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
        let (items, behind, ended) = match &self.key {
            None => {
                let ring = self.sequencer.ring.read();
                let behind = if max_behind < RING_BYTES { ring.line.behind(next, self.format) } else { 0 };
                (ring.line.take(&mut next, self.format, max_bytes), behind, ring.ended)
            }
            Some((_, line)) => {
                // Before the line is looked at: whatever it got came before its end.
                let ended = self.sequencer.ring.read().ended;
                (line.line.lock().take(&mut next, self.format, max_bytes), 0, ended)
            }
        };
        match items {
            None => Take::Lagged,
            Some(_) if behind > max_behind => Take::Lagged,
            Some(items) if items.is_empty() && ended => Take::Ended,
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
    pub(super) fn retire(&self, sequencer: &Arc<Sequencer>, ended: bool) -> bool {
        let mut running = self.running.lock();
        if !ended && sequencer.attached.load(Ordering::Acquire) > 0 {
            return false;
        }
        if running.get(&sequencer.key).is_some_and(|other| Arc::ptr_eq(other, sequencer)) {
            running.remove(&sequencer.key);
        }
        true
    }

    pub(super) fn account(&self, change: isize) {
        self.bytes.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
        metrics().memory_bytes.get_or_create(&BudgetLabels { budget: "sequencer" }).inc_by(change as i64);
    }
}
