//! The accept loop: axum's own sets no deadline for headers.

use super::{AppState, router};
use crate::sys::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::{conn::auto, graceful::GracefulShutdown};
use hyper_util::service::TowerToHyperService;
use std::time::Duration;

/// After an error of `accept` (descriptors run out, say) it waits this long.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Serves until the drain starts, then finishes what is in flight, for as long as the limits say.
pub async fn serve(listener: Box<dyn Listener>, app: AppState) {
    let limits = app.limits().clone();
    let service = TowerToHyperService::new(router(app.clone()));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_headers(limits.headers);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(limits.http2_streams);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = app.drain.started() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _peer)) = accepted else {
            tokio::time::sleep(BACK_OFF).await;
            continue;
        };
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service.clone()).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // how a client goes is its own affair
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await;
}
