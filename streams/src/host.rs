//! Reads what opens an HTTP/1 connection, the first request's head, as far as the
//! host that it asks for.
//!
//! As with [`crate::hello`] nothing is taken away and little is judged: what is
//! no HTTP/1 has no name, and whoever serves those without one may have it.

use std::net::Ipv4Addr;

/// The most bytes that are waited for before a client counts as one that names
/// no host: what servers commonly take of a line (nginx'
/// large_client_header_buffers).
const MOST_BYTES: usize = 8_192;

/// Methods have 17 letters at most (UPDATEREDIRECTREF, RFC 4437). What has no
/// method in its first bytes is another protocol.
const METHOD_MOST: usize = 32;

/// Takes bytes until they say which host is asked for, or that none is.
#[derive(Debug, Default)]
pub(crate) struct HostReader {
    raw: Vec<u8>,
}

/// What is known of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// This, in small letters, without its port.
    Named(String),
    /// None is named.
    Unnamed,
}

impl HostReader {
    /// Takes in what came next. `None`: more is needed.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Option<Host> {
        self.raw.extend_from_slice(bytes);
        match host(&self.raw) {
            None if self.raw.len() > MOST_BYTES => Some(Host::Unnamed),
            found => found,
        }
    }

    /// All that was taken.
    pub(crate) fn into_raw(self) -> Vec<u8> {
        self.raw
    }
}

fn host(raw: &[u8]) -> Option<Host> {
    // A client may begin with empty lines (RFC 9112 §2.2).
    let blank = raw.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let raw = raw.get(blank..).unwrap_or_default();
    let method = raw.iter().take_while(|byte| is_token(**byte)).count();
    match raw.get(method) {
        Some(b' ') if method > 0 => {}
        None if method <= METHOD_MOST => return None,
        _ => return Some(Host::Unnamed),
    }
    let mut lines = raw.split_inclusive(|byte| *byte == b'\n');
    let Some(target) = target(whole(lines.next()?)?) else { return Some(Host::Unnamed) };
    // A whole URL as the target names the host (RFC 9112 §3.2.2).
    if let Some(authority) = authority(target) {
        return Some(name(authority));
    }
    for line in lines {
        let line = whole(line)?;
        if line.is_empty() {
            return Some(Host::Unnamed);
        }
        let Some((field, value)) = split(line, b':') else { continue };
        if field.eq_ignore_ascii_case(b"host") {
            return Some(name(value.trim_ascii()));
        }
    }
    None
}

/// A line without its end; `None` if that has not come.
fn whole(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// The target of `METHOD TARGET HTTP/1.x`.
fn target(line: &[u8]) -> Option<&[u8]> {
    let (_, rest) = split(line, b' ')?;
    let (target, version) = split(rest, b' ')?;
    version.starts_with(b"HTTP/1.").then_some(target)
}

/// The authority of a URL.
fn authority(target: &[u8]) -> Option<&[u8]> {
    if target.starts_with(b"/") {
        return None;
    }
    let scheme = target.windows(3).position(|three| three == b"://")?;
    let rest = target.get(scheme + 3..)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    let authority = rest.get(..end.unwrap_or(rest.len()))?;
    Some(split(authority, b'@').map_or(authority, |(_, host)| host))
}

/// The name without a port. An address, in brackets or not, is none.
fn name(host: &[u8]) -> Host {
    let bare = split(host, b':').map_or(host, |(name, _port)| name);
    let bare = bare.strip_suffix(b".").unwrap_or(bare);
    match std::str::from_utf8(bare) {
        Ok(name)
            if !name.is_empty() && !name.starts_with('[') && name.parse::<Ipv4Addr>().is_err() =>
        {
            Host::Named(name.to_ascii_lowercase())
        }
        _ => Host::Unnamed,
    }
}

fn split(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((bytes.get(..place)?, bytes.get(place + 1..)?))
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Host> {
        HostReader::default().take(text.as_bytes())
    }

    fn named(name: &str) -> Option<Host> {
        Some(Host::Named(name.to_owned()))
    }

    #[test]
    fn the_host_is_that_of_the_first_request() {
        assert_eq!(read("GET / HTTP/1.1\r\nHost: A.example\r\n"), named("a.example"));
        assert_eq!(read("GET / HTTP/1.0\nx: y\nhOST:a.example.:81\n"), named("a.example"));
        assert_eq!(read("\r\nGET / HTTP/1.1\r\nHost: b\r\n"), named("b"));
        let whole = "GET http://u@c.example:80/p?q HTTP/1.1\r\nHost: other\r\n";
        assert_eq!(read(whole), named("c.example"));
        let path = "GET /?to=http://other/ HTTP/1.1\r\nHost: mine\r\n\r\n";
        assert_eq!(read(path), named("mine"));
        let two = "GET / HTTP/1.1\r\nHost: first\r\n\r\nGET / HTTP/1.1\r\nHost: second\r\n";
        assert_eq!(read(two), named("first"));
    }

    #[test]
    fn who_names_none_is_known_as_soon_as_can_be() {
        for text in [
            "GET / HTTP/1.1\r\n\r\nHost: late\r\n",
            "GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n",
            "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n",
            "PRI * HTTP/2.0\r\n",
            "GET /\r\n",
            "\x16\x03\x01",
            "hello\n",
            "\0",
        ] {
            assert_eq!(read(text), Some(Host::Unnamed), "{text:?}");
        }
        for text in ["", "GE", "GET ", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a.exam"] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert_eq!(read(&"x".repeat(METHOD_MOST + 1)), Some(Host::Unnamed));
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(MOST_BYTES));
        assert_eq!(read(&long), Some(Host::Unnamed));
    }

    proptest! {
        #[test]
        fn however_it_comes_it_is_the_same(cut in 0_usize..=58) {
            let text = b"GET /index.html HTTP/1.1\r\nAccept: */*\r\nHost: a.example\r\n\r\n";
            let mut reader = HostReader::default();
            let (first, rest) = text.split_at(cut);
            let found = reader.take(first).or_else(|| reader.take(rest));
            prop_assert_eq!(found, named("a.example"));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = HostReader::default();
            let _ = reader.take(&bytes);
            prop_assert_eq!(reader.into_raw(), bytes);
        }
    }
}
