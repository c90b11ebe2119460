//! All routes, and what every request passes: a trace, the check of where it comes from, the bound on its headers, and on
//! the way out metrics, the headers that each answer carries, and a problem wherever somebody answered an error without.
//!
//! **Invariant**: whatever a route does, an answer of status 400 and up leaves as a [`Problem`].

use super::{
    AppState, api, assets,
    extract::{JsonBody, Parameters, QueuePath, TopicPath},
    openapi, problem,
    problem::Problem,
    security, trace,
    trace::TraceId,
};
use crate::{
    engine::EngineError,
    telemetry::{Reserved, RouteLabels, RouteStatusLabels, ShedLabels, intern, metrics},
    types::TopicName,
};
use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};
use tower::Service as _;
use tower_http::compression::{
    CompressionLayer,
    predicate::{NotForContentType, Predicate as _, SizeAbove},
};
use tracing::Instrument as _;
use utoipa_axum::router::OpenApiRouter;

/// Answers below this size are not compressed: a packet takes them as they are.
const COMPRESS_ABOVE: u64 = 1400;

/// A request body of this size is in memory when its head is; hyper throws away what a handler left of it. With a larger
/// one the connection has to end, and the answer must say so, or the client sends its next request into the closing.
const DRAINED_BODY: u64 = 4 << 10;

/// What a body without an announced length counts for.
const UNANNOUNCED_BODY: u64 = 256 << 10;
/// How much larger than it came a compressed body mostly is.
const COMPRESSED: usize = 8;
/// A body lies in memory as it came, and as the batch that is written.
const COPIES: usize = 2;
/// What a request takes beside its body: buffers, headers, its task.
const REQUEST_BYTES: usize = 4 << 10;
/// The largest body that is read to be thrown away, and how long that may take.
const THROWN_AWAY_BYTES: u64 = 1 << 20;
const THROWN_AWAY_WITHIN: Duration = Duration::from_secs(5);
/// Below this part of the memory for requests, taken by all of them together, none is turned away: hundreds of small ones, or
/// a few dozen batches. Beyond it those are that would store in a topic where what waits is late; for others the rest comes
/// back within [`REGAINED`].
const ALWAYS_PART: usize = 4;
const REGAINED: Duration = Duration::from_secs(1);
/// For so long what was said of a topic holds.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How often the log is told of requests that were turned away.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// The route whose body is read while it is stored, and what it holds of it.
const STREAMED: &str = "/ingest";
const STREAMED_BYTES: usize = 3 << 20;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Every route with its document.
pub(crate) fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .merge(api::topics::routes())
        .merge(api::events::routes())
        .merge(api::records_post::routes())
        .merge(api::ingest::routes())
        .merge(api::records::routes())
        .merge(api::stream::routes())
        .merge(api::queues::routes())
        .merge(api::ws::routes())
        .merge(api::groups::routes())
        .merge(api::operations::routes())
}

/// The whole door.
#[must_use]
pub fn router(state: AppState) -> Door {
    let (documented, document) = documented().split_for_parts();
    let routes = documented.merge(openapi::routes()).merge(assets::routes());
    let mut table = matchit::Router::new();
    for pattern in document.paths.paths.keys().map(String::as_str).chain(openapi::PATHS).chain(assets::PATHS) {
        table
            .insert(pattern, Route::new(pattern))
            .expect("axum has taken each of these patterns, and takes none twice");
    }
    let compress = CompressionLayer::new().compress_when(
        SizeAbove::new(COMPRESS_ABOVE)
            .and(NotForContentType::SSE)
            .and(NotForContentType::IMAGES)
            .and(NotForContentType::const_new("application/x-ndjson")),
    );
    let router = routes.fallback(not_found).layer(compress).with_state(state.clone());
    Door(Arc::new(Shared {
        app: state,
        table,
        other: Route::new("other"),
        router,
        turned_away: Mutex::default(),
        looked: Mutex::default(),
    }))
}

/// The whole door as a service; cheap to clone.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

struct Shared {
    app: AppState,
    /// Each documented route, by its pattern.
    table: matchit::Router<Route>,
    /// Whatever is none of them.
    other: Route,
    /// What handles all but [`Hot`] requests.
    router: Router,
    turned_away: Mutex<TurnedAway>,
    looked: Mutex<Looked>,
}

/// Requests that were turned away since the log was told.
#[derive(Default)]
struct TurnedAway {
    count: u64,
    last: Option<Duration>,
}

/// What was last said of a topic, and when: of thousands of requests a second few look at all its partitions.
#[derive(Default)]
struct Looked(Option<(TopicName, Duration, Option<Duration>)>);

/// What is known of a route before its handler runs.
struct Route {
    /// Its pattern, as a label.
    pattern: &'static str,
    /// A POST to it stores records.
    stores: bool,
    hot: Option<Hot>,
    /// By method, as [`METHODS`] numbers them.
    meters: [OnceLock<Meter>; METHODS.len()],
}

/// Routes whose handlers are called straight: through axum's routes, layers and extractors, each of which boxes and moves
/// a request's future, one small event costs twice the instructions. The handler is the same, and the way around it too.
#[derive(Clone, Copy)]
enum Hot {
    PublishEvent,
    ProduceRecords,
    ReceiveMessages,
    SettleMessages,
}

/// Why a request is turned away before its body is read.
#[derive(Clone, Copy)]
enum Shed {
    /// Those under way take all the memory for them.
    Memory,
    /// What waits to be stored in its topic waits too long.
    Delay,
}

/// A route's handles of metrics, so that no request looks them up.
struct Meter {
    seconds: Histogram,
    /// Answers of the usual statuses.
    succeeded: [OnceLock<Counter>; SUCCEEDED.len()],
}

const SUCCEEDED: [StatusCode; 3] = [StatusCode::OK, StatusCode::CREATED, StatusCode::NO_CONTENT];
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other"];

impl Route {
    fn new(pattern: &str) -> Self {
        let hot = match pattern {
            "/v1/topics/{topic}/events" => Some(Hot::PublishEvent),
            "/v1/topics/{topic}/records" => Some(Hot::ProduceRecords),
            "/v1/queues/{queue}/receive" => Some(Hot::ReceiveMessages),
            "/v1/queues/{queue}/settle" => Some(Hot::SettleMessages),
            _ => None,
        };
        let stores = matches!(hot, Some(Hot::PublishEvent | Hot::ProduceRecords)) || pattern.ends_with(STREAMED);
        Self { pattern: intern(pattern), stores, hot, meters: Default::default() }
    }

    /// Counts an answer.
    fn count(&self, method: usize, status: StatusCode, took: Duration) {
        let labels = RouteLabels { method: METHODS[method], route: self.pattern };
        let meter = self.meters[method].get_or_init(|| Meter {
            seconds: metrics().http_request_seconds.get_or_create(&labels).clone(),
            succeeded: Default::default(),
        });
        meter.seconds.observe(took.as_secs_f64());
        let RouteLabels { method, route } = labels;
        let of_status = || {
            metrics().http_requests.get_or_create(&RouteStatusLabels { method, route, status: status.as_u16() }).clone()
        };
        match SUCCEEDED.iter().position(|usual| *usual == status) {
            Some(usual) => meter.succeeded[usual].get_or_init(of_status).inc(),
            None => of_status().inc(),
        };
    }
}

impl tower::Service<Request> for Door {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { Ok(door.pass(request).await) })
    }
}

impl Door {
    /// The one way in and out.
    async fn pass(&self, request: Request) -> Response {
        let Shared { app, table, other, .. } = &*self.0;
        let begun = app.sys.clock.monotonic();
        let (parts, body) = request.into_parts();
        let (route, hot, late) = match table.at(parts.uri.path()) {
            Ok(found) => {
                let topic = found.params.get("topic");
                let named = topic.or_else(|| found.params.get("queue"));
                (found.value, hot(found.value, named, &parts), is_late(found.value, topic, &parts.method, &self.0))
            }
            Err(_) => (other, None, false),
        };
        let method = method_number(&parts.method);
        let id = trace_of(&parts.headers, app);
        let span = tracing::debug_span!("request", method = METHODS[method], route = route.pattern, trace_id = %id);
        // Pinned here, so that each wrapper moves a pointer, and not the whole of what handles a request.
        let answer = pin!(self.answer(parts, body, (route, hot), late));
        let response = trace::scope(id, answer).instrument(span).await;
        let (took, status) = (app.sys.clock.monotonic().saturating_sub(begun), response.status());
        route.count(method, status, took);
        let (method, route, milliseconds) = (METHODS[method], route.pattern, took.as_secs_f64() * 1e3);
        // What is only not possible now is told by who knows why; under overload it may be thousands a second.
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(method, route, status = status.as_u16(), milliseconds, trace_id = %id, "a request failed");
        } else {
            tracing::debug!(method, route, status = status.as_u16(), milliseconds, trace_id = %id, "answered");
        }
        response
    }

    /// The answer to a request that is turned away. It is told to the log once in a while: a line for each would cost more than
    /// what is saved.
    fn turn_away(&self, why: Shed) -> Problem {
        let Shared { app, turned_away, .. } = &*self.0;
        let (reason, detail) = match why {
            Shed::Memory => ("memory", "the requests under way take all the memory that there is for them"),
            Shed::Delay => ("delay", "what waits to be stored in this topic waits too long already"),
        };
        metrics().http_requests_shed.get_or_create(&ShedLabels { reason }).inc();
        let mut told = turned_away.lock();
        told.count += 1;
        let now = app.sys.clock.monotonic();
        if told.last.is_none_or(|last| now.saturating_sub(last) >= TOLD_EVERY) {
            let (count, bytes) = (std::mem::take(&mut told.count), app.memory.limit());
            tracing::warn!(count, bytes, reason, "requests are turned away: more come than can be stored");
            told.last = Some(now);
        }
        drop(told);
        Problem::from(EngineError::Overloaded).with_detail(format!("{detail}; nothing of this one was read"))
    }

    async fn answer(
        &self,
        parts: Parts,
        body: Body,
        (route, hot): (&Route, Option<(Hot, TopicName)>),
        late: bool,
    ) -> Response {
        let app = &self.0.app;
        let admitted = match security::admit(&parts, &app.settings) {
            Ok(admitted) => admitted,
            Err(response) => return finish(*response),
        };
        if let Err(problem) = check_headers(&parts.headers, app) {
            return finish(problem.into_response());
        }
        // Held until the answer: what came in is also in what waits to be stored.
        let memory = match late {
            true => Err(Shed::Delay),
            false => reserve(&body, &parts.headers, route, app).ok_or(Shed::Memory),
        };
        let mut may_leave_a_rest =
            parts.version < Version::HTTP_2 && body.size_hint().upper().is_none_or(|n| n > DRAINED_BODY);
        let mut response = match (&memory, hot) {
            (Err(why), _) => {
                may_leave_a_rest &= !throw_away(body).await;
                finish(self.turn_away(*why).into_response())
            }
            (Ok(_), Some((hot, name))) => {
                let answered = hot.call(app.clone(), name, parts, body).await;
                finish(answered.unwrap_or_else(Problem::into_response))
            }
            (Ok(_), None) => {
                let (method, uri) = (parts.method.clone(), parts.uri.clone());
                let Ok(response) = self.0.router.clone().call(Request::from_parts(parts, body)).await;
                finish(as_problem(response, &method, uri.path()))
            }
        };
        let status = response.status();
        if may_leave_a_rest && (status.is_client_error() || status.is_server_error()) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        drop(memory);
        admitted.mark(response.headers_mut());
        response
    }
}

/// Whether a request would store records in a topic where what waits has come to wait too long. Asked only while many are
/// under way. A name that is written with escapes is not looked up: such requests are bounded by their memory alone.
fn is_late(route: &Route, topic: Option<&str>, method: &Method, shared: &Shared) -> bool {
    let app = &shared.app;
    let (used, all) = (app.memory.used(), app.memory.limit());
    let always = all / ALWAYS_PART;
    if !route.stores || used <= always || *method != Method::POST {
        return false;
    }
    let since = topic.and_then(|name| shared.looked.lock().since_late(TopicName::new(name).ok()?, app));
    // Step by step: those that are let in together would be late together.
    let regained = |since: Duration| since.div_duration_f64(REGAINED).min(1.0) * (all - always) as f64;
    since.is_some_and(|since| used - always > regained(since) as usize)
}

impl Looked {
    fn since_late(&mut self, topic: TopicName, app: &AppState) -> Option<Duration> {
        let now = app.sys.clock.monotonic();
        let known = self.0.as_ref().filter(|(of, at, _)| *of == topic && now.saturating_sub(*at) < LOOK_AGAIN);
        if let Some((_, _, since)) = known {
            return *since;
        }
        let since = app.engine.since_late(&topic);
        self.0 = Some((topic, now, since));
        since
    }
}

/// Memory for a request's body, before any of it is read; `None` if there is none left. More than the server may hold is
/// sent away at once, while what it took goes on as fast as ever: waiting would only make all of them late.
fn reserve(body: &Body, headers: &HeaderMap, route: &Route, app: &AppState) -> Option<Reserved> {
    let size = body.size_hint();
    let announced = usize::try_from(size.exact().unwrap_or(UNANNOUNCED_BODY)).unwrap_or(usize::MAX);
    if announced == 0 {
        return Some(app.memory.reserve(0));
    }
    let compressed = headers.contains_key(header::CONTENT_ENCODING);
    let whole = if compressed { announced.saturating_mul(COMPRESSED) } else { announced };
    let most = if route.pattern.ends_with(STREAMED) { STREAMED_BYTES } else { app.limits().batch_bytes };
    app.memory.try_reserve(COPIES * whole.min(most) + REQUEST_BYTES)
}

/// Reads a body that nobody wants, if it is not too large: a connection that goes on costs both sides less than a new one.
/// True if all of it is gone.
async fn throw_away(mut body: Body) -> bool {
    if body.size_hint().exact().is_none_or(|size| size > THROWN_AWAY_BYTES) {
        return false;
    }
    let all = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(THROWN_AWAY_WITHIN, all).await.unwrap_or(false)
}

/// Whether a request can be handled straight: what its path names is plain, and no answer of it is to be compressed.
fn hot(route: &Route, named: Option<&str>, parts: &Parts) -> Option<(Hot, TopicName)> {
    let hot = route.hot.filter(|_| parts.method == Method::POST)?;
    let compressed = !matches!(hot, Hot::PublishEvent) && parts.headers.contains_key(header::ACCEPT_ENCODING);
    // A name that is refused, or written with escapes, goes the usual way, to the usual refusal. One rule holds for the
    // names of topics and queues.
    Some((hot, TopicName::new(named.filter(|_| !compressed)?).ok()?))
}

impl Hot {
    async fn call(self, app: AppState, name: TopicName, mut parts: Parts, body: Body) -> Result<Response, Problem> {
        match self {
            Self::PublishEvent => {
                let parameters = Parameters::from_request_parts(&mut parts, &app).await?;
                api::events::publish_event(State(app), TopicPath(name), parameters, parts.headers, body).await
            }
            Self::ProduceRecords => {
                let parameters = Parameters::from_request_parts(&mut parts, &app).await?;
                api::records_post::produce_records(State(app), TopicPath(name), parameters, parts.headers, body).await
            }
            Self::ReceiveMessages => {
                let wanted = JsonBody::read(&parts, body, &app).await?;
                let queue = QueuePath(name.to_string());
                api::queues_receive::receive_messages(State(app), queue, parts.headers, wanted).await
            }
            Self::SettleMessages => {
                let settle = JsonBody::read(&parts, body, &app).await?;
                let queue = QueuePath(name.to_string());
                Ok(api::queues_settle::settle_messages(State(app), queue, settle).await?.into_response())
            }
        }
    }
}

async fn not_found(uri: axum::http::Uri) -> Problem {
    Problem::not_found(format!("there is no route {}; see /openapi.json or /docs", uri.path()))
}

fn trace_of(headers: &HeaderMap, app: &AppState) -> TraceId {
    let given = headers.get(&TRACEPARENT).and_then(|v| TraceId::from_traceparent(v.as_bytes()));
    given.unwrap_or_else(|| {
        let mut bytes = [0; 16];
        app.sys.rng.fill(&mut bytes);
        TraceId::from_random(bytes)
    })
}

fn check_headers(headers: &HeaderMap, app: &AppState) -> Result<(), Problem> {
    let limits = app.limits();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() <= limits.headers && bytes <= limits.header_bytes {
        return Ok(());
    }
    let detail = format!(
        "the request has {} headers of {bytes} bytes; at most {} of {} bytes are taken",
        headers.len(),
        limits.headers,
        limits.header_bytes
    );
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    Err(Problem::new(status, "headers-too-large", "The request's headers are too large", detail))
}

/// Puts a problem in place of an error that has none.
fn as_problem(response: Response, method: &Method, path: &str) -> Response {
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == problem::CONTENT_TYPE);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let kept = response.headers();
    let problem = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            let detail = format!("{method} is not allowed on {path}; the header Allow names what is");
            Problem::new(status, "method-not-allowed", "The method is not allowed", detail)
        }
        StatusCode::NOT_FOUND => Problem::not_found(format!("there is nothing at {path}")),
        StatusCode::UPGRADE_REQUIRED => {
            let detail = format!("{path} takes a WebSocket: send an Upgrade");
            Problem::new(status, "upgrade-required", "A WebSocket is required", detail)
        }
        _ if status.is_client_error() => {
            let reason = status.canonical_reason().unwrap_or("the request is not understood");
            Problem::new(status, "invalid-request", "The request can not be understood", reason)
        }
        _ => Problem::internal(&format!("{method} {path} answered {status} without a problem")),
    };
    let mut wrapped = problem.into_response();
    for name in [header::ALLOW, header::UPGRADE, header::CONNECTION, header::ACCEPT] {
        if let Some(value) = kept.get(&name) {
            wrapped.headers_mut().insert(name, value.clone());
        }
    }
    wrapped
}

/// What every answer carries.
fn finish(mut response: Response) -> Response {
    let headers = response.headers_mut();
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        // A record's value may be a page; whatever it is, it runs nothing here.
        let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// The place in [`METHODS`].
fn method_number(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

#[cfg(test)]
mod tests;
