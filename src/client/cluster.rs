//! What is known of the cluster: brokers, leaders, topic ids. Pure.
//!
//! **Invariant**: a partition's leader epoch never goes back while the topic keeps its id: an answer of a broker that is
//! behind does not replace a newer one (KIP-320).

use super::Code;
use crate::codec::messages::metadata::{MetadataResponse, MetadataResponseTopic};
use crate::types::{BrokerId, PartitionId, TopicId};
use std::collections::BTreeMap;

/// Who leads a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub broker: BrokerId,
    /// Its epoch; −1 where the broker that told it does not know epochs.
    pub epoch: i32,
}

/// The cluster as brokers told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    addresses: BTreeMap<BrokerId, String>,
    controller: Option<BrokerId>,
    topics: BTreeMap<String, Topic>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Topic {
    id: Option<TopicId>,
    /// `None` for a partition without a leader; the epoch is kept to compare with.
    partitions: BTreeMap<PartitionId, (Option<BrokerId>, i32)>,
}

impl Cluster {
    /// Takes in an answer. Topics that it says do not exist are forgotten, those that it does not name stay.
    pub(super) fn apply(&mut self, response: &MetadataResponse) {
        // An answer without brokers is one of a broker that starts: it knows nothing yet.
        if !response.brokers.is_empty() {
            let address = |host: &str, port| match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            };
            let brokers = response.brokers.iter().filter(|broker| broker.node_id >= 0);
            self.addresses = brokers.map(|one| (BrokerId::new(one.node_id), address(&one.host, one.port))).collect();
        }
        self.controller = broker(response.controller_id);
        for topic in &response.topics {
            let Some(name) = &topic.name else { continue };
            match Code::new(topic.error_code) {
                None => self.topics.entry(name.clone()).or_default().apply(topic),
                Some(Code::UNKNOWN_TOPIC_OR_PARTITION) => drop(self.topics.remove(name)),
                Some(_) => {} // it may be asked again
            }
        }
    }

    /// A broker's `host:port`.
    #[must_use]
    pub fn address(&self, broker: BrokerId) -> Option<&str> {
        self.addresses.get(&broker).map(String::as_str)
    }

    /// Every broker with its address.
    pub fn brokers(&self) -> impl Iterator<Item = (BrokerId, &str)> {
        self.addresses.iter().map(|(id, address)| (*id, address.as_str()))
    }

    /// Who makes topics.
    #[must_use]
    pub const fn controller(&self) -> Option<BrokerId> {
        self.controller
    }

    /// Who leads a partition; `None` if nobody does, or it is not known.
    #[must_use]
    pub fn leader(&self, topic: &str, partition: PartitionId) -> Option<Leader> {
        let (broker, epoch) = *self.topics.get(topic)?.partitions.get(&partition)?;
        broker.map(|broker| Leader { broker, epoch })
    }

    /// A topic's id, where the brokers have ids.
    #[must_use]
    pub fn topic_id(&self, topic: &str) -> Option<TopicId> {
        self.topics.get(topic)?.id
    }

    /// How many partitions a topic has; `None` if it is not known.
    #[must_use]
    pub fn partition_count(&self, topic: &str) -> Option<usize> {
        self.topics.get(topic).map(|topic| topic.partitions.len())
    }
}

impl Topic {
    fn apply(&mut self, told: &MetadataResponseTopic) {
        let id = (told.topic_id != [0; 16]).then(|| TopicId::from_bytes(told.topic_id));
        if id != self.id {
            *self = Self { id, ..Self::default() };
        }
        let mut partitions = BTreeMap::new();
        for one in told.partitions.iter().filter(|one| one.partition_index >= 0) {
            let number = PartitionId::new(one.partition_index);
            let leader = (broker(one.leader_id), one.leader_epoch);
            let known = self.partitions.get(&number).copied();
            partitions.insert(number, known.filter(|(_, epoch)| *epoch > leader.1).unwrap_or(leader));
        }
        self.partitions = partitions;
    }
}

fn broker(id: i32) -> Option<BrokerId> {
    (id >= 0).then(|| BrokerId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::messages::metadata::{MetadataResponseBroker, MetadataResponsePartition};

    fn answer(topic_id: u8, partitions: &[(i32, i32, i32)]) -> MetadataResponse {
        let partitions = partitions.iter().map(|&(partition_index, leader_id, leader_epoch)| {
            MetadataResponsePartition { partition_index, leader_id, leader_epoch, ..Default::default() }
        });
        let topic = MetadataResponseTopic {
            name: Some("games".to_owned()),
            topic_id: [topic_id; 16],
            partitions: partitions.collect(),
            ..Default::default()
        };
        let broker = |node_id, host: &str| MetadataResponseBroker {
            node_id,
            host: host.to_owned(),
            port: 9092,
            ..Default::default()
        };
        MetadataResponse {
            brokers: vec![broker(1, "one"), broker(2, "::1")],
            controller_id: 2,
            topics: vec![topic],
            ..Default::default()
        }
    }

    fn leader(cluster: &Cluster, partition: i32) -> Option<(i32, i32)> {
        cluster.leader("games", PartitionId::new(partition)).map(|leader| (leader.broker.get(), leader.epoch))
    }

    #[test]
    fn brokers_leaders_and_the_controller_are_known() {
        let mut cluster = Cluster::default();
        cluster.apply(&answer(7, &[(0, 1, 3), (1, -1, 4)]));
        assert_eq!(cluster.address(BrokerId::new(1)), Some("one:9092"));
        assert_eq!(cluster.address(BrokerId::new(2)), Some("[::1]:9092"));
        assert_eq!(cluster.controller(), Some(BrokerId::new(2)));
        assert_eq!(leader(&cluster, 0), Some((1, 3)));
        assert_eq!(leader(&cluster, 1), None, "nobody leads it");
        assert_eq!(leader(&cluster, 2), None);
        assert_eq!(cluster.partition_count("games"), Some(2));
        assert_eq!(cluster.topic_id("games"), Some(TopicId::from_bytes([7; 16])));
    }

    #[test]
    fn an_older_answer_does_not_bring_an_old_leader_back() {
        let mut cluster = Cluster::default();
        cluster.apply(&answer(7, &[(0, 2, 5)]));
        cluster.apply(&answer(7, &[(0, 1, 4)]));
        assert_eq!(leader(&cluster, 0), Some((2, 5)));
        cluster.apply(&answer(7, &[(0, -1, 6)]));
        assert_eq!(leader(&cluster, 0), None);
        cluster.apply(&answer(8, &[(0, 1, 0)]));
        assert_eq!(leader(&cluster, 0), Some((1, 0)), "a topic made anew begins anew");
    }

    #[test]
    fn a_topic_that_is_gone_is_forgotten_and_one_in_trouble_is_not() {
        let mut cluster = Cluster::default();
        cluster.apply(&answer(7, &[(0, 1, 3)]));
        let mut bad = answer(7, &[]);
        bad.topics[0].error_code = Code::LEADER_NOT_AVAILABLE.get();
        cluster.apply(&bad);
        assert_eq!(leader(&cluster, 0), Some((1, 3)));
        bad.topics[0].error_code = Code::UNKNOWN_TOPIC_OR_PARTITION.get();
        cluster.apply(&bad);
        assert_eq!(cluster.partition_count("games"), None);
    }

    #[test]
    fn a_broker_that_knows_nothing_yet_does_not_wipe_out_what_is_known() {
        let mut cluster = Cluster::default();
        cluster.apply(&answer(7, &[(0, 1, 3)]));
        cluster.apply(&MetadataResponse::default());
        assert_eq!(cluster.address(BrokerId::new(1)), Some("one:9092"));
        assert_eq!(leader(&cluster, 0), Some((1, 3)));
    }
}
