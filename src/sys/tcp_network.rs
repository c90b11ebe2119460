//! The machine's TCP, by tokio.
//!
//! **Invariant**: every connection, taken or made, has `TCP_NODELAY`: all that we send is either a whole frame or
//! flushed on purpose, and Nagle's wait would only add to the latency. Of what a taken connection's peer does not read, the
//! kernel holds little more than the peer's own window: a reader that stopped costs no megabytes that nobody counts.

use super::network::{Listener, Network, Socket};
use futures_util::future::BoxFuture;
use std::{io, net::SocketAddr};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that the kernel keeps for us until they are accepted; it cuts this to its own `somaxconn`.
const BACKLOG: u32 = 4096;
/// Bytes of a connection that the kernel takes ahead of what it may send (`TCP_NOTSENT_LOWAT`); what is on its way does not
/// count, so that a long way is still filled. Without it the kernel takes up to `tcp_wmem`, 4 MiB, for each that stands still.
const UNSENT: u32 = 128 << 10;

/// The machine's TCP.
#[derive(Debug, Default, Clone, Copy)]
pub struct TcpNetwork;

impl Network for TcpNetwork {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener: Box<dyn Listener> = Box::new(listen(address)?);
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

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a restart does not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    // Each connection that it takes has it from here.
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "this kernel has no TCP_NOTSENT_LOWAT: it keeps more for readers that stop");
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
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

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_takes_little_that_it_can_not_send() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), TcpListener::accept(&listener));
        let (client, (server, _)) = (client.unwrap(), server.unwrap());
        assert_eq!(socket2::SockRef::from(&server).tcp_notsent_lowat().unwrap(), UNSENT);
        // The client does not read: its window, and what is ahead of it, is all that goes in.
        let window = socket2::SockRef::from(&client).recv_buffer_size().unwrap();
        let chunk = vec![0; 64 << 10];
        let mut taken = 0;
        for _ in 0..1_000 {
            match server.try_write(&chunk) {
                Ok(bytes) => taken += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(taken >= UNSENT as usize, "{taken}");
        let most = window + 2 * UNSENT as usize + chunk.len();
        assert!(taken <= most, "{taken} bytes of at most {most}, with a window of {window}");
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = TcpNetwork.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = TcpNetwork.bind(first.local_addr().unwrap()).await.err().expect("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
