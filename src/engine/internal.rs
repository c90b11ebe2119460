//! The server's own topics, made when they are first needed.

use super::routed::RoutedEngine;
use super::{CreateTopic, EngineError, TopicInfo};
use crate::coordinator::CoordinatorError;
use crate::log::LogError;
use crate::replication::ReplicationError;
use crate::types::TopicName;
use std::sync::Arc;

/// The most bytes of a coordinator's record: a group of many members is one.
const MAX_RECORD_BYTES: &str = "16777216";

/// A topic of the server's own.
pub(super) struct InternalTopic {
    pub(super) name: &'static str,
    /// Where it is made; later the topic itself says.
    pub(super) partitions: i32,
    pub(super) cleanup_policy: &'static str,
}

impl InternalTopic {
    fn name(&self) -> TopicName {
        TopicName::new(self.name).expect("our own topics have good names")
    }
}

impl RoutedEngine {
    /// An internal topic, if it was made already.
    pub(super) fn internal_topic(&self, topic: &InternalTopic) -> Option<Arc<TopicInfo>> {
        self.catalog().by_name(&topic.name()).map(|entry| entry.info.clone())
    }

    /// An internal topic, made if there is none. Its state must survive what a client was told of, so it is always
    /// `flush=commit`, and nothing in it goes by age.
    pub(super) async fn internal_topic_or_create(&self, topic: &InternalTopic) -> Result<Arc<TopicInfo>, EngineError> {
        if let Some(info) = self.internal_topic(topic) {
            return Ok(info);
        }
        let config = [
            ("flush", "commit"),
            ("cleanup.policy", topic.cleanup_policy),
            ("compression.type", "producer"),
            ("max.message.bytes", MAX_RECORD_BYTES),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
        ];
        let request = CreateTopic {
            name: topic.name(),
            partitions: Some(topic.partitions),
            replication_factor: None,
            config: config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        };
        match self.create_any(request).await {
            // Somebody else was faster; the catalog may show it a moment later.
            Ok(_) | Err(EngineError::TopicExists(_)) => {
                self.caught_up().await;
                self.internal_topic(topic).ok_or(EngineError::NotCoordinator)
            }
            Err(error) => Err(error),
        }
    }
}

impl From<CoordinatorError> for EngineError {
    fn from(error: CoordinatorError) -> Self {
        match error {
            CoordinatorError::NotCoordinator => Self::NotCoordinator,
            CoordinatorError::Overloaded => Self::Overloaded,
            CoordinatorError::NotStored(ReplicationError::Log(LogError::DiskFull)) => Self::DiskFull,
            CoordinatorError::NotStored(ReplicationError::NotLeader | ReplicationError::NotHere) => {
                Self::NotCoordinator
            }
            CoordinatorError::NotLoaded(_) | CoordinatorError::NotStored(_) => {
                Self::CoordinatorNotAvailable(error.to_string())
            }
        }
    }
}
