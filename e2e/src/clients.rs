//! Clients in front of the load balancer. Each function runs in the namespace
//! of the calling thread.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_testkit::netns::Namespace;
use socket2::{Domain, Socket, Type};

/// How long a client waits for anything. Less than the second after which TCP
/// would send a lost SYN again (RFC 6298, 2.1), so that a loss shows.
const PATIENCE: Duration = Duration::from_millis(900);

/// Connects to `to`.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    connect_from(0, to)
}

/// Connects to `to` from a port: the kernel's choice if it is 0.
fn connect_from(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = bound(Type::STREAM, port, to)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket that can talk to `to`, from `port`.
fn bound(kind: Type, port: u16, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    if port != 0 {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        if to.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&SocketAddr::new(any, port).into())?;
    }
    Ok(socket)
}

/// Asks the server behind `to` for its name, on a connection of its own that
/// both ends close in order.
pub fn ask(to: SocketAddr) -> io::Result<String> {
    ask_from(0, to)
}

/// [`ask`] from a port: with ports that are always the same, so are the
/// backends that the flows choose.
pub fn ask_from(port: u16, to: SocketAddr) -> io::Result<String> {
    let mut stream = connect_from(port, to)?;
    let name = ask_over(&mut stream)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(name),
        Ok(_) => Err(io::Error::other("the server says more than its name")),
        Err(error) => Err(error),
    }
}

/// Asks the server at the other end for its name.
pub fn ask_over(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who\n")?;
    let mut name = String::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if byte[0] == b'\n' => return Ok(name),
            _ => name.push(char::from(byte[0])),
        }
    }
}

/// Asks the server behind `to` for its name, by one datagram.
pub fn ask_udp(to: SocketAddr) -> io::Result<String> {
    ask_udp_from(0, to)
}

/// [`ask_udp`] from a port, as [`ask_from`].
pub fn ask_udp_from(port: u16, to: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::from(bound(Type::DGRAM, port, to)?);
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"who")?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    answer
        .strip_suffix(" who")
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("the answer is {answer:?}")))
}

/// What one question of a [`Prober`] came to.
#[derive(Debug)]
pub struct Answer {
    /// When it was asked.
    pub asked: Instant,
    /// When it was answered.
    pub answered: Instant,
    /// The server's name.
    pub name: io::Result<String>,
}

/// Asks again and again, in the background.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Answer>>,
}

impl Prober {
    /// Begins to ask by `question` in `namespace`, with `pause` between.
    pub fn start(
        namespace: &Namespace,
        pause: Duration,
        mut question: impl FnMut() -> io::Result<String> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = namespace.thread(move || {
            let mut answers = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let name = question();
                answers.push(Answer { asked, answered: Instant::now(), name });
                std::thread::sleep(pause);
            }
            answers
        });
        Self { stop, thread }
    }

    /// Ends it, and gives all answers.
    pub fn stop(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
