//! The machine's TCP, by tokio.
//!
//! **Invariant**: every connection, taken or made, has `TCP_NODELAY`: all that we send is either a whole frame or
//! flushed on purpose, and Nagle's wait would only add to the latency.

use super::network::{Listener, Network, Socket};
use futures_util::future::BoxFuture;
use std::{io, net::SocketAddr};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that the kernel keeps for us until they are accepted; it cuts this to its own `somaxconn`.
const BACKLOG: u32 = 4096;

/// The machine's TCP.
#[derive(Debug, Default, Clone, Copy)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // So that a restart does not wait for the old connections' TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener: Box<dyn Listener> = Box::new(socket.listen(BACKLOG)?);
            Ok(listener)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let socket: Box<dyn Socket> = Box::new(stream);
            Ok(socket)
        })
    }
}

impl Listener for TcpListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Socket>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = TcpListener::accept(self).await?;
            // It fails only if the peer is gone already, which the first read says better than a failed accept.
            let _ = stream.set_nodelay(true);
            let socket: Box<dyn Socket> = Box::new(stream);
            Ok((socket, peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn bytes_go_both_ways_over_a_free_port() {
        let listener = TcpNetwork.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        let (client, server) = tokio::join!(TcpNetwork.connect(address.to_string()), listener.accept());
        let (mut client, (mut server, peer)) = (client.unwrap(), server.unwrap());
        assert!(peer.ip().is_loopback());
        client.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        server.write_all(b"pong").await.unwrap();
        drop(server);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"pong");
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = TcpNetwork.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = TcpNetwork.bind(first.local_addr().unwrap()).await.err().expect("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
