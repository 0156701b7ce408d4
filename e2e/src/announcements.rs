//! What neighbours are told unasked: gratuitous ARP (RFC 5227, 3) and
//! unsolicited neighbour advertisements (RFC 4861, 7.2.6).

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blixt_testkit::netns::{Namespace, eventually_some};
use socket2::{Domain, Protocol, Socket, Type};

/// ETH_P_ALL of linux/if_ether.h, in the byte order of the wire.
const EVERYTHING: i32 = (0x0003_u16).to_be() as i32;

/// An address that somebody has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Announcement {
    at: Instant,
    address: IpAddr,
    mac: [u8; 6],
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
        let mut socket = namespace.inside(|| {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING)));
            let socket = socket.unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            socket
        });
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (hears, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 2_048];
            while !stopped.load(Ordering::Relaxed) {
                let length = socket.read(&mut frame).unwrap_or(0);
                if let Some((address, mac)) = announced(&frame[..length]) {
                    hears.lock().unwrap().push(Announcement { at: Instant::now(), address, mac });
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
                let mut newest = heard.iter().rev().filter(|it| it.at > since);
                newest.find(|it| it.address == *address).map(|it| it.mac).ok_or("not heard yet")
            });
        }
        mac
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The address that a frame announces, and the MAC address it is said to have.
fn announced(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    let at = |place: usize, bytes: usize| frame.get(place..place + bytes);
    match at(12, 2)? {
        // ARP, from and for the same address.
        [8, 6] if at(28, 4)? == at(38, 4)? => {
            let address = Ipv4Addr::from(<[u8; 4]>::try_from(at(28, 4)?).ok()?);
            Some((address.into(), at(22, 6)?.try_into().ok()?))
        }
        // IPv6, ICMPv6, an advertisement to all nodes, with the option that
        // has the MAC address.
        [0x86, 0xdd] if at(20, 1)? == [58] && at(54, 1)? == [136] && at(38, 2)? == [0xff, 2] => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(at(62, 16)?).ok()?);
            Some((address.into(), at(80, 6)?.try_into().ok()?))
        }
        _ => None,
    }
}
