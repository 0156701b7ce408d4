//! Bytes both ways between a client and an endpoint, until both have said all.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::sleep;

use crate::live::Stream;
use crate::{Direction, Tally};

/// Bytes that wait on their way at most, each way: what a TLS record carries
/// (RFC 8446 §5.1), so that one is never sent on in pieces. Who sends more waits
/// until they are taken.
const BUFFER: usize = 16_384;

/// How long nothing may move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) open: Duration,
    /// Once one side has said all.
    pub(crate) half_closed: Duration,
}

/// Moves bytes until both sides have said all (`Ok(true)`), nothing has moved
/// for too long (`Ok(false)`), or one of them is gone.
pub(crate) async fn run(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    endpoint: &mut (impl AsyncRead + AsyncWrite + Unpin),
    stream: &Stream,
    tally: &dyn Tally,
    idle: Idle,
) -> io::Result<bool> {
    let mut client = Watched {
        inner: client,
        stream,
        finished: &stream.client_finished,
        tally,
        direction: Direction::ToEndpoint,
    };
    let mut endpoint = Watched {
        inner: endpoint,
        stream,
        finished: &stream.endpoint_finished,
        tally,
        direction: Direction::ToClient,
    };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER) => {
            copied.map(|_| true)
        }
        () = too_long(stream, idle) => Ok(false),
    }
}

/// Comes to an end when nothing has moved for too long.
async fn too_long(stream: &Stream, idle: Idle) {
    loop {
        let finished = stream.client_finished() || stream.endpoint_finished();
        let limit = if finished { idle.half_closed } else { idle.open };
        let left = limit.saturating_sub(stream.idle());
        if left.is_zero() {
            return;
        }
        // Who says all meanwhile is noticed in time.
        sleep(left.min(idle.half_closed)).await;
    }
}

/// One side; what is read from it is counted.
struct Watched<'a, T> {
    inner: &'a mut T,
    stream: &'a Stream,
    finished: &'a AtomicBool,
    tally: &'a dyn Tally,
    /// Where bytes go that are read here.
    direction: Direction,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *self.inner).poll_read(context, buffer))?;
        match buffer.filled().len() - before {
            0 => self.finished.store(true, Ordering::Relaxed),
            bytes => self.tally.moved(self.direction, bytes as u64),
        }
        self.stream.moved();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.inner).poll_write(context, bytes))?;
        // Who takes bytes slowly is not idle.
        self.stream.moved();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(context)
    }
}
