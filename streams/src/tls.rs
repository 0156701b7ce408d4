//! A client's side, with or without TLS that ends here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The one or the other.
pub(crate) enum Client {
    Plain(TcpStream),
    Tls(Box<TlsStream<Rewound>>),
}

impl Client {
    /// The connection itself.
    pub(crate) fn connection(&self) -> &TcpStream {
        match self {
            Self::Plain(connection) => connection,
            Self::Tls(tls) => &tls.get_ref().0.connection,
        }
    }
}

/// A connection whose first bytes have been read already, and are read again.
#[derive(Debug)]
pub(crate) struct Rewound {
    first: Vec<u8>,
    /// How many of them have been read again.
    read: usize,
    connection: TcpStream,
}

impl Rewound {
    pub(crate) fn new(first: Vec<u8>, connection: TcpStream) -> Self {
        Self { first, read: 0, connection }
    }

    /// The connection itself.
    pub(crate) fn into_connection(self) -> TcpStream {
        self.connection
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.first.get(self.read..).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.connection).poll_read(context, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..length).unwrap_or_default());
        self.read += length;
        if self.read == self.first.len() {
            self.first = Vec::new();
            self.read = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_read(context, buffer),
            Self::Tls(inner) => Pin::new(inner).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_write(context, bytes),
            Self::Tls(inner) => Pin::new(inner).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_flush(context),
            Self::Tls(inner) => Pin::new(inner).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(inner) => Pin::new(inner).poll_shutdown(context),
            Self::Tls(inner) => Pin::new(inner).poll_shutdown(context),
        }
    }
}
