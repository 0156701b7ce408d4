//! What a network device is and can: driver, queues, MTU, offloads.
//!
//! Asked by ioctl, so that it needs nothing but a name: `linux/ethtool.h`,
//! `linux/sockios.h`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Why a device could not be asked or changed.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// There is no such device.
    #[error("interface {interface} does not exist in this network namespace")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// The limit of open files is reached.
    #[error(
        "no file descriptor is left to ask about {interface} ({source}): raise `ulimit -n` (RLIMIT_NOFILE; systemd: LimitNOFILE)"
    )]
    Descriptors {
        /// Its name.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel or the driver refused.
    #[error("{interface}: cannot {what}: {source}")]
    Refused {
        /// Its name.
        interface: String,
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An offload that can be on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Checksums of received packets are checked.
    RxChecksum,
    /// Checksums of sent packets are completed by the device.
    TxChecksum,
    /// Packets are gathered by the device or driver.
    ScatterGather,
    /// TCP segments are cut by the device.
    Tso,
    /// Packets are cut late by the kernel.
    Gso,
    /// Received packets are merged by the kernel; on a veth it also makes
    /// the device poll, which it must to pass on what comes from XDP.
    Gro,
}

impl Offload {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::RxChecksum, Self::TxChecksum, Self::ScatterGather, Self::Tso, Self::Gso, Self::Gro];

    /// Its name as `ethtool -K` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RxChecksum => "rx",
            Self::TxChecksum => "tx",
            Self::ScatterGather => "sg",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        }
    }

    /// ETHTOOL_G... and ETHTOOL_S... of `linux/ethtool.h`.
    fn commands(self) -> (u32, u32) {
        match self {
            Self::RxChecksum => (0x14, 0x15),
            Self::TxChecksum => (0x16, 0x17),
            Self::ScatterGather => (0x18, 0x19),
            Self::Tso => (0x1e, 0x1f),
            Self::Gso => (0x23, 0x24),
            Self::Gro => (0x2b, 0x2c),
        }
    }
}

/// A device, by name.
#[derive(Debug)]
pub struct Nic {
    interface: String,
    name: [libc::c_char; libc::IFNAMSIZ],
    socket: OwnedFd,
}

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GRSSH: u32 = 0x46;

/// How a device spreads what it receives over its queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RssConfig {
    /// The key of its Toeplitz hash.
    pub key: Vec<u8>,
    /// The queues, by the low bits of the hash.
    pub queues: Vec<u32>,
    /// Whether ports are hashed: of TCP over IPv4, UDP over IPv4, TCP over
    /// IPv6, UDP over IPv6.
    pub hashes_ports: [bool; 4],
}

/// `struct ethtool_rxfh` without what follows it: command, context, two sizes,
/// hash function with input transformation, reserved.
const RSS_HEAD_WORDS: usize = 6;

/// ETH_RSS_HASH_TOP of `linux/netdevice.h`.
const TOEPLITZ: u32 = 1;

/// More than any device has; larger answers are not believed.
const MOST_RSS_WORDS: usize = 1 << 16;

/// `struct ethtool_drvinfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware_version: [u8; 32],
    bus_info: [u8; 32],
    erom_version: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Value {
    command: u32,
    data: u32,
}

/// The head of `struct ethtool_rxnfc`, as ETHTOOL_GRXFH has it, with the room
/// that the kernel may write.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct FlowHash {
    command: u32,
    flow_type: u32,
    data: u64,
    rest: [u64; 22],
}

/// Plain structures of integers, each with its command first: what the
/// kernel reads and writes behind `ifr_data`.
trait EthtoolData: Copy {}
impl EthtoolData for DriverInfo {}
impl EthtoolData for Channels {}
impl EthtoolData for Value {}
impl EthtoolData for FlowHash {}

impl Nic {
    /// The device with this name, in the network namespace of the thread.
    pub fn new(interface: &str) -> Result<Self, NicError> {
        let absent = || NicError::NoInterface { interface: interface.to_owned() };
        let bytes = interface.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return Err(absent());
        }
        let mut name = [0; libc::IFNAMSIZ];
        for (to, &from) in name.iter_mut().zip(bytes) {
            *to = from as libc::c_char;
        }
        let nic =
            Self { interface: interface.to_owned(), name, socket: control_socket(interface)? };
        nic.ifindex()?;
        Ok(nic)
    }

    /// The kernel's number of it.
    pub fn ifindex(&self) -> Result<u32, NicError> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFINDEX, &mut request)
            .map_err(|source| self.refused("tell its number", source))?;
        // SAFETY: the kernel has just written this member of the union, and
        // any bytes are an integer.
        let number = unsafe { request.ifr_ifru.ifru_ifindex };
        Ok(number.unsigned_abs())
    }

    /// Its driver's name, such as `veth`.
    pub fn driver(&self) -> Result<String, NicError> {
        let mut info = DriverInfo {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware_version: [0; 32],
            bus_info: [0; 32],
            erom_version: [0; 32],
            reserved: [0; 12],
            counts: [0; 5],
        };
        self.ethtool(&mut info).map_err(|source| self.refused("name its driver", source))?;
        let name = info.driver.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// How many RX queues it uses now. One, if it does not say.
    pub fn rx_queues(&self) -> Result<u32, NicError> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        match self.ethtool(&mut channels) {
            Ok(()) => Ok((channels.rx + channels.combined).max(1)),
            Err(error) if is_unsupported(&error) => Ok(1),
            Err(source) => Err(self.refused("count its queues", source)),
        }
    }

    /// How it spreads what it receives; `None` if it does not tell, or in a way
    /// that cannot be computed here.
    pub fn rss(&self) -> Result<Option<RssConfig>, NicError> {
        let refused = |source| self.refused("tell how it spreads packets", source);
        let mut head = vec![0; RSS_HEAD_WORDS];
        match self.rss_words(&mut head) {
            Ok(()) => {}
            Err(error) if is_unsupported(&error) => return Ok(None),
            Err(source) => return Err(refused(source)),
        }
        let size = |place: usize| head.get(place).map_or(0, |&word| word as usize);
        let (queues, key_bytes) = (size(2), size(3));
        let words = RSS_HEAD_WORDS + queues + key_bytes.div_ceil(4);
        if queues == 0 || key_bytes == 0 || words > MOST_RSS_WORDS {
            return Ok(None);
        }
        head.resize(words, 0);
        self.rss_words(&mut head).map_err(refused)?;
        Ok(read_rss(&head, queues, key_bytes).map(|(queues, key)| RssConfig {
            key,
            queues,
            // TCP_V4_FLOW, UDP_V4_FLOW, TCP_V6_FLOW, UDP_V6_FLOW.
            hashes_ports: [1, 2, 5, 6].map(|flow_type| self.hashes_ports(flow_type)),
        }))
    }

    /// Fills in a `struct ethtool_rxfh`, whose sizes are in its third and
    /// fourth word: with both 0 the kernel only tells them.
    fn rss_words(&self, words: &mut [u32]) -> io::Result<()> {
        if let Some(command) = words.first_mut() {
            *command = ETHTOOL_GRSSH;
        }
        let mut request = self.request();
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        self.ioctl(libc::SIOCETHTOOL, &mut request)
    }

    /// Whether both ports go into the hash of a kind of packets (RXH_L4_B_0_1
    /// and RXH_L4_B_2_3). What does not tell is taken not to.
    fn hashes_ports(&self, flow_type: u32) -> bool {
        const BOTH_PORTS: u64 = 1 << 6 | 1 << 7;
        let mut hash = FlowHash { command: ETHTOOL_GRXFH, flow_type, data: 0, rest: [0; 22] };
        self.ethtool(&mut hash).is_ok() && hash.data & BOTH_PORTS == BOTH_PORTS
    }

    /// The largest IP packet it takes, in bytes.
    pub fn mtu(&self) -> Result<u32, NicError> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFMTU, &mut request)
            .map_err(|source| self.refused("tell its MTU", source))?;
        // SAFETY: the kernel has just written this member of the union, and
        // any bytes are an integer.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Whether an offload is on; `None` if the device does not have it.
    pub fn offload(&self, offload: Offload) -> Result<Option<bool>, NicError> {
        let mut value = Value { command: offload.commands().0, data: 0 };
        match self.ethtool(&mut value) {
            Ok(()) => Ok(Some(value.data != 0)),
            Err(error) if is_unsupported(&error) => Ok(None),
            Err(source) => Err(self.refused("tell its offloads", source)),
        }
    }

    /// Puts an offload on or off.
    pub fn set_offload(&self, offload: Offload, on: bool) -> Result<(), NicError> {
        let mut value = Value { command: offload.commands().1, data: on.into() };
        self.ethtool(&mut value).map_err(|source| self.refused("change its offloads", source))
    }

    fn request(&self) -> libc::ifreq {
        libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: std::ptr::null_mut() },
        }
    }

    fn ethtool<T: EthtoolData>(&self, data: &mut T) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = std::ptr::from_mut(data).cast();
        self.ioctl(libc::SIOCETHTOOL, &mut request)
    }

    fn ioctl(&self, command: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the kernel reads and writes `request`, and for SIOCETHTOOL
        // the structure it points at, which lives in the caller and has the
        // size that its command stands for.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), command as _, request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn refused(&self, what: &'static str, source: io::Error) -> NicError {
        let interface = self.interface.clone();
        match source.raw_os_error() {
            Some(libc::ENODEV) => NicError::NoInterface { interface },
            _ => NicError::Refused { interface, what, source },
        }
    }
}

/// The kernel's number of an interface, in the network namespace of the
/// thread.
pub fn ifindex(interface: &str) -> Result<u32, NicError> {
    Nic::new(interface)?.ifindex()
}

/// The name that the interface with this number has now; `None` if there is
/// none in the network namespace of the thread.
pub fn name_of(ifindex: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the kernel's name is written to `name`, which has the length
    // that if_indextoname(3) asks for.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    let bytes: Vec<u8> =
        name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8(bytes).ok()
}

/// The table and the key in a filled `struct ethtool_rxfh`, if the device uses
/// them as they are: a symmetric hash is computed in another way.
fn read_rss(words: &[u32], queues: usize, key_bytes: usize) -> Option<(Vec<u32>, Vec<u8>)> {
    let [function, transformation, _, _] = words.get(4)?.to_ne_bytes();
    if u32::from(function) != TOEPLITZ || transformation != 0 {
        return None;
    }
    let (table, key) = words.get(RSS_HEAD_WORDS..)?.split_at_checked(queues)?;
    let key: Vec<u8> = key.iter().flat_map(|word| word.to_ne_bytes()).take(key_bytes).collect();
    Some((table.to_vec(), key))
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP))
}

fn control_socket(interface: &str) -> Result<OwnedFd, NicError> {
    // SAFETY: makes a new descriptor and touches no memory.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        let (interface, source) = (interface.to_owned(), io::Error::last_os_error());
        return Err(match source.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => NicError::Descriptors { interface, source },
            _ => NicError::Refused { interface, what: "be asked", source },
        });
    }
    // SAFETY: `raw` was just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_answers() {
        let lo = Nic::new("lo").unwrap();
        assert!(lo.mtu().unwrap() >= 1_280);
        assert!(lo.rx_queues().unwrap() >= 1);
        assert_eq!(ifindex("lo").unwrap(), 1);
        assert_eq!(name_of(1).as_deref(), Some("lo"));
        assert_eq!(name_of(u32::MAX), None);
    }

    #[test]
    fn absent_devices_are_named() {
        for name in ["", "no-such-device", "a-name-that-is-too-long", "zero\0byte"] {
            let error = Nic::new(name).unwrap_err();
            assert!(matches!(error, NicError::NoInterface { .. }), "{name}: {error}");
        }
        assert!(matches!(ifindex("no-such-device"), Err(NicError::NoInterface { .. })));
    }

    #[test]
    fn a_device_without_rss_has_none() {
        assert_eq!(Nic::new("lo").unwrap().rss().unwrap(), None);
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        let key = [1, 2, 3, 4, 5, 6];
        let key_words = [[1, 2, 3, 4], [5, 6, 0, 0]].map(u32::from_ne_bytes);
        let words = |function: u8, transformation: u8| {
            let kinds = u32::from_ne_bytes([function, transformation, 0, 0]);
            [&[ETHTOOL_GRSSH, 0, 3, 6, kinds, 0, 7, 8, 9][..], &key_words].concat()
        };
        assert_eq!(read_rss(&words(1, 0), 3, 6), Some((vec![7, 8, 9], key.to_vec())));
        assert_eq!(read_rss(&words(2, 0), 3, 6), None, "XOR");
        assert_eq!(read_rss(&words(1, 1), 3, 6), None, "symmetric");
        assert_eq!(read_rss(&words(1, 0)[..7], 3, 6), None, "cut");
    }

    #[test]
    fn structures_have_the_kernel_s_sizes() {
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<Channels>(), 36);
        assert_eq!(size_of::<Value>(), 8);
        // `struct ethtool_rxnfc`.
        assert_eq!(size_of::<FlowHash>(), 192);
    }
}
