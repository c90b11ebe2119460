//! CreateTopics 2-7: each topic for itself; the first that fails does not hold up the others.

use super::super::{
    Door,
    error_code::{ErrorCode, code_and_text},
};
use super::describe_configs::{self, Source};
use crate::codec::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest, CreateTopicsResponse,
};
use crate::engine::{CreateTopic, TopicDescription};
use crate::types::TopicName;
use std::collections::BTreeMap;

/// What stands for the broker's default number.
const DEFAULT: i32 = -1;

pub(super) async fn answer(door: Door, _version: i16, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let repeated = request.topics.iter().filter(|other| other.name == topic.name).count() > 1;
        topics.push(if repeated {
            let text = "the request names this topic more than once".to_owned();
            refused(topic, (ErrorCode::InvalidRequest.code(), Some(text)))
        } else {
            match create(&door, topic, request.validate_only).await {
                Ok(Some(described)) => created(&described),
                Ok(None) => CreatableTopicResult { name: topic.name.clone(), ..CreatableTopicResult::default() },
                Err(error) => refused(topic, error),
            }
        });
    }
    CreateTopicsResponse { topics, ..CreateTopicsResponse::default() }
}

async fn create(
    door: &Door,
    topic: &CreatableTopic,
    validate_only: bool,
) -> Result<Option<TopicDescription>, (i16, Option<String>)> {
    let request = read(topic)?;
    if validate_only {
        door.engine().check_create_topic(request).await.map_err(|error| code_and_text(&error))?;
        return Ok(None);
    }
    door.engine().create_topic(request).await.map(Some).map_err(|error| code_and_text(&error))
}

fn read(topic: &CreatableTopic) -> Result<CreateTopic, (i16, Option<String>)> {
    let name = TopicName::new(&topic.name)
        .map_err(|error| (ErrorCode::InvalidTopic.code(), Some(format!("the topic's name: {error}"))))?;
    let (mut partitions, mut replication_factor) = (topic.num_partitions, i32::from(topic.replication_factor));
    if let Some(first) = topic.assignments.first() {
        // Where replicas go is this broker's choice; how many there are is the client's.
        if partitions != DEFAULT || replication_factor != DEFAULT {
            let text = "a topic has either replica assignments, or numbers of partitions and replicas".to_owned();
            return Err((ErrorCode::InvalidRequest.code(), Some(text)));
        }
        partitions = topic.assignments.len() as i32;
        replication_factor = first.broker_ids.len() as i32;
    }
    let config: BTreeMap<String, String> =
        topic.configs.iter().filter_map(|c| Some((c.name.clone(), c.value.clone()?))).collect();
    Ok(CreateTopic {
        name,
        partitions: (partitions != DEFAULT).then_some(partitions),
        replication_factor: (replication_factor != DEFAULT)
            .then(|| i16::try_from(replication_factor).unwrap_or(i16::MAX)),
        config,
    })
}

fn created(described: &TopicDescription) -> CreatableTopicResult {
    let info = &described.info;
    let configs = describe_configs::topic_configs(info).map(|config| CreatableTopicConfigs {
        name: config.key.to_string(),
        value: Some(config.value),
        config_source: if config.is_set { Source::Topic } else { Source::Default } as i8,
        ..CreatableTopicConfigs::default()
    });
    CreatableTopicResult {
        name: info.name.to_string(),
        topic_id: *info.id.as_bytes(),
        num_partitions: info.partitions,
        replication_factor: info.replication_factor,
        configs: Some(configs.collect()),
        ..CreatableTopicResult::default()
    }
}

fn refused(topic: &CreatableTopic, (error_code, error_message): (i16, Option<String>)) -> CreatableTopicResult {
    CreatableTopicResult { name: topic.name.clone(), error_code, error_message, ..CreatableTopicResult::default() }
}
