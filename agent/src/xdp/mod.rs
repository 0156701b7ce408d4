//! Owns the XDP program and every BPF map of the agent.
//!
//! The program is loaded once. [`Xdp`] attaches it to each interface and puts
//! the workers' sockets into its map; [`Addresses`], which the control thread
//! has, tells it which addresses are ours. Nobody else writes to these maps. Links are held by file descriptor:
//! when the process ends, however it ends, the kernel takes the program off
//! and everything on the node goes on.
//!
//! Order matters to the program: an interface has its row before the program
//! is attached, and loses it after it is detached. Attach, bind and set the
//! sockets first, then the addresses: an address without a socket is dropped.

mod error;
mod link;
mod maps;
mod object;
mod privileges;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use aya::programs::ProgramError;
use aya::programs::xdp::{XdpError as AyaXdpError, XdpLink, XdpMode};
use aya::{Ebpf, EbpfLoader};
pub use blixt_xdp_abi::{Counter, Role};
use blixt_xdp_abi::{PROGRAM, QUEUES_PER_INTERFACE};

pub use self::error::XdpError;
use self::link::{Kind, Link};
use self::maps::Maps;
pub use self::maps::{Addresses, Changes, Counts};

/// How many things the maps have room for. Sizes are fixed when the program
/// is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Capacities {
    /// VIPs and SNAT addresses.
    pub addresses: u32,
    /// TCP ports of VIPs whose connections end on the kernel's stack.
    pub streams: u32,
    /// Interfaces attached at one time.
    pub interfaces: u32,
}

impl Default for Capacities {
    /// 4,096 addresses: a /20 of VIPs, under 1 MiB of kernel memory. Two ports
    /// of each, as for HTTP and HTTPS. 64 interfaces: more than a node has ports.
    fn default() -> Self {
        Self { addresses: 4_096, streams: 8_192, interfaces: 64 }
    }
}

/// Which XDP mode is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Native where the driver can, generic otherwise.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's stack: every driver can, slower.
    Generic,
}

/// Which XDP mode an interface is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's stack.
    Generic,
}

impl AttachedMode {
    /// Its name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn flags(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// How an interface was attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The mode in use.
    pub mode: AttachedMode,
    /// The kernel's number of the program, as `bpftool prog` shows it.
    pub program_id: u32,
    /// With [`Mode::Auto`]: why the driver would not, if it is generic. Worth
    /// a warning.
    pub native_refused: Option<String>,
}

/// The loaded program, its links, and the map of its sockets.
pub struct Xdp {
    // First: the links go before the maps when this is dropped.
    interfaces: BTreeMap<u32, Interface>,
    maps: Maps,
    bpf: Ebpf,
}

#[derive(Debug)]
struct Interface {
    /// `None` if it could not be attached again.
    link: Option<XdpLink>,
    mode: AttachedMode,
    name: String,
    slot: u32,
}

impl Xdp {
    /// Loads the program into the kernel. Nothing is attached yet, and no
    /// address is ours.
    pub fn load(capacities: Capacities) -> Result<(Self, Addresses), XdpError> {
        privileges::check()?;
        let object = object::find()?;
        let mut loader = EbpfLoader::new();
        // The object carries no BTF, so that a kernel without it will do.
        loader.btf(None);
        maps::size(&mut loader, capacities);
        let mut bpf = loader.load(&object.bytes).map_err(|e| error::loading(&object.origin, e))?;
        let maps = Maps::take(&mut bpf, capacities, &object.origin)?;
        let addresses = Addresses::take(&mut bpf, capacities, &object.origin)?;
        let mut xdp = Self { interfaces: BTreeMap::new(), maps, bpf };
        xdp.program_mut(&object.origin)?.load().map_err(error::verifying)?;
        Ok((xdp, addresses))
    }

    /// Attaches the program to an interface, in the best mode that is asked
    /// for and possible.
    pub fn attach(&mut self, ifindex: u32, name: &str, mode: Mode) -> Result<Attached, XdpError> {
        self.attach_as(ifindex, name, mode, false)
    }

    /// Attaches the program to our end of the host path, where addresses of
    /// [`Role::Host`] are ours too.
    pub fn attach_host_end(
        &mut self,
        ifindex: u32,
        name: &str,
        mode: Mode,
    ) -> Result<Attached, XdpError> {
        self.attach_as(ifindex, name, mode, true)
    }

    fn attach_as(
        &mut self,
        ifindex: u32,
        name: &str,
        mode: Mode,
        is_host_end: bool,
    ) -> Result<Attached, XdpError> {
        let link = existing(ifindex, name)?;
        if link.kind == Kind::Bond {
            return Err(XdpError::Bond { interface: name.into(), members: link::members(ifindex) });
        }
        if link.kind == Kind::NoEthernet {
            return Err(XdpError::NoEthernet { interface: name.into() });
        }
        if let Some(other) = link.programs.first() {
            return Err(error::other_program(name, other));
        }
        let slot = self.free_slot(name)?;
        self.maps.add_interface(ifindex, slot, is_host_end)?;
        match self.attach_in_mode(ifindex, name, mode, &link) {
            Ok((xdp_link, attached)) => {
                let (link, mode) = (Some(xdp_link), attached.mode);
                let interface = Interface { link, mode, name: name.into(), slot };
                self.interfaces.insert(ifindex, interface);
                Ok(attached)
            }
            Err(error) => {
                self.maps.remove_interface(ifindex, slot)?;
                Err(error)
            }
        }
    }

    /// Takes the program off an interface. Fine if the interface has vanished
    /// or was never attached.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), XdpError> {
        let Some(Interface { link, slot, .. }) = self.interfaces.remove(&ifindex) else {
            return Ok(());
        };
        drop(link);
        self.maps.remove_interface(ifindex, slot)
    }

    /// Has an interface's program exchanged for one that is the same, with the same
    /// maps and sockets. A veth that is given more queues runs no program on the
    /// new ones otherwise (`veth_set_channels` in drivers/net/veth.c, up to
    /// Linux 6.18 at least): there our packets would pass. It is no other program
    /// that the kernel takes for no change (`bpf_xdp_link_update` in
    /// net/core/dev.c); and between two of them no packet passes.
    pub fn attach_again(&mut self, ifindex: u32) -> Result<(), XdpError> {
        let Some(interface) = self.interfaces.get_mut(&ifindex) else {
            return Err(XdpError::NotAttached { ifindex });
        };
        let (name, mode, link) = (interface.name.clone(), interface.mode, interface.link.take());
        let Some(link) = link else { return Err(XdpError::NotAttached { ifindex }) };
        let program = self.program_mut("the loaded object")?;
        // Links that have been taken out, all of ours, keep the program they have.
        let attempt = program
            .unload()
            .and_then(|()| program.load())
            .and_then(|()| program.attach_to_link(link))
            .and_then(|id| program.take_link(id));
        match attempt {
            Ok(link) => {
                if let Some(interface) = self.interfaces.get_mut(&ifindex) {
                    interface.link = Some(link);
                }
                Ok(())
            }
            Err(error) => {
                let now = existing(ifindex, &name)?;
                Err(why_not(ifindex, &name, mode, &now, error))
            }
        }
    }

    /// Gives a queue of an attached interface its socket.
    pub fn set_socket(
        &mut self,
        ifindex: u32,
        queue: u32,
        socket: impl AsFd,
    ) -> Result<(), XdpError> {
        let (name, index) = self.socket_index(ifindex, queue)?;
        let name = name.to_owned();
        self.maps.set_socket(index, socket).map_err(|source| XdpError::Socket {
            interface: name,
            queue,
            source,
        })
    }

    /// Takes a queue's socket away: frames for our addresses that arrive there
    /// are dropped from now on. Fine if it had none.
    pub fn clear_socket(&mut self, ifindex: u32, queue: u32) -> Result<(), XdpError> {
        let (_, index) = self.socket_index(ifindex, queue)?;
        self.maps.clear_socket(index)
    }

    /// The program itself, to run it on single frames (`BPF_PROG_TEST_RUN`).
    pub fn program(&self) -> Option<&aya::programs::Xdp> {
        self.bpf.program(PROGRAM)?.try_into().ok()
    }

    /// Attaches, or falls back where that is right.
    fn attach_in_mode(
        &mut self,
        ifindex: u32,
        name: &str,
        mode: Mode,
        link: &Link,
    ) -> Result<(XdpLink, Attached), XdpError> {
        if mode == Mode::Generic {
            return self.try_attach(ifindex, name, AttachedMode::Generic, link, None);
        }
        match self.try_attach(ifindex, name, AttachedMode::Native, link, None) {
            // On veth generic mode is worse than none: it leaves the peer's
            // segmentation offload on, and large transfers hang.
            Err(XdpError::Refused { reason, .. })
                if mode == Mode::Auto && link.kind != Kind::Veth =>
            {
                self.try_attach(ifindex, name, AttachedMode::Generic, link, Some(reason))
            }
            answer => answer,
        }
    }

    fn try_attach(
        &mut self,
        ifindex: u32,
        name: &str,
        mode: AttachedMode,
        link: &Link,
        native_refused: Option<String>,
    ) -> Result<(XdpLink, Attached), XdpError> {
        let program = self.program_mut("the loaded object")?;
        // It is loaded, unless it could not be loaded again.
        let loaded = if program.fd().is_ok() { Ok(()) } else { program.load() };
        let attempt = loaded
            .and_then(|()| program.attach_to_if_index(ifindex, mode.flags()))
            // aya makes a BPF link, and falls back to netlink where the kernel
            // has no links for XDP (before 5.9), which `privileges` refuses.
            .and_then(|id| program.take_link(id))
            .and_then(|xdp_link| Ok((xdp_link, program.info()?.id())));
        match attempt {
            Ok((xdp_link, program_id)) => {
                Ok((xdp_link, Attached { mode, program_id, native_refused }))
            }
            Err(error) => Err(why_not(ifindex, name, mode, link, error)),
        }
    }

    fn program_mut(&mut self, origin: &str) -> Result<&mut aya::programs::Xdp, XdpError> {
        self.bpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| XdpError::ForeignObject { origin: origin.into(), lacks: PROGRAM })
    }

    /// The lowest place for an interface that is free.
    fn free_slot(&self, name: &str) -> Result<u32, XdpError> {
        let capacity = self.maps.capacities().interfaces;
        (0..capacity)
            .find(|slot| self.interfaces.values().all(|other| other.slot != *slot))
            .ok_or_else(|| XdpError::TooManyInterfaces { interface: name.into(), capacity })
    }

    fn socket_index(&self, ifindex: u32, queue: u32) -> Result<(&str, u32), XdpError> {
        let Some(interface) = self.interfaces.get(&ifindex) else {
            return Err(XdpError::NotAttached { ifindex });
        };
        if queue >= QUEUES_PER_INTERFACE {
            return Err(XdpError::NoSuchQueue { interface: interface.name.clone(), queue });
        }
        Ok((&interface.name, maps::first_socket(interface.slot) + queue))
    }
}

/// The interface as the kernel shows it now.
fn existing(ifindex: u32, name: &str) -> Result<Link, XdpError> {
    link::query(ifindex)
        .map_err(|source| XdpError::Netlink { interface: name.into(), source })?
        .ok_or_else(|| XdpError::NoInterface { interface: name.into() })
}

/// Why an interface could not be attached. The kernel's answer alone does not
/// tell (EINVAL is a vanished interface, or an MTU that is too large), so look
/// again.
fn why_not(
    ifindex: u32,
    name: &str,
    mode: AttachedMode,
    before: &Link,
    error: ProgramError,
) -> XdpError {
    match existing(ifindex, name) {
        Err(gone) => return gone,
        Ok(now) => {
            if let Some(other) = now.programs.first() {
                return error::other_program(name, other);
            }
        }
    }
    let errno = match &error {
        ProgramError::SyscallError(syscall) => syscall.io_error.raw_os_error(),
        ProgramError::XdpError(AyaXdpError::NetlinkError(netlink)) => netlink.raw_os_error(),
        _ => None,
    };
    error::refused(name, mode, before, errno.map(io::Error::from_raw_os_error), &error)
}
