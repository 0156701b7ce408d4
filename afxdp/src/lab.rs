//! XDP programs of a few instructions, for tests and benches.
//!
//! They stand in for the real program where only frames matter: everything is
//! handed to sockets, or dropped, or passed; and one of them makes traffic.
//! Written out as instructions, they need no BPF toolchain.

use std::ffi::CStr;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libxdp_sys as bpf;

use crate::nic;

/// A loaded XDP program.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    /// What its instructions name by number must live as long as it is loaded;
    /// the kernel sees to that afterwards.
    sockets: Option<OwnedFd>,
}

/// A program on an interface, until it is dropped.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path.
    Generic,
}

/// What `XDP_DROP` and `XDP_PASS` of `linux/bpf.h` are.
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// Ethernet, IPv4 and UDP; and where in them is what the generator changes.
const HEADERS: usize = 14 + 20 + 8;
const IP_CHECKSUM: usize = 14 + 10;
const SOURCE_END: usize = 14 + 14;
const SOURCE_PORT: usize = 14 + 20;
const UDP_CHECKSUM: usize = 14 + 20 + 6;

impl Program {
    /// Drops every frame.
    pub fn drop_all() -> io::Result<Self> {
        Ok(Self { fd: load(&[mov(R0, XDP_DROP), exit()])?, sockets: None })
    }

    /// Passes every frame on to the kernel.
    pub fn pass_all() -> io::Result<Self> {
        Ok(Self { fd: load(&[mov(R0, XDP_PASS), exit()])?, sockets: None })
    }

    /// Hands every frame to the socket of its queue; passes it on where there
    /// is none.
    pub fn redirect_all(queues: u32) -> io::Result<Self> {
        // SAFETY: a null name and no options are allowed.
        let raw = unsafe {
            bpf::bpf_map_create(
                bpf::bpf_map_type_BPF_MAP_TYPE_XSKMAP,
                std::ptr::null(),
                4,
                4,
                queues,
                std::ptr::null(),
            )
        };
        let sockets = owned(raw)?;
        let [map, rest] = load_map(R1, sockets.as_raw_fd());
        let fd = load(&[
            // rx_queue_index of struct xdp_md.
            load_u32(R2, R1, 16),
            map,
            rest,
            mov(R3, XDP_PASS),
            call(HELPER_REDIRECT_MAP),
            exit(),
        ])?;
        Ok(Self { fd, sockets: Some(sockets) })
    }

    /// Makes packets of so many flows (up to 2^20) out of `frame`, each time
    /// of a flow chosen by chance, and sends them out of an interface; see
    /// [`Program::run`]. The frame is UDP over IPv4 without options or VLAN
    /// tag.
    ///
    /// A flow's number is in its source port and, if there are more than
    /// 32,768, in the end of its source address. All headers are written anew
    /// each time: whoever got the last packet may have changed them where
    /// they are, and the kernel uses that memory again.
    pub fn generate(ifindex: u32, frame: &[u8], flows: u32) -> io::Result<Self> {
        let Some(headers) = frame.first_chunk::<HEADERS>() else {
            return Err(io::Error::other("the frame is too short for UDP over IPv4"));
        };
        let source = word(frame, SOURCE_END);
        let port = word(frame, SOURCE_PORT);
        let address_sum = sum_without(word(frame, IP_CHECKSUM), &[source]);
        let udp_sum = sum_without(word(frame, UDP_CHECKSUM), &[source, port]);
        let mut program = vec![
            move_from(R6, R1),
            call(HELPER_RANDOM),
            modulo(R0, flows.clamp(1, 1 << 20) as i32),
            // The end of the source address, and the port.
            move_from(R7, R0),
            shift_right(R7, 15),
            add(R7, i32::from(source)),
            and(R7, 0xffff),
            move_from(R8, R0),
            and(R8, 0x7fff),
            or(R8, 0x8000),
            // data and data_end of struct xdp_md.
            load_u32(R2, R6, 0),
            load_u32(R3, R6, 4),
            move_from(R4, R2),
            add(R4, HEADERS as i32),
            jump_unless_greater(R4, R3, 2),
            mov(R0, XDP_DROP),
            exit(),
        ];
        for (number, bytes) in headers.as_chunks::<2>().0.iter().enumerate() {
            let value = i32::from(i16::from_le_bytes(*bytes));
            program.push(store_value_u16(R2, 2 * number as i16, value));
        }
        program.extend([move_from(R4, R7), add(R4, address_sum)]);
        program.extend(store_checksum(R4, IP_CHECKSUM));
        program.extend([move_from(R4, R7), add_from(R4, R8), add(R4, udp_sum)]);
        // It may come out as 0, "none" (RFC 768), instead of 0xffff: as good.
        program.extend(store_checksum(R4, UDP_CHECKSUM));
        program.extend([
            to_be16(R7),
            store_u16(R2, R7, SOURCE_END as i16),
            to_be16(R8),
            store_u16(R2, R8, SOURCE_PORT as i16),
            mov(R1, ifindex as i32),
            mov(R2, 0),
            call(HELPER_REDIRECT),
            exit(),
        ]);
        Ok(Self { fd: load(&program)?, sockets: None })
    }

    /// Answers every UDP packet over IPv4 with itself, addresses and ports
    /// exchanged; passes on what is too short for that.
    pub fn reflect() -> io::Result<Self> {
        let mut program = vec![
            load_u32(R2, R1, 0),
            load_u32(R3, R1, 4),
            move_from(R4, R2),
            add(R4, HEADERS as i32),
            jump_unless_greater(R4, R3, 2),
            mov(R0, XDP_PASS),
            exit(),
        ];
        // MAC addresses, IP addresses, ports: 16 bits at a time. No sum minds.
        for (first, second, words) in [(0, 6, 3), (14 + 12, 14 + 16, 2), (14 + 20, 14 + 22, 1)] {
            for number in 0..words {
                let (first, second) = (first + 2 * number, second + 2 * number);
                program.extend([
                    load_u16(R4, R2, first),
                    load_u16(R5, R2, second),
                    store_u16(R2, R5, first),
                    store_u16(R2, R4, second),
                ]);
            }
        }
        program.extend([mov(R0, XDP_TX), exit()]);
        Ok(Self { fd: load(&program)?, sockets: None })
    }

    /// Gives a queue its socket.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let Some(map) = &self.sockets else {
            return Err(io::Error::other("this program has no sockets"));
        };
        let socket = socket.as_raw_fd();
        // SAFETY: key and value are live and of the map's sizes, 4 bytes.
        let result = unsafe {
            bpf::bpf_map_update_elem(
                map.as_raw_fd(),
                std::ptr::from_ref(&queue).cast(),
                std::ptr::from_ref(&socket).cast(),
                0,
            )
        };
        ok(result)
    }

    /// Puts it on an interface of the thread's network namespace.
    pub fn attach(&self, interface: &str, hook: Hook) -> io::Result<Attached> {
        let ifindex = nic::ifindex(interface).map_err(io::Error::other)?;
        let options = bpf::bpf_link_create_opts {
            // Just the flags: libbpf wants all behind them to be zero, and
            // there is padding that Rust leaves undefined.
            sz: offset_of!(bpf::bpf_link_create_opts, flags) + size_of::<u32>(),
            // XDP_FLAGS_DRV_MODE and XDP_FLAGS_SKB_MODE of `linux/if_link.h`.
            flags: match hook {
                Hook::Native => 1 << 2,
                Hook::Generic => 1 << 1,
            },
            iter_info: std::ptr::null_mut(),
            iter_info_len: 0,
            target_btf_id: 0,
            __bindgen_anon_1: bpf::bpf_link_create_opts__bindgen_ty_1 { tracing: no_cookie() },
        };
        // SAFETY: the options are live and say how long they are.
        let raw = unsafe {
            bpf::bpf_link_create(
                self.fd.as_raw_fd(),
                ifindex as RawFd,
                bpf::bpf_attach_type_BPF_XDP,
                &options,
            )
        };
        Ok(Attached { _link: owned(raw)? })
    }

    /// Runs it on `frame` so many times, and does with the frames what it
    /// says (BPF_F_TEST_XDP_LIVE_FRAMES). Memory is only filled in the first
    /// time, and used again as it came back.
    pub fn run(&self, frame: &[u8], times: u32) -> io::Result<()> {
        let mut options = bpf::bpf_test_run_opts {
            sz: size_of::<bpf::bpf_test_run_opts>(),
            data_in: frame.as_ptr().cast(),
            data_out: std::ptr::null_mut(),
            data_size_in: frame.len() as u32,
            data_size_out: 0,
            ctx_in: std::ptr::null(),
            ctx_out: std::ptr::null_mut(),
            ctx_size_in: 0,
            ctx_size_out: 0,
            retval: 0,
            repeat: times as i32,
            duration: 0,
            flags: bpf::BPF_F_TEST_XDP_LIVE_FRAMES,
            cpu: 0,
            batch_size: 64,
        };
        // SAFETY: the options are live and say how long they and the frame
        // are; the kernel only reads the frame.
        ok(unsafe { bpf::bpf_prog_test_run_opts(self.fd.as_raw_fd(), &mut options) })
    }
}

fn no_cookie() -> bpf::bpf_link_create_opts__bindgen_ty_1__bindgen_ty_4 {
    bpf::bpf_link_create_opts__bindgen_ty_1__bindgen_ty_4 { cookie: 0 }
}

fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    // None of the helpers used is for GPL programs only.
    const LICENCE: &CStr = c"Apache-2.0";
    // SAFETY: an instruction is 8 bytes, as `linux/bpf.h` lays them out, and
    // there are as many as the slice has.
    let raw = unsafe {
        bpf::bpf_prog_load(
            bpf::bpf_prog_type_BPF_PROG_TYPE_XDP,
            std::ptr::null(),
            LICENCE.as_ptr(),
            instructions.as_ptr().cast(),
            instructions.len(),
            std::ptr::null_mut(),
        )
    };
    owned(raw)
}

fn owned(raw: RawFd) -> io::Result<OwnedFd> {
    ok(raw)?;
    // SAFETY: libbpf has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// libbpf gives the error as a negative number.
fn ok(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// 16 bits of a frame, as a number.
fn word(frame: &[u8], at: usize) -> u16 {
    frame.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

/// What a checksum is the sum of, without some of it (RFC 1624, 3).
fn sum_without(checksum: u16, parts: &[u16]) -> i32 {
    let sum = parts.iter().fold(u32::from(!checksum), |sum, part| sum + u32::from(!part));
    fold(fold(sum)) as i32
}

fn fold(sum: u32) -> u32 {
    (sum & 0xffff) + (sum >> 16)
}

/// Folds a sum of up to 18 bits and stores its complement. Uses R5.
fn store_checksum(sum: Register, at: usize) -> [u64; 11] {
    [
        move_from(R5, sum),
        shift_right(R5, 16),
        and(sum, 0xffff),
        add_from(sum, R5),
        move_from(R5, sum),
        shift_right(R5, 16),
        and(sum, 0xffff),
        add_from(sum, R5),
        xor(sum, 0xffff),
        to_be16(sum),
        store_u16(R2, sum, at as i16),
    ]
}

// Instructions, as RFC 9669 §3 encodes them, for little-endian hosts.

const HELPER_RANDOM: i32 = 7;
const HELPER_REDIRECT: i32 = 23;
const HELPER_REDIRECT_MAP: i32 = 51;

#[derive(Clone, Copy)]
struct Register(u64);

const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
const R3: Register = Register(3);
const R4: Register = Register(4);
const R5: Register = Register(5);
const R6: Register = Register(6);
const R7: Register = Register(7);
const R8: Register = Register(8);

fn encode(code: u8, to: Register, from: Register, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | to.0 << 8
        | from.0 << 12
        | u64::from(offset as u16) << 16
        | u64::from(value as u32) << 32
}

fn mov(to: Register, value: i32) -> u64 {
    encode(0xb7, to, R0, 0, value)
}

fn move_from(to: Register, from: Register) -> u64 {
    encode(0xbf, to, from, 0, 0)
}

fn add(to: Register, value: i32) -> u64 {
    encode(0x07, to, R0, 0, value)
}

fn add_from(to: Register, from: Register) -> u64 {
    encode(0x0f, to, from, 0, 0)
}

fn or(to: Register, value: i32) -> u64 {
    encode(0x47, to, R0, 0, value)
}

fn and(to: Register, value: i32) -> u64 {
    encode(0x57, to, R0, 0, value)
}

fn modulo(to: Register, by: i32) -> u64 {
    encode(0x97, to, R0, 0, by)
}

fn shift_right(to: Register, bits: i32) -> u64 {
    encode(0x77, to, R0, 0, bits)
}

fn xor(to: Register, value: i32) -> u64 {
    encode(0xa7, to, R0, 0, value)
}

fn to_be16(to: Register) -> u64 {
    encode(0xdc, to, R0, 0, 16)
}

fn load_u32(to: Register, from: Register, offset: i16) -> u64 {
    encode(0x61, to, from, offset, 0)
}

fn load_u16(to: Register, from: Register, offset: i16) -> u64 {
    encode(0x69, to, from, offset, 0)
}

fn store_u16(to: Register, from: Register, offset: i16) -> u64 {
    encode(0x6b, to, from, offset, 0)
}

fn store_value_u16(to: Register, offset: i16, value: i32) -> u64 {
    encode(0x6a, to, R0, offset, value)
}

/// Less or equal, that is (JLE).
fn jump_unless_greater(this: Register, than: Register, over: i16) -> u64 {
    encode(0xbd, this, than, over, 0)
}

fn call(helper: i32) -> u64 {
    encode(0x85, R0, R0, 0, helper)
}

fn exit() -> u64 {
    encode(0x95, R0, R0, 0, 0)
}

/// A map by its descriptor takes two (BPF_PSEUDO_MAP_FD).
fn load_map(to: Register, map: RawFd) -> [u64; 2] {
    [encode(0x18, to, R1, 0, map), 0]
}
