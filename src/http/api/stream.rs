//! One topic, live, over SSE or WebSocket: one URL, two transports.

use super::read_parameters::{ReadParameters, View, find_topic};
use crate::{
    http::{
        AppState,
        extract::{Parameters, TopicPath},
        problem::Problem,
        sse,
        websocket::{self, Close, Handshake},
    },
    session::{Format, StartPosition, SubscribeRequest, Subscription},
};
use axum::{
    extract::{FromRequestParts as _, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(stream_records))
}

/// Stream records live
///
/// Server-sent events, or a WebSocket where the request asks for an upgrade. Each record is a plain message event whose `data`
/// is a `LogRecord` and whose `id` is a cursor; named events are `gap`, `caught-up`, `snapshot-end`, `problem`, `goaway` and
/// `end`. `Last-Event-ID` overrides every start parameter.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/stream", tag = "streaming", operation_id = "stream_records",
    params(
        ("topic" = String, Path, description = "The topic's name", pattern = "^[a-zA-Z0-9._-]{1,249}$", example = "games"),
        ReadParameters,
        ("Last-Event-ID" = inline(Option<String>), Header, description = "The id of the last event that was seen; it overrides every start", pattern = "^[A-Za-z0-9_-]{0,4096}$", nullable = false),
    ),
    responses(
        (status = 200, description = "Events, until the reader leaves or the range ends", body = String, content_type = "text/event-stream"),
        (status = 101, description = "The connection is a WebSocket now; asyncapi.yaml describes its frames"),
        (status = 204, description = "The range that `Last-Event-ID` belongs to was read to its end"),
    ),
)]
pub async fn stream_records(State(app): State<AppState>, request: Request) -> Result<Response, Problem> {
    let (mut parts, _body) = request.into_parts();
    let TopicPath(name) = TopicPath::from_request_parts(&mut parts, &app).await?;
    let Parameters(parameters) = Parameters::<ReadParameters>::from_request_parts(&mut parts, &app).await?;
    let upgrade = websocket::is_upgrade(&parts.headers);
    let handshake = if upgrade { Some(Handshake::check(&mut parts, None)?) } else { None };
    let resume = sse::last_event_id(&parts.headers);
    let topic = find_topic(&app, &name, parameters.topic_id.as_deref())?;
    let read = parameters.to_request(topic, StartPosition::Latest, resume, app.sys.clock.now_ms())?;
    if matches!(&read.start, StartPosition::Cursor(cursor) if cursor.ended) && !upgrade {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let request = SubscribeRequest {
        read,
        format: if upgrade { Format::WebSocket } else { Format::Sse },
        encoding: parameters.value_encoding(),
        limit: parameters.limit,
        slow: parameters.slow_policy(),
        view_latest: parameters.view == Some(View::Latest),
    };
    let opened = app.sessions.subscribe(request).await.map_err(Problem::from);
    match handshake {
        None => sse_answer(&app, opened),
        Some(handshake) => websocket_answer(&app, handshake, opened),
    }
}

fn sse_answer(app: &AppState, opened: Result<Subscription, Problem>) -> Result<Response, Problem> {
    match opened {
        Ok(subscription) => Ok(sse::stream(app, subscription)),
        Err(problem) if problem.body().retryable => Ok(sse::retryable_problem(app, &problem)),
        Err(problem) => Err(problem),
    }
}

/// A browser's WebSocket does not show the status of a refused handshake, so what will pass is told on the socket.
fn websocket_answer(
    app: &AppState,
    handshake: Handshake,
    opened: Result<Subscription, Problem>,
) -> Result<Response, Problem> {
    let app = app.clone();
    match opened {
        Ok(subscription) => Ok(handshake.accept(move |socket| websocket::serve_one(socket, app, subscription))),
        Err(problem) if problem.body().retryable => Ok(handshake.accept(move |mut socket| async move {
            let _ = socket.send_text(websocket::error_text(None, &problem)).await;
            socket.close(Close::of(&problem)).await;
        })),
        Err(problem) => Err(problem),
    }
}
