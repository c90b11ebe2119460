//! Where each live reader stands, for the metrics.
//!
//! A reader that stops has nobody who could say so: what it was given waits in its connection, and no code of its own runs.
//! So each keeps a note of when it last came for more, and whoever asks for the metrics looks at all of them.
//!
//! **Invariant**: a reader is in it from its beginning to its end. Threading: notes are atomics of one writer; the list has
//! a lock, taken when a reader comes, goes, or all are looked at.

use super::frame::Format;
use crate::engine::Engine;
use crate::telemetry::{SubscriberLabels, SubscriberState, Transport, metrics};
use crate::types::{PartitionId, TopicId};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A reader that has not come for more for so long takes less than it could have.
const PARKED_AFTER: Duration = Duration::from_millis(250);
/// In place of a time: it waits for more.
const WAITING: u64 = u64::MAX;
const TRANSPORTS: [Transport; 2] = [Transport::Sse, Transport::WebSocket];
const STATES: [SubscriberState; 3] = [SubscriberState::Live, SubscriberState::CatchingUp, SubscriberState::Parked];

/// All live readers of a server.
#[derive(Debug)]
pub struct Census {
    began: Instant,
    readers: Mutex<(u64, BTreeMap<u64, Arc<Note>>)>,
}

impl Default for Census {
    fn default() -> Self {
        Self { began: Instant::now(), readers: Mutex::default() }
    }
}

/// What is known of one reader.
#[derive(Debug)]
struct Note {
    format: Format,
    topic: TopicId,
    /// Its partitions; `None` for all.
    partitions: Option<Box<[PartitionId]>>,
    /// When it was given something, in ms since the census began; [`WAITING`] while it waits for more.
    given_at: AtomicU64,
    is_live: AtomicBool,
    /// The offsets that it reads next, added up.
    read_to: AtomicI64,
}

/// A reader's place in the census, as long as it is there.
#[derive(Debug)]
pub(super) struct Enrolled {
    census: Arc<Census>,
    number: u64,
    note: Arc<Note>,
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.census.readers.lock().1.remove(&self.number);
    }
}

impl Enrolled {
    /// It waits for more.
    pub fn waits(&self) {
        self.note.given_at.store(WAITING, Ordering::Relaxed);
    }

    /// It was given something at this time, and reads these offsets (added up) next.
    pub fn was_given(&self, now: Instant, is_live: bool, read_to: i64) {
        let note = &self.note;
        note.is_live.store(is_live, Ordering::Relaxed);
        note.read_to.store(read_to, Ordering::Relaxed);
        note.given_at.store(self.census.since_it_began(now), Ordering::Relaxed);
    }

    /// It went over to the tail, or left it, without being given anything.
    pub fn is_live(&self, is_live: bool) {
        self.note.is_live.store(is_live, Ordering::Relaxed);
    }
}

impl Census {
    fn since_it_began(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(WAITING - 1)
    }

    /// Takes in a reader.
    pub(super) fn enrol(
        self: &Arc<Self>,
        format: Format,
        topic: TopicId,
        partitions: Option<Box<[PartitionId]>>,
    ) -> Enrolled {
        let note = Arc::new(Note {
            format,
            topic,
            partitions,
            given_at: AtomicU64::new(WAITING),
            is_live: AtomicBool::new(false),
            read_to: AtomicI64::new(0),
        });
        let mut readers = self.readers.lock();
        let number = readers.0;
        readers.0 += 1;
        readers.1.insert(number, note.clone());
        Enrolled { census: self.clone(), number, note }
    }

    /// Looks at all readers: how many there are by transport and state, and by how many records the slowest of those that
    /// take nothing is behind.
    #[must_use]
    pub fn count(&self, engine: &dyn Engine) -> (BTreeMap<(usize, usize), i64>, i64) {
        let notes: Vec<_> = self.readers.lock().1.values().cloned().collect();
        let now = self.since_it_began(Instant::now());
        let (mut counts, mut lag) = (BTreeMap::new(), 0);
        for note in notes {
            let given_at = note.given_at.load(Ordering::Relaxed);
            let is_parked = given_at != WAITING && now.saturating_sub(given_at) > PARKED_AFTER.as_millis() as u64;
            let state = match (is_parked, note.is_live.load(Ordering::Relaxed)) {
                (true, _) => 2,
                (false, true) => 0,
                (false, false) => 1,
            };
            *counts.entry((note.format.index(), state)).or_default() += 1;
            if is_parked {
                lag = lag.max(note.ends(engine).saturating_sub(note.read_to.load(Ordering::Relaxed)));
            }
        }
        (counts, lag)
    }

    /// Brings the metrics up to date.
    pub fn publish(&self, engine: &dyn Engine) {
        let (counts, lag) = self.count(engine);
        for (t, transport) in TRANSPORTS.into_iter().enumerate() {
            for (s, state) in STATES.into_iter().enumerate() {
                let count = counts.get(&(t, s)).copied().unwrap_or(0);
                metrics().subscribers.get_or_create(&SubscriberLabels { transport, state }).set(count);
            }
        }
        metrics().parked_lag_records.set(lag);
    }
}

impl Note {
    /// The ends of its partitions, added up.
    fn ends(&self, engine: &dyn Engine) -> i64 {
        let end =
            |partition| engine.watch(self.topic, partition).map_or(0, |p| p.borrow().high_watermark.offset().get());
        match (&self.partitions, engine.topic_by_id(self.topic)) {
            (Some(partitions), _) => partitions.iter().map(|partition| end(*partition)).sum(),
            (None, Some(topic)) => (0..topic.partitions).map(|partition| end(PartitionId::new(partition))).sum(),
            (None, None) => 0,
        }
    }
}
