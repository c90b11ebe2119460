//! The topics as the doors and the replicas need them, made from the metadata's image.
//!
//! **Invariant**: a topic that did not change keeps its `Arc`s from one catalog to the next, so that a change costs
//! what the changed topics cost.

use super::TopicInfo;
use crate::metadata::{MetadataImage, TopicImage};
use crate::replication::{PartitionAssignment, TopicAssignment};
use crate::types::{TopicConfig, TopicDefaults, TopicId, TopicName};
use std::{collections::BTreeMap, sync::Arc};

/// One topic.
#[derive(Clone)]
pub(super) struct Entry {
    image: Arc<TopicImage>,
    pub(super) info: Arc<TopicInfo>,
    pub(super) assignment: Arc<TopicAssignment>,
}

impl Entry {
    fn new(image: &Arc<TopicImage>, defaults: &TopicDefaults) -> Self {
        let config = TopicConfig::with_overrides(defaults, &image.overrides).unwrap_or_else(|error| {
            // Checked when it was set; only a newer version's key comes here, and then the defaults serve.
            tracing::error!(topic = %image.name, %error, "a topic's configuration is not understood; the defaults are used");
            TopicConfig::new(defaults)
        });
        let partitions = image.partitions.iter().map(|p| PartitionAssignment {
            replicas: p.replicas.clone(),
            in_sync: p.isr.clone(),
            leader: p.leader,
            leader_epoch: p.leader_epoch,
        });
        let assignment = TopicAssignment {
            id: image.id,
            name: image.name.clone(),
            config: config.clone(),
            partitions: partitions.collect(),
        };
        let info = TopicInfo {
            name: image.name.clone(),
            id: image.id,
            partitions: image.partition_count(),
            replication_factor: image.replication_factor(),
            config,
            overrides: image.overrides.clone(),
        };
        Self { image: image.clone(), info: Arc::new(info), assignment: Arc::new(assignment) }
    }
}

/// All topics, as of one image of the metadata.
#[derive(Default)]
pub(super) struct Catalog {
    by_name: BTreeMap<TopicName, TopicId>,
    by_id: BTreeMap<TopicId, Entry>,
}

impl Catalog {
    /// The catalog of `image`, with what did not change taken from this one.
    pub(super) fn next(&self, image: &MetadataImage, defaults: &TopicDefaults) -> Self {
        let mut next = Self::default();
        for topic in image.topics() {
            let kept = self.by_id.get(&topic.id).filter(|entry| Arc::ptr_eq(&entry.image, topic));
            next.by_name.insert(topic.name.clone(), topic.id);
            next.by_id.insert(topic.id, kept.cloned().unwrap_or_else(|| Entry::new(topic, defaults)));
        }
        next
    }

    pub(super) fn by_name(&self, name: &TopicName) -> Option<&Entry> {
        self.by_id.get(self.by_name.get(name)?)
    }

    pub(super) fn by_id(&self, id: TopicId) -> Option<&Entry> {
        self.by_id.get(&id)
    }

    /// Sorted by name.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Entry> {
        self.by_name.values().map(|id| &self.by_id[id])
    }

    pub(super) fn assignments(&self) -> Vec<Arc<TopicAssignment>> {
        self.by_id.values().map(|entry| entry.assignment.clone()).collect()
    }
}
