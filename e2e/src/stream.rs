//! Bytes that tell when one of them is lost, doubled or changed, however many
//! they are: every block is the same noise, but for its number at its start.

use std::io::{self, Read, Write};

/// Bytes of a block. Not a power of two, so that blocks and segments never
/// keep step.
pub const BLOCK: usize = 100_003;

/// Noise: a xorshift generator (Marsaglia, 2003), so that no two places of a
/// block look alike.
pub(crate) fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(BLOCK + 8);
    while bytes.len() < BLOCK {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(BLOCK);
    bytes
}

/// Sends `bytes` of the stream, after `pause` before each block.
pub fn send(to: &mut impl Write, bytes: u64, mut pause: impl FnMut()) -> io::Result<()> {
    let mut block = noise();
    let mut left = bytes;
    for number in 0_u64.. {
        if left == 0 {
            break;
        }
        pause();
        block[..8].copy_from_slice(&number.to_le_bytes());
        let length = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
        to.write_all(&block[..length])?;
        left -= length as u64;
    }
    to.flush()
}

/// Receives the stream until it ends; says how many bytes there were, or where
/// the first wrong one was.
pub fn receive(from: &mut impl Read) -> io::Result<u64> {
    let mut expected = noise();
    let mut got = vec![0; BLOCK];
    let mut bytes = 0;
    for number in 0_u64.. {
        expected[..8].copy_from_slice(&number.to_le_bytes());
        let length = read_full(from, &mut got)?;
        if got[..length] != expected[..length] {
            let at = got.iter().zip(&expected).position(|(got, expected)| got != expected);
            let at = bytes + at.unwrap_or(0) as u64;
            return Err(io::Error::other(format!("byte {at} is wrong")));
        }
        bytes += length as u64;
        if length < BLOCK {
            break;
        }
    }
    Ok(bytes)
}

fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: u64) -> Vec<u8> {
        let mut sent = Vec::new();
        send(&mut sent, bytes, || ()).unwrap();
        sent
    }

    #[test]
    fn what_is_sent_is_received() {
        for bytes in [0, 1, BLOCK as u64 - 1, BLOCK as u64, 3 * BLOCK as u64 + 5] {
            assert_eq!(receive(&mut &stream(bytes)[..]).unwrap(), bytes);
        }
    }

    #[test]
    fn lost_doubled_and_changed_bytes_are_found() {
        let good = stream(3 * BLOCK as u64);
        let mut lost = good.clone();
        lost.drain(200_000..201_448);
        let mut doubled = good.clone();
        doubled.splice(100..100, good[100..200].iter().copied());
        let mut changed = good.clone();
        changed[250_000] ^= 1;
        // Whole blocks look alike but for their numbers.
        let block_lost = [&good[..BLOCK], &good[2 * BLOCK..]].concat();
        for bad in [lost, doubled, changed, block_lost] {
            receive(&mut &bad[..]).unwrap_err();
        }
    }
}
