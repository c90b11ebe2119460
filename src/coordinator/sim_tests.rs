//! A broker's internal topic on a simulated disk, for the tests of coordinators.

use super::{CoordinatorRuntime, StateMachine};
use crate::log::{LogConfig, LogManager, LogSettings};
use crate::replication::{PartitionAssignment, ReplicaManager, TopicAssignment, TopicReplicas};
use crate::sys::Sys;
use crate::sys::sim::{self, SimDisk};
use crate::types::{BrokerId, LeaderEpoch, PartitionId, TopicConfig, TopicDefaults, TopicId, TopicName};
use std::{path::Path, sync::Arc, time::Duration};

const ME: BrokerId = BrokerId::new(1);
/// The wall clock at the start.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// A disk with a topic of one partition on it, started again and again.
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    seed: u64,
    epoch: i32,
}

/// A started machine.
pub(crate) struct Started {
    pub(crate) sys: Sys,
    pub(crate) replicas: ReplicaManager,
    topic: TopicAssignment,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Self { disk: SimDisk::new(seed), seed, epoch: 0 }
    }

    /// Opens what is on the disk, under the next leader epoch.
    pub(crate) async fn start(&mut self) -> Started {
        let sys = sim::machine(&self.disk, self.seed, START_MS);
        let dir = Path::new("/data");
        sys.disk.create_dir_all(dir).unwrap();
        sys.disk.sync_dir(Path::new("/")).unwrap();
        let config = TopicConfig::new(&TopicDefaults::default());
        let settings = LogSettings {
            tail_ring_bytes: 1 << 20,
            group_bytes: 1 << 20,
            staged_bytes_per_partition: 4 << 20,
            staged_bytes: 1 << 30,
            flush_interval: Duration::from_millis(100),
            idempotency_keys_per_partition: 10,
            idempotency_retention: Duration::from_hours(1),
            open_files: 100,
        };
        let known = LogConfig { topic: config.clone() };
        let known = Arc::new(move |_| Some(known.clone()));
        let logs = LogManager::open(sys.clone(), dir.to_path_buf(), settings, known, Arc::new(|_| {})).await.unwrap();
        self.epoch += 1;
        let partition = PartitionAssignment {
            replicas: vec![ME],
            in_sync: vec![ME],
            leader: Some(ME),
            leader_epoch: LeaderEpoch::new(self.epoch),
        };
        let id = TopicId::from_random([7; 16]);
        let name = TopicName::new("__state").unwrap();
        let topic = TopicAssignment { id, name, config, partitions: vec![partition] };
        let started = Started { sys, replicas: ReplicaManager::new(ME, logs), topic };
        started.replicas.apply(vec![Arc::new(started.topic.clone())]).await;
        started
    }
}

impl Started {
    pub(crate) fn topic(&self) -> Arc<TopicReplicas> {
        self.replicas.topic(self.topic.id).unwrap()
    }

    /// Another broker leads from now on.
    pub(crate) async fn resign(&self) {
        let mut topic = self.topic.clone();
        topic.partitions[0].leader = Some(BrokerId::new(2));
        self.replicas.apply(vec![Arc::new(topic)]).await;
    }

    /// A runtime over the topic.
    pub(crate) fn runtime<S: StateMachine>(
        &self,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> CoordinatorRuntime<S> {
        let runtime = CoordinatorRuntime::new(self.sys.clone(), move |_: PartitionId| make());
        runtime.apply(Some(&self.topic()));
        runtime
    }
}
