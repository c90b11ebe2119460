//! Kafka's embedded consumer protocol: what consumers tell their leader, and what it gives them.
//!
//! Versions 0 to 3 of `ConsumerProtocolSubscription` and `ConsumerProtocolAssignment` are read (a newer one by what it
//! shares with them), version 1 of the first and 0 of the second are written: what every client understands.

use super::Assignment;
use super::wire::{Reader, Writer};
use crate::types::{PartitionId, TopicName};
use bytes::Bytes;
use std::collections::BTreeSet;

/// The protocol type of consumers.
pub(super) const CONSUMER: &str = "consumer";

/// What a consumer wants and has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Subscription {
    pub(super) topics: BTreeSet<TopicName>,
    pub(super) owned: Assignment,
    /// The generation under which it owned them, from version 2 on.
    pub(super) generation: Option<i32>,
}

impl Subscription {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.i16(1);
        out.i32(self.topics.len() as i32);
        self.topics.iter().for_each(|topic| out.string(topic.as_str()));
        out.bytes(&[]);
        write_assignment(&mut out, &self.owned);
        out.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader(bytes);
        let version = input.i16()?;
        let count = input.count(2)?;
        let mut topics = BTreeSet::new();
        for _ in 0..count {
            // A name that can not be a topic's is nobody's.
            topics.extend(TopicName::new(input.string()?));
        }
        input.bytes()?;
        let owned = if version >= 1 { read_assignment(&mut input)? } else { Assignment::new() };
        let generation = if version >= 2 { Some(input.i32()?).filter(|g| *g >= 0) } else { None };
        Some(Self { topics, owned, generation })
    }
}

pub(super) fn encode_assignment(assignment: &Assignment) -> Bytes {
    let mut out = Writer::default();
    out.i16(0);
    write_assignment(&mut out, assignment);
    out.bytes(&[]);
    out.finish()
}

pub(super) fn decode_assignment(bytes: &[u8]) -> Option<Assignment> {
    if bytes.is_empty() {
        return Some(Assignment::new());
    }
    let mut input = Reader(bytes);
    input.i16()?;
    read_assignment(&mut input)
}

fn write_assignment(out: &mut Writer, assignment: &Assignment) {
    out.i32(assignment.len() as i32);
    for (topic, partitions) in assignment {
        out.string(topic.as_str());
        out.i32(partitions.len() as i32);
        partitions.iter().for_each(|p| out.i32(p.get()));
    }
}

fn read_assignment(input: &mut Reader<'_>) -> Option<Assignment> {
    let mut assignment = Assignment::new();
    for _ in 0..input.count(6)? {
        let topic = TopicName::new(input.string()?).ok();
        let mut partitions = Vec::new();
        for _ in 0..input.count(4)? {
            let partition = input.i32()?;
            partitions.extend((partition >= 0).then(|| PartitionId::new(partition)));
        }
        partitions.sort_unstable();
        partitions.dedup();
        if let Some(topic) = topic {
            assignment.insert(topic, partitions);
        }
    }
    Some(assignment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn bytes_are_kafkas() {
        let owned = Assignment::from([(name("a"), vec![PartitionId::new(2)])]);
        let subscription = Subscription { topics: [name("a"), name("bc")].into(), owned, generation: None };
        let expected: &[u8] = &[
            0, 1, // version
            0, 0, 0, 2, 0, 1, b'a', 0, 2, b'b', b'c', // topics
            0, 0, 0, 0, // user data
            0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 2, // owned
        ];
        assert_eq!(&subscription.encode()[..], expected);
        assert_eq!(Subscription::decode(expected), Some(subscription.clone()));
        // As a Java client of version 3 sends it: null user data, generation, rack.
        let newer = [&[0, 3][..], &expected[2..13], &[255, 255, 255, 255], &expected[17..], &[0, 0, 0, 9, 255, 255]];
        let newer = Subscription::decode(&newer.concat()).unwrap();
        assert_eq!((newer.topics, newer.generation), (subscription.topics, Some(9)));
        let old = [&[0, 0][..], &expected[2..17]].concat();
        assert_eq!(Subscription::decode(&old).unwrap().owned, Assignment::new());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = (Subscription::decode(&bytes), decode_assignment(&bytes));
        }

        #[test]
        fn assignments_survive(parts in proptest::collection::btree_map("[a-z]{1,5}", proptest::collection::btree_set(0i32..1000, 0..5), 0..5)) {
            let assignment: Assignment =
                parts.into_iter().map(|(t, ps)| (name(&t), ps.into_iter().map(PartitionId::new).collect())).collect();
            prop_assert_eq!(decode_assignment(&encode_assignment(&assignment)), Some(assignment));
        }
    }
}
