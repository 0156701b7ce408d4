//! What neighbours are told unasked: gratuitous ARP (RFC 5227, 3) and
//! unsolicited neighbour advertisements (RFC 4861, 7.2.6); and, of IPv4, what they are
//! answered when they ask.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_testkit::netns::{Namespace, eventually_some, thread_in};
use socket2::{Domain, Protocol, Socket, Type};

/// ETH_P_ALL of linux/if_ether.h, in the byte order of the wire.
const EVERYTHING: i32 = (0x0003_u16).to_be() as i32;

/// An address that somebody has announced, or given as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Announcement {
    at: Instant,
    address: IpAddr,
    mac: [u8; 6],
    unasked: bool,
}

/// Listens on all devices of a namespace.
#[derive(Debug)]
pub struct Announcements {
    heard: Arc<Mutex<Vec<Announcement>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Announcements {
    /// Begins to listen.
    pub fn listen(namespace: &Namespace) -> Self {
        Self::on(namespace.inside(socket))
    }

    /// Begins to listen in the network that a file is.
    pub fn listen_in(network: &Path) -> Self {
        Self::on(thread_in(network, socket).join().unwrap())
    }

    fn on(mut socket: Socket) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (hears, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 2_048];
            while !stopped.load(Ordering::Relaxed) {
                let length = socket.read(&mut frame).unwrap_or(0);
                if let Some((address, mac, unasked)) = said(&frame[..length]) {
                    let at = Instant::now();
                    hears.lock().unwrap().push(Announcement { at, address, mac, unasked });
                }
            }
        });
        Self { heard, stop, thread: Some(thread) }
    }

    /// Waits until each address has been announced after `since`; gives the
    /// MAC address of the last announcement.
    pub fn wait_for(&self, addresses: &[IpAddr], since: Instant, limit: Duration) -> [u8; 6] {
        let mut mac = [0; 6];
        for address in addresses {
            mac = eventually_some(format!("{address} to be announced"), limit, || {
                let heard = self.heard.lock().unwrap();
                let mut newest = heard.iter().rev().filter(|it| it.at > since && it.unasked);
                newest.find(|it| it.address == *address).map(|it| it.mac).ok_or("not heard yet")
            });
        }
        mac
    }

    /// Who has announced an address since then, one after the other.
    pub fn announced(&self, address: IpAddr, since: Instant) -> Vec<String> {
        self.by(address, since, true)
    }

    /// Who has answered for it since then.
    pub fn answered(&self, address: IpAddr, since: Instant) -> BTreeSet<String> {
        self.by(address, since, false).into_iter().collect()
    }

    fn by(&self, address: IpAddr, since: Instant, unasked: bool) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let its = heard.iter().filter(|it| it.address == address && it.at > since);
        let its = its.filter(|it| it.unasked == unasked);
        its.map(|it| it.mac.map(|byte| format!("{byte:02x}")).join(":")).collect()
    }
}

fn socket() -> Socket {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

impl Drop for Announcements {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The address that a frame tells of, the MAC address it is said to have, and whether
/// nobody has asked.
fn said(frame: &[u8]) -> Option<(IpAddr, [u8; 6], bool)> {
    let at = |place: usize, bytes: usize| frame.get(place..place + bytes);
    match at(12, 2)? {
        // ARP, from and for the same address; or an answer.
        [8, 6] if at(28, 4)? == at(38, 4)? || at(20, 2)? == [0, 2] => {
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(at(28, 4)?).ok()?);
            let unasked = at(28, 4)? == at(38, 4)?;
            Some((address.into(), at(22, 6)?.try_into().ok()?, unasked))
        }
        // IPv6, ICMPv6, an advertisement to all nodes, with the option that
        // has the MAC address.
        [0x86, 0xdd] if at(20, 1)? == [58] && at(54, 1)? == [136] && at(38, 2)? == [0xff, 2] => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(at(62, 16)?).ok()?);
            Some((address.into(), at(80, 6)?.try_into().ok()?, true))
        }
        _ => None,
    }
}
