//! A way on which everything takes its time: what goes in comes out whole and in
//! order, later.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use blixt_testkit::netns::Namespace;

/// It takes connections until it ends; those that there are go on.
#[derive(Debug)]
pub(crate) struct Slow {
    at: SocketAddr,
    ends: Arc<AtomicBool>,
    taking: JoinHandle<()>,
}

impl Slow {
    /// Leads from an address in a namespace to another one there, and holds back all
    /// that is said, in either direction, for so long.
    pub(crate) fn way(
        namespace: &Namespace,
        at: SocketAddr,
        to: SocketAddr,
        delay: Duration,
    ) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let listener = namespace.inside(move || TcpListener::bind(at).unwrap());
        let ended = ends.clone();
        let taking = namespace.thread(move || {
            while let Ok((near, _)) = listener.accept() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // Whoever comes is hung up on while nobody is behind it.
                let Ok(far) = TcpStream::connect(to) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || carry(from, to, delay));
                }
            }
        });
        Self { at, ends, taking }
    }

    /// Takes no more connections.
    pub(crate) fn end(self, namespace: &Namespace) {
        self.ends.store(true, Ordering::Relaxed);
        let at = self.at;
        // It looks when somebody comes.
        namespace.inside(move || drop(TcpStream::connect(at)));
        self.taking.join().unwrap();
    }
}

/// Carries what is said one way, until either end goes.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (sender, said) = mpsc::channel::<(Instant, Vec<u8>)>();
    let back = to.try_clone().unwrap();
    thread::spawn(move || {
        let _ = to.set_nodelay(true);
        for (when, bytes) in said {
            sleep(when.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut read = || -> io::Result<()> {
        let mut bytes = [0; 16_384];
        loop {
            let length = from.read(&mut bytes)?;
            let heard = bytes[..length].to_vec();
            if length == 0 || sender.send((Instant::now() + delay, heard)).is_err() {
                return Ok(());
            }
        }
    };
    if read().is_err() {
        let _ = back.shutdown(Shutdown::Both);
    }
}
