//! Reads and writes big-endian fields of a frame.
//!
//! Parsing proves where the fields are, but the compiler cannot see that, so
//! each access here is checked: outside the frame a read gives 0 and a write
//! does nothing. No byte sequence makes any of them panic.

/// The byte at `at`.
#[inline(always)]
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The 16-bit field at `at`, in host order.
#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(bytes, at))
}

/// The 32-bit field at `at`, in host order.
#[inline(always)]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(bytes, at))
}

/// The 128-bit field at `at`, in host order.
#[inline(always)]
pub(crate) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_be_bytes(array_at(bytes, at))
}

/// The `N` bytes at `at`, if they are there: who reads several fields takes
/// them so, and is not checked again for each.
#[inline(always)]
pub(crate) fn head<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..).and_then(<[u8]>::first_chunk)
}

/// The `N` bytes at `at`, to write.
#[inline(always)]
pub(crate) fn head_mut<const N: usize>(bytes: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut)
}

/// `N` bytes at `at`.
#[inline(always)]
pub(crate) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// `bytes[from..to]`, as much of it as exists.
#[inline(always)]
pub(crate) fn slice(bytes: &[u8], from: usize, to: usize) -> &[u8] {
    bytes.get(from..to.min(bytes.len())).unwrap_or(&[])
}

/// Writes one byte.
#[inline(always)]
pub(crate) fn put_u8(bytes: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = value;
    }
}

/// Writes a 16-bit field.
#[inline(always)]
pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    put(bytes, at, &value.to_be_bytes());
}

/// Writes a 32-bit field.
#[inline(always)]
pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_be_bytes());
}

/// Writes a 128-bit field.
#[inline(always)]
pub(crate) fn put_u128(bytes: &mut [u8], at: usize, value: u128) {
    put(bytes, at, &value.to_be_bytes());
}

/// Writes `N` bytes at `at`.
#[inline(always)]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: &[u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = *value;
    }
}

/// Moves `count` bytes within the frame; nothing if either end is outside.
#[inline]
pub(crate) fn shift(bytes: &mut [u8], from: usize, to: usize, count: usize) {
    let fits = |start: usize| start.checked_add(count).is_some_and(|end| end <= bytes.len());
    if fits(from) && fits(to) {
        bytes.copy_within(from..from + count, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian() {
        let mut bytes = [0_u8; 20];
        put_u16(&mut bytes, 1, 0x0102);
        put_u32(&mut bytes, 3, 0x0304_0506);
        assert_eq!(bytes[..8], [0, 1, 2, 3, 4, 5, 6, 0]);
        assert_eq!(u16_at(&bytes, 1), 0x0102);
        assert_eq!(u32_at(&bytes, 3), 0x0304_0506);
        put_u128(&mut bytes, 4, 7);
        assert_eq!(u128_at(&bytes, 4), 7);
        assert_eq!(u8_at(&bytes, 19), 7);
    }

    #[test]
    fn outside_reads_are_zero_and_writes_do_nothing() {
        let mut bytes = [0xff_u8; 4];
        assert_eq!(u8_at(&bytes, 4), 0);
        assert_eq!(u16_at(&bytes, 3), 0);
        assert_eq!(u32_at(&bytes, usize::MAX), 0);
        assert_eq!(slice(&bytes, 5, 9), &[] as &[u8]);
        assert_eq!(slice(&bytes, 3, 9), &[0xff]);
        put_u16(&mut bytes, 3, 0);
        put_u8(&mut bytes, 9, 0);
        shift(&mut bytes, 0, 2, 3);
        shift(&mut bytes, usize::MAX, 0, 3);
        assert_eq!(bytes, [0xff; 4]);
    }
}
