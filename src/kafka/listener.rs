//! The accept loop.
//!
//! **Invariant**: no more connections than the settings allow; an error of `accept` never ends the loop. A drain lets
//! requests in flight finish, and ends within the drain timeout.

use super::{Door, connection};
use crate::{
    sys::{Listener, Socket},
    telemetry::{DoorLabels, metrics},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

pub(super) const DOOR: DoorLabels = DoorLabels { door: "kafka" };
/// The first and the longest wait after `accept` failed, which it does when descriptors run out.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(5), Duration::from_secs(1)];

/// Serves until the drain starts, and then until what is in flight is done or the drain timeout is over.
pub async fn serve(listener: Box<dyn Listener>, door: Door) {
    let places = Arc::new(Semaphore::new(door.settings().connections));
    let mut connections = JoinSet::new();
    let mut back_off = BACK_OFF[0];
    loop {
        let accepted = tokio::select! {
            biased;
            () = door.drained() => break,
            // So that what is done is let go of.
            Some(_) = connections.join_next() => continue,
            accepted = accept(&*listener, &places) => accepted,
        };
        match accepted {
            Ok((socket, peer, place)) => {
                back_off = BACK_OFF[0];
                let door = door.clone();
                connections.spawn(async move {
                    let _open = OpenConnection::new(place);
                    connection::run(socket, peer, door).await;
                });
            }
            Err(error) => {
                metrics().connections_refused.get_or_create(&DOOR).inc();
                tracing::warn!(%error, "accept failed; waiting");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF[1]);
            }
        }
    }
    drop(listener);
    let done = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(door.settings().drain_timeout, done).await.is_err() {
        tracing::warn!("Kafka requests were still in flight when the drain timeout ended");
    }
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &dyn Listener,
    places: &Arc<Semaphore>,
) -> io::Result<(Box<dyn Socket>, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (socket, peer) = listener.accept().await?;
    Ok((socket, peer, place))
}

/// Counts a connection while it lives, and holds its place among all.
struct OpenConnection {
    _place: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(place: OwnedSemaphorePermit) -> Self {
        metrics().connections_accepted.get_or_create(&DOOR).inc();
        metrics().connections.get_or_create(&DOOR).inc();
        Self { _place: place }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        metrics().connections.get_or_create(&DOOR).dec();
    }
}
