//! Servers behind the load balancer: threads inside a backend's namespace.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use blixt_testkit::netns::Namespace;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{digest, stream};

/// How long a server waits for a peer that says nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server; it stops listening when dropped.
#[derive(Debug)]
pub struct Server {
    socket: Arc<Socket>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes whoever waits for it.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers every line on `port` with `name`, for as long as the client likes.
pub fn serve_names(namespace: &Namespace, port: u16, name: &str) -> Server {
    let answer = format!("{name}\n");
    serve_tcp(namespace, port, move |mut stream| {
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            line.push(byte[0]);
            if byte[0] == b'\n' {
                stream.write_all(answer.as_bytes())?;
                line.clear();
            }
        }
        Ok(())
    })
}

/// Serves [`stream`] on `port`, both ways: who sends "get N\n" gets N bytes of
/// it; who sends "put\n" and then a stream until its end is told "N\n", or
/// what was wrong with it.
pub fn serve_streams(namespace: &Namespace, port: u16) -> Server {
    serve_tcp(namespace, port, |mut stream| {
        let mut line = String::new();
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        match line.strip_prefix("get ").and_then(|bytes| bytes.parse().ok()) {
            Some(bytes) => stream::send(&mut stream, bytes, || ()),
            None => match stream::receive(&mut stream) {
                Ok(bytes) => writeln!(stream, "{bytes}"),
                Err(error) => writeln!(stream, "{error}"),
            },
        }
    })
}

/// Serves streams of any length with their digest on `port`, both ways; see
/// [`crate::get`] and [`crate::put`].
pub fn serve_digests(namespace: &Namespace, port: u16) -> Server {
    serve_tcp(namespace, port, digest::serve)
}

fn serve_tcp(
    namespace: &Namespace,
    port: u16,
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> Server {
    let socket = namespace.inside(move || bound(Type::STREAM, port));
    // The kernel's own bound is net.core.somaxconn, 4,096.
    socket.listen(4_096).unwrap();
    let listener = TcpListener::from(socket.try_clone().unwrap());
    let serve = Arc::new(serve);
    let thread = thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                stream.set_nodelay(true).unwrap();
                // How a connection ends is for its client to judge.
                let _ = serve(stream);
            });
        }
    });
    Server { socket: Arc::new(socket), thread: Some(thread) }
}

/// Answers every datagram on `port` with `name`, a space and the datagram.
pub fn serve_udp_names(namespace: &Namespace, port: u16, name: &str) -> Server {
    let socket = namespace.inside(move || bound(Type::DGRAM, port));
    SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    let listener = UdpSocket::from(socket.try_clone().unwrap());
    let name = name.to_owned();
    let thread = thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        // A shut down socket gives empty datagrams; nobody sends such.
        while let Ok((length @ 1.., client)) = listener.recv_from(&mut datagram) {
            let mut answer = format!("{name} ").into_bytes();
            answer.extend_from_slice(&datagram[..length]);
            let _ = listener.send_to(&answer, client);
        }
    });
    Server { socket: Arc::new(socket), thread: Some(thread) }
}

/// A socket on `port` of every address of both families.
fn bound(kind: Type, port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV6, kind, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).unwrap();
    socket
}
