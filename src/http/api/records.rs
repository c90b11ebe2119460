//! Reading pages, a record's permalink, and its exact bytes.

use super::read_parameters::{ReadParameters, Reset, View, find_topic};
use crate::{
    engine::{Engine, EngineError, FetchRequest, TopicInfo},
    http::{
        AppState,
        extract::{Parameters, RecordPath, TopicPath},
        pieces,
        problem::Problem,
        state::App,
    },
    session::{
        Gap, Page, PageRequest, Pieces, ReadRequest, SnapshotWalk, StartPosition, Until,
        json::{RecordWriter, ValueEncoding, write_number},
    },
    telemetry::{DoorLabels, metrics},
    types::{Offset, PartitionId, StoredRecord},
};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use std::time::Duration;
use twox_hash::xxhash3_128::Hasher;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Records of a page where the request names no limit.
const DEFAULT_LIMIT: u64 = 1000;
const DEFAULT_BYTES: u64 = 1 << 20;
const MAX_BYTES: u64 = 16 << 20;
const MAX_WAIT_MS: u64 = 60_000;
/// The longest that a page may be kept by a cache.
const MAX_AGE: Duration = Duration::from_secs(86_400);

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(read_records))
        .routes(routes!(get_record))
        .routes(routes!(get_record_value))
        .merge(super::latest::routes())
}

/// A record. It has exactly one of `value`, `text`, `base64` and `tombstone`, and at most one of `key` and `key_base64`.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `session::json` writes it
pub struct LogRecord {
    /// Its topic.
    #[schema(example = "games")]
    topic: String,
    /// Its partition.
    #[schema(minimum = 0)]
    partition: i32,
    /// Its place in the partition.
    #[schema(minimum = 0)]
    offset: i64,
    /// Its timestamp, Unix time in milliseconds.
    timestamp_ms: i64,
    /// The key, if it is text.
    #[schema(nullable = false)]
    key: Option<String>,
    /// The key in base64, if it is no text.
    #[schema(nullable = false)]
    key_base64: Option<String>,
    /// The value, if it is JSON (but no `null`); its tokens are those stored.
    #[schema(schema_with = super::schema::any_json, required = false)]
    value: serde_json::Value,
    /// The value, if it is other text.
    #[schema(nullable = false)]
    text: Option<String>,
    /// The value in base64, if it is no text.
    #[schema(nullable = false)]
    base64: Option<String>,
    /// There is no value: the key was deleted.
    #[schema(schema_with = super::schema::only_true, required = false)]
    tombstone: bool,
    /// Headers, in order; names may repeat.
    #[schema(required = false)]
    headers: Vec<super::schema::RecordHeader>,
}

/// Why records are missing.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "kebab-case")]
#[allow(dead_code)] // a document's shape
pub enum GapReason {
    /// They were removed before they were read.
    Retention,
    /// They were lost with a leader, and others may stand there now.
    Truncated,
    /// They were left out for a slow reader.
    Conflated,
    /// The topic was deleted, and made again.
    TopicRecreated,
}

/// Records that a reader does not get.
#[derive(Debug, ToSchema)]
#[schema(as = Gap)]
#[allow(dead_code)] // a document's shape; `write_gap` writes it
pub struct RecordGap {
    /// Where.
    #[schema(minimum = 0)]
    partition: i32,
    /// The first offset of the gap.
    #[schema(minimum = 0)]
    from_offset: i64,
    /// Where reading goes on (exclusive).
    #[schema(minimum = 0)]
    to_offset: i64,
    /// Why.
    #[schema(inline)]
    reason: GapReason,
}

/// A page of records.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // a document's shape; `page_json` writes it
pub struct RecordPage {
    /// The records, in each partition's order.
    records: Vec<LogRecord>,
    /// Where the next page begins; at most 4096 characters.
    #[schema(max_length = 4096)]
    next_cursor: String,
    /// Nothing more was there. An empty page alone is not the end.
    caught_up: bool,
    /// Records that this reader does not get; left out if there are none.
    #[schema(required = false)]
    gaps: Vec<RecordGap>,
    /// Partitions that could not be read now; left out if there are none.
    #[schema(required = false)]
    unavailable: Vec<i32>,
}

/// Read a page of records
///
/// Starts where the parameters say (at the first record, if they say nothing), and gives a cursor for the next page. An
/// empty page is not the end: `caught_up` is. With `wait_ms` it waits for a first record.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/records", tag = "read", operation_id = "read_records",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        ReadParameters,
    ),
    responses(
        (status = 200, description = "A page, perhaps empty", body = RecordPage,
            headers(("etag" = String, description = "Names this content"), ("cache-control" = String, description = "`immutable` for a closed range under `topic_id`"))),
        (status = 304, description = "The page is the one that `If-None-Match` names"),
    ),
)]
pub async fn read_records(
    State(app): State<AppState>,
    TopicPath(name): TopicPath,
    Parameters(parameters): Parameters<ReadParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if parameters.slow.is_some() {
        return Err(Problem::invalid_request("slow belongs to streams; leave it out of a page"));
    }
    let topic = find_topic(&app, &name, parameters.topic_id.as_deref())?;
    let limits = page_request(&parameters)?;
    let mut request = parameters.to_request(topic.clone(), StartPosition::Earliest, None, app.sys.clock.now_ms())?;
    request.refuse_retention_gap = parameters.reset != Some(Reset::Earliest);
    let closed = is_closed(&app, &parameters, &request);
    let page = read_page(&app, &parameters, request, limits).await?;
    const DOOR: DoorLabels = DoorLabels { door: "http" };
    metrics().fetched_records.get_or_create(&DOOR).inc_by(page.count as u64);
    metrics().fetched_bytes.get_or_create(&DOOR).inc_by(page.records.len() as u64);
    let fixed = closed && page.gaps.is_empty() && page.unavailable.is_empty();
    let cache = if fixed { immutable(&topic, page.oldest_ms, app.sys.clock.now_ms()) } else { None };
    let body = page_json(page)?;
    let cache = cache.unwrap_or(HeaderValue::from_static("no-cache"));
    Ok(with_etag(&headers, HeaderValue::from_static("application/json"), body, cache))
}

fn page_request(parameters: &ReadParameters) -> Result<PageRequest, Problem> {
    let wait_ms = parameters.wait_ms.unwrap_or(0);
    if wait_ms > MAX_WAIT_MS {
        return Err(Problem::invalid_request(format!("wait_ms is at most {MAX_WAIT_MS}")));
    }
    let max_bytes = parameters.max_bytes.unwrap_or(DEFAULT_BYTES);
    if !(1..=MAX_BYTES).contains(&max_bytes) {
        return Err(Problem::invalid_request(format!("max_bytes is a whole number from 1 to {MAX_BYTES}")));
    }
    Ok(PageRequest {
        limit: parameters.limit.unwrap_or(DEFAULT_LIMIT) as usize,
        max_bytes: max_bytes as usize,
        wait: Duration::from_millis(wait_ms),
    })
}

async fn read_page(
    app: &App,
    parameters: &ReadParameters,
    request: ReadRequest,
    limits: PageRequest,
) -> Result<Page, Problem> {
    let writer = RecordWriter::new(&request.topic.name, parameters.value_encoding());
    let (plan, gaps) = request.plan(&*app.engine)?;
    let cursor = match &request.start {
        StartPosition::Cursor(cursor) => Some(cursor),
        _ => None,
    };
    let within = cursor.and_then(|c| c.snapshot_after.clone()).filter(|_| gaps.is_empty());
    if within.is_some() || (parameters.view == Some(View::Latest) && cursor.is_none()) {
        let walk = match within {
            Some(after) => SnapshotWalk::resume(&plan, Some(after)),
            None => SnapshotWalk::begin(&*app.engine, &plan).await?,
        };
        let next = app.sessions.reader(plan).cursor();
        return Ok(Page::read_snapshot(&*app.engine, walk, &writer, limits, next).await?);
    }
    let mut reader = app.sessions.reader(plan);
    let page = Page::read(&mut reader, &writer, limits, gaps);
    tokio::select! {
        biased;
        page = page => Ok(page?),
        () = app.drain.started(), if !limits.wait.is_zero() => Err(EngineError::ShuttingDown.into()),
    }
}

/// Whether the answer can never change: one partition of a topic by id, a range that ends below the high watermark, and
/// no compaction.
fn is_closed(app: &App, parameters: &ReadParameters, request: &ReadRequest) -> bool {
    let Some(&[partition]) = request.partitions.as_deref() else { return false };
    let Some(Until::Offset(until)) = request.until else { return false };
    let exact = matches!(request.start, StartPosition::Cursor(_) | StartPosition::Offset(_));
    let settled = app.engine.watch(request.topic.id, partition).is_ok_and(|watch| {
        let progress = *watch.borrow();
        until <= progress.high_watermark.offset()
    });
    parameters.topic_id.is_some() && exact && settled && !request.topic.config.cleanup_policy.compact
}

/// For how long a closed range stays: at most until retention takes its oldest record.
fn immutable(topic: &TopicInfo, oldest_ms: Option<i64>, now_ms: i64) -> Option<HeaderValue> {
    let left = topic.config.retention.map_or(MAX_AGE, |retention| {
        let age = u64::try_from(now_ms - oldest_ms.unwrap_or(now_ms)).unwrap_or(0);
        retention.saturating_sub(Duration::from_millis(age))
    });
    let seconds = left.min(MAX_AGE).as_secs();
    HeaderValue::try_from(format!("max-age={seconds}, immutable")).ok()
}

fn page_json(page: Page) -> Result<Pieces, Problem> {
    let cursor = page.cursor.encode().map_err(crate::session::SessionError::from)?;
    let mut pieces = Pieces::from(b"{\"records\":[".to_vec());
    pieces.append(page.records);
    let body = pieces.open(cursor.len() + 128);
    body.extend_from_slice(b"],\"next_cursor\":\"");
    body.extend_from_slice(cursor.as_bytes());
    body.extend_from_slice(if page.caught_up { b"\",\"caught_up\":true" } else { b"\",\"caught_up\":false" });
    let list = |body: &mut Vec<u8>, name: &str, count: usize, write: &dyn Fn(&mut Vec<u8>, usize)| {
        if count > 0 {
            body.extend_from_slice(format!(",\"{name}\":[").as_bytes());
            for i in 0..count {
                if i > 0 {
                    body.push(b',');
                }
                write(body, i);
            }
            body.push(b']');
        }
    };
    list(body, "gaps", page.gaps.len(), &|body, i| write_gap(body, &page.gaps[i]));
    let unavailable = &page.unavailable;
    list(body, "unavailable", unavailable.len(), &|body, i| write_number(body, unavailable[i].get().into()));
    body.push(b'}');
    Ok(pieces)
}

/// Appends a gap as JSON.
pub fn write_gap(out: &mut Vec<u8>, gap: &Gap) {
    let (partition, from, to, reason) = (gap.partition, gap.from, gap.to, gap.reason.as_str());
    let text = format!(r#"{{"partition":{partition},"from_offset":{from},"to_offset":{to},"reason":"{reason}"}}"#);
    out.extend_from_slice(text.as_bytes());
}

/// An answer named by its content, or 304 if the client has it.
pub fn with_etag(
    request: &HeaderMap,
    content_type: HeaderValue,
    body: impl Into<Pieces>,
    cache: HeaderValue,
) -> Response {
    let body = body.into().into_list();
    // It tells contents apart for caches, and guards nothing: a cryptographic hash cost more than the page itself.
    let mut hash = Hasher::new();
    body.iter().for_each(|piece| hash.write(piece));
    let etag = format!("\"{}\"", base64_simd::URL_SAFE_NO_PAD.encode_to_string(hash.finish_128().to_be_bytes()));
    let known = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let matches = known
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    let mut response = if matches {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Response::new(pieces::body(body));
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    };
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, cache);
    response
}

/// Parameters of a permalink.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RecordParameters {
    /// How the value is given.
    #[param(inline, nullable = false, default = "auto")]
    encoding: Option<super::read_parameters::Encoding>,
    /// The topic must be this one: a topic made again under its name has another.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]{22}$")]
    topic_id: Option<String>,
}

/// Parameters of a record's bytes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ValueParameters {
    /// The topic must be this one: a topic made again under its name has another.
    #[param(nullable = false, pattern = "^[A-Za-z0-9_-]{22}$")]
    topic_id: Option<String>,
}

/// Get one record
///
/// The record's permalink.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/partitions/{partition}/records/{offset}", tag = "read", operation_id = "get_record",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        ("partition" = i32, Path, description = "The partition", minimum = 0),
        ("offset" = i64, Path, description = "The record's place in it", minimum = 0),
        RecordParameters,
    ),
    responses(
        (status = 200, description = "The record", body = LogRecord, headers(("etag" = String, description = "Names this content"))),
        (status = 304, description = "The record is the one that `If-None-Match` names"),
    ),
)]
pub async fn get_record(
    State(app): State<AppState>,
    path: RecordPath,
    Parameters(parameters): Parameters<RecordParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let topic = find_topic(&app, &path.topic, parameters.topic_id.as_deref())?;
    let record = one_record(&*app.engine, &topic, path.partition, path.offset).await?;
    let encoding = match parameters.encoding.unwrap_or_default() {
        super::read_parameters::Encoding::Auto => ValueEncoding::Auto,
        super::read_parameters::Encoding::Base64 => ValueEncoding::Base64,
    };
    let mut body = Vec::new();
    RecordWriter::new(&topic.name, encoding).write(&mut body, path.partition, &record);
    let cache = record_cache(&app, &topic, parameters.topic_id.is_some(), &record);
    Ok(with_etag(&headers, HeaderValue::from_static("application/json"), body, cache))
}

/// Get the exact bytes of one record's value
///
/// With the content type that the record's header `content-type` names. A tombstone is 204.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/partitions/{partition}/records/{offset}/value", tag = "read", operation_id = "get_record_value",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        ("partition" = i32, Path, description = "The partition", minimum = 0),
        ("offset" = i64, Path, description = "The record's place in it", minimum = 0),
        ValueParameters,
    ),
    responses(
        (status = 200, description = "The value, byte for byte", body = inline(super::schema::Binary), content_type = "application/octet-stream", headers(("etag" = String, description = "Names this content"))),
        (status = 204, description = "The record is a tombstone: it has no value"),
        (status = 304, description = "The value is the one that `If-None-Match` names"),
    ),
)]
pub async fn get_record_value(
    State(app): State<AppState>,
    path: RecordPath,
    Parameters(parameters): Parameters<ValueParameters>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let topic = find_topic(&app, &path.topic, parameters.topic_id.as_deref())?;
    let record = one_record(&*app.engine, &topic, path.partition, path.offset).await?;
    let Some(value) = &record.value else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let named = record.headers.iter().find(|h| h.name.eq_ignore_ascii_case(b"content-type"));
    let content_type = named.and_then(|h| HeaderValue::from_bytes(h.value.as_ref()?).ok());
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let cache = record_cache(&app, &topic, parameters.topic_id.is_some(), &record);
    let mut response = with_etag(&headers, content_type, value.to_vec(), cache);
    // What a producer stored must never run as a page of this origin.
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn record_cache(app: &App, topic: &TopicInfo, by_id: bool, record: &StoredRecord) -> HeaderValue {
    let fixed = by_id && !topic.config.cleanup_policy.compact;
    let cache = fixed.then(|| immutable(topic, Some(record.timestamp_ms), app.sys.clock.now_ms())).flatten();
    cache.unwrap_or(HeaderValue::from_static("no-cache"))
}

/// The record at an offset.
///
/// # Errors
/// 410 below the log start, 416 at the end and above, 404 where compaction left a hole.
async fn one_record(
    engine: &dyn Engine,
    topic: &TopicInfo,
    partition: PartitionId,
    offset: i64,
) -> Result<StoredRecord, Problem> {
    if partition.get() >= topic.partitions {
        let (topic, partitions) = (topic.name.clone(), topic.partitions);
        return Err(EngineError::UnknownPartition { topic, partition, partitions }.into());
    }
    let from = Offset::new(offset);
    let request = FetchRequest { topic: topic.id, partition, from, max_bytes: 1 };
    let response = engine.fetch(request).await?;
    let limit = crate::engine::DecompressLimit { max_bytes: 64 << 20 };
    for batch in response.batches.iter().filter(|batch| !batch.header().control) {
        let broken = |error: crate::engine::BatchError| Problem::internal(&format!("{partition}@{offset}: {error}"));
        for record in batch.records(limit).map_err(broken)? {
            let record = record.map_err(broken)?;
            if record.offset == from {
                return Ok(record);
            }
        }
    }
    if from >= response.high_watermark.offset() {
        let (log_start, log_end) = (response.log_start, response.high_watermark.offset().into());
        return Err(EngineError::OffsetOutOfRange { partition, requested: offset, log_start, log_end }.into());
    }
    Err(Problem::not_found(format!("there is no record at offset {offset}: compaction removed it, or it is no data")))
}
