//! Values made at random, and bytes made wrong: what the fuzzers of messages, batches and the Kafka door are fed with.
//!
//! **Invariant**: what comes out follows from the seed alone.

use super::{
    BatchBuilder, BatchProducer, Compression,
    wire::{RecordBytes, Uuid},
};
use crate::types::{Header, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Record};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// Bytes that begin or end something somewhere: counts, nulls, lengths of varints.
const SPEAKING_BYTES: [u8; 10] = [0, 1, 2, 3, 0x0f, 0x10, 0x7f, 0x80, 0xfe, 0xff];
/// Numbers at the edge of what fits.
const EDGES: [i64; 14] = [
    0,
    1,
    -1,
    -2,
    i8::MIN as i64,
    i16::MAX as i64,
    i16::MIN as i64,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    (i32::MAX as i64) - 61,
    i64::MAX,
    i64::MIN,
    1 << 40,
];
/// All of them.
pub(crate) const COMPRESSIONS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
/// The deepest nesting of the protocol's messages is less.
const MAX_DEPTH: usize = 8;

/// Where random values come from (SplitMix64), and the words that make them mean something.
pub(crate) struct Source {
    state: u64,
    depth: usize,
    /// Names to choose from, besides made up ones.
    pub(crate) words: Vec<String>,
    /// Topic ids to choose from.
    pub(crate) ids: Vec<Uuid>,
}

impl Source {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, depth: 0, words: vec!["topic".to_owned()], ids: vec![[7; 16]] }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// Mostly small, sometimes at an edge, sometimes anything.
    pub(crate) fn number(&mut self) -> i64 {
        match self.below(8) {
            0 => self.pick(&EDGES),
            1 => self.next() as i64 >> self.below(64),
            _ => self.below(6) as i64 - 1,
        }
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.below(most + 1);
        // Of one value, of few, or of all.
        let mask = self.pick(&[0, 3, 0x1f, 0xff]);
        (0..len).map(|_| self.next() as u8 & mask).collect()
    }

    /// A batch as a client makes it: records with and without keys, values and headers.
    pub(crate) fn batch(&mut self, compression: Compression) -> Bytes {
        let mut builder = BatchBuilder::new(Offset::ZERO, LeaderEpoch::ZERO);
        if self.one_in(3) {
            let (id, epoch) = (ProducerId::new(self.below(5) as i64), ProducerEpoch::new(self.below(2) as i16));
            builder.set_producer(BatchProducer { id, epoch, base_sequence: self.below(4) as i32 });
        }
        let most = self.pick(&[20, 20, 200, 3000]);
        for n in 0..1 + self.below(self.pick_count()) {
            let record = self.record(most);
            builder.push(1_700_000_000_000 + n as i64, &record);
        }
        builder.finish(compression)
    }

    fn pick_count(&self) -> usize {
        if self.state & 7 == 0 { 60 } else { 4 }
    }

    fn record(&mut self, most: usize) -> Record {
        let mut part = |most| (!self.one_in(5)).then(|| Bytes::from(self.bytes(most)));
        let (key, value) = (part(20), part(most));
        let headers = (0..self.below(3))
            .map(|_| Header { name: self.bytes(5).into(), value: (!self.one_in(3)).then(|| self.bytes(9).into()) });
        Record { key, value, headers: headers.collect(), ..Record::default() }
    }

    /// Changes bytes as transmission, bugs and malice do: single bytes and numbers, parts lost, doubled and moved, lengths and
    /// counts that claim too much.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = at + self.below((bytes.len() - at).min(40) + 1);
            match self.below(10) {
                0 => bytes.truncate(at),
                1 => bytes.extend(self.bytes(40)),
                2 => drop(bytes.drain(at..end)),
                3 => drop(bytes.splice(at..at, self.bytes(12))),
                4 => {
                    let again = bytes[at..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    bytes.splice(to..to, again);
                }
                5 => {
                    // A varint of up to six bytes: the sixth is one too many for any length.
                    let len = 1 + self.below(6);
                    let varint: Vec<u8> =
                        (1..=len).map(|n| if n < len { 0xff } else { self.next() as u8 & 0x7f }).collect();
                    bytes.splice(at..(at + 1).min(bytes.len()), varint);
                }
                6 => {
                    let number = self.number().to_be_bytes();
                    let width = self.pick(&[2, 4, 4, 8]);
                    let number = number[8 - width..].iter().copied();
                    bytes.iter_mut().skip(at).zip(number).for_each(|(byte, new)| *byte = new);
                }
                7 if at < bytes.len() => bytes[at] = self.next() as u8,
                _ if at < bytes.len() => bytes[at] = self.pick(&SPEAKING_BYTES),
                _ => bytes.push(self.pick(&SPEAKING_BYTES)),
            }
        }
    }
}

/// A value that can be made at random.
pub(crate) trait Arbitrary: Sized {
    fn arbitrary(source: &mut Source) -> Self;
}

macro_rules! arbitrary_numbers {
    ($($ty:ty),*) => {$(
        impl Arbitrary for $ty {
            fn arbitrary(source: &mut Source) -> Self {
                source.number() as $ty
            }
        }
    )*};
}
arbitrary_numbers!(i8, i16, u16, i32, u32, i64, f64);

impl Arbitrary for bool {
    fn arbitrary(source: &mut Source) -> Self {
        source.one_in(2)
    }
}

impl Arbitrary for Uuid {
    fn arbitrary(source: &mut Source) -> Self {
        let ids = std::mem::take(&mut source.ids);
        let id = match source.below(4) {
            0 => [source.next() as u8; 16],
            1 => [0; 16],
            _ => source.pick(&ids),
        };
        source.ids = ids;
        id
    }
}

impl Arbitrary for String {
    fn arbitrary(source: &mut Source) -> Self {
        match source.below(4) {
            0 => Self::from_utf8_lossy(&source.bytes(8)).into_owned(),
            1 if source.one_in(10) => "ä".repeat(source.below(300)),
            _ => {
                let word = source.below(source.words.len());
                source.words[word].clone()
            }
        }
    }
}

impl Arbitrary for Bytes {
    fn arbitrary(source: &mut Source) -> Self {
        let most = if source.one_in(20) { 3000 } else { 30 };
        source.bytes(most).into()
    }
}

impl Arbitrary for RecordBytes {
    fn arbitrary(source: &mut Source) -> Self {
        let mut pieces = Vec::new();
        for _ in 0..source.pick(&[0, 1, 1, 1, 1, 2]) {
            let compression = source.pick(&COMPRESSIONS);
            let mut batch = source.batch(compression).to_vec();
            if source.one_in(4) {
                source.damage(&mut batch);
            }
            pieces.push(batch.into());
        }
        Self::new(pieces)
    }
}

impl<T: Arbitrary> Arbitrary for Option<T> {
    fn arbitrary(source: &mut Source) -> Self {
        (!source.one_in(4)).then(|| T::arbitrary(source))
    }
}

impl<T: Arbitrary> Arbitrary for Vec<T> {
    fn arbitrary(source: &mut Source) -> Self {
        if source.depth >= MAX_DEPTH {
            return Self::new();
        }
        source.depth += 1;
        let count = source.pick(&[0, 1, 1, 2, 3]);
        let made = (0..count).map(|_| T::arbitrary(source)).collect();
        source.depth -= 1;
        made
    }
}

/// Runs `case` for as long as `SLUICE_FUZZ_SECONDS` says, and at least `least` times; each gets a source of its own seed,
/// which is printed when it fails. `SLUICE_FUZZ_SEED` runs that one alone.
pub(crate) fn fuzz(name: &str, least: u64, mut case: impl FnMut(&mut Source)) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SLUICE_FUZZ_SEED") {
        return case(&mut Source::new(seed));
    }
    let seconds = number("SLUICE_FUZZ_SECONDS").unwrap_or(0);
    // A long run goes on to new ground each time; a short one is the same each time.
    let first = if seconds == 0 { 0 } else { std::process::id() as u64 * 1_000_000_000 };
    let end = std::time::Instant::now() + Duration::from_secs(seconds);
    let mut count = 0;
    while count < least || std::time::Instant::now() < end {
        let seed = Seed { name, seed: first + count };
        case(&mut Source::new(seed.seed));
        count += 1;
    }
    println!("{name}: {count} cases in {seconds} s");
}

/// Says on a panic which case it was.
struct Seed<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: failed with SLUICE_FUZZ_SEED={}", self.name, self.seed);
        }
    }
}

/// The most bytes that the closure held at any moment, on this thread, besides what there was before.
pub(crate) fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let mut result = None;
    let allocated = allocation_counter::measure(|| result = Some(work()));
    (result.expect("it ran"), allocated.bytes_max as usize)
}

/// A copy that is as large as its contents, so that nothing of it counts later.
pub(crate) fn exact(bytes: &[u8]) -> Bytes {
    BytesMut::from(bytes).freeze()
}
