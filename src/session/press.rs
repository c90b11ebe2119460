//! The task of a sequencer: reads what is new, encodes each record once for all who listen to it, and publishes.
//!
//! **Invariant**: the index of readers is held from the first record of a chunk until the chunk is published, so that
//! whoever joins does so between two chunks.

use super::SessionError;
use super::cursor::{CursorEncoder, PendingPlace, Place, Position};
use super::frame::{CHUNK_BYTES, Format, FrameBuffer};
use super::json::RecordWriter;
use super::lane::Popped;
use super::log_reader::{Fill, LogReader};
use super::read_plan::ReadPlan;
use super::ring::{Item, LINE_BYTES, LINE_ITEMS, RING_BYTES, RING_ITEMS, SharedPositions, TIGHT_RING_BYTES};
use super::sequencer::{Index, KeyLine, Sequencer, Sequencers};
use crate::engine::TopicInfo;
use crate::types::PartitionId;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

/// Bytes looked at in one go, while nobody can join.
const SCAN_BYTES: usize = 1 << 20;

pub(super) async fn run(all: Arc<Sequencers>, sequencer: Arc<Sequencer>, topic: Arc<TopicInfo>) {
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

/// What was made for readers of keys.
type Lines = BTreeMap<Bytes, [FrameBuffer; Format::COUNT]>;

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

    pub(super) async fn run(
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
            let mut lines = Lines::new();
            let (mut made, scanned) = (0, reader.scanned());
            while made < CHUNK_BYTES && reader.scanned() - scanned < SCAN_BYTES {
                match reader.pop_with(|popped| self.add(&index, &mut lines, &popped))? {
                    Some(bytes) => made += bytes,
                    None => break,
                }
            }
            let frames = Format::ALL
                .map(|format| (index.readers[format.index()] > 0).then(|| self.buffers[format.index()].take_copy()));
            let positions: SharedPositions = reader.positions().into();
            let item = Item::Records(frames, positions.clone());
            self.publish(all, seq, &index, item, positions, Some(lines));
        }
        Ok(())
    }

    /// Makes the frames of a record for those who listen to it; gives their bytes.
    fn add(&mut self, index: &Index, lines: &mut Lines, popped: &Popped<'_>) -> usize {
        let record = &popped.record;
        self.cursors.set(popped.index, popped.place);
        let line = record.key.filter(|_| !index.keys.is_empty()).and_then(|key| index.keys.get(key));
        let for_all = Format::ALL.map(|format| index.readers[format.index()] > 0);
        let for_key =
            Format::ALL.map(|format| line.is_some_and(|line| line.readers[format.index()].load(Ordering::Relaxed) > 0));
        let wanted = for_all.iter().chain(&for_key).filter(|wanted| **wanted).count();
        if wanted == 0 {
            return 0;
        }
        self.cursor.clear();
        self.cursors.append_to(&mut self.cursor);
        let about = self.writer.about(record) + self.cursor.len();
        self.json.clear();
        if wanted > 1 {
            self.writer.write_view(&mut self.json, popped.partition, record);
        }
        let (writer, cursor, json) = (&self.writer, &self.cursor, &self.json);
        let push = |buffer: &mut FrameBuffer, format| {
            buffer.reserve(about);
            match wanted {
                // Written where it stays.
                1 => buffer.push_with(format, Some(cursor), |out| writer.write_view(out, popped.partition, record)),
                _ => buffer.push(format, Some(cursor), json),
            }
        };
        for format in Format::ALL {
            if for_all[format.index()] {
                push(&mut self.buffers[format.index()], format);
            }
            if for_key[format.index()]
                && let Some(key) = record.key
            {
                let buffers = match lines.get_mut(key) {
                    Some(buffers) => buffers,
                    // A copy: a slice would hold the whole batch.
                    None => lines.entry(Bytes::copy_from_slice(key)).or_default(),
                };
                push(&mut buffers[format.index()], format);
            }
        }
        about
    }

    /// To the lines first, then to the ring. `lines`: the keys' own frames; `None` gives the item itself to each line.
    fn publish(
        &self,
        all: &Sequencers,
        seq: &Sequencer,
        index: &Index,
        item: Item,
        positions: SharedPositions,
        lines: Option<Lines>,
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
