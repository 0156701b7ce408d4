//! The few messages to nf_tables that the host path needs
//! (include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h).
//!
//! The table is ours by the socket it was made with (`NFT_TABLE_F_OWNER`, Linux
//! 5.12): nobody else changes it, and the kernel takes it away when the process
//! ends, however it ends.

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

use super::attributes::{Attributes, each, find, find_big_endian, find_text};

/// NFNL_SUBSYS_NFTABLES, and the messages of it.
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const GET_RULE: u16 = SUBSYSTEM | 7;
const DEL_RULE: u16 = SUBSYSTEM | 8;

/// NFNL_MSG_BATCH_BEGIN and _END.
const BEGIN: u16 = 16;
const END: u16 = 17;

/// NLMSG_ERROR, NLMSG_DONE.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Flags of messages (linux/netlink.h).
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// The size of a message's head, and of netfilter's own behind it.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6.
pub(super) const INET: u8 = 1;
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;

/// NF_INET_FORWARD and NF_INET_POST_ROUTING.
pub(super) const FORWARD: u32 = 2;
pub(super) const POSTROUTING: u32 = 4;

/// NF_DROP and NF_ACCEPT.
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;

/// NFT_TABLE_F_OWNER.
const OWNER: u32 = 2;

/// A connection to nf_tables.
#[derive(Debug)]
pub(super) struct Nft {
    socket: Socket,
    sequence: u32,
}

/// A chain that the kernel passes packets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BaseChain {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) hook: u32,
    /// What becomes of a packet at its end.
    pub(super) policy: u32,
}

/// A change, one of those that are made together.
#[derive(Debug)]
pub(super) struct Change {
    kind: u16,
    flags: u16,
    family: u8,
    attributes: Attributes,
}

impl Nft {
    /// Opens it.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes all of these changes, or none.
    pub(super) fn change(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.put(&mut bytes, BEGIN, REQUEST, 0, SUBSYSTEM >> 8, &[]);
        for Change { kind, flags, family, attributes } in changes {
            let attributes = attributes.clone().into_bytes();
            self.put(&mut bytes, *kind, REQUEST | ACK | flags, *family, 0, &attributes);
        }
        self.put(&mut bytes, END, REQUEST, 0, SUBSYSTEM >> 8, &[]);
        self.socket.send(&bytes, 0)?;
        // The kernel has answered by now (`nfnetlink_rcv_batch` in
        // net/netfilter/nfnetlink.c).
        self.socket.set_non_blocking(true)?;
        let mut answer = Ok(());
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => answer = answer.and(first_error(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.socket.set_non_blocking(false)?;
        answer
    }

    /// The chains that packets are passed through, of all families.
    pub(super) fn base_chains(&mut self) -> io::Result<Vec<BaseChain>> {
        let chains = self.dump(GET_CHAIN, 0, Attributes::default())?;
        Ok(chains.iter().filter_map(|(family, bytes)| base_chain(*family, bytes)).collect())
    }

    /// The numbers of a chain's rules that carry our mark.
    pub(super) fn rules_of_ours(&mut self, chain: &BaseChain) -> io::Result<Vec<u64>> {
        let of = Attributes::default().text(1, &chain.table).text(2, &chain.name);
        let rules = self.dump(GET_RULE, chain.family, of)?;
        let ours = rules.iter().filter(|(_, rule)| find(rule, 7).is_some_and(|it| it == mark()));
        let number =
            |(_, rule): &(u8, Vec<u8>)| Some(u64::from_be_bytes(find(rule, 3)?.try_into().ok()?));
        Ok(ours.filter_map(number).collect())
    }

    /// How many packets each rule of a chain has counted, in the rules' order.
    pub(super) fn counted(&mut self, family: u8, table: &str, chain: &str) -> io::Result<Vec<u64>> {
        let of = Attributes::default().text(1, table).text(2, chain);
        let rules = self.dump(GET_RULE, family, of)?;
        Ok(rules.iter().filter_map(|(_, rule)| counter(rule)).collect())
    }

    fn dump(
        &mut self,
        kind: u16,
        family: u8,
        attributes: Attributes,
    ) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let mut bytes = Vec::new();
        self.put(&mut bytes, kind, REQUEST | DUMP, family, 0, &attributes.into_bytes());
        self.socket.send(&bytes, 0)?;
        let mut found = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            first_error(&bytes)?;
            for (kind, body) in messages(&bytes) {
                if kind == DONE {
                    return Ok(found);
                }
                let (head, attributes) = body.split_at(body.len().min(FAMILY_HEADER));
                found.push((head.first().copied().unwrap_or_default(), attributes.to_vec()));
            }
        }
    }

    fn put(
        &mut self,
        bytes: &mut Vec<u8>,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: &[u8],
    ) {
        self.sequence = self.sequence.wrapping_add(1);
        let length = (HEADER + FAMILY_HEADER + attributes.len()) as u32;
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        // The version is 0.
        bytes.extend_from_slice(&[family, 0]);
        bytes.extend_from_slice(&resource.to_be_bytes());
        bytes.extend_from_slice(attributes);
    }
}

/// What rules of ours carry: a comment, as `nft` shows it (type, length, text).
fn mark() -> Vec<u8> {
    let text = b"blixt host path\0";
    [&[0, text.len() as u8][..], text].concat()
}

fn first_error(bytes: &[u8]) -> io::Result<()> {
    for (kind, body) in messages(bytes) {
        let code = body.get(..4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
        match (kind, code) {
            (ERROR, Some(0)) => {}
            (ERROR, Some(code)) => return Err(io::Error::from_raw_os_error(-code)),
            _ => {}
        }
    }
    Ok(())
}

/// The messages of a datagram: their kinds and what follows their heads.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (bytes.get(..4), bytes.get(4..6)) {
        let (Ok(length), Ok(kind)) = (length.try_into(), kind.try_into()) else { break };
        let length = u32::from_ne_bytes(length) as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        found.push((u16::from_ne_bytes(kind), body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn base_chain(family: u8, attributes: &[u8]) -> Option<BaseChain> {
    let hook = find(attributes, 4)?;
    Some(BaseChain {
        family,
        table: find_text(attributes, 1)?,
        name: find_text(attributes, 3)?,
        hook: find_big_endian(&hook, 1)?,
        policy: find_big_endian(attributes, 5)?,
    })
}

/// What a rule's counter has counted (NFTA_COUNTER_PACKETS).
fn counter(rule: &[u8]) -> Option<u64> {
    let expressions = find(rule, 4)?;
    let counter =
        each(&expressions, 1).find(|it| find_text(it, 1).as_deref() == Some("counter"))?;
    Some(u64::from_be_bytes(find(&find(&counter, 2)?, 2)?.try_into().ok()?))
}

/// A table that is ours for as long as this connection lasts.
pub(super) fn new_table(family: u8, name: &str) -> Change {
    let attributes = Attributes::default().text(1, name).big_endian(2, OWNER);
    Change { kind: NEW_TABLE, flags: CREATE, family, attributes }
}

/// What a chain may do.
#[derive(Debug, Clone, Copy)]
pub(super) enum ChainType {
    /// Let packets pass or not.
    Filter,
    /// Translate addresses.
    Nat,
}

/// A chain that packets are passed through at a hook, after those of lower priority.
pub(super) fn new_chain(
    family: u8,
    table: &str,
    name: &str,
    kind: ChainType,
    hook: u32,
    priority: i32,
) -> Change {
    let kind = match kind {
        ChainType::Filter => "filter",
        ChainType::Nat => "nat",
    };
    let place = Attributes::default().big_endian(1, hook).bytes(2, &priority.to_be_bytes());
    let attributes = Attributes::default()
        .text(1, table)
        .text(3, name)
        .nested(4, place)
        .big_endian(5, ACCEPT)
        .text(7, kind);
    Change { kind: NEW_CHAIN, flags: CREATE, family, attributes }
}

/// A rule at the end of a chain, with our mark.
pub(super) fn new_rule(family: u8, table: &str, chain: &str, expressions: Attributes) -> Change {
    let attributes = Attributes::default()
        .text(1, table)
        .text(2, chain)
        .nested(4, expressions)
        .bytes(7, &mark());
    Change { kind: NEW_RULE, flags: CREATE | APPEND, family, attributes }
}

/// Takes a rule away.
pub(super) fn delete_rule(chain: &BaseChain, number: u64) -> Change {
    let attributes = Attributes::default()
        .text(1, &chain.table)
        .text(2, &chain.name)
        .bytes(3, &number.to_be_bytes());
    Change { kind: DEL_RULE, flags: 0, family: chain.family, attributes }
}

/// What a rule looks at and does, one after the other.
#[derive(Debug, Default)]
pub(super) struct Rule(Attributes);

/// NFT_REG_1.
const REGISTER: u32 = 1;

/// NFT_META_IIFNAME, NFT_META_OIFNAME and NFT_META_NFPROTO.
pub(super) const COMES_IN_BY: u32 = 6;
pub(super) const GOES_OUT_BY: u32 = 7;
const PROTOCOL: u32 = 15;

/// IFNAMSIZ.
const NAME_BYTES: usize = 16;

impl Rule {
    /// Goes on for packets that come in, or go out, by a device.
    pub(super) fn device(self, which: u32, name: &str) -> Self {
        let mut padded = name.as_bytes().to_vec();
        padded.resize(NAME_BYTES, 0);
        self.meta(which).equals(&padded)
    }

    /// Goes on for packets from an address.
    pub(super) fn source(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.meta(PROTOCOL).equals(&[IPV4]).header(12, &v4.octets()),
            IpAddr::V6(v6) => self.meta(PROTOCOL).equals(&[IPV6]).header(8, &v6.octets()),
        }
    }

    /// Goes on for packets to an address.
    pub(super) fn destination(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.meta(PROTOCOL).equals(&[IPV4]).header(16, &v4.octets()),
            IpAddr::V6(v6) => self.meta(PROTOCOL).equals(&[IPV6]).header(24, &v6.octets()),
        }
    }

    /// Counts.
    pub(super) fn count(self) -> Self {
        self.expression("counter", Attributes::default())
    }

    /// Says what becomes of the packet: [`ACCEPT`] or [`DROP`].
    pub(super) fn verdict(self, verdict: u32) -> Attributes {
        let verdict = Attributes::default().big_endian(1, verdict);
        let data = Attributes::default().nested(2, verdict);
        let immediate = Attributes::default().big_endian(1, 0).nested(2, data);
        self.expression("immediate", immediate).0
    }

    /// Has the packet come from the node's own address.
    pub(super) fn masquerade(self) -> Attributes {
        self.expression("masq", Attributes::default()).0
    }

    fn meta(self, key: u32) -> Self {
        let load = Attributes::default().big_endian(1, REGISTER).big_endian(2, key);
        self.expression("meta", load)
    }

    /// Goes on if there are these bytes in the network header.
    fn header(self, offset: u32, bytes: &[u8]) -> Self {
        // NFT_PAYLOAD_NETWORK_HEADER is 1.
        let load = Attributes::default()
            .big_endian(1, REGISTER)
            .big_endian(2, 1)
            .big_endian(3, offset)
            .big_endian(4, bytes.len() as u32);
        self.expression("payload", load).equals(bytes)
    }

    fn equals(self, value: &[u8]) -> Self {
        let value = Attributes::default().bytes(1, value);
        // NFT_CMP_EQ is 0.
        let compare =
            Attributes::default().big_endian(1, REGISTER).big_endian(2, 0).nested(3, value);
        self.expression("cmp", compare)
    }

    fn expression(self, name: &str, data: Attributes) -> Self {
        let expression = Attributes::default().text(1, name).nested(2, data);
        Self(self.0.nested(1, expression))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_taken_apart_however_it_ends() {
        let mut bytes = Vec::new();
        for (kind, body) in [(ERROR, &[0_u8; 4][..]), (DONE, &[9, 9, 9, 9, 9])] {
            bytes.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.resize(bytes.len() + HEADER - 6, 0);
            bytes.extend_from_slice(body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let kinds = |bytes| messages(bytes).iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
        assert_eq!(kinds(&bytes), [ERROR, DONE]);
        assert!(first_error(&bytes).is_ok());
        for end in 0..bytes.len() {
            assert!(kinds(&bytes[..end]).len() <= 2);
        }
        assert_eq!(kinds(&[0; 64]), [0; 0], "a length of nothing ends it");
    }

    #[test]
    fn a_refusal_is_the_kernels_error() {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&ERROR.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(&(-1_i32).to_ne_bytes());
        bytes.resize(36, 0);
        assert_eq!(first_error(&bytes).unwrap_err().raw_os_error(), Some(1));
    }
}
