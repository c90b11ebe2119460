//! Making, changing and deleting topics: what the doors may ask, checked, and put to the controller.

use super::routed::{RoutedEngine, metadata_error};
use super::{AlterTopic, CreateTopic, EngineError, PartitionDescription, TopicDescription, TopicInfo};
use crate::metadata::Command;
use crate::replication::TopicReplicas;
use crate::types::{
    BrokerId, ConfigError, ConfigKey, HighWatermark, LogEndOffset, LogStartOffset, PartitionId, TopicConfig, TopicId,
    TopicName,
};
use std::sync::Arc;

/// The most partitions of one topic: each is a folder with files and a few KiB of memory.
const MAX_PARTITIONS: i32 = 10_000;

impl RoutedEngine {
    pub(super) async fn create(&self, request: CreateTopic) -> Result<TopicDescription, EngineError> {
        self.check_name(&request.name)?;
        self.create_any(request).await
    }

    /// The same for the server's own topics.
    pub(super) async fn create_any(&self, request: CreateTopic) -> Result<TopicDescription, EngineError> {
        let name = request.name.clone();
        let command = self.prepare_create(request)?;
        self.submit(command).await?;
        self.describe(&name)
    }

    /// Refuses the server's own topics.
    pub(super) fn check_name(&self, name: &TopicName) -> Result<(), EngineError> {
        if name.is_internal() { Err(EngineError::InternalTopic(name.clone())) } else { Ok(()) }
    }

    /// The change that makes the topic, if it may be made.
    pub(super) fn prepare_create(&self, request: CreateTopic) -> Result<Command, EngineError> {
        if self.catalog().by_name(&request.name).is_some() {
            return Err(EngineError::TopicExists(request.name));
        }
        let config = TopicConfig::with_overrides(&self.settings.defaults, &request.config)?;
        let partitions = request.partitions.unwrap_or(self.settings.default_partitions);
        check_partitions(partitions)?;
        let brokers = self.live_brokers();
        let factor = request.replication_factor.unwrap_or(self.settings.default_replication_factor);
        if factor < 1 || factor as usize > brokers.len() {
            let have = brokers.len();
            let text =
                format!("replication_factor {factor} does not fit: this cluster has {have} broker(s); use 1 to {have}");
            return Err(EngineError::InvalidReplicationFactor(text));
        }
        let named = request.config.contains_key(ConfigKey::MinInsyncReplicas.as_str());
        check_min_insync(&config, factor, named)?;
        let mut id = [0; 16];
        self.sys.rng.fill(&mut id);
        Ok(Command::CreateTopic {
            name: request.name,
            id: TopicId::from_random(id),
            assignment: assign(&brokers, 0, partitions, factor),
            config: request.config,
            now_ms: self.sys.clock.now_ms(),
        })
    }

    pub(super) async fn alter(&self, name: TopicName, change: AlterTopic) -> Result<TopicDescription, EngineError> {
        let command = self.prepare_alter(&name, change)?;
        self.submit(command).await?;
        self.describe(&name)
    }

    /// The change of the topic, if it may be made.
    pub(super) fn prepare_alter(&self, name: &TopicName, change: AlterTopic) -> Result<Command, EngineError> {
        let info = self.info_to_change(name)?;
        let mut overrides = info.overrides.clone();
        for key in &change.reset {
            key.parse::<ConfigKey>()?;
            overrides.remove(key);
        }
        overrides.extend(change.set.clone());
        if let Some(key) = change.reset.iter().find(|key| change.set.contains_key(*key)) {
            let value = change.set[key].clone();
            return Err(ConfigError::InvalidValue {
                key: key.parse()?,
                value,
                expected: "a value, or put it into reset, not both",
            }
            .into());
        }
        let config = TopicConfig::with_overrides(&self.settings.defaults, &overrides)?;
        let named = change.set.contains_key(ConfigKey::MinInsyncReplicas.as_str());
        check_min_insync(&config, info.replication_factor, named)?;
        let wanted = change.partitions.unwrap_or(info.partitions);
        if wanted < info.partitions {
            let text = format!(
                "topic '{name}' has {} partitions, and a topic never loses partitions; use that number or more",
                info.partitions
            );
            return Err(EngineError::InvalidPartitions(text));
        }
        check_partitions(wanted)?;
        let added = wanted - info.partitions;
        Ok(Command::AlterTopic {
            id: info.id,
            set: change.set,
            reset: change.reset,
            add_partitions: assign(&self.live_brokers(), info.partitions, added, info.replication_factor),
            expected_partitions: info.partitions,
        })
    }

    pub(super) async fn delete(&self, name: TopicName) -> Result<(), EngineError> {
        let id = self.info_to_change(&name)?.id;
        self.submit(Command::DeleteTopic { id }).await
    }

    pub(super) async fn find_or_create(&self, name: TopicName) -> Result<Arc<TopicInfo>, EngineError> {
        let find = || self.catalog().by_name(&name).map(|entry| entry.info.clone());
        if let Some(info) = find() {
            return Ok(info);
        }
        if !self.settings.auto_create_topics {
            return Err(EngineError::UnknownTopic(name.to_string()));
        }
        let request =
            CreateTopic { name: name.clone(), partitions: None, replication_factor: None, config: Default::default() };
        match self.create(request).await {
            // Another producer was faster; the catalog may show it a moment later.
            Ok(_) | Err(EngineError::TopicExists(_)) => {
                self.caught_up().await;
                find().ok_or_else(|| EngineError::UnknownTopic(name.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn describe(&self, name: &TopicName) -> Result<TopicDescription, EngineError> {
        let catalog = self.catalog();
        let entry = catalog.by_name(name).ok_or_else(|| EngineError::UnknownTopic(name.to_string()))?;
        let replicas = self.replicas.topic(entry.info.id);
        let partitions = (0..).map(PartitionId::new).zip(&entry.assignment.partitions);
        let partitions = partitions.map(|(id, assignment)| {
            let (progress, log_end, size_bytes, offline) = state(replicas.as_deref(), id);
            PartitionDescription {
                partition: id,
                leader: assignment.leader,
                leader_epoch: assignment.leader_epoch,
                replicas: assignment.replicas.clone(),
                in_sync_replicas: assignment.in_sync.clone(),
                log_start: progress.0,
                high_watermark: progress.1,
                log_end,
                size_bytes,
                offline,
            }
        });
        Ok(TopicDescription { info: entry.info.clone(), partitions: partitions.collect() })
    }

    fn info_to_change(&self, name: &TopicName) -> Result<Arc<TopicInfo>, EngineError> {
        if name.is_internal() {
            return Err(EngineError::InternalTopic(name.clone()));
        }
        let catalog = self.catalog();
        catalog.by_name(name).map(|e| e.info.clone()).ok_or_else(|| EngineError::UnknownTopic(name.to_string()))
    }

    /// Puts a change to the controller, and waits until this broker has acted on it.
    async fn submit(&self, command: Command) -> Result<(), EngineError> {
        self.metadata.submit(command).await.map_err(metadata_error)?;
        self.caught_up().await;
        Ok(())
    }

    fn live_brokers(&self) -> Vec<BrokerId> {
        self.metadata.image().brokers.iter().filter(|(_, b)| !b.fenced).map(|(id, _)| *id).collect()
    }
}

type State = ((LogStartOffset, HighWatermark), LogEndOffset, u64, Option<String>);

fn state(replicas: Option<&TopicReplicas>, id: PartitionId) -> State {
    let Some(partition) = replicas.and_then(|r| r.partition(id)) else {
        return (Default::default(), LogEndOffset::ZERO, 0, Some("its log could not be made".to_owned()));
    };
    let (log, progress) = (partition.log(), partition.log().progress());
    ((progress.log_start, progress.high_watermark), log.log_end(), log.size_bytes(), log.offline_reason())
}

fn check_partitions(partitions: i32) -> Result<(), EngineError> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    Err(EngineError::InvalidPartitions(format!("a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}")))
}

/// A topic that asks for more in-sync replicas than it has could never be written. The broker's default is not held
/// against a topic that did not ask.
fn check_min_insync(config: &TopicConfig, factor: i16, named: bool) -> Result<(), ConfigError> {
    if !named || config.min_insync_replicas <= i32::from(factor) {
        return Ok(());
    }
    Err(ConfigError::InvalidValue {
        key: ConfigKey::MinInsyncReplicas,
        value: config.min_insync_replicas.to_string(),
        expected: "at most the topic's replication factor",
    })
}

/// Replicas of `count` partitions from number `first` on: leaders go round the brokers, followers are the next ones.
fn assign(brokers: &[BrokerId], first: i32, count: i32, factor: i16) -> Vec<Vec<BrokerId>> {
    let of = |partition: i32| (0..factor as usize).map(|n| brokers[(partition as usize + n) % brokers.len()]).collect();
    (first..first + count).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_and_followers_are_spread() {
        let brokers = [1, 2, 3].map(BrokerId::new);
        let ids = |list: Vec<Vec<BrokerId>>| -> Vec<Vec<i32>> {
            list.into_iter().map(|r| r.into_iter().map(BrokerId::get).collect()).collect()
        };
        assert_eq!(ids(assign(&brokers, 0, 4, 2)), [[1, 2], [2, 3], [3, 1], [1, 2]]);
        assert_eq!(ids(assign(&brokers, 4, 1, 3)), [[2, 3, 1]]);
    }

    #[test]
    fn a_topic_must_be_writable() {
        let mut config = TopicConfig::new(&Default::default());
        config.min_insync_replicas = 2;
        assert!(check_min_insync(&config, 1, true).is_err());
        assert!(check_min_insync(&config, 2, true).is_ok());
        assert!(check_min_insync(&config, 1, false).is_ok());
        assert!(check_partitions(0).is_err() && check_partitions(1).is_ok() && check_partitions(10_001).is_err());
    }
}
