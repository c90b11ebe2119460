//! Listeners and connections.

use futures_util::future::BoxFuture;
use std::{io, net::SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connected byte stream.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// A network.
pub trait Network: Send + Sync + 'static {
    /// Listens; port 0 takes a free one.
    fn bind(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
    /// Connects to `host:port`.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Socket>>>;
}

/// A listening socket.
pub trait Listener: Send + Sync + 'static {
    /// The next connection and its peer.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Socket>, SocketAddr)>>;
    /// Where it listens, with the real port.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}
