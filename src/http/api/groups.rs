//! Consumer groups as a whole: list, describe, set positions, delete. Their members are in `group_members`.

use super::{
    group_members::{self, TopicPartitions},
    read_parameters::{From, moment},
};
use crate::{
    engine::{
        CommitOffsets, EngineError, GroupDescription, GroupError, GroupListing, GroupPosition, GroupState,
        MemberDescription, OffsetSpec, OffsetToCommit, TopicInfo,
    },
    http::{
        AppState,
        extract::{GroupPath, JsonBody, Parameters, whole, within},
        problem::Problem,
        state::App,
    },
    types::{Offset, PartitionId, TopicName},
};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeSet, sync::Arc};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Groups of one page when the request does not say.
const DEFAULT_PAGE: i64 = 100;
/// Groups of the largest page.
const LARGEST_PAGE: i64 = 1000;
/// Offsets that one request may set.
const MAX_OFFSETS: usize = 10_000;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list_groups))
        .routes(routes!(get_group, delete_group))
        .routes(routes!(set_group_offsets))
        .merge(group_members::routes())
}

/// What a group is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GroupState)]
pub enum GroupPhase {
    /// It has no members.
    Empty,
    /// Its members share the partitions anew.
    Rebalancing,
    /// Every member has its part.
    Stable,
}

impl GroupPhase {
    const fn of(state: GroupState) -> Self {
        match state {
            GroupState::Empty | GroupState::Dead => Self::Empty,
            GroupState::PreparingRebalance | GroupState::CompletingRebalance => Self::Rebalancing,
            GroupState::Stable => Self::Stable,
        }
    }
}

/// A page of groups.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupPage {
    /// The groups, by name.
    groups: Vec<GroupSummary>,
    /// Where the next page begins; left out on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_page_token: Option<String>,
}

/// A group in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupSummary {
    /// Its name.
    group: String,
    /// What it is doing.
    state: GroupPhase,
    /// How many members it has.
    members: usize,
    /// What kind it is: `consumer`, or what a Kafka client named; left out for one that has only offsets.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false, example = "consumer")]
    protocol_type: String,
}

impl GroupSummary {
    fn of(listing: GroupListing) -> Self {
        Self {
            group: listing.group_id,
            state: GroupPhase::of(listing.state),
            members: listing.members,
            protocol_type: listing.protocol_type,
        }
    }
}

/// A group, with how far it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Group {
    /// Its name.
    group: String,
    /// What it is doing.
    state: GroupPhase,
    /// The epoch (Kafka's generation) of its assignment.
    #[schema(minimum = 0)]
    epoch: i32,
    /// What kind it is; left out for one that has only offsets.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false, example = "consumer")]
    protocol_type: String,
    /// The assignor that its members agreed on; left out while there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false, example = "cooperative-sticky")]
    assignor: String,
    /// Its members.
    members: Vec<GroupMember>,
    /// Of each partition that it has an offset of, or a member reads.
    offsets: Vec<GroupOffset>,
    /// Records not read yet, of all partitions together.
    #[schema(minimum = 0)]
    lag: u64,
    /// How old the oldest record is that was not read yet, in milliseconds; 0 if all were read.
    #[schema(minimum = 0)]
    lag_ms: u64,
}

/// How a member speaks.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberKind {
    /// Over HTTP.
    Http,
    /// As a Kafka client.
    Kafka,
}

/// A member of a group.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupMember {
    /// An HTTP member's name, or the id that a Kafka client was given.
    member: String,
    /// How it speaks.
    kind: MemberKind,
    /// The group instance id of a static member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    instance_id: Option<String>,
    /// What its client calls itself.
    client_id: String,
    /// From where.
    host: String,
    /// What it reads; left out where a Kafka client's own assignor says it in a form of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    assignment: Option<Vec<TopicPartitions>>,
}

impl GroupMember {
    fn of(member: MemberDescription) -> Self {
        Self {
            kind: if member.http_name.is_some() { MemberKind::Http } else { MemberKind::Kafka },
            member: member.http_name.unwrap_or(member.member_id),
            instance_id: member.group_instance_id,
            client_id: member.client_id,
            host: member.client_host,
            assignment: member.partitions.as_ref().map(TopicPartitions::list),
        }
    }
}

/// How far a group is in one partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupOffset {
    /// The topic.
    topic: String,
    /// The partition.
    #[schema(minimum = 0)]
    partition: i32,
    /// The member that reads it; left out if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member: Option<String>,
    /// The next offset to read; left out if nothing was committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    committed_offset: Option<i64>,
    /// The note that was committed with it; left out if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    metadata: String,
    /// The first offset that is there.
    #[schema(minimum = 0)]
    log_start_offset: i64,
    /// The first offset that is not there yet.
    #[schema(minimum = 0)]
    high_watermark: i64,
    /// Records not read yet; from the first one there is where nothing was committed.
    #[schema(minimum = 0)]
    lag: u64,
    /// How old the first of them is, in milliseconds; 0 if there is none.
    #[schema(minimum = 0)]
    lag_ms: u64,
}

impl GroupOffset {
    fn of(position: GroupPosition, members: &[MemberDescription]) -> Self {
        let named = |id: String| {
            let member = members.iter().find(|member| member.member_id == id);
            member.and_then(|member| member.http_name.clone()).unwrap_or(id)
        };
        Self {
            topic: position.topic.to_string(),
            partition: position.partition.get(),
            member: position.member_id.map(named),
            committed_offset: position.committed.map(Offset::get),
            metadata: position.metadata,
            log_start_offset: position.log_start.get(),
            high_watermark: position.log_end.get(),
            lag: position.lag,
            lag_ms: position.lag_ms,
        }
    }
}

/// Which page of groups.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GroupListParameters {
    /// Most groups.
    #[param(nullable = false, minimum = 1, maximum = 1000, default = 100)]
    page_size: Option<i64>,
    /// The `next_page_token` of the page before.
    #[param(nullable = false, min_length = 1, max_length = 1024)]
    page_token: Option<String>,
}

/// List the consumer groups
///
/// Those with members or offsets, of Kafka clients and of HTTP members.
#[utoipa::path(
    get, path = "/v1/groups", tag = "groups", operation_id = "list_groups", params(GroupListParameters),
    responses((status = 200, description = "A page of groups", body = GroupPage)),
)]
pub async fn list_groups(
    State(app): State<AppState>,
    Parameters(list): Parameters<GroupListParameters>,
) -> Result<Json<GroupPage>, Problem> {
    let size = within("page_size", list.page_size, DEFAULT_PAGE, 1..=LARGEST_PAGE)? as usize;
    if list.page_token.as_ref().is_some_and(|token| token.is_empty() || token.len() > 1024) {
        return Err(Problem::invalid_request("page_token is no token of an earlier page; leave it out to start again"));
    }
    let after = list.page_token.unwrap_or_default();
    let all = app.engine.groups()?.list_groups().await?;
    let mut rest = all.into_iter().filter(|group| group.group_id > after);
    let groups: Vec<_> = rest.by_ref().take(size).map(GroupSummary::of).collect();
    let next_page_token = rest.next().and(groups.last()).map(|group| group.group.clone());
    Ok(Json(GroupPage { groups, next_page_token }))
}

/// Describe a consumer group
///
/// Its members, and of each partition the committed offset and the lag, in records and in milliseconds.
#[utoipa::path(
    get, path = "/v1/groups/{group}", tag = "groups", operation_id = "get_group",
    params(("group" = String, Path, description = "The group's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 200, description = "The group", body = Group)),
)]
pub async fn get_group(State(app): State<AppState>, GroupPath(name): GroupPath) -> Result<Json<Group>, Problem> {
    let group = existing(&app, &name).await?;
    let positions = app.engine.groups()?.group_positions(&name).await?;
    let (lag, lag_ms) = positions.iter().fold((0, 0), |(sum, age): (u64, u64), p| (sum + p.lag, age.max(p.lag_ms)));
    let offsets = positions.into_iter().map(|position| GroupOffset::of(position, &group.members)).collect();
    Ok(Json(Group {
        group: group.group_id,
        state: GroupPhase::of(group.state),
        epoch: group.generation_id,
        protocol_type: group.protocol_type,
        assignor: group.protocol_name,
        members: group.members.into_iter().map(GroupMember::of).collect(),
        offsets,
        lag,
        lag_ms,
    }))
}

/// A group that there is.
async fn existing(app: &App, name: &str) -> Result<GroupDescription, Problem> {
    let group = app.engine.groups()?.describe_group(name).await?;
    if group.state == GroupState::Dead {
        return Err(unknown(name, EngineError::from(GroupError::GroupIdNotFound)));
    }
    Ok(group)
}

/// Delete a consumer group
///
/// With its offsets. 409 while it has members.
#[utoipa::path(
    delete, path = "/v1/groups/{group}", tag = "groups", operation_id = "delete_group",
    params(("group" = String, Path, description = "The group's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 204, description = "The group is gone")),
)]
pub async fn delete_group(State(app): State<AppState>, GroupPath(name): GroupPath) -> Result<StatusCode, Problem> {
    app.engine.groups()?.delete_group(&name).await.map_err(|error| unknown(&name, error))?;
    Ok(StatusCode::NO_CONTENT)
}

/// A refusal that names the group where it is not there.
fn unknown(name: &str, error: EngineError) -> Problem {
    let is_missing = matches!(error, EngineError::Group(GroupError::GroupIdNotFound));
    let problem = Problem::from(error);
    if is_missing { problem.with_detail(format!("there is no group '{name}'")) } else { problem }
}

/// Where a group is to go on. Name exactly one of `from`, `since` and `offsets`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetGroupOffsets {
    /// At an end of each partition.
    #[schema(inline, nullable = false)]
    from: Option<From>,
    /// At a time: RFC 3339, Unix time in milliseconds, or so long ago (`-15m`; ms, s, m, h, d).
    #[schema(nullable = false, example = "-15m")]
    since: Option<String>,
    /// At these offsets.
    #[schema(nullable = false, min_items = 1, max_items = 10000)]
    offsets: Option<Vec<NewGroupOffset>>,
    /// With `from` and `since`: which topics; without it those that the group has offsets of.
    #[schema(nullable = false, min_items = 1, max_items = 1000)]
    topics: Option<Vec<String>>,
}

/// An offset to set.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroupOffset {
    /// The topic.
    #[schema(example = "games", pattern = "^[a-zA-Z0-9._-]{1,249}$")]
    pub topic: String,
    /// The partition.
    #[schema(minimum = 0)]
    #[serde(deserialize_with = "whole")]
    pub partition: i32,
    /// The next offset to read; at most the partition's end.
    #[schema(minimum = 0)]
    #[serde(deserialize_with = "whole")]
    pub offset: i64,
}

impl NewGroupOffset {
    pub(super) fn to_commit(&self) -> Result<OffsetToCommit, Problem> {
        if self.partition < 0 || self.offset < 0 {
            return Err(Problem::invalid_request("partition and offset are whole numbers, 0 or more"));
        }
        Ok(OffsetToCommit {
            topic: topic_name(&self.topic)?,
            partition: PartitionId::new(self.partition),
            offset: Offset::new(self.offset),
            leader_epoch: None,
            metadata: String::new(),
        })
    }
}

/// The offsets that were set.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupOffsetsSet {
    /// One each.
    offsets: Vec<NewGroupOffset>,
}

/// Set where a consumer group goes on
///
/// Only while it has no members (409 otherwise). A group that is not there is made.
#[utoipa::path(
    put, path = "/v1/groups/{group}/offsets", tag = "groups", operation_id = "set_group_offsets",
    request_body = SetGroupOffsets,
    params(("group" = String, Path, description = "The group's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores")),
    responses((status = 200, description = "The offsets that were set", body = GroupOffsetsSet)),
)]
pub async fn set_group_offsets(
    State(app): State<AppState>,
    GroupPath(name): GroupPath,
    JsonBody(request): JsonBody<SetGroupOffsets>,
) -> Result<Json<GroupOffsetsSet>, Problem> {
    let groups = app.engine.groups()?;
    let group = groups.describe_group(&name).await?;
    if !group.members.is_empty() {
        return Err(EngineError::from(GroupError::NonEmptyGroup).into());
    }
    let offsets = match (request.from, request.since, request.offsets) {
        (Some(From::Earliest), None, None) => at(&app, &name, request.topics, OffsetSpec::Earliest).await?,
        (Some(From::Latest), None, None) => at(&app, &name, request.topics, OffsetSpec::Latest).await?,
        (None, Some(since), None) => {
            let since = moment("since", &since, app.sys.clock.now_ms())
                .map_err(|refusal| unfit(refusal.detail().to_owned()))?;
            at(&app, &name, request.topics, OffsetSpec::Timestamp(since)).await?
        }
        (None, None, Some(_)) if request.topics.is_some() => {
            return Err(Problem::invalid_request("offsets name their topics themselves; leave topics out"));
        }
        (None, None, Some(offsets)) => {
            if offsets.is_empty() || offsets.len() > MAX_OFFSETS {
                return Err(Problem::invalid_request(format!("offsets has 1 to {MAX_OFFSETS} entries")));
            }
            let offsets = offsets.iter().map(NewGroupOffset::to_commit).collect::<Result<Vec<_>, _>>()?;
            check_offsets(&app, &offsets)?;
            offsets
        }
        _ => return Err(Problem::invalid_request("name exactly one of from, since and offsets")),
    };
    let set = offsets.iter().map(|offset| NewGroupOffset {
        topic: offset.topic.to_string(),
        partition: offset.partition.get(),
        offset: offset.offset.get(),
    });
    let set = GroupOffsetsSet { offsets: set.collect() };
    let commit =
        CommitOffsets { group_id: name, generation_id: -1, member_id: String::new(), group_instance_id: None, offsets };
    let results = groups.commit_offsets(commit).await.map_err(|error| match error {
        // A member came in between.
        EngineError::Group(GroupError::UnknownMemberId) => EngineError::from(GroupError::NonEmptyGroup),
        other => other,
    })?;
    all_committed(results)?;
    Ok(Json(set))
}

/// Places by meaning, in every partition of the topics.
async fn at(
    app: &App,
    group: &str,
    topics: Option<Vec<String>>,
    spec: OffsetSpec,
) -> Result<Vec<OffsetToCommit>, Problem> {
    let names: BTreeSet<TopicName> = match topics {
        Some(names) => names.iter().map(|name| topic_name(name)).collect::<Result<_, _>>()?,
        None => app.engine.groups()?.fetch_offsets(group).await?.into_keys().map(|(topic, _)| topic).collect(),
    };
    if names.is_empty() {
        let detail =
            format!("the group '{group}' has no offsets yet that say which topics are meant: name them in topics");
        return Err(unfit(detail));
    }
    let mut offsets = Vec::new();
    for name in names {
        let topic = find(app, &name)?;
        for partition in (0..topic.partitions).map(PartitionId::new) {
            let offset = app.engine.offset_for(topic.id, partition, spec).await?;
            let topic = name.clone();
            offsets.push(OffsetToCommit { topic, partition, offset, leader_epoch: None, metadata: String::new() });
        }
    }
    Ok(offsets)
}

fn unfit(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-position", "The group can not go on there", detail)
}

fn find(app: &App, name: &TopicName) -> Result<Arc<TopicInfo>, Problem> {
    app.engine.topic(name).ok_or_else(|| Problem::unknown_topic(name.as_str()))
}

fn topic_name(name: &str) -> Result<TopicName, Problem> {
    TopicName::new(name).map_err(|error| Problem::invalid_name(format!("topic: {error}")))
}

/// Names of topics from a body.
pub(super) fn topic_names(names: &[String]) -> Result<Vec<TopicName>, Problem> {
    names.iter().map(|name| topic_name(name)).collect()
}

/// Refuses offsets beyond the end, where nothing can have been read, and partitions that are not there.
///
/// # Errors
/// 404, 416.
pub(super) fn check_offsets(app: &App, offsets: &[OffsetToCommit]) -> Result<(), Problem> {
    for given in offsets {
        let topic = find(app, &given.topic)?;
        let partition = given.partition;
        if partition.get() >= topic.partitions {
            let (topic, partitions) = (topic.name.clone(), topic.partitions);
            return Err(EngineError::UnknownPartition { topic, partition, partitions }.into());
        }
        // A partition that can not be asked now is not held against the commit.
        let Ok(progress) = app.engine.watch(topic.id, partition).map(|watch| *watch.borrow()) else { continue };
        if progress.online && given.offset > progress.high_watermark.offset() {
            let (log_start, log_end) = (progress.log_start, progress.high_watermark.offset().into());
            let requested = given.offset.get();
            return Err(EngineError::OffsetOutOfRange { partition, requested, log_start, log_end }.into());
        }
    }
    Ok(())
}

/// Every offset was committed, or the first refusal.
pub(super) fn all_committed(results: Vec<Result<(), GroupError>>) -> Result<(), Problem> {
    let refused = results.into_iter().find_map(Result::err);
    refused.map_or(Ok(()), |error| Err(EngineError::from(error).into()))
}
