//! Members of consumer groups over HTTP: join, read, commit, leave. No connection belongs to a member: any of its calls
//! may come over any connection, and each renews its session.

use super::{
    groups::{NewGroupOffset, all_committed, check_offsets, topic_names},
    read_parameters::Encoding,
    records::write_gap,
};
use crate::{
    engine::{
        Assignment, CommitOffsets, EngineError, GroupError, HttpMember, LeaveGroup, LeavingMember, Membership,
        OffsetToCommit, http_member_id,
    },
    http::{
        AppState,
        extract::{GroupMemberPath, JsonBody, Parameters, whole, whole_if_given, within},
        pieces,
        problem::Problem,
        state::App,
    },
    session::{GroupCursor, GroupPage, GroupReader, PageRequest, Pieces, SessionError, json::ValueEncoding},
    telemetry::{DoorLabels, metrics},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

const DEFAULT_SESSION_MS: i64 = 30_000;
/// Topics that one member may name.
const MAX_TOPICS: usize = 1000;
const DEFAULT_LIMIT: i64 = 1000;
const MAX_LIMIT: i64 = 100_000;
const DEFAULT_BYTES: i64 = 1 << 20;
const MAX_BYTES: i64 = 16 << 20;
const MAX_WAIT_MS: i64 = 60_000;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(join_group, leave_group))
        .routes(routes!(read_group_records))
        .routes(routes!(commit_group_offsets))
}

/// Partitions of one topic.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopicPartitions {
    /// The topic.
    #[schema(example = "games")]
    topic: String,
    /// Its partitions.
    partitions: Vec<i32>,
}

impl TopicPartitions {
    /// An assignment as JSON has it.
    #[must_use]
    pub fn list(assignment: &Assignment) -> Vec<Self> {
        let of = |(topic, partitions): (&crate::types::TopicName, &Vec<crate::types::PartitionId>)| Self {
            topic: topic.to_string(),
            partitions: partitions.iter().map(|p| p.get()).collect(),
        };
        assignment.iter().map(of).collect()
    }
}

/// What a member wants.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinGroupMember {
    /// The topics to read. One that is not there yet is read once it is.
    #[schema(min_items = 1, max_items = 1000, example = json!(["games"]))]
    topics: Vec<String>,
    /// How long the member may be silent before its partitions go to others.
    #[schema(nullable = false, minimum = 1000, maximum = 1800000, default = 30000)]
    #[serde(default, deserialize_with = "whole_if_given")]
    session_timeout_ms: Option<i64>,
}

/// Whether the assignment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MembershipState {
    /// Read and commit under this epoch.
    Stable,
    /// The group shares anew: commit what was read, and join again after `heartbeat_interval_ms`.
    Rebalancing,
}

/// Where a member stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GroupMembership)]
pub struct MembershipAnswer {
    /// The number of the assignment; reads and commits name it.
    #[schema(minimum = 0)]
    epoch: i32,
    /// Whether the assignment stands.
    state: MembershipState,
    /// What the member reads; while the group rebalances, what it read before.
    assignment: Vec<TopicPartitions>,
    /// Call again within this time.
    #[schema(minimum = 1)]
    heartbeat_interval_ms: u64,
}

impl MembershipAnswer {
    fn of(place: &Membership) -> Self {
        Self {
            epoch: place.epoch,
            state: if place.stable { MembershipState::Stable } else { MembershipState::Rebalancing },
            assignment: TopicPartitions::list(&place.assignment),
            heartbeat_interval_ms: place.heartbeat_interval.as_millis() as u64,
        }
    }
}

/// Join a consumer group, and stay in it
///
/// The first call joins; each later one says that the member is alive, and while the group rebalances joins again. Call it
/// every `heartbeat_interval_ms`. Kafka clients and HTTP members share one group.
#[utoipa::path(
    put, path = "/v1/groups/{group}/members/{member}", tag = "groups", operation_id = "join_group",
    request_body = JoinGroupMember,
    params(
        ("group" = String, Path, description = "The group's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores"),
        ("member" = String, Path, description = "The member's own name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "worker-1"),
    ),
    responses((status = 200, description = "Where the member stands", body = MembershipAnswer)),
)]
pub async fn join_group(
    State(app): State<AppState>,
    path: GroupMemberPath,
    JsonBody(request): JsonBody<JoinGroupMember>,
) -> Result<Json<MembershipAnswer>, Problem> {
    if request.topics.is_empty() || request.topics.len() > MAX_TOPICS {
        return Err(Problem::invalid_request(format!("topics names 1 to {MAX_TOPICS} topics")));
    }
    let topics = topic_names(&request.topics)?;
    let session_ms = request.session_timeout_ms.unwrap_or(DEFAULT_SESSION_MS);
    let session_timeout = Duration::from_millis(u64::try_from(session_ms).unwrap_or(0));
    let member = HttpMember { group_id: path.group, member: path.member, topics, session_timeout };
    let place = app.engine.groups()?.http_member(member).await?;
    Ok(Json(MembershipAnswer::of(&place)))
}

/// Leave a consumer group
///
/// At once: the others share its partitions.
#[utoipa::path(
    delete, path = "/v1/groups/{group}/members/{member}", tag = "groups", operation_id = "leave_group",
    params(
        ("group" = String, Path, description = "The group's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores"),
        ("member" = String, Path, description = "The member's own name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "worker-1"),
    ),
    responses((status = 204, description = "The member is gone")),
)]
pub async fn leave_group(State(app): State<AppState>, path: GroupMemberPath) -> Result<StatusCode, Problem> {
    let member = LeavingMember { member_id: http_member_id(&path.member), group_instance_id: None };
    let leave = LeaveGroup { group_id: path.group, members: vec![member] };
    all_committed(app.engine.groups()?.leave_group(leave).await?)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a member reads.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GroupReadParameters {
    /// The epoch that the member was told.
    #[param(minimum = 0)]
    epoch: i32,
    /// Where the last page ended; without it the committed offsets (the first record where nothing was committed).
    #[param(nullable = false, pattern = "^[A-Za-z0-9_.-]{1,16384}$")]
    cursor: Option<String>,
    /// Most records.
    #[param(nullable = false, minimum = 1, maximum = 100000, default = 1000)]
    limit: Option<i64>,
    /// About the most bytes.
    #[param(nullable = false, minimum = 1, maximum = 16777216, default = 1048576)]
    max_bytes: Option<i64>,
    /// How long to wait for a first record, in milliseconds. A rebalance ends the wait.
    #[param(nullable = false, minimum = 0, maximum = 60000, default = 0)]
    wait_ms: Option<i64>,
    /// How values are given.
    #[param(inline, nullable = false, default = "auto")]
    encoding: Option<Encoding>,
}

impl GroupReadParameters {
    fn page(&self) -> Result<PageRequest, Problem> {
        within("epoch", Some(self.epoch.into()), 0, 0..=i32::MAX.into())?;
        Ok(PageRequest {
            limit: within("limit", self.limit, DEFAULT_LIMIT, 1..=MAX_LIMIT)? as usize,
            max_bytes: within("max_bytes", self.max_bytes, DEFAULT_BYTES, 1..=MAX_BYTES)? as usize,
            wait: Duration::from_millis(within("wait_ms", self.wait_ms, 0, 0..=MAX_WAIT_MS)? as u64),
        })
    }
}

/// A page of a member's records.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `page_json` writes it
pub struct GroupRecordPage {
    /// The records, in each partition's order.
    records: Vec<super::records::LogRecord>,
    /// Where the next page begins, and what to commit once these records are done.
    #[schema(max_length = 16384)]
    next_cursor: String,
    /// Nothing more was there. An empty page alone is not the end.
    caught_up: bool,
    /// Records that this reader does not get; left out if there are none.
    #[schema(required = false)]
    gaps: Vec<TopicGap>,
    /// Partitions that could not be read now; left out if there are none.
    #[schema(required = false)]
    unavailable: Vec<TopicPartitions>,
}

/// Records of a topic that a reader does not get.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `page_json` writes it
pub struct TopicGap {
    /// The topic.
    topic: String,
    /// What is missing.
    gap: super::records::RecordGap,
}

/// Read as a member of a consumer group
///
/// The partitions of the member's assignment, each from its committed offset at first. 409 `rebalance` with the new
/// assignment if the epoch is not the group's any more, or is about to change: then join again.
#[utoipa::path(
    get, path = "/v1/groups/{group}/members/{member}/records", tag = "groups", operation_id = "read_group_records",
    params(
        ("group" = String, Path, description = "The group's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores"),
        ("member" = String, Path, description = "The member's own name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "worker-1"),
        GroupReadParameters,
    ),
    responses((status = 200, description = "A page, perhaps empty", body = GroupRecordPage)),
)]
pub async fn read_group_records(
    State(app): State<AppState>,
    path: GroupMemberPath,
    Parameters(parameters): Parameters<GroupReadParameters>,
) -> Result<Response, Problem> {
    let request = parameters.page()?;
    let cursor = cursor(parameters.cursor.as_deref())?.unwrap_or_default();
    let encoding = match parameters.encoding.unwrap_or_default() {
        Encoding::Auto => ValueEncoding::Auto,
        Encoding::Base64 => ValueEncoding::Base64,
    };
    let (group, member) = (path.group.clone(), path.member.clone());
    let reader = GroupReader::new(app.engine.clone(), app.sessions.clone(), group, member, parameters.epoch);
    let page = tokio::select! {
        biased;
        page = reader.read(&cursor, encoding, request) => page,
        () = app.drain.started(), if !request.wait.is_zero() => Err(EngineError::ShuttingDown.into()),
    };
    let page = match page {
        Ok(page) => page,
        Err(SessionError::Engine(error)) => return Err(member_problem(&app, &path, error).await),
        Err(error) => return Err(error.into()),
    };
    const DOOR: DoorLabels = DoorLabels { door: "http" };
    metrics().fetched_records.get_or_create(&DOOR).inc_by(page.count as u64);
    metrics().fetched_bytes.get_or_create(&DOOR).inc_by(page.records.len() as u64);
    let mut response = Response::new(pieces::body(page_json(page)?.into_list()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn cursor(text: Option<&str>) -> Result<Option<GroupCursor>, Problem> {
    text.map(GroupCursor::parse).transpose().map_err(|error| SessionError::from(error).into())
}

/// What a member did wrong; where its epoch is old, with the new assignment.
async fn member_problem(app: &App, path: &GroupMemberPath, error: EngineError) -> Problem {
    let stale = matches!(
        error,
        EngineError::Group(
            GroupError::IllegalGeneration | GroupError::RebalanceInProgress | GroupError::UnknownMemberId
        )
    );
    let Ok(groups) = app.engine.groups() else { return error.into() };
    if !stale {
        return error.into();
    }
    match groups.touch_http_member(&path.group, &path.member).await {
        Ok(place) => {
            let answer = MembershipAnswer::of(&place);
            let detail = match place.stable {
                true => {
                    format!("the group's epoch is {}, with another assignment: read and commit under it", place.epoch)
                }
                false => "the group is rebalancing: commit what was read, and join again".to_owned(),
            };
            Problem::from(EngineError::from(GroupError::IllegalGeneration)).with_detail(detail).with_assignment(
                answer.epoch,
                answer.state,
                answer.assignment,
            )
        }
        Err(error) => error.into(),
    }
}

fn page_json(page: GroupPage) -> Result<Pieces, Problem> {
    let cursor = page.cursor.encode().map_err(SessionError::from)?;
    let mut pieces = Pieces::from(b"{\"records\":[".to_vec());
    pieces.append(page.records);
    let body = pieces.open(cursor.len() + 128);
    body.extend_from_slice(b"],\"next_cursor\":\"");
    body.extend_from_slice(cursor.as_bytes());
    body.extend_from_slice(if page.caught_up { b"\",\"caught_up\":true" } else { b"\",\"caught_up\":false" });
    for (n, gap) in page.gaps.iter().enumerate() {
        let open = if n == 0 { ",\"gaps\":[" } else { "," };
        // A topic's name needs no escapes.
        body.extend_from_slice(format!(r#"{open}{{"topic":"{}","gap":"#, gap.topic).as_bytes());
        write_gap(body, &gap.gap);
        body.push(b'}');
    }
    if !page.gaps.is_empty() {
        body.push(b']');
    }
    if !page.unavailable.is_empty() {
        let mut topics = Assignment::new();
        page.unavailable.iter().for_each(|(topic, p)| topics.entry(topic.clone()).or_default().push(*p));
        body.extend_from_slice(b",\"unavailable\":");
        let list = serde_json::to_vec(&TopicPartitions::list(&topics));
        body.extend_from_slice(&list.map_err(|error| Problem::internal(&error.to_string()))?);
    }
    body.push(b'}');
    Ok(pieces)
}

/// What a member has done. Name either `cursor` or `offsets`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitGroupOffsets {
    /// The epoch that the member was told.
    #[schema(minimum = 0)]
    #[serde(deserialize_with = "whole")]
    epoch: i32,
    /// A page's `next_cursor`: everything before it is done.
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_.-]{1,16384}$")]
    cursor: Option<String>,
    /// The next offset to read, by partition.
    #[schema(nullable = false, min_items = 1, max_items = 10000)]
    offsets: Option<Vec<NewGroupOffset>>,
}

/// Commit what a member has done
///
/// The group goes on from here, whoever reads these partitions next. An offset may go back; beyond the end is 416.
#[utoipa::path(
    post, path = "/v1/groups/{group}/members/{member}/commit", tag = "groups", operation_id = "commit_group_offsets",
    request_body = CommitGroupOffsets,
    params(
        ("group" = String, Path, description = "The group's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "scores"),
        ("member" = String, Path, description = "The member's own name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "worker-1"),
    ),
    responses((status = 204, description = "Committed")),
)]
pub async fn commit_group_offsets(
    State(app): State<AppState>,
    path: GroupMemberPath,
    JsonBody(request): JsonBody<CommitGroupOffsets>,
) -> Result<StatusCode, Problem> {
    within("epoch", Some(request.epoch.into()), 0, 0..=i32::MAX.into())?;
    let groups = app.engine.groups()?;
    let place = groups.touch_http_member(&path.group, &path.member).await?;
    if place.epoch != request.epoch {
        return Err(member_problem(&app, &path, GroupError::IllegalGeneration.into()).await);
    }
    let offsets = match (request.cursor, request.offsets) {
        (Some(text), None) => {
            let cursor = cursor(Some(&text))?.unwrap_or_default();
            cursor.to_commit(&*app.engine, &place.assignment).map_err(SessionError::from)?
        }
        (None, Some(offsets)) if !offsets.is_empty() && offsets.len() <= 10_000 => {
            let offsets = offsets.iter().map(NewGroupOffset::to_commit).collect::<Result<Vec<_>, _>>()?;
            check_assigned(&offsets, &place.assignment)?;
            offsets
        }
        (None, Some(_)) => return Err(Problem::invalid_request("offsets has 1 to 10000 entries")),
        _ => return Err(Problem::invalid_request("name either cursor or offsets")),
    };
    check_offsets(&app, &offsets)?;
    if offsets.is_empty() {
        return Ok(StatusCode::NO_CONTENT);
    }
    let commit = CommitOffsets {
        group_id: path.group.clone(),
        generation_id: request.epoch,
        member_id: http_member_id(&path.member),
        group_instance_id: None,
        offsets,
    };
    match groups.commit_offsets(commit).await {
        Ok(results) => all_committed(results)?,
        Err(error) => return Err(member_problem(&app, &path, error).await),
    }
    Ok(StatusCode::NO_CONTENT)
}

fn check_assigned(offsets: &[OffsetToCommit], assignment: &Assignment) -> Result<(), Problem> {
    let is_assigned = |o: &&OffsetToCommit| assignment.get(&o.topic).is_some_and(|parts| parts.contains(&o.partition));
    match offsets.iter().find(|offset| !is_assigned(offset)) {
        None => Ok(()),
        Some(other) => {
            let detail = format!("partition {} of '{}' is not assigned to this member", other.partition, other.topic);
            let title = "The partition is not this member's";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "not-assigned", title, detail))
        }
    }
}
