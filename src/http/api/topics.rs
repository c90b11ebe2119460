//! Topics: make, list, describe, change, truncate, delete.

use super::schema::ConfigMap;
use crate::{
    engine::{AlterTopic, CreateTopic, PartitionDescription, TopicDescription, TopicInfo, Truncation},
    http::{
        AppState,
        extract::{JsonBody, Parameters, TopicPath, whole, whole_if_given},
        problem::Problem,
    },
    types::{ConfigKey, Offset, PartitionId, TopicName},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Topics of one page when the request does not say.
const DEFAULT_PAGE: usize = 100;
/// Topics of the largest page.
const LARGEST_PAGE: usize = 1000;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(create_topic, list_topics))
        .routes(routes!(get_topic, alter_topic, delete_topic))
        .routes(routes!(truncate_topic))
}

/// A topic to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTopic {
    /// Its name, by Kafka's rule.
    #[schema(pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games")]
    name: String,
    /// How many partitions; without it the broker's default.
    #[schema(nullable = false, minimum = 1, maximum = 10000, example = 3)]
    #[serde(default, deserialize_with = "whole_if_given")]
    partitions: Option<i32>,
    /// Copies of each partition, at most as many as there are brokers; without it the broker's default.
    #[schema(nullable = false, minimum = 1, maximum = 32767, example = 1)]
    #[serde(default, deserialize_with = "whole_if_given")]
    replication_factor: Option<i16>,
    /// Configuration that differs from the broker's defaults.
    #[schema(nullable = false)]
    config: Option<ConfigMap>,
}

/// A change of a topic. Everything is checked before anything is changed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicChange {
    /// Configuration to set.
    #[schema(nullable = false)]
    config: Option<ConfigMap>,
    /// Names of configuration to put back to the default.
    #[serde(default)]
    #[schema(schema_with = super::schema::config_names)]
    reset: Vec<String>,
    /// The new number of partitions; never fewer than there are.
    #[schema(nullable = false, minimum = 1, maximum = 10000, example = 6)]
    #[serde(default, deserialize_with = "whole_if_given")]
    partitions: Option<i32>,
}

/// Log starts to move up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TruncateTopic {
    /// Which partitions, each at most once.
    #[schema(min_items = 1, max_items = 10000)]
    partitions: Vec<TruncatePartition>,
}

/// A log start to move up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TruncatePartition {
    /// The partition.
    #[schema(minimum = 0, example = 0)]
    #[serde(deserialize_with = "whole")]
    partition: i32,
    /// The new log start: records below it go. At most the high watermark.
    #[schema(minimum = 0, example = 100)]
    #[serde(deserialize_with = "whole")]
    before_offset: i64,
}

/// The log starts after truncation.
#[derive(Debug, Serialize, ToSchema)]
pub struct TruncatedTopic {
    /// Each partition that was named.
    partitions: Vec<TruncatedPartition>,
}

/// A partition's log start.
#[derive(Debug, Serialize, ToSchema)]
pub struct TruncatedPartition {
    /// The partition.
    #[schema(minimum = 0)]
    partition: i32,
    /// The first offset that is left.
    #[schema(minimum = 0)]
    log_start_offset: i64,
}

/// A topic with the state of its partitions.
#[derive(Debug, Serialize, ToSchema)]
pub struct Topic {
    /// Its name.
    #[schema(example = "games")]
    name: String,
    /// Its identity: a topic of the same name made later has another one.
    #[schema(example = "6wQyPq0sQkGVbGmC3vV0Yg")]
    topic_id: String,
    /// Whether it is the server's own.
    internal: bool,
    /// Copies of each partition.
    #[schema(minimum = 1)]
    replication_factor: i16,
    /// Its partitions, in order.
    partitions: Vec<Partition>,
    /// Its whole configuration, defaults included.
    config: ConfigMap,
    /// The part of the configuration that the topic sets itself.
    config_overrides: ConfigMap,
    /// What the change brings with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// A partition's state.
#[derive(Debug, Serialize, ToSchema)]
pub struct Partition {
    /// Its number.
    #[schema(minimum = 0)]
    partition: i32,
    /// The broker that leads it; left out while there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    leader: Option<i32>,
    /// The number of its leadership; it rises at each change and restart.
    #[schema(minimum = 0)]
    leader_epoch: i32,
    /// The brokers that hold a copy.
    replicas: Vec<i32>,
    /// Those of them that keep up.
    in_sync_replicas: Vec<i32>,
    /// The first offset that can be read.
    #[schema(minimum = 0)]
    log_start_offset: i64,
    /// The first offset that can not be read yet.
    #[schema(minimum = 0)]
    high_watermark: i64,
    /// The offset that the next record gets.
    #[schema(minimum = 0)]
    log_end_offset: i64,
    /// Its size on disk.
    #[schema(minimum = 0)]
    size_bytes: u64,
    /// Whether it takes no requests; the server's log says why.
    offline: bool,
}

/// A topic in the list.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopicSummary {
    /// Its name.
    name: String,
    /// Its identity.
    topic_id: String,
    /// Whether it is the server's own.
    internal: bool,
    /// How many partitions it has.
    #[schema(minimum = 1)]
    partition_count: i32,
    /// Copies of each partition.
    #[schema(minimum = 1)]
    replication_factor: i16,
}

/// A page of the list of topics.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopicPage {
    /// The topics, sorted by name.
    topics: Vec<TopicSummary>,
    /// Give this as `page_token` for the next page; left out on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_page_token: Option<String>,
}

/// Parameters of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParameters {
    /// The `next_page_token` of the page before.
    #[param(nullable = false, pattern = "^[a-zA-Z0-9._-]{1,249}$")]
    page_token: Option<String>,
    /// Topics of a page at most.
    #[param(nullable = false, minimum = 1, maximum = 1000, default = 100)]
    page_size: Option<usize>,
    /// Whether topics of the server's own are listed too.
    #[serde(default)]
    #[param(required = false, default = false)]
    internal: bool,
}

impl Topic {
    fn of(description: &TopicDescription) -> Self {
        let info = &description.info;
        let config = ConfigKey::ALL.map(|key| (key.as_str().to_owned(), info.config.get(key)));
        Self {
            name: info.name.to_string(),
            topic_id: info.id.to_string(),
            internal: info.name.is_internal(),
            replication_factor: info.replication_factor,
            partitions: description.partitions.iter().map(Partition::of).collect(),
            config: ConfigMap(config.into_iter().collect()),
            config_overrides: ConfigMap(info.overrides.clone()),
            warnings: Vec::new(),
        }
    }
}

impl Partition {
    fn of(description: &PartitionDescription) -> Self {
        let ids = |brokers: &[crate::types::BrokerId]| brokers.iter().map(|id| id.get()).collect();
        Self {
            partition: description.partition.get(),
            leader: description.leader.map(crate::types::BrokerId::get),
            leader_epoch: description.leader_epoch.get(),
            replicas: ids(&description.replicas),
            in_sync_replicas: ids(&description.in_sync_replicas),
            log_start_offset: description.log_start.get(),
            high_watermark: description.high_watermark.get(),
            log_end_offset: description.log_end.get(),
            size_bytes: description.size_bytes,
            offline: description.offline.is_some(),
        }
    }
}

impl TopicSummary {
    fn of(info: &TopicInfo) -> Self {
        Self {
            name: info.name.to_string(),
            topic_id: info.id.to_string(),
            internal: info.name.is_internal(),
            partition_count: info.partitions,
            replication_factor: info.replication_factor,
        }
    }
}

/// Make a topic
///
/// The name follows Kafka's rule. What is left out takes the broker's default.
#[utoipa::path(
    post, path = "/v1/topics", tag = "topics", operation_id = "create_topic", request_body = NewTopic,
    responses((status = 201, description = "The topic was made", body = Topic,
        headers(("location" = String, description = "The topic's own path")))),
)]
pub async fn create_topic(State(app): State<AppState>, JsonBody(new): JsonBody<NewTopic>) -> Result<Response, Problem> {
    let name = TopicName::new(&new.name).map_err(|e| Problem::invalid_name(format!("name: {e}")))?;
    let request = CreateTopic {
        name,
        partitions: new.partitions,
        replication_factor: new.replication_factor,
        config: new.config.unwrap_or_default().0,
    };
    let description = app.engine.create_topic(request).await?;
    let location = format!("/v1/topics/{}", description.info.name);
    let mut response = (StatusCode::CREATED, Json(Topic::of(&description))).into_response();
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// List the topics
///
/// Sorted by name and paged.
#[utoipa::path(
    get, path = "/v1/topics", tag = "topics", operation_id = "list_topics", params(ListParameters),
    responses((status = 200, description = "A page of topics", body = TopicPage)),
)]
pub async fn list_topics(
    State(app): State<AppState>,
    Parameters(list): Parameters<ListParameters>,
) -> Result<Json<TopicPage>, Problem> {
    let size = list.page_size.unwrap_or(DEFAULT_PAGE);
    if !(1..=LARGEST_PAGE).contains(&size) {
        return Err(Problem::invalid_request(format!("page_size is a whole number from 1 to {LARGEST_PAGE}")));
    }
    let (given, after) = (list.page_token.is_some(), list.page_token.unwrap_or_default());
    if given && after.is_empty()
        || !after.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        || after.len() > 249
    {
        return Err(Problem::invalid_request("page_token is no token of an earlier page; leave it out to start again"));
    }
    let all = app.engine.topics();
    let mut rest =
        all.iter().filter(|info| info.name.as_str() > after.as_str() && (list.internal || !info.name.is_internal()));
    let topics: Vec<_> = rest.by_ref().take(size).map(|info| TopicSummary::of(info)).collect();
    let next_page_token = rest.next().and(topics.last()).map(|topic| topic.name.clone());
    Ok(Json(TopicPage { topics, next_page_token }))
}

/// Describe a topic
///
/// Its configuration, and of each partition the leader, the replicas, the offsets and the size.
#[utoipa::path(
    get, path = "/v1/topics/{topic}", tag = "topics", operation_id = "get_topic",
    params(("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games")),
    responses((status = 200, description = "The topic", body = Topic)),
)]
pub async fn get_topic(State(app): State<AppState>, TopicPath(topic): TopicPath) -> Result<Json<Topic>, Problem> {
    Ok(Json(Topic::of(&app.engine.describe_topic(&topic).await?)))
}

/// Change a topic
///
/// Sets and resets configuration, and adds partitions. More partitions send some keys elsewhere: the answer warns of it.
#[utoipa::path(
    patch, path = "/v1/topics/{topic}", tag = "topics", operation_id = "alter_topic", request_body = TopicChange,
    params(("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games")),
    responses((status = 200, description = "The topic after the change", body = Topic)),
)]
pub async fn alter_topic(
    State(app): State<AppState>,
    TopicPath(topic): TopicPath,
    JsonBody(change): JsonBody<TopicChange>,
) -> Result<Json<Topic>, Problem> {
    let before = app.engine.topic(&topic).ok_or_else(|| Problem::unknown_topic(topic.as_str()))?.partitions;
    let change =
        AlterTopic { set: change.config.unwrap_or_default().0, reset: change.reset, partitions: change.partitions };
    let description = app.engine.alter_topic(&topic, change).await?;
    let mut answer = Topic::of(&description);
    if description.info.partitions > before {
        let after = description.info.partitions;
        answer.warnings.push(format!(
            "the topic went from {before} to {after} partitions: new records of some keys go to another partition than \
             their older records, so their order begins anew"
        ));
    }
    Ok(Json(answer))
}

/// Delete a topic
///
/// Its records go with it. A topic of the same name made later shares nothing with it.
#[utoipa::path(
    delete, path = "/v1/topics/{topic}", tag = "topics", operation_id = "delete_topic",
    params(("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games")),
    responses((status = 204, description = "The topic is gone")),
)]
pub async fn delete_topic(State(app): State<AppState>, TopicPath(topic): TopicPath) -> Result<StatusCode, Problem> {
    app.engine.delete_topic(&topic).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete records
///
/// Moves the log starts of partitions up: records below go (Kafka's DeleteRecords).
#[utoipa::path(
    post, path = "/v1/topics/{topic}/truncate", tag = "topics", operation_id = "truncate_topic",
    request_body = TruncateTopic,
    params(("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games")),
    responses((status = 200, description = "The log starts after it", body = TruncatedTopic)),
)]
pub async fn truncate_topic(
    State(app): State<AppState>,
    TopicPath(topic): TopicPath,
    JsonBody(request): JsonBody<TruncateTopic>,
) -> Result<Json<TruncatedTopic>, Problem> {
    if request.partitions.is_empty() {
        return Err(Problem::invalid_request("'partitions' is empty: name at least one"));
    }
    let count = app.engine.topic(&topic).ok_or_else(|| Problem::unknown_topic(topic.as_str()))?.partitions;
    let mut named = BTreeSet::new();
    let mut truncations = Vec::with_capacity(request.partitions.len());
    for TruncatePartition { partition, before_offset } in request.partitions {
        if partition < 0 || before_offset < 0 {
            return Err(Problem::invalid_request("partition and before_offset are whole numbers, 0 or more"));
        }
        if !named.insert(partition) {
            let (title, detail) =
                ("A partition is named twice", format!("partition {partition} is named twice; name it once"));
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "partition-named-twice", title, detail));
        }
        if partition >= count {
            // The path leads to a topic that is there; it is the body that does not fit it.
            let (title, detail) = (
                "There is no such partition",
                format!("topic '{topic}' has no partition {partition}; it has {count}, numbered from 0"),
            );
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown-partition", title, detail));
        }
        truncations.push(Truncation { partition: PartitionId::new(partition), before: Offset::new(before_offset) });
    }
    let starts = app.engine.truncate(&topic, truncations).await?;
    let partitions = starts
        .into_iter()
        .map(|(partition, start)| TruncatedPartition { partition: partition.get(), log_start_offset: start.get() })
        .collect();
    Ok(Json(TruncatedTopic { partitions }))
}
