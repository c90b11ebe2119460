//! A network in memory: every host is this one, connections are pairs of buffers.
//!
//! **Invariant**: bytes of one connection arrive in order and whole; a dropped end is an end of stream at the other. It
//! neither delays nor loses anything. Several machines with faults between them are turmoil's part.

use crate::sys::{Listener, Network, Socket};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What a connection holds in each direction before its writer waits.
const SOCKET_BUFFER: usize = 64 * 1024;
/// Connections that wait to be accepted; above it they are refused.
const BACKLOG: usize = 128;
/// Free ports are handed out from here on.
const FIRST_FREE_PORT: u16 = 40_000;

type Accepted = (Box<dyn Socket>, SocketAddr);
type Listeners = Arc<Mutex<BTreeMap<u16, mpsc::Sender<Accepted>>>>;

/// The network's twin.
#[derive(Default)]
pub struct SimNetwork {
    listeners: Listeners,
}

impl Network for SimNetwork {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let listeners = self.listeners.clone();
        Box::pin(async move {
            let mut open = listeners.lock();
            open.retain(|_, sender| !sender.is_closed());
            let port = match address.port() {
                0 => (FIRST_FREE_PORT..=u16::MAX).find(|port| !open.contains_key(port)),
                port => Some(port).filter(|port| !open.contains_key(port)),
            };
            let port = port.ok_or(io::ErrorKind::AddrInUse)?;
            let (sender, incoming) = mpsc::channel(BACKLOG);
            open.insert(port, sender);
            let incoming = tokio::sync::Mutex::new(incoming);
            let listener: Box<dyn Listener> =
                Box::new(SimListener { address: SocketAddr::new(address.ip(), port), incoming });
            Ok(listener)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Socket>>> {
        let listeners = self.listeners.clone();
        Box::pin(async move {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            let port = port.ok_or(io::ErrorKind::InvalidInput)?;
            let sender = listeners.lock().get(&port).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = tokio::io::duplex(SOCKET_BUFFER);
            let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
            sender.try_send((Box::new(theirs), peer)).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            let socket: Box<dyn Socket> = Box::new(ours);
            Ok(socket)
        })
    }
}

struct SimListener {
    address: SocketAddr,
    incoming: tokio::sync::Mutex<mpsc::Receiver<Accepted>>,
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            // The sender lives in the network; it goes only with the whole machine.
            self.incoming.lock().await.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_connection_carries_bytes_and_its_end() {
        let network = SimNetwork::default();
        let listener = network.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = network.connect(address.to_string()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"hello").await.unwrap();
        drop(client);
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"hello");

        assert_eq!(network.bind(address).await.err().map(|e| e.kind()), Some(io::ErrorKind::AddrInUse));
        drop(listener);
        let refused = network.connect(address.to_string()).await.err().map(|e| e.kind());
        assert_eq!(refused, Some(io::ErrorKind::ConnectionRefused));
        assert!(network.bind(address).await.is_ok());
    }
}
