//! A packet on its way through the pipeline, and what becomes of it.

use arrayvec::ArrayVec;

use crate::drops::DropReason;
use crate::fib::HopId;
use crate::flows::Likely;

/// How many packets go through the pipeline together. Enough to hide memory
/// latency behind prefetching, few enough to stay in the first-level cache.
pub const BURST: usize = 64;

/// Packets that go through the pipeline together.
pub type Burst<'a> = ArrayVec<Packet<'a>, BURST>;

/// Which attached interface, by its place in [`crate::Fib::interfaces`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceSlot(pub u16);

/// Which worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

/// A moment: nanoseconds on a clock that never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub u64);

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send the frame, as it is now, out of this interface.
    Transmit(InterfaceSlot),
    /// Another worker owns the flow: give it the frame, which is as it was
    /// received, as a packet that is [`Packet::handed_over`].
    HandOff(WorkerId),
    /// Keep the frame for a bounded time, until the neighbour is known; then
    /// [`crate::Pipeline::retry`] it.
    Hold(Neighbour),
    /// Give the frame back; the reason was counted.
    Drop(DropReason),
}

/// A neighbour whose link-layer address is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The kernel's number of the interface.
    pub ifindex: u32,
    /// Its IP address; see [`crate::address`].
    pub address: u128,
}

/// One received frame.
///
/// `buffer` begins with the Ethernet header and goes on to the end of the
/// room there is, so that answers longer than their question can be made in
/// place.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    bytes: usize,
    ingress: InterfaceSlot,
    verdict: Option<Verdict>,
    pub(crate) meta: Meta,
}

/// What the stages tell each other about a packet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meta {
    pub(crate) progress: Progress,
    /// Where the network header starts: 14, or more with VLAN tags.
    pub(crate) l3: usize,
    /// Where the transport header starts.
    pub(crate) l4: usize,
    /// Where the TCP segment, UDP datagram or ICMP message ends.
    pub(crate) l4_end: usize,
    /// How many bytes the IP packet (or ARP packet) has, header included;
    /// Ethernet padding may follow.
    pub(crate) l3_bytes: usize,
    pub(crate) kind: Kind,
    /// The packet's family.
    pub(crate) v4: bool,
    /// Which of our addresses it was sent to.
    pub(crate) side: Side,
    /// The TTL or hop limit.
    pub(crate) hop_limit: u8,
    pub(crate) tcp_flags: u8,
    /// What a TCP segment acknowledges, if its flags say that it does.
    pub(crate) tcp_ack: u32,
    /// The checksum field holds just the pseudo-header's sum: to be completed.
    pub(crate) partial_checksum: bool,
    pub(crate) tuple: Tuple,
    /// Of `tuple`, under the flow table's key.
    pub(crate) hash: u64,
    /// Where its flow seems to be.
    pub(crate) likely: Likely,
    /// What the tuple becomes.
    pub(crate) rewritten: Tuple,
    /// How it leaves, where that is known already.
    pub(crate) hop: HopId,
    /// The MTU that it is too big for, if it was refused for that.
    pub(crate) mtu: usize,
    /// It comes from another worker, and goes to no third one.
    pub(crate) handed_over: bool,
    /// Why it cannot go on. The last stage counts it, and answers or drops.
    pub(crate) refusal: Option<DropReason>,
}

/// How far a packet has come: what every stage asks first, of every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Progress {
    /// It is to be balanced: a TCP or UDP packet.
    Balanced,
    /// It is on its way, but not to an endpoint or a client as far as is known.
    #[default]
    Otherwise,
    /// A stage has decided or refused.
    Stopped,
}

/// Names an entry of the flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlowId(pub(crate) u32);

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Side {
    /// From a client to a VIP.
    #[default]
    ToVip,
    /// From an endpoint to a SNAT address.
    ToSnat,
}

/// What parsing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Unparsed,
    Arp,
    Tcp,
    Udp,
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An NDP neighbour solicitation.
    Solicitation,
    /// An ICMP or ICMPv6 error, which quotes the packet it is about.
    IcmpError,
    /// Any other ICMP or ICMPv6 message.
    Icmp,
}

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Tuple {
    pub(crate) src: u128,
    pub(crate) dst: u128,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
    /// IANA's number; 6 or 17 for anything that is balanced.
    pub(crate) protocol: u8,
}

impl Tuple {
    /// The other way round.
    #[inline(always)]
    pub(crate) fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }
}

impl<'a> Packet<'a> {
    /// A frame of `bytes` bytes at the start of `buffer`, received on
    /// `ingress`. More bytes than the buffer has are cut off.
    #[inline]
    pub fn new(buffer: &'a mut [u8], bytes: usize, ingress: InterfaceSlot) -> Self {
        let bytes = bytes.min(buffer.len());
        Self { buffer, bytes, ingress, verdict: None, meta: Meta::default() }
    }

    /// The same packet, given to this worker by another one with
    /// [`Verdict::HandOff`]: it is not handed on again.
    #[inline]
    #[must_use]
    pub fn handed_over(mut self) -> Self {
        self.meta.handed_over = true;
        self
    }

    /// The frame as it is now.
    #[inline(always)]
    pub fn frame(&self) -> &[u8] {
        self.buffer.get(..self.bytes).unwrap_or(&[])
    }

    /// How many bytes the frame has now.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// How many bytes the frame could have.
    #[inline(always)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Where it came from.
    #[inline(always)]
    pub fn ingress(&self) -> InterfaceSlot {
        self.ingress
    }

    /// What becomes of it; `None` until the pipeline has run.
    #[inline(always)]
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The frame, and what is found out about it.
    #[inline(always)]
    pub(crate) fn frame_and_meta(&mut self) -> (&[u8], &mut Meta) {
        (self.buffer.get(..self.bytes).unwrap_or(&[]), &mut self.meta)
    }

    /// The frame and the room behind it, and what is known about it: for
    /// writing to headers, which were seen to be there.
    #[inline(always)]
    pub(crate) fn room_and_meta(&mut self) -> (&mut [u8], &Meta) {
        (self.buffer, &self.meta)
    }

    /// Likewise.
    #[inline(always)]
    pub(crate) fn room_mut(&mut self) -> &mut [u8] {
        self.buffer
    }

    #[inline(always)]
    pub(crate) fn frame_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(..self.bytes).unwrap_or_default()
    }

    /// Whether it is still on its way: no stage has decided or refused yet.
    #[inline(always)]
    pub(crate) fn is_pending(&self) -> bool {
        self.meta.progress != Progress::Stopped
    }

    /// Stops it here. It is neither counted nor answered until the last
    /// stage, so that this happens in one place; the first reason counts.
    #[inline(always)]
    pub(crate) fn refuse(&mut self, reason: DropReason) {
        self.meta.refusal.get_or_insert(reason);
        self.meta.progress = Progress::Stopped;
    }

    /// Leaves it to the worker that owns its flow. One that comes from another
    /// worker ends here, or two of them could play with it for ever.
    #[cold]
    pub(crate) fn hand_off(&mut self, owner: WorkerId) {
        if self.meta.handed_over {
            self.refuse(DropReason::HandOffLost);
        } else {
            self.decide(Verdict::HandOff(owner));
        }
    }

    /// Whether it is a TCP or UDP packet on its way: one to be balanced.
    #[inline(always)]
    pub(crate) fn is_balanced(&self) -> bool {
        self.meta.progress == Progress::Balanced
    }

    #[inline(always)]
    pub(crate) fn decide(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
        self.meta.progress = Progress::Stopped;
    }

    /// Makes the frame longer or shorter, zeroing what is new; refused, with
    /// nothing changed, where the buffer has no room.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.buffer.len() {
            return false;
        }
        if let Some(new) = self.buffer.get_mut(self.bytes..bytes) {
            new.fill(0);
        }
        self.bytes = bytes;
        true
    }
}
