//! Where it is measured: three network namespaces in a row, joined by veths.
//!
//! ```text
//!   client              lb                server
//!     g0 ============ n0  n1 ============ s0
//!   core 0            core 1
//! ```
//!
//! Core 0 makes packets and brings them as far as `n0`: it runs the receiving
//! half of that veth, whoever takes the packets there. Core 1 is the
//! contestant's. It also runs the receiving half of `s0`, because on a veth
//! the sender does; so that costs every contestant the same, and little: the
//! frames are for a MAC address that nobody has.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use blixt_afxdp::lab::{Attached, Hook, Program};
use blixt_afxdp::{FrameBytes, Sizes};
use blixt_testkit::netns::{Namespace, veth_with_queues};
use nix::sched::{CloneFlags, setns};

use crate::Error;
use crate::contest::Done;

/// The generator's device.
pub const FAR_IN: &str = "g0";
/// The device that packets come in by.
pub const NEAR_IN: &str = "n0";
/// The one they leave by.
pub const NEAR_OUT: &str = "n1";
/// The device of the sink.
pub const FAR_OUT: &str = "s0";

/// Where packets are made.
pub const GENERATOR_CORE: usize = 0;
/// Where the contestant works.
pub const CORE: usize = 1;

/// MAC addresses of `n0` and `n1`.
pub const OUR_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xb0], [2, 0, 0, 0, 0, 0xb1]];
/// MAC addresses of `g0` and `s0`.
pub const FAR_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0xc1], [2, 0, 0, 0, 0, 0xe1]];
/// A MAC address that nobody has.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 0xee];

/// Frames and rings of those who use AF_XDP.
pub const SIZES: Sizes =
    Sizes { frames: 8_192, frame_bytes: FrameBytes::Half, ring_entries: 2_048 };

/// The first client. More than 32,768 flows come from more of them.
pub const CLIENT: &str = "192.0.2.2";
/// The Gateway's address.
pub const VIP: &str = "192.0.2.100";
/// Its ports, for UDP and for TCP.
pub const VIP_PORTS: [u16; 2] = [53, 80];
/// How many endpoints there are: 10.1.0.1 and so on.
pub const ENDPOINTS: u8 = 10;
/// Their ports, for UDP and for TCP.
pub const ENDPOINT_PORTS: [u16; 2] = [5_353, 8_080];
/// The address of `n1`, which the kernel masquerades with.
pub const NEAR_ADDRESS: &str = "10.1.0.90";
/// The address Blixt's flows come from.
pub const SNAT: &str = "10.1.0.100";

/// What becomes of packets that have come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Far {
    /// They are counted and dropped.
    Sink,
    /// They are sent back, from whom they were for to whom they came from.
    Mirror,
    /// They are taken by a host that has all addresses of the endpoints, and
    /// the VIP, and answers as a server does.
    Host,
}

/// The namespaces, and what is counted in them.
#[derive(Debug)]
pub struct Rig {
    /// Who sends.
    pub client: Namespace,
    /// Where the contestants are.
    pub lb: Namespace,
    /// Who receives.
    pub server: Namespace,
    /// How many queues `n0` and `n1` have.
    pub queues: u32,
    /// What is behind `n1`.
    pub far: Far,
    counts: [File; 3],
    _mirror: Option<Attached>,
}

/// XDP programs on `n0` and `n1` that hand every frame to a socket.
#[derive(Debug)]
pub struct Sockets {
    programs: [Program; 2],
    _attached: [Attached; 2],
}

impl Rig {
    /// Builds it.
    pub fn new(queues: u32, far: Far) -> Result<Self, Error> {
        let (client, lb, server) =
            (Namespace::new("client"), Namespace::new("lb"), Namespace::new("server"));
        veth_with_queues(&client, FAR_IN, &lb, NEAR_IN, queues);
        veth_with_queues(&server, FAR_OUT, &lb, NEAR_OUT, queues);
        let devices = [(&client, FAR_IN), (&lb, NEAR_IN), (&lb, NEAR_OUT), (&server, FAR_OUT)];
        let [near_in, near_out] = OUR_MACS;
        let [far_in, far_out] = FAR_MACS;
        for ((namespace, device), address) in
            devices.into_iter().zip([far_in, near_in, near_out, far_out])
        {
            namespace.ip(&format!("link set {device} address {}", mac(address)));
            // Frames of the size that a wire has, checksums that are sums.
            namespace.offloads(device, blixt_testkit::netns::Offloads::Off);
        }
        lb.ip(&format!("addr add 192.0.2.1/24 dev {NEAR_IN}"));
        lb.ip(&format!("addr add {NEAR_ADDRESS}/24 dev {NEAR_OUT}"));
        lb.ip(&format!("neigh add {CLIENT} lladdr {} dev {NEAR_IN}", mac(far_in)));
        for endpoint in endpoints() {
            let next = mac(far.next_hop());
            lb.ip(&format!("neigh add {endpoint} lladdr {next} dev {NEAR_OUT}"));
        }
        Self::settle(&client, &server);
        if far == Far::Host {
            for (namespace, device) in [(&client, FAR_IN), (&server, FAR_OUT)] {
                receive_on(namespace, device, Some(GENERATOR_CORE));
            }
        }
        let mirror = match far {
            Far::Mirror => {
                let attach = || Program::reflect()?.attach(FAR_OUT, Hook::Native);
                Some(in_namespace(&server, attach)??)
            }
            Far::Sink | Far::Host => None,
        };
        let counts = |namespace| in_namespace(namespace, open_counts)?.map_err(Error::from);
        let counts = [counts(&client)?, counts(&lb)?, counts(&server)?];
        Ok(Self { client, lb, server, queues, far, counts, _mirror: mirror })
    }

    /// Gives the hosts addresses, and says where everybody is.
    fn settle(client: &Namespace, server: &Namespace) {
        let [near_in, near_out] = OUR_MACS.map(mac);
        client.ip(&format!("addr add {CLIENT}/24 dev {FAR_IN}"));
        client.ip(&format!("neigh add {VIP} lladdr {near_in} dev {FAR_IN}"));
        for endpoint in endpoints() {
            server.ip(&format!("addr add {endpoint}/24 dev {FAR_OUT}"));
        }
        for source in [NEAR_ADDRESS, SNAT] {
            server.ip(&format!("neigh add {source} lladdr {near_out} dev {FAR_OUT}"));
        }
        // What the bare forwarder brings is for the VIP, from the client.
        server.ip(&format!("addr add {VIP}/32 dev lo"));
        server.ip(&format!("route add 192.0.2.0/24 via {NEAR_ADDRESS} dev {FAR_OUT}"));
    }

    /// Runs `work` in a thread inside the load balancer's namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        in_namespace(&self.lb, work)
    }

    /// Puts programs on `n0` and `n1`, for those who use AF_XDP. For a thread
    /// inside.
    pub fn sockets(&self) -> Result<Sockets, Error> {
        let programs = [Program::redirect_all(self.queues)?, Program::redirect_all(self.queues)?];
        let [near_in, near_out] = &programs;
        let attached =
            [near_in.attach(NEAR_IN, Hook::Native)?, near_out.attach(NEAR_OUT, Hook::Native)?];
        Ok(Sockets { programs, _attached: attached })
    }

    /// How many packets have passed so far; with a mirror, in both directions.
    pub fn passed(&self) -> Result<Done, Error> {
        let [client, lb, server] = &self.counts;
        let there = Done { offered: received(lb, NEAR_IN)?, through: received(server, FAR_OUT)? };
        if self.far != Far::Mirror {
            return Ok(there);
        }
        Ok(Done {
            offered: there.offered + received(lb, NEAR_OUT)?,
            through: there.through + received(client, FAR_IN)?,
        })
    }
}

impl Far {
    /// Where packets for endpoints are sent.
    pub fn next_hop(self) -> [u8; 6] {
        let [_, host] = FAR_MACS;
        match self {
            Self::Sink => NOBODY,
            Self::Mirror | Self::Host => host,
        }
    }
}

impl Sockets {
    /// Gives a queue of `n0` (0) or `n1` (1) its socket.
    pub fn set(&self, side: usize, queue: u32, socket: impl AsFd) -> Result<(), Error> {
        let program = self.programs.get(side).ok_or("there are two sides")?;
        Ok(program.set_socket(queue, socket.as_fd())?)
    }
}

/// The endpoints' addresses.
pub fn endpoints() -> impl Iterator<Item = std::net::Ipv4Addr> {
    (1..=ENDPOINTS).map(|number| [10, 1, 0, number].into())
}

/// Has packets that come in by `device` go on on this core; `None`: on the one
/// that they come in on (Documentation/networking/scaling.rst, RPS).
pub fn receive_on(namespace: &Namespace, device: &str, core: Option<usize>) {
    let mask = core.map_or(0, |core| 1_u32 << core);
    let script = format!(
        "for queue in /sys/class/net/{device}/queues/rx-*; do echo {mask:x} > $queue/rps_cpus; done"
    );
    namespace.command("sh").args(["-e", "-c", &script]).ok();
}

/// Runs `work` in a thread inside a namespace.
fn in_namespace<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let file = File::open(format!("/run/netns/{}", namespace.name()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        inside.join().map_err(|_| "a thread inside a namespace panicked")?
    })
}

/// The counts of the thread's namespace; the file stays with it.
fn open_counts() -> std::io::Result<File> {
    File::open("/proc/thread-self/net/dev")
}

/// How many packets a device has received (proc(5), /proc/net/dev).
fn received(counts: &File, device: &str) -> Result<u64, Error> {
    let mut text = vec![0; 8_192];
    let bytes = counts.read_at(&mut text, 0)?;
    let text = std::str::from_utf8(text.get(..bytes).unwrap_or_default())?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(packets.ok_or_else(|| format!("{device} is not counted"))?.parse()?)
}

fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}
