//! What a socket says about itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether frames of a bound socket are not copied; `XDP_OPTIONS`.
pub(crate) fn is_zero_copy(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    read(socket, libc::SOL_XDP, libc::XDP_OPTIONS, &mut options)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// What went wrong with a socket since it was last asked: `ENETDOWN` once its
/// interface has been unregistered (`xsk_notifier` in net/xdp/xsk.c).
pub(crate) fn pending_error(socket: BorrowedFd<'_>) -> Option<io::Error> {
    let mut code: libc::c_int = 0;
    match read(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut code) {
        Ok(()) if code == 0 => None,
        Ok(()) => Some(io::Error::from_raw_os_error(code)),
        Err(error) => Some(error),
    }
}

/// What the kernel has counted since the socket was made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Statistics {
    pub(crate) rx_dropped: u64,
    pub(crate) rx_ring_full: u64,
    pub(crate) fill_ring_empty: u64,
    pub(crate) tx_invalid: u64,
}

/// Reads `XDP_STATISTICS`.
pub(crate) fn statistics(socket: BorrowedFd<'_>) -> io::Result<Statistics> {
    let mut counts = libc::xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
    read(socket, libc::SOL_XDP, libc::XDP_STATISTICS, &mut counts)?;
    Ok(Statistics {
        rx_dropped: counts.rx_dropped,
        rx_ring_full: counts.rx_ring_full,
        fill_ring_empty: counts.rx_fill_ring_empty_descs,
        tx_invalid: counts.tx_invalid_descs,
    })
}

/// Tells the kernel to send what is in the tx ring.
pub(crate) fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: nothing is sent from memory: a null buffer of 0 bytes and no
    // address; it only makes the kernel look at the ring.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until one of them is readable. A signal ends it early.
pub(crate) fn poll(sockets: &mut [libc::pollfd], timeout_ms: i32) -> io::Result<()> {
    let count = sockets.len() as libc::nfds_t;
    // SAFETY: the pointer and the count are those of one live slice.
    let ready = unsafe { libc::poll(sockets.as_mut_ptr(), count, timeout_ms) };
    if ready >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

/// Reads one option. `T` is a plain structure of the kernel's.
fn read<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes to `value`, which is
    // that long and, made of integers, valid whatever they are.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(value).cast(),
            &mut bytes,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
