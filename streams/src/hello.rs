//! Reads what opens a TLS connection, the ClientHello, as far as the name of
//! the server it asks for (SNI).
//!
//! It takes nothing away: what was read stays in [`HelloReader::raw`], to be
//! sent on or given to rustls. It does not judge what it need not know, so that
//! a client and a server that understand each other are never kept apart by us;
//! and what a client can make it keep is bounded by [`MOST_BYTES`].

use std::net::IpAddr;

/// The most bytes that a ClientHello may have, with the headers of its records:
/// what one record may carry (RFC 8446 §5.1), and a quarter more for headers of
/// records that carry little. Hellos with post-quantum key shares have some 2,000.
pub const MOST_BYTES: usize = 16_384 + 4_096;

/// RFC 8446 §5.1: the type of records that carry the handshake, and the most
/// that one carries.
const HANDSHAKE: u8 = 22;
const RECORD_HEADER: usize = 5;
const RECORD_MOST: usize = 16_384;

/// RFC 8446 §4: the message, and the bytes before it.
const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEADER: usize = 4;

/// RFC 6066 §3: the extension, and the only type of name there is.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// RFC 1035 §2.3.4, without the dot at the end that a name may not have here.
const NAME_MOST: usize = 253;
const LABEL_MOST: usize = 63;

/// What was read is no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Another protocol, as plain HTTP.
    #[error("is no TLS")]
    NoTls,
    /// TLS, but cut or put together wrongly.
    #[error("is malformed")]
    Malformed,
    /// More than [`MOST_BYTES`].
    #[error("has more than {MOST_BYTES} bytes")]
    TooLong,
}

/// A whole ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server that it asks for, in small letters; `None` if it does not say.
    pub server_name: Option<String>,
}

/// Takes bytes until they are a ClientHello.
#[derive(Debug, Default)]
pub struct HelloReader {
    raw: Vec<u8>,
    /// Where the next record begins in `raw`.
    next: usize,
    /// What whole records carried.
    handshake: Vec<u8>,
}

impl HelloReader {
    /// Takes in what came next. `None`: more is needed.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
        self.raw.extend_from_slice(bytes);
        let read = self.read();
        match read {
            Ok(None) if self.raw.len() > MOST_BYTES => Err(HelloError::TooLong),
            read => read,
        }
    }

    /// All that was taken, ClientHello or not.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The same, and nothing else.
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    fn read(&mut self) -> Result<Option<Hello>, HelloError> {
        while let Some(payload) = record(self.raw.get(self.next..).unwrap_or_default())? {
            self.handshake.extend_from_slice(payload);
            self.next += RECORD_HEADER + payload.len();
            if let Some(message) = message(&self.handshake)? {
                let server_name = server_name(message).ok_or(HelloError::Malformed)?;
                return Ok(Some(Hello { server_name }));
            }
        }
        Ok(None)
    }
}

/// What the first record carries; `None` if it is not whole. What it is shows
/// in its first bytes, and is not waited for.
fn record(bytes: &[u8]) -> Result<Option<&[u8]>, HelloError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    // The minor version is whatever the client likes (RFC 8446 §5.1).
    if kind != HANDSHAKE || bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(HelloError::NoTls);
    }
    let Some(&[high, low]) = bytes.get(3..RECORD_HEADER) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // A record of the handshake is never empty (RFC 8446 §5.1).
    if length == 0 || length > RECORD_MOST {
        return Err(HelloError::Malformed);
    }
    Ok(bytes.get(RECORD_HEADER..RECORD_HEADER + length))
}

/// The body of the message, if it is whole.
fn message(handshake: &[u8]) -> Result<Option<&[u8]>, HelloError> {
    if handshake.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(HelloError::Malformed);
    }
    let Some(&[_, a, b, c]) = handshake.get(..MESSAGE_HEADER) else { return Ok(None) };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > MOST_BYTES {
        return Err(HelloError::TooLong);
    }
    Ok(handshake.get(MESSAGE_HEADER..MESSAGE_HEADER + length))
}

/// The name of the server in a ClientHello (RFC 8446 §4.1.2). The outer `None`:
/// it is malformed.
fn server_name(body: &[u8]) -> Option<Option<String>> {
    let mut rest = Reader(body);
    // Version and random bytes.
    rest.take(2 + 32)?;
    let session = rest.u8()?;
    rest.take(session.into())?;
    let suites = rest.u16()?;
    rest.take(suites.into())?;
    let compressions = rest.u8()?;
    rest.take(compressions.into())?;
    // Before TLS 1.3 there may be no extensions at all.
    if rest.0.is_empty() {
        return Some(None);
    }
    let length = rest.u16()?;
    let mut extensions = Reader(rest.take(length.into())?);
    if !rest.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let length = extensions.u16()?;
        let data = extensions.take(length.into())?;
        if kind == SERVER_NAME {
            // There may be just one of each kind (RFC 8446 §4.2).
            if found.is_some() {
                return None;
            }
            found = Some(host_name(data)?);
        }
    }
    Some(found.flatten())
}

/// The name in the extension. An address is no name (RFC 6066 §3), and clients
/// that send one are served as if they had sent none; a dot at the end, which may
/// not be there either, is taken for what it means.
fn host_name(extension: &[u8]) -> Option<Option<String>> {
    let mut rest = Reader(extension);
    let length = rest.u16()?;
    let mut names = Reader(rest.take(length.into())?);
    if !rest.0.is_empty() || names.0.is_empty() {
        return None;
    }
    let mut found = None;
    // How long a name of another type is nobody knows, so none is read behind it.
    while !names.0.is_empty() && names.u8()? == HOST_NAME {
        let length = names.u16()?;
        let name = names.take(length.into())?;
        if found.replace(name).is_some() {
            return None;
        }
    }
    let Some(name) = found else { return Some(None) };
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.parse::<IpAddr>().is_ok() {
        return Some(None);
    }
    is_name(name).then(|| Some(name.to_ascii_lowercase()))
}

/// Letters, digits, hyphens, and the underscores that some use.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= LABEL_MOST && label.bytes().all(is_part)
    };
    name.len() <= NAME_MOST && name.split('.').all(is_label)
}

/// What is left of some bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let &[byte] = self.take(1)? else { return None };
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let &[high, low] = self.take(2)? else { return None };
        Some(u16::from_be_bytes([high, low]))
    }
}
