//! AlterConfigs 0-2, which replaces a topic's whole configuration, and IncrementalAlterConfigs 0-1 (KIP-339), which changes
//! parts of it.

use super::super::{
    Door,
    error_code::{ErrorCode, code_and_text},
};
use super::describe_configs::resource;
use super::topic_by_name;
use crate::codec::messages::{alter_configs as whole, incremental_alter_configs as parts};
use crate::engine::{AlterTopic, TopicInfo};

type Refused = (i16, Option<String>);

/// What a change does with a key.
mod operation {
    pub(super) const SET: i8 = 0;
    pub(super) const DELETE: i8 = 1;
    pub(super) const APPEND: i8 = 2;
    pub(super) const SUBTRACT: i8 = 3;
}

pub(super) async fn answer(
    door: Door,
    _version: i16,
    request: whole::AlterConfigsRequest,
) -> whole::AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let change = |info: &TopicInfo| {
            let set: std::collections::BTreeMap<String, String> =
                resource.configs.iter().filter_map(|c| Some((c.name.clone(), c.value.clone()?))).collect();
            let reset = info.overrides.keys().filter(|key| !set.contains_key(*key)).cloned().collect();
            Ok(AlterTopic { set, reset, partitions: None })
        };
        let outcome =
            alter(&door, resource.resource_type, &resource.resource_name, change, request.validate_only).await;
        let (error_code, error_message) = outcome.err().unwrap_or((ErrorCode::None.code(), None));
        responses.push(whole::AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    whole::AlterConfigsResponse { responses, ..Default::default() }
}

pub(super) async fn answer_incremental(
    door: Door,
    _version: i16,
    request: parts::IncrementalAlterConfigsRequest,
) -> parts::IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let change = |info: &TopicInfo| incremental(info, &resource.configs);
        let outcome =
            alter(&door, resource.resource_type, &resource.resource_name, change, request.validate_only).await;
        let (error_code, error_message) = outcome.err().unwrap_or((ErrorCode::None.code(), None));
        responses.push(parts::AlterConfigsResourceResponse {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    parts::IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

fn incremental(info: &TopicInfo, configs: &[parts::AlterableConfig]) -> Result<AlterTopic, Refused> {
    let invalid = |text: &str| (ErrorCode::InvalidConfig.code(), Some(text.to_owned()));
    let mut change = AlterTopic::default();
    for config in configs {
        if change.set.contains_key(&config.name) || change.reset.contains(&config.name) {
            return Err(invalid("a key comes more than once"));
        }
        let value = || config.value.clone().ok_or_else(|| invalid("a value is missing"));
        let key = || config.name.parse().map_err(|error: crate::types::ConfigError| invalid(&error.to_string()));
        match config.config_operation {
            operation::SET => drop(change.set.insert(config.name.clone(), value()?)),
            // Of a key that has no value of its own there is nothing to delete.
            operation::DELETE if info.overrides.contains_key(&config.name) => change.reset.push(config.name.clone()),
            operation::DELETE => drop::<crate::types::ConfigKey>(key()?),
            operation @ (operation::APPEND | operation::SUBTRACT) => {
                let now = info.config.get(key()?);
                let given = value()?;
                let mut list: Vec<&str> = now.split(',').filter(|item| !given.split(',').any(|g| g == *item)).collect();
                if operation == operation::APPEND {
                    list.extend(given.split(','));
                }
                change.set.insert(config.name.clone(), list.join(","));
            }
            _ => return Err((ErrorCode::InvalidRequest.code(), Some("unknown operation".to_owned()))),
        }
    }
    Ok(change)
}

async fn alter(
    door: &Door,
    resource_type: i8,
    name: &str,
    change: impl FnOnce(&TopicInfo) -> Result<AlterTopic, Refused>,
    validate_only: bool,
) -> Result<(), Refused> {
    if resource_type != resource::TOPIC {
        let text = "only topics can be configured here; a broker's settings are its file's and flags'".to_owned();
        return Err((ErrorCode::InvalidRequest.code(), Some(text)));
    }
    let info = topic_by_name(door, name).map_err(|code| (code.code(), None))?;
    let change = change(&info)?;
    let changed = if validate_only {
        door.engine().check_alter_topic(&info.name, change).await
    } else {
        door.engine().alter_topic(&info.name, change).await.map(drop)
    };
    changed.map_err(|error| code_and_text(&error))
}
