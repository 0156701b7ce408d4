//! Streams for as long as a test likes, with a digest of them at their end:
//! both ends hash what they see, and one tells the other.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clients::connect;
use crate::stream;

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pause before each block of 100 kB: 10 MB/s at most, which leaves a machine
/// of two cores time for other things.
const PAUSE: Duration = Duration::from_millis(10);

/// The digits of a digest.
const DIGITS: usize = 64;

/// Serves one connection: who sends "put\n" and a stream until its end gets its
/// digest; who sends "get\n" gets a stream, until he says that he will send no
/// more, and then its digest.
pub(crate) fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut line = [0; 4];
    stream.read_exact(&mut line)?;
    if line == *b"put\n" {
        let (_, digest) = receive(&mut stream, |_| Ok(()))?;
        return stream.write_all(digest.as_bytes());
    }
    let enough = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&enough);
    let mut from = stream.try_clone()?;
    thread::spawn(move || {
        let _ = from.read(&mut [0]);
        heard.store(true, Ordering::Relaxed);
    });
    let (_, digest) = send(&mut stream, &enough)?;
    stream.write_all(digest.as_bytes())
}

/// Sends a stream to `to` until it is `enough`. How many bytes both ends agree
/// on; an error if they do not agree.
pub fn put(to: SocketAddr, enough: &AtomicBool) -> io::Result<u64> {
    put_over(connect(to)?, enough)
}

/// The same over a connection that is there.
pub fn put_over(mut stream: TcpStream, enough: &AtomicBool) -> io::Result<u64> {
    patient(&stream)?;
    stream.write_all(b"put\n")?;
    let (bytes, sent) = send(&mut stream, enough)?;
    stream.shutdown(Shutdown::Write)?;
    let mut received = String::new();
    stream.read_to_string(&mut received)?;
    agree(bytes, &sent, &received)
}

/// The same with a stream from `to`.
pub fn get(to: SocketAddr, enough: &AtomicBool) -> io::Result<u64> {
    get_over(connect(to)?, enough)
}

/// The same over a connection that is there.
pub fn get_over(mut stream: TcpStream, enough: &AtomicBool) -> io::Result<u64> {
    patient(&stream)?;
    stream.write_all(b"get\n")?;
    let asked = stream.try_clone()?;
    let mut told = false;
    let mut tail = Vec::new();
    let mut hasher = Sha256::new();
    let (bytes, _) = receive(&mut stream, |part| {
        if enough.load(Ordering::Relaxed) && !told {
            told = true;
            asked.shutdown(Shutdown::Write)?;
        }
        // The last digits are not of the stream but of its digest.
        tail.extend_from_slice(part);
        let body = tail.len().saturating_sub(DIGITS);
        hasher.update(&tail[..body]);
        tail.drain(..body);
        Ok(())
    })?;
    let received = hex(&hasher.finalize());
    agree(bytes - tail.len() as u64, &String::from_utf8_lossy(&tail), &received)
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn agree(bytes: u64, sent: &str, received: &str) -> io::Result<u64> {
    if sent == received {
        Ok(bytes)
    } else {
        Err(io::Error::other(format!("{bytes} bytes sent as {sent} came as {received}")))
    }
}

fn send(to: &mut impl Write, enough: &AtomicBool) -> io::Result<(u64, String)> {
    let mut block = stream::noise();
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    for number in 0_u64.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PAUSE);
        block[..8].copy_from_slice(&number.to_le_bytes());
        hasher.update(&block);
        to.write_all(&block)?;
        bytes += block.len() as u64;
    }
    Ok((bytes, hex(&hasher.finalize())))
}

/// Receives until the end, and shows `look` each part.
fn receive(
    from: &mut impl Read,
    mut look: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(u64, String)> {
    let mut part = vec![0; 1 << 16];
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    loop {
        let length = from.read(&mut part)?;
        if length == 0 {
            return Ok((bytes, hex(&hasher.finalize())));
        }
        hasher.update(&part[..length]);
        look(&part[..length])?;
        bytes += length as u64;
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn both_ends_agree_in_both_directions() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            (0..2).try_for_each(|_| listener.accept().and_then(|(stream, _)| serve(stream)))
        });
        for transfer in [put, get] {
            let enough = AtomicBool::new(false);
            let bytes = thread::scope(|scope| {
                let transfer = scope.spawn(|| transfer(to, &enough));
                thread::sleep(10 * PAUSE);
                enough.store(true, Ordering::Relaxed);
                transfer.join().unwrap()
            });
            assert!(bytes.unwrap() > 0);
        }
        server.join().unwrap().unwrap();
    }

    #[test]
    fn what_differs_is_told() {
        agree(3, "ab", "ab").unwrap();
        agree(3, "ab", "ac").unwrap_err();
    }
}
