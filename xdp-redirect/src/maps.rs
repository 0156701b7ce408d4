//! The maps that the agent fills, and the look-ups in them.
//!
//! Sizes here are placeholders: the agent gives its own when it loads the
//! program. A map's name is its static's; `blixt_xdp_abi` spells it for the agent.

use aya_ebpf::bindings::xdp_action::XDP_DROP;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, XskMap};
use aya_ebpf::programs::XdpContext;
use blixt_xdp_abi::{AddressKey, HAS_STREAMS, HOST_END, QUEUES_PER_INTERFACE, Role, StreamKey};

#[map]
static ADDRESSES: HashMap<AddressKey, u32> = HashMap::with_max_entries(1, 0);

#[map]
static STREAMS: HashMap<StreamKey, u32> = HashMap::with_max_entries(1, 0);

#[map]
static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(QUEUES_PER_INTERFACE, 0);

/// What an address is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Nothing, where the frame came in.
    Others,
    /// All that is for it is ours.
    Ours,
    /// All but some ports.
    OursButStreams,
}

/// What an address is to us, where the frame came in.
#[inline(always)]
pub fn whose(frame: &XdpContext, address: &AddressKey) -> Whose {
    let Some(role) = ADDRESSES.get_ptr(address) else { return Whose::Others };
    // SAFETY: values are 4 bytes of a preallocated map. Its row may be given to
    // another address meanwhile, and then says that one's role: as if the frame
    // had come a moment later.
    let role = unsafe { *role };
    if role & HAS_STREAMS != 0 {
        return Whose::OursButStreams;
    }
    // Who knows nothing of the host path may use such an address himself.
    if role != Role::Host.value() || base(frame).is_some_and(|base| base & HOST_END != 0) {
        Whose::Ours
    } else {
        Whose::Others
    }
}

/// Whether connections to a port of an address end on the kernel's own stack.
#[inline(always)]
pub fn is_stream(key: &StreamKey) -> bool {
    STREAMS.get_ptr(key).is_some()
}

/// Sends the frame to the socket of its interface and queue, if there is one.
#[inline(always)]
pub fn redirect(frame: &XdpContext) -> Option<u32> {
    let queue = frame.rx_queue_index();
    if queue >= QUEUES_PER_INTERFACE {
        return None;
    }
    let base = base(frame)? & !HOST_END;
    // The low bits of the flags are the answer when there is no socket
    // (kernel 5.3, net/core/filter.c, bpf_xdp_redirect_map).
    SOCKETS.redirect(base + queue, XDP_DROP.into()).ok()
}

/// Where the sockets of the frame's interface begin, as the map has it.
#[inline(always)]
fn base(frame: &XdpContext) -> Option<u32> {
    let interface = frame.ingress_ifindex() as u32;
    // SAFETY: the agent gives an interface its row before it attaches the
    // program and takes it only after it has detached it, so no row is freed
    // or reused while a frame of its interface is here.
    unsafe { INTERFACES.get(interface) }.copied()
}
