//! Work between real TCP sockets: streams of bytes, and connections. Both ends
//! live on the generator's core, so that the other one is the contestant's
//! alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use blixt_testkit::netns::Namespace;
use socket2::{Domain, Socket, Type};

use crate::Error;
use crate::contest::{Busy, Done, Work};
use crate::rig::{ENDPOINT_PORTS, GENERATOR_CORE, Rig, VIP, VIP_PORTS};

/// How long anybody waits for anything: then it looks whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);

/// TCP connections that send as much as they can, to servers that read it:
/// counted are the bytes that are read.
#[derive(Debug, Clone, Copy)]
pub struct Streams(pub usize);

/// Clients that open a connection and reset it, again and again: counted are
/// those that were opened.
#[derive(Debug, Clone, Copy)]
pub struct Connections(pub usize);

/// Threads at work.
struct Crew {
    shared: Shared,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// What they all see.
#[derive(Clone, Default)]
struct Shared {
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    /// Of a failure.
    why: Arc<OnceLock<io::Error>>,
    stop: Arc<AtomicBool>,
}

impl Work for Streams {
    fn start(&self, rig: &Rig) -> Result<Box<dyn Busy>, Error> {
        let mut crew = Crew::with_servers(rig, true)?;
        let to = vip()?;
        for _ in 0..self.0 {
            crew.add(&rig.client, move |shared| {
                let mut stream = TcpStream::connect(to)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let bytes = vec![0; 1 << 18];
                while !shared.is_over() {
                    match stream.write(&bytes) {
                        Err(error) if !is_patience(&error) => return Err(error),
                        _ => {}
                    }
                }
                // The other end may have gone before.
                let _ = stream.shutdown(Shutdown::Both);
                Ok(())
            });
        }
        Ok(Box::new(crew))
    }

    fn warm_up(&self) -> u64 {
        1 << 20
    }
}

impl Work for Connections {
    fn start(&self, rig: &Rig) -> Result<Box<dyn Busy>, Error> {
        let mut crew = Crew::with_servers(rig, false)?;
        // Ports enough, also while the last connection by one is remembered.
        rig.client.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        let to = vip()?;
        for _ in 0..self.0 {
            crew.add(&rig.client, move |shared| {
                while !shared.is_over() {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                    socket.set_linger(Some(Duration::ZERO))?;
                    match socket.connect_timeout(&to.into(), 5 * PATIENCE) {
                        Ok(()) => shared.count(1),
                        // At the end servers may be gone first.
                        Err(error) if !shared.is_over() => shared.fail(error),
                        Err(_) => {}
                    }
                }
                Ok(())
            });
        }
        Ok(Box::new(crew))
    }

    fn warm_up(&self) -> u64 {
        100
    }
}

impl Crew {
    /// With a server for the endpoints' port, and one for the VIP's, which the
    /// bare forwarder leaves as it is.
    fn with_servers(rig: &Rig, reads: bool) -> Result<Self, Error> {
        let mut crew = Self { shared: Shared::default(), threads: Vec::new() };
        let ([_, endpoint], [_, vip]) = (ENDPOINT_PORTS, VIP_PORTS);
        for port in [endpoint, vip] {
            let listener = rig.server.inside(move || listen(port))?;
            crew.add(&rig.server, move |shared| serve(&listener, shared, reads));
        }
        Ok(crew)
    }

    /// Has somebody work in a namespace.
    fn add(
        &mut self,
        namespace: &Namespace,
        work: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
    ) {
        let shared = self.shared.clone();
        self.threads.push(namespace.thread(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: GENERATOR_CORE });
            work(&shared)
        }));
    }
}

impl Busy for Crew {
    fn done(&self, _: &Rig) -> Result<Done, Error> {
        let through = self.shared.done.load(Ordering::Relaxed);
        Ok(Done { offered: through, through })
    }

    fn stop(mut self: Box<Self>) -> Result<(), Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a client or server panicked")??;
        }
        let Shared { done, failed, why, .. } = &self.shared;
        let (done, failed) = (done.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
        match why.get() {
            Some(why) if failed * 100 > done => {
                Err(format!("{failed} of {} connections failed: {why}", done + failed).into())
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn count(&self, more: u64) {
        self.done.fetch_add(more, Ordering::Relaxed);
    }

    fn fail(&self, error: io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let _ = self.why.set(error);
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Takes connections: reads what comes by them, or lets go of them.
fn serve(listener: &TcpListener, shared: &Shared, reads: bool) -> io::Result<()> {
    std::thread::scope(|scope| {
        while !shared.is_over() {
            match listener.accept() {
                Ok((stream, _)) if reads => {
                    scope.spawn(move || read(stream, shared));
                }
                Ok(_) => {}
                Err(error) if is_patience(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
}

fn read(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut room = vec![0; 1 << 18];
    while !shared.is_over() {
        match stream.read(&mut room) {
            Ok(0) => break,
            Ok(bytes) => shared.count(bytes as u64),
            Err(error) if is_patience(&error) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A listener whose `accept` returns after a while in any case.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
    socket.listen(1_024)?;
    Ok(socket.into())
}

fn vip() -> Result<SocketAddr, Error> {
    let [_, port] = VIP_PORTS;
    Ok(format!("{VIP}:{port}").parse()?)
}

fn is_patience(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
