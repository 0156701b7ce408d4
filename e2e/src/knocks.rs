//! New connections all the time, to see for how long there is nobody. In this
//! process: starting a program takes longer than what is measured.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::cluster::Outcome;

/// How often there is another one.
const PAUSE: Duration = Duration::from_millis(10);

/// How long it has. No SYN is repeated in that, so the times between those that
/// got in are the outage.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where is knocked.
#[derive(Debug, Clone, Copy)]
pub enum Door {
    /// At a web server's, by a new connection.
    Web(SocketAddr),
    /// At one's that tells its name by UDP (agnhost's netexec), from a new port.
    Name(SocketAddr),
}

/// Whoever knocks, until told to stop.
#[derive(Debug)]
pub struct Knocks {
    stops: Arc<AtomicBool>,
    knocker: JoinHandle<Vec<Knock>>,
}

/// When one began, and what came of it.
type Knock = (Instant, io::Result<()>);

impl Knocks {
    /// Begins to knock at a door. `inside` runs what it is given in
    /// a thread, in some network.
    pub fn begin(
        door: Door,
        inside: impl FnOnce(Box<dyn FnOnce() -> Vec<Knock> + Send>) -> JoinHandle<Vec<Knock>>,
    ) -> Self {
        let stops = Arc::new(AtomicBool::new(false));
        let told = stops.clone();
        let knocker = inside(Box::new(move || {
            let (tell, knocks) = mpsc::channel();
            while !told.load(Ordering::Relaxed) {
                // None waits for the ones before, and none leaves anything behind.
                let tell = tell.clone();
                thread::spawn(move || {
                    let begun = Instant::now();
                    let _ = tell.send((begun, knock(door)));
                });
                thread::sleep(PAUSE);
            }
            drop(tell);
            let mut knocks: Vec<_> = knocks.iter().collect();
            knocks.sort_by_key(|(begun, _)| *begun);
            knocks
        }));
        Self { stops, knocker }
    }

    /// Ends it, and gives what became of it.
    pub fn stop(self) -> Outcome {
        self.stops.store(true, Ordering::Relaxed);
        let knocks = self.knocker.join().unwrap();
        let begun = knocks.first().map(|(at, _)| *at);
        let since = |at: Instant| begun.map_or(0.0, |begun| (at - begun).as_secs_f64());
        let all: Vec<_> = knocks.iter().map(|(at, _)| since(*at)).collect();
        let (mut failures, mut answered) = (Vec::new(), Vec::new());
        for (at, how) in knocks {
            match how {
                Ok(()) => answered.push(since(at)),
                Err(error) => failures.push(format!("after {:.3} s: {error}", since(at))),
            }
        }
        Outcome::new(&all, answered, failures)
    }
}

fn knock(door: Door) -> io::Result<()> {
    match door {
        Door::Web(door) => knock_at_web(door),
        Door::Name(door) => knock_at_name(door),
    }
}

fn knock_at_name(door: SocketAddr) -> io::Result<()> {
    match ask_name(door, PATIENCE)?.as_str() {
        "" => Err(io::Error::other("it has no name")),
        _ => Ok(()),
    }
}

/// The name of a server that tells it by UDP, by one datagram.
pub fn ask_name(door: SocketAddr, patience: Duration) -> io::Result<String> {
    let socket = match door {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.connect(door)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"hostname")?;
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn knock_at_web(door: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&door, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    match &answer {
        b"HTTP/1.0 200" | b"HTTP/1.1 200" => Ok(()),
        other => Err(io::Error::other(format!("it says {:?}", String::from_utf8_lossy(other)))),
    }
}

/// Answers all who knock at a web server's door, for ever.
pub fn answer(listener: &TcpListener) {
    for client in listener.incoming().flatten() {
        thread::spawn(move || answer_one(client));
    }
}

fn answer_one(mut client: TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    // It has said what it wants before the connection goes.
    let _ = client.read(&mut [0; 1_024])?;
    client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(listener: TcpListener, until: Duration) {
        listener.set_nonblocking(true).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < until {
            let Ok((mut client, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            // It has said what it wants before the connection goes.
            let _ = client.set_nonblocking(false).and_then(|()| client.read(&mut [0; 64]));
        }
    }

    /// Also where nobody comes back, or nobody was there yet.
    #[test]
    fn an_outage_that_does_not_end_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        let knocks = Knocks::begin(Door::Web(door), thread::spawn);
        serve(listener, Duration::from_millis(200));
        thread::sleep(Duration::from_millis(500));
        let outcome = knocks.stop();
        assert!(outcome.answered > 10 && outcome.longest_gap_s > 0.4, "{outcome:?}");

        let knocks = Knocks::begin(Door::Web(door), thread::spawn);
        thread::sleep(Duration::from_millis(500));
        serve(TcpListener::bind(door).unwrap(), Duration::from_millis(200));
        let outcome = knocks.stop();
        assert!(outcome.answered > 10 && outcome.longest_gap_s > 0.4, "{outcome:?}");
    }

    #[test]
    fn the_time_when_nobody_is_there_is_measured() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        let knocks = Knocks::begin(Door::Web(door), thread::spawn);
        serve(listener, Duration::from_millis(300));
        thread::sleep(Duration::from_millis(500));
        serve(TcpListener::bind(door).unwrap(), Duration::from_millis(300));
        let outcome = knocks.stop();
        assert!(outcome.answered > 20 && !outcome.failures.is_empty(), "{outcome:?}");
        assert!((0.4..1.5).contains(&outcome.longest_gap_s), "{outcome:?}");
    }
}
