//! Records as a stream of lines, in and out.
//!
//! **Invariant**: lines are given to the engine in their order. What is held for one request is bounded: one unfinished
//! line, one batch being filled and `PENDING_BATCHES` under way. A line that was cut off is not stored.

use super::produce::{self, AcksParameter, IdempotencyKey, Target, Wanted};
use crate::{
    engine::{EngineError, ProduceReceipt, RecordToProduce, check_record},
    http::{
        AppState,
        body::BodyReader,
        extract::{Parameters, TopicPath},
        problem::{Effects, Problem},
        record_json::{RecordLimits, Refusal, parse_record},
        trace,
    },
    types::Header,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{FutureExt as _, future::BoxFuture, poll, stream};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    task::Poll,
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Bytes of lines that make a full batch.
const BATCH_BYTES: usize = 512 << 10;
/// Lines that make a full batch.
const BATCH_LINES: usize = 2000;
/// Batches given to the engine and not yet acknowledged.
const PENDING_BATCHES: usize = 4;
const NDJSON: &str = "application/x-ndjson";

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(ingest_records))
}

/// When receipts are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Receipts {
    /// One line after the last record.
    #[default]
    End,
    /// A line for each record, for clients that read while they write.
    Each,
}

/// Parameters of a stream of records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct IngestParameters {
    /// When receipts are sent.
    #[param(inline, nullable = false, default = "end")]
    receipts: Option<Receipts>,
    /// The acknowledgement to wait for.
    #[param(inline, nullable = false, default = "all")]
    acks: Option<AcksParameter>,
    /// How long to wait for each acknowledgement, in milliseconds.
    #[param(nullable = false, minimum = 1, maximum = 120000, default = 30000)]
    timeout_ms: Option<u64>,
}

/// Stream records in
///
/// One record a line, each as in a batch. The answer is lines, too: with `receipts=end` one last line,
/// `{"end":{"stored":…,"partitions":[…]}}` or `{"problem":…,"stored":…,"line":…}`; with `receipts=each` a receipt for
/// each record before it, in order. The status 200 promises nothing, the lines do. It stops at the first bad line; what
/// came before stays. Under an Idempotency-Key a resend from the first line stores nothing twice.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/ingest", tag = "streaming", operation_id = "ingest_records",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        IngestParameters,
        ("Idempotency-Key" = inline(Option<String>), Header, description = "Makes a resend free, line by line", min_length = 1, max_length = 255, pattern = "^[!-~]{1,255}$", nullable = false),
    ),
    request_body(content = String, content_type = "application/x-ndjson", description = "One record a line"),
    responses((status = 200, description = "Lines: receipts, then `end` or `problem`", body = String, content_type = "application/x-ndjson")),
)]
pub async fn ingest_records(
    State(app): State<AppState>,
    TopicPath(name): TopicPath,
    Parameters(parameters): Parameters<IngestParameters>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    require_ndjson(&headers)?;
    let wanted = Wanted::new(parameters.acks, parameters.timeout_ms, app.limits())?;
    let key = IdempotencyKey::of(&headers)?;
    let target = Target::find(&app, name)?;
    let reader = BodyReader::new(&headers, body, app.limits(), usize::MAX)?;
    let receipts = parameters.receipts.unwrap_or_default();
    let mut ingest = Ingest::new(app, target, reader, wanted, key, produce::trace_header(&headers), receipts);
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON))];
    if receipts == Receipts::Each {
        let lines = stream::unfold(ingest, |mut ingest| async move {
            let lines = ingest.next().await?;
            Some((Ok::<_, std::convert::Infallible>(lines), ingest))
        });
        return Ok((StatusCode::OK, content_type, Body::from_stream(lines)).into_response());
    }
    // Many clients and proxies stop sending once an answer begins, so this one begins when all is done.
    let mut last = Bytes::new();
    while let Some(line) = ingest.next().await {
        last = line;
    }
    let replayed = ingest.all_replayed && ingest.stored > 0;
    let mut response = (StatusCode::OK, content_type, last).into_response();
    if replayed {
        response.headers_mut().insert(produce::REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn require_ndjson(headers: &HeaderMap) -> Result<(), Problem> {
    const TAKEN: [&str; 3] = [NDJSON, "application/ndjson", "application/jsonl"];
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = given.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if TAKEN.contains(&essence.as_str()) {
        return Ok(());
    }
    let detail = format!("this takes lines of JSON: send the header 'content-type: {NDJSON}' instead of '{text}'");
    Err(Problem::unsupported_media_type(detail))
}

/// A receipt of one line.
#[derive(Serialize)]
struct LineReceipt {
    line: u64,
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
}

/// What went into one partition.
#[derive(Serialize)]
struct PartitionSummary {
    partition: i32,
    first_offset: i64,
    last_offset: i64,
    count: u64,
}

#[derive(Serialize)]
struct End<'a> {
    stored: u64,
    partitions: &'a [PartitionSummary],
}

/// A batch that the engine has.
struct Pending {
    /// The line of each record, from 1.
    lines: Vec<u64>,
    receipt: BoxFuture<'static, Result<ProduceReceipt, EngineError>>,
}

/// A batch being filled.
#[derive(Default)]
struct Filling {
    records: Vec<RecordToProduce>,
    lines: Vec<u64>,
    bytes: usize,
}

/// One ingest under way.
struct Ingest {
    app: AppState,
    target: Target,
    reader: BodyReader,
    wanted: Wanted,
    key: Option<IdempotencyKey>,
    trace: Option<Header>,
    trace_id: Option<trace::TraceId>,
    receipts: Receipts,
    limits: RecordLimits,
    longest_line: usize,
    /// A line's beginning.
    partial: BytesMut,
    /// Bytes that came and were not looked at yet.
    chunk: Bytes,
    line: u64,
    filling: Filling,
    pending: VecDeque<Pending>,
    partitions: BTreeMap<i32, PartitionSummary>,
    stored: u64,
    all_replayed: bool,
    /// The number of the next record under the Idempotency-Key.
    next_index: u32,
    /// The first thing that went wrong, by line.
    stop: Option<(u64, Problem)>,
    body_ended: bool,
    finished: bool,
}

impl Ingest {
    fn new(
        app: AppState,
        target: Target,
        reader: BodyReader,
        wanted: Wanted,
        key: Option<IdempotencyKey>,
        trace: Option<Header>,
        receipts: Receipts,
    ) -> Self {
        let limits = target.record_limits(app.limits());
        Self {
            // A value in base64 takes a third more, one in escapes may take more than this: send it in base64.
            longest_line: 2 * limits.value_bytes + (64 << 10),
            app,
            target,
            reader,
            wanted,
            key,
            trace,
            trace_id: trace::current(),
            receipts,
            limits,
            partial: BytesMut::new(),
            chunk: Bytes::new(),
            line: 0,
            filling: Filling::default(),
            pending: VecDeque::new(),
            partitions: BTreeMap::new(),
            stored: 0,
            all_replayed: true,
            next_index: 0,
            stop: None,
            body_ended: false,
            finished: false,
        }
    }

    /// The next lines of the answer; `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.finished {
            self.take_lines();
            let full = self.filling.bytes >= BATCH_BYTES || self.filling.lines.len() >= BATCH_LINES;
            let may_read = !self.body_ended && self.stop.is_none() && self.chunk.is_empty();
            self.drop_lines_after_stop();
            let may_submit = !self.filling.lines.is_empty() && self.pending.len() < PENDING_BATCHES;
            if full && may_submit {
                self.submit().await;
                continue;
            }
            let receipt = tokio::select! {
                biased;
                receipt = first(&mut self.pending), if !self.pending.is_empty() => receipt,
                chunk = self.reader.chunk(), if may_read => {
                    self.take_chunk(chunk);
                    continue;
                }
                // Nothing has come back and nothing comes in: what there is should not wait.
                () = std::future::ready(()), if may_submit => {
                    self.submit().await;
                    continue;
                }
                else => {
                    self.finished = true;
                    return Some(self.last_line());
                }
            };
            let lines = self.pending.pop_front().map(|pending| pending.lines).unwrap_or_default();
            let receipts = self.settle(&lines, receipt);
            if !receipts.is_empty() {
                return Some(receipts);
            }
        }
        None
    }

    fn take_chunk(&mut self, chunk: Result<Option<Bytes>, Problem>) {
        match chunk {
            Ok(Some(chunk)) => self.chunk = chunk,
            Ok(None) => {
                self.body_ended = true;
                if !self.partial.is_empty() {
                    let line = self.partial.split().freeze();
                    self.take_line(line); // the last line needs no line feed
                }
            }
            Err(problem) => {
                self.body_ended = true;
                self.stop_at(self.line + 1, problem);
            }
        }
    }

    /// Cuts what came into lines, until the batch is full.
    fn take_lines(&mut self) {
        while !self.chunk.is_empty() && self.stop.is_none() {
            if self.filling.bytes >= BATCH_BYTES || self.filling.lines.len() >= BATCH_LINES {
                return;
            }
            let Some(end) = memchr::memchr(b'\n', &self.chunk) else {
                let rest = std::mem::take(&mut self.chunk);
                if self.partial.len() + rest.len() > self.longest_line {
                    return self.stop_at(self.line + 1, line_too_long(self.longest_line));
                }
                self.partial.extend_from_slice(&rest);
                return;
            };
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(&line);
                line = self.partial.split().freeze();
            }
            if line.len() > self.longest_line {
                return self.stop_at(self.line + 1, line_too_long(self.longest_line));
            }
            self.take_line(line);
        }
    }

    fn take_line(&mut self, line: Bytes) {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return;
        }
        match parse_record(&line, self.limits) {
            Ok(mut record) => {
                produce::add_trace(self.trace.as_ref(), &mut record);
                self.filling.records.push(record);
                self.filling.lines.push(self.line);
                self.filling.bytes += line.len();
            }
            Err(Refusal::Malformed(problem) | Refusal::Invalid(problem)) => self.stop_at(self.line, problem),
        }
    }

    /// After a failed line nothing more is begun.
    fn drop_lines_after_stop(&mut self) {
        let begins = self.filling.lines.first();
        if self.stop.as_ref().is_some_and(|(line, _)| begins.is_some_and(|begins| begins > line)) {
            self.filling = Filling::default();
        }
    }

    /// Gives the batch to the engine, and starts it, so that batches begin in order.
    async fn submit(&mut self) {
        let Filling { mut records, mut lines, .. } = std::mem::take(&mut self.filling);
        let first_line = lines.first().copied().unwrap_or(1);
        let topic = match self.target.topic(&self.app).await {
            Ok(topic) => topic,
            Err(error) => return self.stop_at(first_line, error.into()),
        };
        // The engine stores all records of a call or none; here what came before a bad line stays.
        let tagged = self.key.is_some();
        let bad = records.iter().enumerate().find_map(|(n, r)| Some((n, check_record(&topic, r, tagged).err()?)));
        if let Some((n, error)) = bad {
            self.stop_at(lines[n], Problem::from(&error));
            records.truncate(n);
            lines.truncate(n);
            if n == 0 {
                return;
            }
        }
        let Some(next_index) = self.next_index.checked_add(lines.len() as u32) else {
            let detail = format!("one stream has at most {} records; begin another", u32::MAX);
            return self.stop_at(first_line, Problem::too_large(detail));
        };
        let tag = self.key.map(|key| key.for_lines(self.next_index, &records));
        self.next_index = next_index;
        let (app, wanted) = (self.app.clone(), self.wanted.clone());
        let mut receipt = async move { produce::store(&app, &topic, records, &wanted, tag).await }.boxed();
        if let Poll::Ready(done) = poll!(&mut receipt) {
            receipt = std::future::ready(done).boxed();
        }
        self.pending.push_back(Pending { lines, receipt });
    }

    /// Books a batch's results; gives its receipts where each is wanted.
    fn settle(&mut self, lines: &[u64], receipt: Result<ProduceReceipt, EngineError>) -> Bytes {
        let receipt = match receipt {
            Ok(receipt) => receipt,
            Err(error) => {
                self.stop_at(lines.first().copied().unwrap_or(self.line), error.into());
                return Bytes::new();
            }
        };
        self.all_replayed &= receipt.replayed;
        let mut out = BytesMut::new();
        for (line, result) in lines.iter().zip(receipt.results) {
            match result {
                Ok(record) => {
                    let (partition, offset) = (record.partition.get(), record.offset.get());
                    self.stored += 1;
                    let sum = self.partitions.entry(partition).or_insert(PartitionSummary {
                        partition,
                        first_offset: offset,
                        last_offset: offset,
                        count: 0,
                    });
                    sum.count += 1;
                    sum.first_offset = sum.first_offset.min(offset);
                    sum.last_offset = sum.last_offset.max(offset);
                    if self.receipts == Receipts::Each {
                        let receipt = LineReceipt { line: *line, partition, offset, timestamp_ms: record.timestamp_ms };
                        write_line(&mut out, &receipt);
                    }
                }
                // Its fault is another line's, which has its own.
                Err(EngineError::RejectedWithRequest) => {}
                Err(error) => self.stop_at(*line, error.into()),
            }
        }
        out.freeze()
    }

    /// Keeps the problem of the earliest line, and reads no further.
    fn stop_at(&mut self, line: u64, problem: Problem) {
        if self.stop.as_ref().is_none_or(|(earliest, _)| line < *earliest) {
            self.stop = Some((line, problem));
        }
        self.chunk.clear();
        self.partial.clear();
    }

    fn last_line(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        let partitions: Vec<_> = std::mem::take(&mut self.partitions).into_values().collect();
        match self.stop.take() {
            None => {
                let end = End { stored: self.stored, partitions: &partitions };
                write_line(&mut out, &BTreeMap::from([("end", end)]));
            }
            Some((line, mut problem)) => {
                if self.stored > 0 {
                    problem = problem.with_side_effects(Effects::Applied);
                }
                if let Some(id) = self.trace_id {
                    problem = problem.with_trace_id(id);
                }
                #[derive(Serialize)]
                struct Stopped<'a> {
                    problem: &'a crate::http::problem::Body,
                    stored: u64,
                    line: u64,
                    partitions: &'a [PartitionSummary],
                }
                let partitions = &partitions[..];
                write_line(&mut out, &Stopped { problem: problem.body(), stored: self.stored, line, partitions });
            }
        }
        out.freeze()
    }
}

async fn first(pending: &mut VecDeque<Pending>) -> Result<ProduceReceipt, EngineError> {
    match pending.front_mut() {
        Some(pending) => (&mut pending.receipt).await,
        None => std::future::pending().await,
    }
}

fn line_too_long(most: usize) -> Problem {
    let detail = format!("the line is longer than {most} bytes, the most that one record may take");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "record-too-large", "The record is too large", detail)
}

fn write_line(out: &mut BytesMut, line: &impl Serialize) {
    // Writing to memory can not fail, and these types have only strings and numbers.
    let _ = serde_json::to_writer((&mut *out).writer(), line);
    out.put_u8(b'\n');
}
