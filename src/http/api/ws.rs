//! Many subscriptions, produce and queues on one socket (subprotocol `sluice.v1.json`).
//!
//! **Invariant**: nothing of a subscription is sent without credit, in records and in bytes; one that waits for credit
//! holds a place and no records. Frames of one subscription keep their order. What a socket may have going at once is
//! bounded; at the bound it is not read from.

use super::produce::{self, IdempotencyKey, Target, Wanted};
use super::read_parameters::{ReadParameters, View, find_topic};
use super::ws_frames::{Envelope, named_frames, produced_text, subscribed_text};
use super::ws_queue::{self, Flow, ReceiveFrame, Settling};
use crate::{
    engine::{ProducedRecord, ReceivedMessages},
    http::{
        AppState,
        extract::parse_json,
        problem::Problem,
        record_json::{Refusal, parse_record},
        sse::HEARTBEAT,
        websocket::{Close, Handshake, Incoming, Socket, error_text, event_text, goaway_text},
    },
    session::{Budget, Format, SessionEvent, StartPosition, SubscribeRequest, Subscription},
    telemetry::{DirectionLabels, metrics},
};
use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::{AbortHandle, BoxFuture, Either, abortable},
    stream::FuturesUnordered,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The protocol's name.
pub const PROTOCOL: &str = "sluice.v1.json";
/// Subscriptions of one socket.
const MAX_SUBSCRIPTIONS: usize = 256;
/// Records of one socket that are being stored.
const MAX_PRODUCING: usize = 256;
/// A client that is silent for so long, our pings included, is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().routes(routes!(open_socket))
}

/// Many subscriptions on one socket
///
/// A WebSocket with the subprotocol `sluice.v1.json`; asyncapi.yaml describes its frames.
#[utoipa::path(
    get, path = "/v1/ws", tag = "streaming", operation_id = "open_socket",
    params(("Sec-WebSocket-Protocol" = inline(Option<String>), Header, description = "`sluice.v1.json`", nullable = false)),
    responses((status = 101, description = "The connection is a WebSocket now")),
)]
pub async fn open_socket(State(app): State<AppState>, request: Request) -> Result<Response, Problem> {
    let (mut parts, _body) = request.into_parts();
    let handshake = Handshake::check(&mut parts, Some(PROTOCOL))?;
    Ok(handshake.accept(move |socket| Multiplex::new(app).run(socket)))
}

/// A subscription of the socket.
struct Entry {
    /// Tells it from an earlier one of the same id.
    serial: u64,
    credit: Budget,
    /// Stops the future that has the subscription.
    abort: Option<AbortHandle>,
    /// Waiting for credit.
    parked: Option<Box<Subscription>>,
}

enum Done {
    Opened(String, u64, Result<Box<Subscription>, Problem>),
    Event(String, u64, Box<Subscription>, Result<SessionEvent, Problem>),
    Produced(String, Result<ProducedRecord, Problem>),
    Received(String, u64, Result<ReceivedMessages, Problem>),
    Settled(String, Result<Settling, Problem>),
    Aborted,
}

struct Multiplex {
    app: AppState,
    entries: BTreeMap<String, Entry>,
    flows: BTreeMap<String, Flow>,
    working: FuturesUnordered<BoxFuture<'static, Done>>,
    producing: usize,
    serial: u64,
}

/// What to answer to a frame.
type Reply = Result<Option<String>, (Option<String>, Problem)>;

impl Multiplex {
    fn new(app: AppState) -> Self {
        let (entries, flows) = (BTreeMap::new(), BTreeMap::new());
        Self { app, entries, flows, working: FuturesUnordered::new(), producing: 0, serial: 0 }
    }

    async fn run(mut self, mut socket: Socket) {
        let drain = self.app.drain.clone();
        let mut drained = Box::pin(async move { drain.started().await });
        let mut heard = Instant::now();
        let mut beat = Box::pin(tokio::time::sleep(HEARTBEAT));
        loop {
            let lapse = self.flows.values().filter_map(Flow::next_end).min();
            let written = tokio::select! {
                biased;
                () = &mut drained => {
                    let _ = tokio::time::timeout(Duration::from_secs(2), socket.send_text(goaway_text(None))).await;
                    return socket.close(Close::GoingAway).await;
                }
                incoming = socket.receive(), if self.producing < MAX_PRODUCING => {
                    heard = Instant::now();
                    match incoming {
                        Incoming::Alive => Ok(()),
                        Incoming::Text(text) => match self.take(&text) {
                            Ok(None) => Ok(()),
                            Ok(Some(reply)) => socket.send_text(reply).await,
                            Err((id, problem)) => socket.send_text(error_text(id.as_deref(), &problem)).await,
                        },
                        Incoming::Unexpected => return socket.close(Close::Protocol).await,
                        Incoming::TooLarge => return socket.close(Close::TooLarge).await,
                        Incoming::Gone => return,
                    }
                }
                Some(done) = self.working.next() => {
                    let sending = self.finish(done, &mut socket);
                    let going = async { drained.as_mut().await };
                    match futures_util::future::select(std::pin::pin!(sending), std::pin::pin!(going)).await {
                        Either::Left((written, _)) => written,
                        Either::Right(_) => return,
                    }
                }
                () = tokio::time::sleep_until(lapse.unwrap_or_else(Instant::now)), if lapse.is_some() => {
                    self.lapse();
                    Ok(())
                }
                () = &mut beat => {
                    beat.as_mut().reset(Instant::now() + HEARTBEAT);
                    if heard.elapsed() > GONE_AFTER {
                        return;
                    }
                    socket.ping().await
                }
            };
            if written.is_err() {
                return;
            }
        }
    }

    // ---- frames of the client -----------------------------------------------------------------------------------

    fn take(&mut self, text: &str) -> Reply {
        let envelope = Envelope::read(text).map_err(|problem| (None, problem))?;
        let id = envelope.id.clone();
        let kind = envelope.kind.clone();
        let outcome = match kind.as_str() {
            "subscribe" => self.subscribe(envelope).map(|()| None),
            "credit" => self.credit(&envelope).map(|()| None),
            "unsubscribe" => self.unsubscribe(&envelope).map(|()| None),
            "produce" => self.produce(envelope).map(|()| None),
            "auth" => Ok(None), // no rights are configured that it could show
            "receive" => self.receive(&envelope).map(|()| None),
            "settle" => self.settle(&envelope).map(|()| None),
            other => Err(Problem::invalid_request(format!(
                "unknown frame type '{other}'; the types are subscribe, credit, unsubscribe, produce, receive, settle, auth"
            ))),
        };
        outcome.map_err(|problem| (id, problem))
    }

    fn subscribe(&mut self, envelope: Envelope) -> Result<(), Problem> {
        let id = self.new_id(&envelope)?;
        let name = envelope.topic()?;
        let parameters: ReadParameters = parse_json(envelope.rest().as_bytes())?;
        let topic = find_topic(&self.app, &name, parameters.topic_id.as_deref())?;
        let read = parameters.to_request(topic, StartPosition::Latest, None, self.app.sys.clock.now_ms())?;
        let request = SubscribeRequest {
            read,
            format: Format::WebSocket,
            encoding: parameters.value_encoding(),
            limit: parameters.limit,
            slow: parameters.slow_policy(),
            view_latest: parameters.view == Some(View::Latest),
        };
        self.serial += 1;
        let (serial, sessions, name) = (self.serial, self.app.sessions.clone(), id.clone());
        let (opening, abort) = abortable(async move {
            let opened = sessions.subscribe(request).await;
            Done::Opened(name, serial, opened.map(Box::new).map_err(Problem::from))
        });
        self.working.push(Box::pin(async move { opening.await.unwrap_or(Done::Aborted) }));
        let credit = envelope.credit()?.into();
        self.entries.insert(id, Entry { serial, credit, abort: Some(abort), parked: None });
        Ok(())
    }

    /// The id of a new subscription or flow.
    fn new_id(&self, envelope: &Envelope) -> Result<String, Problem> {
        let id = envelope.need_id()?;
        if self.entries.contains_key(&id) || self.flows.contains_key(&id) {
            let detail = format!("there is a subscription '{id}' on this socket already");
            return Err(Problem::new(StatusCode::CONFLICT, "duplicate-id", "The id is in use", detail));
        }
        if self.entries.len() + self.flows.len() == MAX_SUBSCRIPTIONS {
            let detail = format!("a socket has at most {MAX_SUBSCRIPTIONS} subscriptions");
            let title = "Too many subscriptions";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-subscriptions", title, detail));
        }
        Ok(id)
    }

    fn receive(&mut self, envelope: &Envelope) -> Result<(), Problem> {
        let id = self.new_id(envelope)?;
        let frame: ReceiveFrame = parse_json(envelope.rest().as_bytes())?;
        self.serial += 1;
        let flow = Flow::new(self.serial, frame, envelope.credit()?.records)?;
        self.flows.insert(id.clone(), flow);
        self.look(&id);
        Ok(())
    }

    fn settle(&mut self, envelope: &Envelope) -> Result<(), Problem> {
        let id = envelope.need_id()?;
        let queue = self.flows.get(&id).ok_or_else(|| unknown_subscription(&id))?.queue.clone();
        let settlements = ws_queue::verdicts(&envelope.rest())?;
        self.producing += 1;
        let app = self.app.clone();
        self.working.push(Box::pin(async move {
            Done::Settled(id, ws_queue::settle(&*app.engine, &queue, settlements).await)
        }));
        Ok(())
    }

    /// Lets a flow look at its queue, if it has credit.
    fn look(&mut self, id: &str) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(request) = flow.next_look() else { return };
        let (app, serial, id) = (self.app.clone(), flow.serial, id.to_owned());
        let (looking, abort) = abortable(async move {
            let received = match app.engine.queues() {
                Ok(queues) => queues.receive(request).await,
                Err(error) => Err(error),
            };
            Done::Received(id, serial, received.map_err(Problem::from))
        });
        flow.looking = Some(abort);
        self.working.push(Box::pin(async move { looking.await.unwrap_or(Done::Aborted) }));
    }

    /// Leases that ran out give their credit back.
    fn lapse(&mut self) {
        let now = Instant::now();
        let lapsed: Vec<String> =
            self.flows.iter_mut().filter_map(|(id, flow)| flow.lapse(now).then(|| id.clone())).collect();
        lapsed.iter().for_each(|id| self.look(id));
    }

    fn credit(&mut self, envelope: &Envelope) -> Result<(), Problem> {
        envelope.nothing_else()?;
        let id = envelope.need_id()?;
        let more = Budget::from(envelope.credit()?);
        if let Some(flow) = self.flows.get_mut(&id) {
            flow.add_credit(more.records);
            self.look(&id);
            return Ok(());
        }
        let entry = self.entries.get_mut(&id).ok_or_else(|| unknown_subscription(&id))?;
        entry.credit.records = entry.credit.records.saturating_add(more.records);
        entry.credit.bytes = entry.credit.bytes.saturating_add(more.bytes);
        if let Some(subscription) = entry.parked.take() {
            self.drive(&id, subscription);
        }
        Ok(())
    }

    fn unsubscribe(&mut self, envelope: &Envelope) -> Result<(), Problem> {
        envelope.nothing_else()?;
        let id = envelope.need_id()?;
        if let Some(flow) = self.flows.remove(&id) {
            if let Some(looking) = flow.looking {
                looking.abort();
            }
            return Ok(());
        }
        let entry = self.entries.remove(&id).ok_or_else(|| unknown_subscription(&id))?;
        if let Some(abort) = entry.abort {
            abort.abort();
        }
        Ok(())
    }

    fn produce(&mut self, envelope: Envelope) -> Result<(), Problem> {
        let id = envelope.need_id()?;
        let target = Target::find(&self.app, envelope.topic()?)?;
        let limits = target.record_limits(self.app.limits());
        let record = parse_record(&Bytes::from(envelope.rest()), limits);
        let record = record.map_err(|(Refusal::Malformed(problem) | Refusal::Invalid(problem))| problem)?;
        let key = envelope.idempotency_key.as_deref().map(|key| IdempotencyKey::new(key.as_bytes())).transpose()?;
        let wanted = Wanted::new(None, None, self.app.limits())?;
        self.producing += 1;
        let (app, mut target) = (self.app.clone(), target);
        self.working.push(Box::pin(async move {
            let stored = async {
                let records = vec![record];
                let tag = key.map(|key| key.for_request(&records));
                let topic = target.topic(&app).await?;
                let mut receipt = produce::store(&app, &topic, records, &wanted, tag).await?;
                let result = receipt.results.pop();
                Ok(result.ok_or_else(|| Problem::internal("a produce of one record has no result"))??)
            };
            Done::Produced(id, stored.await)
        }));
        Ok(())
    }

    // ---- frames of the server -----------------------------------------------------------------------------------

    /// Lets a subscription go on, if it has credit.
    fn drive(&mut self, id: &str, mut subscription: Box<Subscription>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if entry.credit.records == 0 || entry.credit.bytes == 0 {
            subscription.park();
            entry.abort = None;
            entry.parked = Some(subscription);
            return;
        }
        let (budget, serial, id) = (entry.credit, entry.serial, id.to_owned());
        let (next, abort) = abortable(async move {
            let event = subscription.next(budget).await.map_err(Problem::from);
            Done::Event(id, serial, subscription, event)
        });
        entry.abort = Some(abort);
        self.working.push(Box::pin(async move { next.await.unwrap_or(Done::Aborted) }));
    }

    async fn finish(&mut self, done: Done, socket: &mut Socket) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        match done {
            Done::Aborted => Ok(()),
            Done::Produced(id, result) => {
                self.producing -= 1;
                let text = match result {
                    Ok(record) => produced_text(&id, record),
                    Err(problem) => error_text(Some(&id), &problem),
                };
                socket.send_text(text).await
            }
            Done::Received(id, serial, result) => {
                let now_ms = self.app.sys.clock.now_ms();
                let Some(flow) = self.flows.get_mut(&id).filter(|flow| flow.serial == serial) else {
                    return Ok(());
                };
                flow.looking = None;
                match result {
                    Ok(received) => {
                        let frames = flow.take(&id, &received, now_ms);
                        self.look(&id);
                        for frame in frames {
                            socket.send_text(frame).await?;
                        }
                        Ok(())
                    }
                    Err(problem) => {
                        self.flows.remove(&id);
                        socket.send_text(error_text(Some(&id), &problem)).await
                    }
                }
            }
            Done::Settled(id, result) => {
                self.producing -= 1;
                let now_ms = self.app.sys.clock.now_ms();
                let text = result.and_then(|Settling { leases, outcomes }| {
                    if let Some(flow) = self.flows.get_mut(&id) {
                        flow.settled(&leases, &outcomes, now_ms);
                    }
                    self.look(&id);
                    ws_queue::settled_text(&id, &outcomes)
                });
                socket.send_text(text.unwrap_or_else(|problem| error_text(Some(&id), &problem))).await
            }
            Done::Opened(id, serial, result) => {
                if self.entries.get(&id).is_none_or(|entry| entry.serial != serial) {
                    return Ok(());
                }
                match result {
                    Ok(mut subscription) => {
                        let text = subscribed_text(&id, &mut subscription);
                        self.drive(&id, subscription);
                        socket.send_text(text).await
                    }
                    Err(problem) => {
                        self.entries.remove(&id);
                        socket.send_text(error_text(Some(&id), &problem)).await
                    }
                }
            }
            Done::Event(id, serial, subscription, event) => {
                let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.serial == serial) else {
                    return Ok(());
                };
                match event {
                    Ok(SessionEvent::Records(chunks)) => {
                        let (frames, count) = named_frames(&id, &chunks);
                        let bytes: usize = chunks.iter().map(|c| c.bytes.len()).sum();
                        entry.credit.records = entry.credit.records.saturating_sub(count as u64);
                        entry.credit.bytes = entry.credit.bytes.saturating_sub(bytes as u64);
                        self.drive(&id, subscription);
                        metrics()
                            .websocket_frames
                            .get_or_create(&DirectionLabels { direction: "out" })
                            .inc_by(count as u64);
                        socket.send_frames([frames]).await
                    }
                    Ok(event) => {
                        if matches!(event, SessionEvent::End(..)) {
                            self.entries.remove(&id);
                        } else {
                            self.drive(&id, subscription);
                        }
                        socket.send_text(event_text(Some(&id), &event)).await
                    }
                    Err(problem) => {
                        self.entries.remove(&id);
                        socket.send_text(error_text(Some(&id), &problem)).await
                    }
                }
            }
        }
    }
}

fn unknown_subscription(id: &str) -> Problem {
    let detail = format!("there is no subscription '{id}' on this socket");
    Problem::new(StatusCode::NOT_FOUND, "unknown-subscription", "There is no such subscription", detail)
}
