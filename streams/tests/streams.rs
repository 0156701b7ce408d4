//! Streams over the loopback: real sockets, real TLS.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use blixt_streams::{
    Balancer, Chosen, Counts, Direction, Hostname, Limits, ListenError, Listener, Port, Reason,
    Route, RoutePlace, Streams, Tally, Tls, Wanted, server_config,
};
use blixt_testkit::netns::{Namespace, veth};
use blixt_testkit::require_root;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

const PLACE: RoutePlace = RoutePlace(0);

/// Sends everybody to one endpoint for each route.
#[derive(Debug, Default)]
struct Fixed {
    endpoints: BTreeMap<usize, SocketAddr>,
    gone: BTreeSet<u32>,
    ledger: Arc<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    active: AtomicI64,
    began: AtomicU64,
    to_endpoint: AtomicU64,
    to_client: AtomicU64,
}

#[derive(Debug)]
struct Line(Arc<Ledger>);

impl Balancer for Fixed {
    fn choose(&self, _: SocketAddr, _: SocketAddr, place: RoutePlace) -> Result<Chosen, Reason> {
        let endpoint = *self.endpoints.get(&place.0).ok_or(Reason::BadBackend)?;
        self.ledger.active.fetch_add(1, Ordering::Relaxed);
        let tally = Box::new(Line(Arc::clone(&self.ledger)));
        let slot = u32::try_from(place.0).unwrap();
        Ok(Chosen { endpoint, slot, backend_slot: slot + 100, tally })
    }

    fn is_gone(&self, slot: u32) -> bool {
        self.gone.contains(&slot)
    }
}

impl Tally for Line {
    fn began(&self) {
        self.0.began.fetch_add(1, Ordering::Relaxed);
    }

    fn moved(&self, direction: Direction, bytes: u64) {
        let counter = match direction {
            Direction::ToEndpoint => &self.0.to_endpoint,
            Direction::ToClient => &self.0.to_client,
        };
        counter.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says its name, then back what it is told, until it is told no more; then
/// "bye".
fn echo(name: &'static str) -> SocketAddr {
    serve(move |mut stream| {
        stream.write_all(name.as_bytes())?;
        let mut bytes = [0; 10_000];
        loop {
            match stream.read(&mut bytes)? {
                0 => return stream.write_all(b"bye"),
                length => stream.write_all(&bytes[..length])?,
            }
        }
    })
}

fn serve(each: impl Fn(TcpStream) -> io::Result<()> + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let each = each.clone();
            thread::spawn(move || each(stream.unwrap()));
        }
    });
    at
}

/// A port that is free.
fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn limits() -> Limits {
    Limits { hello: Duration::from_millis(500), ..Limits::default() }
}

fn wanted(at: SocketAddr, port: Port, balancer: Fixed) -> Wanted {
    Wanted { ports: [(at, Arc::new(port))].into(), balancer: Arc::new(balancer) }
}

fn to(endpoint: SocketAddr) -> Fixed {
    Fixed { endpoints: [(0, endpoint)].into(), ..Fixed::default() }
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn read(stream: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn is_reset(stream: &mut impl Read) {
    match stream.read(&mut [0; 1]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("no reset: {other:?}"),
    }
}

#[track_caller]
fn is_counted(streams: &Streams, reason: Reason) {
    eventually(reason.name(), || streams.reasons().of(reason) == 1);
    let all: u64 = Reason::ALL.iter().map(|reason| streams.reasons().of(*reason)).sum();
    assert_eq!(all, 1);
}

#[test]
fn bytes_and_ends_go_both_ways_and_are_counted() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let (at, balancer) = (free(), to(echo("a")));
    let ledger = Arc::clone(&balancer.ledger);
    assert_eq!(streams.take(wanted(at, Port::Plain(Some(PLACE)), balancer)), BTreeMap::new());
    let mut client = connect(at);
    assert_eq!(read(&mut client, 1), "a");
    let listed = streams.list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].client, listed[0].vip), (client.local_addr().unwrap(), at));
    assert_eq!((listed[0].slot, listed[0].backend_slot), (0, 100));
    // Much, while nobody reads: it waits, and nothing is lost.
    const MUCH: usize = 20_000_000;
    let mut writer = client.try_clone().unwrap();
    let sent = thread::spawn(move || {
        let block: Vec<u8> = (0..MUCH).map(|n| (n % 251) as u8).collect();
        writer.write_all(&block).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    client.read_to_end(&mut back).unwrap();
    sent.join().unwrap();
    assert_eq!(back.len(), MUCH + 3);
    assert!(back[..MUCH].iter().enumerate().all(|(n, byte)| *byte == (n % 251) as u8));
    assert!(back.ends_with(b"bye"), "the other half stayed open");
    eventually("the stream to end", || ledger.active.load(Ordering::Relaxed) == 0);
    assert_eq!(ledger.to_endpoint.load(Ordering::Relaxed), MUCH as u64);
    assert_eq!(ledger.to_client.load(Ordering::Relaxed), MUCH as u64 + 4);
    eventually("nothing to be left", || streams.counts().active == 0);
    assert_eq!(ledger.began.load(Ordering::Relaxed), 1);
    let Counts { accepted, active, begun, live, reset_by_peers } = streams.counts();
    assert_eq!((accepted, active, begun, live, reset_by_peers), (1, 0, 1, 0, 0));
    assert!(Reason::ALL.iter().all(|reason| streams.reasons().of(*reason) == 0));
}

#[test]
fn who_is_refused_is_reset_and_counted() {
    require_root!();
    let cases: [(Port, Fixed, Reason); 4] = [
        (Port::Plain(None), Fixed::default(), Reason::NoRoute),
        (Port::Plain(Some(PLACE)), Fixed::default(), Reason::BadBackend),
        (Port::Plain(Some(PLACE)), to(free()), Reason::ConnectFailed),
        (Port::Tls(Vec::new()), Fixed::default(), Reason::HelloTimeout),
    ];
    for (port, balancer, reason) in cases {
        let streams = Streams::start(1, limits()).unwrap();
        let at = free();
        let ledger = Arc::clone(&balancer.ledger);
        streams.take(wanted(at, port, balancer));
        is_reset(&mut connect(at));
        is_counted(&streams, reason);
        assert_eq!(ledger.began.load(Ordering::Relaxed), 0);
        assert_eq!(streams.counts().begun, 0);
    }
    let streams = Streams::start(1, limits()).unwrap();
    let at = free();
    streams.take(wanted(at, Port::Tls(Vec::new()), Fixed::default()));
    let mut client = connect(at);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    is_reset(&mut client);
    is_counted(&streams, Reason::NoHello);
}

#[test]
fn a_client_that_says_its_hello_for_ever_is_cut_off() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let at = free();
    streams.take(wanted(at, Port::Tls(Vec::new()), Fixed::default()));
    let mut client = connect(at);
    client.set_nodelay(true).unwrap();
    let begin = Instant::now();
    // A record of 16,384 bytes, one at a time.
    client.write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc").unwrap();
    while client.write_all(b"\0").is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(10), "never");
        thread::sleep(Duration::from_millis(20));
    }
    is_counted(&streams, Reason::HelloTimeout);
}

#[test]
fn there_is_room_for_so_many() {
    require_root!();
    let streams = Streams::start(1, Limits { streams: 2, ..limits() }).unwrap();
    let at = free();
    streams.take(wanted(at, Port::Plain(Some(PLACE)), to(echo("a"))));
    let mut first = [connect(at), connect(at)];
    for client in &mut first {
        assert_eq!(read(client, 1), "a");
    }
    is_reset(&mut connect(at));
    is_counted(&streams, Reason::TooManyStreams);
    drop(first);
    eventually("room", || streams.counts().active == 0);
    assert_eq!(read(&mut connect(at), 1), "a");
}

#[test]
fn one_client_leaves_room_for_others() {
    require_root!();
    let streams = Streams::start(1, Limits { streams: 8, ..limits() }).unwrap();
    let at = free();
    streams.take(wanted(at, Port::Plain(Some(PLACE)), to(echo("a"))));
    let connected = |host: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
        socket.connect(&at.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    };
    // Three times as many as there are left then.
    let mut open: Vec<_> = (0..6).map(|_| connected(1)).collect();
    for client in &mut open {
        assert_eq!(read(client, 1), "a");
    }
    is_reset(&mut connected(1));
    is_counted(&streams, Reason::ClientShare);
    let mut other = connected(2);
    assert_eq!(read(&mut other, 1), "a");
    is_counted(&streams, Reason::ClientShare);
}

#[test]
fn an_endpoint_that_is_a_stream_port_itself_gets_nothing() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let (one, two, real) = (free(), free(), echo("a"));
    let port = |place| Arc::new(Port::Plain(Some(RoutePlace(place))));
    let ports: BTreeMap<_, _> = [(one, port(0)), (two, port(1))].into();
    // Each leads to the other; then one to itself.
    for (of_one, of_two) in [(two, one), (one, real)] {
        let endpoints = [(0, of_one), (1, of_two)].into();
        let balancer = Arc::new(Fixed { endpoints, ..Fixed::default() });
        let ledger = Arc::clone(&balancer.ledger);
        let (accepted, refused) = (streams.counts().accepted, streams.reasons().of(Reason::Loop));
        streams.take(Wanted { ports: ports.clone(), balancer });
        is_reset(&mut connect(one));
        eventually("a loop", || streams.reasons().of(Reason::Loop) == refused + 1);
        assert_eq!(streams.counts().accepted, accepted + 1, "it came back");
        assert_eq!(ledger.began.load(Ordering::Relaxed), 0);
    }
    assert_eq!(read(&mut connect(two), 1), "a");
}

const ANSWER: &str = "HTTP/1.1 413 Content Too Large\r\n\r\n";

/// More than buffers take (net.ipv4.tcp_wmem, tcp_rmem: 4 and 6 MiB, twice).
const MORE: usize = 60_000_000;

/// Answers before it has heard everything, and closes: in peace, or so that its
/// kernel resets the connection at once, for what it has not read.
fn answers_early(in_peace: bool) -> SocketAddr {
    serve(move |mut stream| {
        stream.read_exact(&mut [0; 1_000])?;
        // So that more has come.
        thread::sleep(Duration::from_millis(100));
        stream.write_all(ANSWER.as_bytes())?;
        if in_peace {
            stream.shutdown(Shutdown::Write)?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })
}

#[test]
fn an_answer_that_comes_early_gets_there() {
    require_root!();
    for in_peace in [true, false] {
        let streams = Streams::start(1, limits()).unwrap();
        let at = free();
        let balancer = to(answers_early(in_peace));
        let ledger = Arc::clone(&balancer.ledger);
        streams.take(wanted(at, Port::Plain(Some(PLACE)), balancer));
        let mut client = connect(at);
        client.write_all(&vec![0; MORE]).unwrap();
        assert_eq!(read(&mut client, ANSWER.len()), ANSWER);
        if in_peace {
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        } else {
            is_reset(&mut client);
        }
        drop(client);
        eventually("nothing to be left", || streams.counts().active == 0);
        assert_eq!(streams.counts().reset_by_peers, u64::from(!in_peace));
        let taken = ledger.to_endpoint.load(Ordering::Relaxed);
        assert!(taken < MORE as u64, "what was let go of was counted");
        assert_eq!(ledger.to_client.load(Ordering::Relaxed), ANSWER.len() as u64);
    }
}

#[test]
fn an_answer_that_comes_early_gets_there_by_tls() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let (at, made) = (free(), made("a.example.com"));
    let ends = listener("", Tls::Terminate(Some(Arc::clone(&made.config))), 0);
    streams.take(wanted(at, Port::Tls(vec![ends]), to(answers_early(true))));
    let mut client = tls(at, "a.example.com", &made.certificate).unwrap();
    client.write_all(&vec![0; MORE]).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, ANSWER);
    drop(client);
    eventually("nothing to be left", || streams.counts().active == 0);
    assert_eq!(streams.counts().reset_by_peers, 0);
}

#[test]
fn who_is_there_no_more_is_noticed() {
    require_root!();
    let (node, far) = (Namespace::new("node"), Namespace::new("far"));
    veth(&node, "eth0", &far, "eth0");
    node.ip("address add 10.9.0.1/24 dev eth0");
    far.ip("address add 10.9.0.2/24 dev eth0");
    let at = SocketAddr::from(([10, 9, 0, 1], 80));
    let keepalive = Duration::from_secs(1);
    let streams = node.inside(move || {
        let streams = Streams::start(1, Limits { keepalive, ..limits() }).unwrap();
        streams.take(wanted(at, Port::Plain(Some(PLACE)), to(echo("a"))));
        streams
    });
    let mut client = far.inside(move || connect(at));
    assert_eq!(read(&mut client, 1), "a");
    // One who is there and says nothing stays.
    thread::sleep(3 * keepalive);
    assert_eq!(streams.counts().live, 1);
    far.ip("link set eth0 down");
    eventually("it to be noticed", || streams.counts().active == 0);
    is_counted(&streams, Reason::PeerLost);
}

#[test]
fn changes_disturb_only_those_whose_endpoint_or_port_is_gone() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let (one, two) = (free(), free());
    let ports = |ats: &[(SocketAddr, usize)]| -> BTreeMap<_, _> {
        ats.iter().map(|(at, n)| (*at, Arc::new(Port::Plain(Some(RoutePlace(*n)))))).collect()
    };
    let endpoints: BTreeMap<_, _> = [(0, echo("a")), (1, echo("b"))].into();
    let balancer = |gone: &[u32]| -> Arc<dyn Balancer> {
        let gone = gone.iter().copied().collect();
        Arc::new(Fixed { endpoints: endpoints.clone(), gone, ..Fixed::default() })
    };
    streams.take(Wanted { ports: ports(&[(one, 0), (two, 1)]), balancer: balancer(&[]) });
    let (mut a, mut b) = (connect(one), connect(two));
    assert_eq!((read(&mut a, 1), read(&mut b, 1)), ("a".to_owned(), "b".to_owned()));
    // Another route: new streams go by it, old ones stay where they are.
    streams.take(Wanted { ports: ports(&[(one, 1), (two, 1)]), balancer: balancer(&[]) });
    assert_eq!(read(&mut connect(one), 1), "b");
    a.write_all(b"still").unwrap();
    assert_eq!(read(&mut a, 5), "still");
    // An endpoint goes.
    streams.take(Wanted { ports: ports(&[(one, 1), (two, 1)]), balancer: balancer(&[0]) });
    is_reset(&mut a);
    is_counted(&streams, Reason::EndpointGone);
    b.write_all(b"still").unwrap();
    assert_eq!(read(&mut b, 5), "still");
    // A port goes, and comes again.
    streams.take(Wanted { ports: ports(&[(one, 1)]), balancer: balancer(&[]) });
    is_reset(&mut b);
    eventually("nobody to listen", || {
        TcpStream::connect(two).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    let again = Wanted { ports: ports(&[(one, 1), (two, 1)]), balancer: balancer(&[]) };
    eventually("the port to be free", || streams.take(again.clone()).is_empty());
    assert_eq!(read(&mut connect(two), 1), "b");
}

#[test]
fn a_port_that_somebody_has_is_named_and_taken_later() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let other = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = other.local_addr().unwrap().port();
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let wanted = wanted(at, Port::Plain(Some(PLACE)), to(echo("a")));
    assert_eq!(streams.take(wanted.clone()), [(at, ListenError::Taken(port))].into());
    drop(other);
    assert_eq!(streams.take(wanted), BTreeMap::new());
    assert_eq!(read(&mut connect(at), 1), "a");
    // Nor does it get the port back meanwhile, the other way round.
    let error = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn idle_streams_end() {
    require_root!();
    let idle = Duration::from_millis(300);
    let streams = Streams::start(1, Limits { idle, ..limits() }).unwrap();
    let at = free();
    streams.take(wanted(at, Port::Plain(Some(PLACE)), to(echo("a"))));
    let mut client = connect(at);
    assert_eq!(read(&mut client, 1), "a");
    is_reset(&mut client);
    is_counted(&streams, Reason::Idle);
}

#[test]
fn a_reset_goes_on_to_the_other_end() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let (failing, at) = (free(), free());
    let listener = TcpListener::bind(failing).unwrap();
    streams.take(wanted(at, Port::Plain(Some(PLACE)), to(failing)));
    for client_resets in [true, false] {
        let mut client = connect(at);
        client.write_all(b"hello").unwrap();
        let (mut endpoint, _) = listener.accept().unwrap();
        endpoint.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(read(&mut endpoint, 5), "hello");
        let (resets, mut other) =
            if client_resets { (client, endpoint) } else { (endpoint, client) };
        socket2::SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
        drop(resets);
        is_reset(&mut other);
    }
    assert_eq!(streams.counts().reset_by_peers, 2);
}

#[test]
fn the_end_resets_everybody() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let at = free();
    streams.take(wanted(at, Port::Plain(Some(PLACE)), to(echo("a"))));
    let mut client = connect(at);
    assert_eq!(read(&mut client, 1), "a");
    streams.stop();
    is_reset(&mut client);
    eventually("nobody to listen", || TcpStream::connect(at).is_err());
}

/// A certificate for one name, and what trusts it.
struct Made {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

fn certificate(names: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

fn made(name: &str) -> Made {
    let (certificate, key) = certificate(&[name]);
    let config = server_config([(vec![certificate.clone()], key)]).unwrap();
    Made { config, certificate }
}

type TlsClient = StreamOwned<ClientConnection, TcpStream>;

/// A client that trusts nobody else.
fn tls(at: SocketAddr, name: &str, trusts: &CertificateDer<'static>) -> io::Result<TlsClient> {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream =
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), connect(at));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

fn listener(hostname: &str, tls: Tls, place: usize) -> Listener {
    Listener {
        hostname: (!hostname.is_empty()).then(|| Hostname::new(hostname)),
        tls,
        routes: vec![Route { hostnames: Vec::new(), place: RoutePlace(place) }],
    }
}

#[test]
fn tls_ends_here_with_the_certificate_of_the_name() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let (a, b) = (made("a.example.com"), made("b.example.com"));
    let at = free();
    let ports = |a: &Made, b: &Made| {
        Port::Tls(vec![
            listener("a.example.com", Tls::Terminate(Some(Arc::clone(&a.config))), 0),
            listener("*.example.com", Tls::Terminate(Some(Arc::clone(&b.config))), 1),
            listener("none.example.com", Tls::Terminate(None), 1),
        ])
    };
    let endpoints: BTreeMap<_, _> = [(0, echo("A")), (1, echo("B"))].into();
    let balancer = || Fixed { endpoints: endpoints.clone(), ..Fixed::default() };
    streams.take(wanted(at, ports(&a, &b), balancer()));
    let mut to_a = tls(at, "A.example.com", &a.certificate).unwrap();
    let mut to_b = tls(at, "b.example.com", &b.certificate).unwrap();
    assert_eq!((read(&mut to_a, 1), read(&mut to_b, 1)), ("A".to_owned(), "B".to_owned()));

    // A new certificate: for who comes, and nobody notices who is there.
    let new = made("a.example.com");
    streams.take(wanted(at, ports(&new, &b), balancer()));
    let mut later = tls(at, "a.example.com", &new.certificate).unwrap();
    assert_eq!(read(&mut later, 1), "A");
    tls(at, "a.example.com", &a.certificate).unwrap_err();
    eventually("a refused handshake", || streams.reasons().of(Reason::HandshakeFailed) == 1);
    to_a.write_all(b"still").unwrap();
    assert_eq!(read(&mut to_a, 5), "still");

    // The client says all it has to say, and hears the end.
    to_a.conn.send_close_notify();
    to_a.flush().unwrap();
    let mut rest = String::new();
    to_a.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye");

    tls(at, "example.org", &a.certificate).unwrap_err();
    eventually("nobody's name", || streams.reasons().of(Reason::NoServerName) == 1);
    tls(at, "none.example.com", &a.certificate).unwrap_err();
    eventually("no certificate", || streams.reasons().of(Reason::NoCertificate) == 1);
}

#[test]
fn one_listener_has_certificates_for_several_names() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let (a, b) = (certificate(&["a.example.com"]), certificate(&["*.example.org"]));
    let (der_a, der_b) = (a.0.clone(), b.0.clone());
    let config = server_config([(vec![a.0], a.1), (vec![b.0], b.1)]).unwrap();
    let at = free();
    let port = Port::Tls(vec![listener("", Tls::Terminate(Some(config)), 0)]);
    streams.take(wanted(at, port, to(echo("a"))));
    for (name, certificate) in [("a.example.com", &der_a), ("b.example.org", &der_b)] {
        assert_eq!(read(&mut tls(at, name, certificate).unwrap(), 1), "a");
    }
}

#[test]
fn certificates_that_do_not_fit_are_refused_by_number() {
    let (a, b) = (certificate(&["a"]), certificate(&["b"]));
    let other_key = server_config([(vec![a.0.clone()], a.1), (vec![a.0], b.1)]).unwrap_err();
    assert!(other_key.to_string().contains("number 2"), "{other_key}");
    assert!(server_config([]).is_err());
    let nonsense = server_config([(vec![vec![1, 2, 3].into()], certificate(&["c"]).1)]);
    nonsense.unwrap_err();
}

#[test]
fn passed_through_every_byte_is_the_clients() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let backend = serve(move |mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        hears.lock().unwrap().extend(bytes);
        stream.write_all(b"heard")
    });
    let at = free();
    streams.take(wanted(at, Port::Tls(vec![listener("", Tls::Passthrough, 0)]), to(backend)));
    // A real hello, and what follows it at once.
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("example.com").unwrap();
    let mut said = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut said).unwrap();
    said.extend((0..100_000_u32).flat_map(u32::to_be_bytes));
    let mut client = connect(at);
    client.write_all(&said).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "heard");
    assert!(*heard.lock().unwrap() == said, "not the same bytes");
}

#[test]
fn the_host_of_the_first_request_decides_where_hostnames_do() {
    require_root!();
    let streams = Streams::start(1, limits()).unwrap();
    let backend = |name: &'static str| {
        serve(move |mut stream| {
            let mut bytes = [0; 1_000];
            let length = stream.read(&mut bytes)?;
            stream.write_all(format!("{name} {length}").as_bytes())
        })
    };
    let endpoints: BTreeMap<_, _> = [(0, backend("A")), (1, backend("B"))].into();
    let at = free();
    let port = |all: bool| {
        let mut listeners = vec![listener("a.example", Tls::Passthrough, 0)];
        listeners.extend(all.then(|| listener("", Tls::Passthrough, 1)));
        Port::Http(listeners)
    };
    let balancer = || Fixed { endpoints: endpoints.clone(), ..Fixed::default() };
    let ask = |said: &str| {
        let mut client = connect(at);
        client.write_all(said.as_bytes()).unwrap();
        // Who is refused may be reset by then.
        let _ = client.shutdown(Shutdown::Write);
        let mut answer = String::new();
        client.read_to_string(&mut answer).map(|_| answer)
    };
    streams.take(wanted(at, port(true), balancer()));
    let named = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for (said, by) in [
        (named("A.example:81"), "A"),
        (named("b.example"), "B"),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), "B"),
        ("\0 no HTTP at all".to_owned(), "B"),
        ("GET".to_owned(), "B"),
    ] {
        assert_eq!(ask(&said).unwrap(), format!("{by} {}", said.len()), "every byte goes on");
    }
    streams.take(wanted(at, port(false), balancer()));
    assert_eq!(ask(&named("b.example")).unwrap_err().kind(), ErrorKind::ConnectionReset);
    is_counted(&streams, Reason::NoServerName);
}
