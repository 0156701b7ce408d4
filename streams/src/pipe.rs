//! Bytes both ways between a client and an endpoint, until both have said all.
//!
//! Who takes no more may have said something before, as a server does that has
//! heard enough and closes: that is read out and delivered all the same, and what
//! the other one still sends is let go of meanwhile. Were it not taken, the kernel
//! would reset the connection, and what was said on it could be lost.

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{sleep, timeout};

use crate::live::Stream;
use crate::{Direction, Tally};

/// Bytes that wait on their way at most, each way: what a TLS record carries
/// (RFC 8446 §5.1), so that one is never sent on in pieces. Who sends more waits
/// until they are taken.
const BUFFER: usize = 16_384;

/// How long a client that was answered may go on sending to an endpoint that has
/// closed, until it has read the answer: as long as nginx waits (lingering_time).
const ANSWERED: Duration = Duration::from_secs(30);

/// How long who was told something has to take it before a reset goes on to it: a
/// segment that is lost comes again meanwhile (RFC 6298 §2.4: after 1 s at least;
/// Linux' TCP_RTO_MIN: 200 ms).
const BRIEFLY: Duration = Duration::from_secs(1);

/// How long nothing may move.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    pub(crate) open: Duration,
    /// Once one side has said all.
    pub(crate) half_closed: Duration,
}

/// Moves bytes until both sides have said all (`Ok(true)`), nothing has moved
/// for too long (`Ok(false)`), or one of them is gone. The endpoint is told
/// `first` first.
pub(crate) async fn run(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    endpoint: &mut (impl AsyncRead + AsyncWrite + Unpin),
    first: &[u8],
    stream: &Stream,
    tally: &dyn Tally,
    idle: Idle,
) -> io::Result<bool> {
    let (from_client, to_client) = split(client);
    let (from_endpoint, to_endpoint) = split(endpoint);
    let client = Side::new(&stream.client_finished, ANSWERED);
    let endpoint = Side::new(&stream.endpoint_finished, BRIEFLY);
    let out = Way { from: &client, to: &endpoint, direction: Direction::ToEndpoint, stream, tally };
    let back = Way { from: &endpoint, to: &client, direction: Direction::ToClient, stream, tally };
    let moving = async {
        let mut out = pin!(out.carry(first, from_client, to_endpoint));
        let mut back = pin!(back.carry(&[], from_endpoint, to_client));
        tokio::select! {
            ended = &mut out => with_the_other(ended, back).await,
            ended = &mut back => with_the_other(ended, out).await,
        }
    };
    tokio::select! {
        moved = moving => moved.map(|()| true),
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

/// What became of one way.
enum Ended {
    /// One side has said all, and the other was told so.
    Finished,
    /// Who was read from is gone before its end; all that it said was delivered.
    Lost(io::Error),
    /// Who was told takes no more.
    Refused(io::Error),
}

/// Waits for the other way's end too, if that makes sense.
async fn with_the_other(ended: Ended, other: impl Future<Output = Ended>) -> io::Result<()> {
    if let Ended::Lost(error) = ended {
        return Err(error);
    }
    match (ended, other.await) {
        (Ended::Finished, Ended::Finished) => Ok(()),
        // Who takes no more has said all.
        (Ended::Finished, Ended::Refused(error)) | (Ended::Refused(error), Ended::Finished)
            if !is_silence(&error) =>
        {
            Ok(())
        }
        (_, Ended::Lost(error) | Ended::Refused(error))
        | (Ended::Lost(error) | Ended::Refused(error), Ended::Finished) => Err(error),
    }
}

/// Whether a peer did not answer, in place of an answer that is a reset.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    use ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable)
}

/// What is known of one side.
struct Side<'a> {
    /// Whether it has said all.
    finished: &'a AtomicBool,
    /// How it was cut off, if it was. The kernel says so once, to who writes or to who
    /// reads; after that, reading ends as if all had been said.
    cut_off: OnceLock<ErrorKind>,
    /// When it was told something last, in milliseconds after the stream began;
    /// 0 if never.
    told_ms: AtomicU64,
    /// How long after that it may go on sending to one who has closed.
    lingers: Duration,
}

impl<'a> Side<'a> {
    fn new(finished: &'a AtomicBool, lingers: Duration) -> Self {
        Self { finished, cut_off: OnceLock::new(), told_ms: AtomicU64::new(0), lingers }
    }

    fn is_told(&self, stream: &Stream) {
        self.told_ms.store(stream.age_ms().max(1), Ordering::Relaxed);
    }

    /// What is left of the time that it has to take what it was told.
    fn time_left(&self, limit: Duration, stream: &Stream) -> Duration {
        match self.told_ms.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            told => {
                limit.saturating_sub(Duration::from_millis(stream.age_ms().saturating_sub(told)))
            }
        }
    }
}

/// From one side to the other.
struct Way<'a> {
    from: &'a Side<'a>,
    to: &'a Side<'a>,
    direction: Direction,
    stream: &'a Stream,
    tally: &'a dyn Tally,
}

impl Way<'_> {
    /// Carries bytes until one of the two ends it.
    async fn carry(
        &self,
        first: &[u8],
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Ended {
        let mut bytes = vec![0; BUFFER];
        if let Err(refused) = self.tell(&mut to, first).await {
            return self.refused(refused, from, &mut bytes).await;
        }
        loop {
            let length = match from.read(&mut bytes).await {
                Ok(0) => match self.from.cut_off.get() {
                    Some(how) => return self.lost((*how).into()).await,
                    None => break,
                },
                Ok(length) => length,
                Err(error) => return self.lost(error).await,
            };
            self.stream.moved();
            let read = bytes.get(..length).unwrap_or_default();
            if let Err(refused) = self.tell(&mut to, read).await {
                return self.refused(refused, from, &mut bytes).await;
            }
        }
        self.from.finished.store(true, Ordering::Relaxed);
        self.stream.moved();
        to.shutdown().await.map_or_else(Ended::Refused, |()| Ended::Finished)
    }

    async fn tell(&self, to: &mut (impl AsyncWrite + Unpin), all: &[u8]) -> io::Result<()> {
        let mut left = all;
        while !left.is_empty() {
            let written = to.write(left).await?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            left = left.get(written..).unwrap_or_default();
            // Who takes bytes slowly is not idle.
            self.stream.moved();
            self.tally.moved(self.direction, written as u64);
            self.to.is_told(self.stream);
        }
        to.flush().await
    }

    /// Gives who was told last the time to take it: a reset may overtake it.
    async fn lost(&self, error: io::Error) -> Ended {
        sleep(self.to.time_left(BRIEFLY, self.stream)).await;
        Ended::Lost(error)
    }

    /// Lets go of what is still said, while what it is answered is delivered.
    async fn refused(
        &self,
        refused: io::Error,
        mut from: impl AsyncRead + Unpin,
        bytes: &mut [u8],
    ) -> Ended {
        // The kernel says "broken pipe" of one who had said all before its reset
        // (`tcp_reset`, CLOSE_WAIT).
        let has_said_all = refused.kind() == ErrorKind::BrokenPipe;
        if !has_said_all {
            let _ = self.to.cut_off.set(refused.kind());
        }
        let limit = if has_said_all { self.from.lingers } else { BRIEFLY };
        let begin = Instant::now();
        loop {
            let left = BRIEFLY.saturating_sub(begin.elapsed());
            let left = left.max(self.from.time_left(limit, self.stream));
            match timeout(left, from.read(bytes)).await {
                Ok(Ok(length)) if length > 0 && !left.is_zero() => {}
                // It was told something meanwhile.
                Err(_) if !self.from.time_left(limit, self.stream).is_zero() => {}
                _ => return Ended::Refused(refused),
            }
        }
    }
}
