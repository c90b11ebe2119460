//! All routes, and what every request passes: a trace, the check of where it comes from, the bound on its headers, and on
//! the way out metrics, the headers that each answer carries, and a problem wherever somebody answered an error without.
//!
//! **Invariant**: whatever a route does, an answer of status 400 and up leaves as a [`Problem`].

use super::{AppState, api, assets, openapi, problem, problem::Problem, security, trace, trace::TraceId};
use crate::telemetry::{RouteLabels, RouteStatusLabels, intern, metrics};
use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use http_body::Body as _;
use std::collections::BTreeMap;
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

/// Every route with its document.
pub(crate) fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .merge(api::topics::routes())
        .merge(api::events::routes())
        .merge(api::records_post::routes())
        .merge(api::ingest::routes())
        .merge(api::records::routes())
        .merge(api::stream::routes())
        .merge(api::ws::routes())
        .merge(api::groups::routes())
        .merge(api::operations::routes())
}

/// The whole door as a service.
pub fn router(state: AppState) -> Router {
    let (documented, document) = documented().split_for_parts();
    let routes = documented.merge(openapi::routes()).merge(assets::routes());
    let names = document.paths.paths.keys().map(String::as_str).chain(openapi::PATHS).chain(assets::PATHS);
    let around = Around { app: state.clone(), routes: names.map(|name| (name.to_owned(), intern(name))).collect() };
    let compress = CompressionLayer::new().compress_when(
        SizeAbove::new(COMPRESS_ABOVE)
            .and(NotForContentType::SSE)
            .and(NotForContentType::IMAGES)
            .and(NotForContentType::const_new("application/x-ndjson")),
    );
    routes
        .fallback(not_found)
        .layer(compress)
        .layer(middleware::from_fn_with_state(std::sync::Arc::new(around), pass))
        .with_state(state)
}

async fn not_found(uri: axum::http::Uri) -> Problem {
    Problem::not_found(format!("there is no route {}; see /openapi.json or /docs", uri.path()))
}

/// What [`pass`] knows.
struct Around {
    app: AppState,
    /// Each route's pattern as a label.
    routes: BTreeMap<String, &'static str>,
}

/// The one way in and out.
async fn pass(State(around): State<std::sync::Arc<Around>>, request: Request, next: Next) -> Response {
    let app = &around.app;
    let begun = app.sys.clock.monotonic();
    let (parts, body) = request.into_parts();
    let matched = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let labels = RouteLabels {
        method: method_label(&parts.method),
        route: around.routes.get(matched).copied().unwrap_or("other"),
    };
    let id = trace_of(&parts.headers, app);
    let span = tracing::debug_span!("request", method = labels.method, route = labels.route, trace_id = %id);
    let answer = answer(app, parts, body, next);
    let response = trace::scope(id, answer).instrument(span).await;
    let (took, status) = (app.sys.clock.monotonic().saturating_sub(begun), response.status());
    let counted = RouteStatusLabels { method: labels.method, route: labels.route, status: status.as_u16() };
    metrics().http_requests.get_or_create(&counted).inc();
    metrics().http_request_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    let milliseconds = took.as_secs_f64() * 1e3;
    let RouteLabels { method, route } = labels;
    if status.is_server_error() {
        tracing::warn!(method, route, status = status.as_u16(), milliseconds, trace_id = %id, "a request failed");
    } else {
        tracing::debug!(method, route, status = status.as_u16(), milliseconds, trace_id = %id, "answered");
    }
    response
}

async fn answer(app: &AppState, parts: Parts, body: Body, next: Next) -> Response {
    let admitted = match security::admit(&parts, &app.settings) {
        Ok(admitted) => admitted,
        Err(response) => return finish(*response),
    };
    if let Err(problem) = check_headers(&parts.headers, app) {
        return finish(problem.into_response());
    }
    let (method, path) = (parts.method.clone(), parts.uri.clone());
    let may_leave_a_rest = parts.version < Version::HTTP_2 && body.size_hint().upper().is_none_or(|n| n > DRAINED_BODY);
    let response = next.run(Request::from_parts(parts, body)).await;
    let mut response = finish(as_problem(response, &method, path.path()));
    let status = response.status();
    if may_leave_a_rest && (status.is_client_error() || status.is_server_error()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    admitted.mark(response.headers_mut());
    response
}

fn trace_of(headers: &HeaderMap, app: &AppState) -> TraceId {
    let given = headers.get("traceparent").and_then(|v| TraceId::from_traceparent(v.as_bytes()));
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
            // axum adds the header Allow on its way out, after this.
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
    for name in [header::UPGRADE, header::CONNECTION, header::ACCEPT] {
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

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
