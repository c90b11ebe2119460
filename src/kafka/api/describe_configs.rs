//! DescribeConfigs 1-4: a topic's whole configuration, and of a broker what clients use to ask for.

use super::super::{Door, error_code::ErrorCode};
use super::topic_by_name;
use crate::codec::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::engine::TopicInfo;
use crate::types::ConfigKey;

/// What a configuration belongs to.
pub(super) mod resource {
    pub(in crate::kafka) const TOPIC: i8 = 2;
    pub(in crate::kafka) const BROKER: i8 = 4;
}

/// Where a value comes from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Topic = 1,
    Broker = 4,
    Default = 5,
}

/// What a value is, since version 3.
#[derive(Clone, Copy)]
enum Type {
    Boolean = 1,
    Text = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// A topic's value of one key.
pub(super) struct TopicConfigValue {
    pub(super) key: ConfigKey,
    pub(super) value: String,
    /// The topic sets it itself.
    pub(super) is_set: bool,
}

/// Every key of a topic.
pub(super) fn topic_configs(info: &TopicInfo) -> impl Iterator<Item = TopicConfigValue> {
    ConfigKey::ALL.into_iter().map(|key| TopicConfigValue {
        key,
        value: info.config.get(key),
        is_set: info.overrides.contains_key(key.as_str()),
    })
}

pub(super) async fn answer(door: Door, _version: i16, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let describe = |resource: DescribeConfigsResource| {
        let described = match resource.resource_type {
            resource::TOPIC => {
                topic_by_name(&door, &resource.resource_name).map(|info| topic(&info)).map_err(|code| (code, None))
            }
            resource::BROKER => broker(&door, &resource.resource_name),
            _ => Err((ErrorCode::InvalidRequest, Some("only topics and brokers have configurations here".to_owned()))),
        };
        let (configs, error_code, error_message) = match described {
            Ok(configs) => (configs, ErrorCode::None, None),
            Err((code, text)) => (Vec::new(), code, text),
        };
        let wanted = |name: &str| {
            let keys = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty());
            keys.is_none_or(|keys| keys.iter().any(|key| key == name))
        };
        let mut configs: Vec<_> = configs.into_iter().filter(|config| wanted(&config.name)).collect();
        if !request.include_synonyms {
            configs.iter_mut().for_each(|config| config.synonyms.clear());
        }
        DescribeConfigsResult {
            error_code: error_code.code(),
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs,
        }
    };
    let results = request.resources.into_iter().map(describe).collect();
    DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() }
}

fn topic(info: &TopicInfo) -> Vec<DescribeConfigsResourceResult> {
    topic_configs(info)
        .map(|config| {
            let source = if config.is_set { Source::Topic } else { Source::Default } as i8;
            let (name, value) = (config.key.to_string(), Some(config.value));
            DescribeConfigsResourceResult {
                config_source: source,
                config_type: type_of(config.key) as i8,
                synonyms: vec![DescribeConfigsSynonym { name: name.clone(), value: value.clone(), source }],
                name,
                value,
                ..DescribeConfigsResourceResult::default()
            }
        })
        .collect()
}

const fn type_of(key: ConfigKey) -> Type {
    match key {
        ConfigKey::CleanupPolicy => Type::List,
        ConfigKey::CompressionType | ConfigKey::Flush | ConfigKey::MessageTimestampType => Type::Text,
        ConfigKey::MinCleanableDirtyRatio => Type::Double,
        ConfigKey::MaxMessageBytes | ConfigKey::MinInsyncReplicas | ConfigKey::SegmentBytes => Type::Int,
        ConfigKey::DeleteRetentionMs
        | ConfigKey::MinCompactionLagMs
        | ConfigKey::RetentionBytes
        | ConfigKey::RetentionMs
        | ConfigKey::SegmentMs => Type::Long,
    }
}

/// A broker's settings are its file's, its environment's and its flags': they can be read here, not changed.
fn broker(door: &Door, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, (ErrorCode, Option<String>)> {
    let me = door.engine().cluster().broker_id;
    if !name.is_empty() && name != me.to_string() {
        let text = format!("this is broker {me}: ask broker {name} itself");
        return Err((ErrorCode::InvalidRequest, Some(text)));
    }
    if name.is_empty() {
        return Ok(Vec::new()); // defaults for all brokers, which nobody can set
    }
    let settings = door.settings();
    let values = [
        ("node.id", me.to_string(), Type::Int),
        ("advertised.listeners", format!("PLAINTEXT://{}:{}", settings.host, settings.port), Type::List),
        ("auto.create.topics.enable", settings.auto_create_topics.to_string(), Type::Boolean),
        ("socket.request.max.bytes", door.max_frame_bytes().to_string(), Type::Int),
        ("fetch.max.bytes", settings.fetch_bytes.to_string(), Type::Int),
        ("connections.max.idle.ms", settings.idle_timeout.as_millis().to_string(), Type::Long),
    ];
    let source = Source::Broker as i8;
    Ok(values
        .into_iter()
        .map(|(name, value, config_type)| DescribeConfigsResourceResult {
            name: name.to_owned(),
            value: Some(value.clone()),
            read_only: true,
            config_source: source,
            synonyms: vec![DescribeConfigsSynonym { name: name.to_owned(), value: Some(value), source }],
            config_type: config_type as i8,
            ..DescribeConfigsResourceResult::default()
        })
        .collect())
}
