//! Transfers that go on while something happens, at a pace that leaves time
//! for it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use blixt_testkit::netns::{Namespace, eventually};
use socket2::SockRef;

use crate::{connect, stream};

/// How long a transfer may hang: less than a minute, more than TCP's pauses
/// between retransmissions after some seconds without a path (RFC 6298).
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two blocks of an upload, or two reads of a download.
const PACE: Duration = Duration::from_millis(2);

/// The buffers of a client: how much of what it has written or is to read is
/// under way. The kernel takes twice as much (socket(7)).
const BUFFER: usize = 64 << 10;

/// What is downloaded: at [`PACE`] enough for half a minute.
const DOWNLOAD: u64 = 1 << 30;

/// An upload and a download, byte for byte checked, until they are told to
/// end. They need servers of streams.
#[derive(Debug)]
pub struct Transfers {
    stop: Arc<AtomicBool>,
    /// How many bytes each has moved.
    moved: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

impl Transfers {
    /// Begins one of each to every address, from `namespace`.
    pub fn start(namespace: &Namespace, to: &[SocketAddr]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut moved, mut threads) = (Vec::new(), Vec::new());
        for &to in to {
            for transfer in [upload, download] {
                let stop = Arc::clone(&stop);
                let bytes = Arc::new(AtomicU64::new(0));
                moved.push(Arc::clone(&bytes));
                threads.push(namespace.thread(move || transfer(to, stop, bytes)));
            }
        }
        Self { stop, moved, threads }
    }

    /// Waits until each has moved more than was under way.
    pub fn go_on(&self) {
        let before: Vec<_> = self.moved.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect();
        for (number, before) in before.into_iter().enumerate() {
            eventually(format!("transfer {number} to go on"), PATIENCE, || {
                self.moved[number].load(Ordering::Relaxed) > before + 4 * BUFFER as u64
            });
        }
    }

    /// Ends them: none may have ended before, and every byte was right.
    pub fn finish(self) {
        for thread in &self.threads {
            assert!(!thread.is_finished(), "a transfer has ended by itself");
        }
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn upload(to: SocketAddr, stop: Arc<AtomicBool>, moved: Arc<AtomicU64>) {
    let mut stream = patient(to);
    stream.write_all(b"put\n").unwrap();
    let mut paced = Paced { stream, stop, moved, bytes: 0 };
    let ended = stream::send(&mut paced, u64::MAX, || ());
    let error = ended.expect_err("nobody sends so much");
    assert!(paced.stop.load(Ordering::Relaxed), "{to}: an upload fails: {error}");
    paced.stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    paced.stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("{}\n", paced.bytes), "{to}");
}

fn download(to: SocketAddr, stop: Arc<AtomicBool>, moved: Arc<AtomicU64>) {
    let mut stream = patient(to);
    writeln!(stream, "get {DOWNLOAD}").unwrap();
    let mut paced = Paced { stream, stop, moved, bytes: 0 };
    match stream::receive(&mut paced) {
        Ok(bytes) => assert_eq!(bytes, paced.bytes, "{to}"),
        Err(error) => panic!("{to}: a download fails: {error}"),
    }
    // The rest is of no interest, and the server does not wait for it.
    let stopped = paced.stop.load(Ordering::Relaxed);
    assert!(stopped || paced.bytes == DOWNLOAD, "{to}: a download ended after {}", paced.bytes);
}

fn patient(to: SocketAddr) -> TcpStream {
    let stream = connect(to).unwrap();
    let socket = SockRef::from(&stream);
    socket.set_recv_buffer_size(BUFFER).unwrap();
    socket.set_send_buffer_size(BUFFER).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A connection that is used at a pace, until it is told to stop: then there
/// is nothing more to read, and nothing more is written.
struct Paced {
    stream: TcpStream,
    stop: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    bytes: u64,
}

impl Paced {
    fn count(&mut self, bytes: usize) -> usize {
        self.bytes += bytes as u64;
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        bytes
    }
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(0);
        }
        sleep(PACE);
        let bytes = self.stream.read(buffer)?;
        Ok(self.count(bytes))
    }
}

impl Write for Paced {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is enough"));
        }
        sleep(PACE);
        let bytes = self.stream.write(buffer)?;
        Ok(self.count(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
