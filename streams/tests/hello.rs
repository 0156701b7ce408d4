//! Reading ClientHellos: rustls agrees, however they are cut.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, with what went wrong"
)]

use std::sync::Arc;

use blixt_streams::hello::{Hello, HelloError, HelloReader, MOST_BYTES};
use proptest::prelude::*;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// What rustls' client says first.
fn hello_for(name: &str, alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// What rustls' server makes of it: `None` if it wants more, or refuses it.
fn oracle(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    loop {
        if bytes.is_empty() || acceptor.read_tls(&mut bytes).is_err() {
            return None;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(str::to_ascii_lowercase);
                return Some(name.map(|name| name.trim_end_matches('.').to_owned()));
            }
            Err(_) => return None,
        }
    }
}

fn read(bytes: &[u8]) -> Result<Option<Hello>, HelloError> {
    HelloReader::default().take(bytes)
}

/// The same message in records that carry at most so much.
fn in_records(bytes: &[u8], most: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for part in bytes[5..].chunks(most) {
        records.extend_from_slice(&bytes[..3]);
        records.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        records.extend_from_slice(part);
    }
    records
}

/// A ClientHello with an extension that lists these names, and the other one that
/// rustls asks for.
fn with_names(names: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let signatures = [0, 13, 0, 4, 0, 2, 8, 4];
    let extensions = [&signatures[..], &[0, 0], &sized(&sized(names))].concat();
    let start = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let message = [&[1, 0][..], &sized(&[start, sized(&extensions)].concat())].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

fn named(name: &str) -> Result<Option<Hello>, HelloError> {
    Ok(Some(Hello { server_name: Some(name.to_owned()) }))
}

#[test]
fn the_name_is_read_in_small_letters_and_nothing_is_taken_away() {
    let bytes = hello_for("WWW.Example.com", &["h2", "http/1.1"]);
    let mut reader = HelloReader::default();
    assert_eq!(reader.take(&bytes), named("www.example.com"));
    assert_eq!(reader.raw(), bytes);
    assert_eq!(read(&hello_for("192.0.2.1", &[])), Ok(Some(Hello { server_name: None })));
}

/// As rustls reads them.
#[test]
fn a_dot_at_the_end_and_names_of_other_types_keep_nobody_out() {
    for (names, expected) in [
        (&b"\0\0\x04a.b."[..], named("a.b")),
        (b"\0\0\x03a.b\x01\xff", named("a.b")),
        (b"\0\0\x03a.b\0\0\x01c", Err(HelloError::Malformed)),
        (b"\0\0\x05a.b..", Err(HelloError::Malformed)),
        (b"\0\0\x01.", Err(HelloError::Malformed)),
    ] {
        let bytes = with_names(names);
        assert_eq!(read(&bytes), expected, "{names:?}");
        let by_rustls = oracle(&bytes).map(|server_name| Some(Hello { server_name }));
        assert_eq!(by_rustls, expected.ok(), "{names:?}");
    }
}

#[test]
fn other_protocols_are_known_by_their_first_bytes() {
    for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02\x00", b"\x80\x2e\x01", b"\x15\x03\x01"] {
        assert_eq!(read(other), Err(HelloError::NoTls), "{other:?}");
    }
    // An empty record, one that is too long, another message.
    for bad in
        [&b"\x16\x03\x01\x00\x00"[..], b"\x16\x03\x01\x40\x01", b"\x16\x03\x01\x00\x04\x02\0\0\0"]
    {
        assert_eq!(read(bad), Err(HelloError::Malformed), "{bad:?}");
    }
}

#[test]
fn what_is_kept_is_bounded() {
    // A message that is longer than we take, said at once or bit by bit.
    assert_eq!(read(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff"), Err(HelloError::TooLong));
    let length = u32::try_from(MOST_BYTES).unwrap().to_be_bytes();
    let mut message = vec![1, length[1], length[2], length[3]];
    message.resize(MOST_BYTES, 0);
    let record = [&b"\x16\x03\x01\0\0"[..], &message].concat();
    let mut reader = HelloReader::default();
    let mut fed = 0;
    let refused = in_records(&record, 1).chunks(100).find_map(|bytes| {
        fed += bytes.len();
        reader.take(bytes).err()
    });
    assert_eq!(refused, Some(HelloError::TooLong));
    assert!(fed <= MOST_BYTES + 100, "{fed}");
}

proptest! {
    #[test]
    fn however_it_comes_it_is_the_same(
        name in "[a-z][a-z0-9-]{0,20}[a-z0-9](\\.[a-z]{2,10}){0,4}",
        cuts in prop::collection::vec(1_usize..400, 0..12),
        record in 1_usize..2_000,
    ) {
        let bytes = in_records(&hello_for(&name, &["h2"]), record);
        let mut reader = HelloReader::default();
        let mut left = &bytes[..];
        for cut in cuts {
            let (now, later) = left.split_at(cut.min(left.len()));
            left = later;
            let read = reader.take(now);
            if !left.is_empty() {
                prop_assert_eq!(&read, &Ok(None));
            } else if !now.is_empty() {
                prop_assert_eq!(&read, &named(&name));
            }
        }
        if !left.is_empty() {
            prop_assert_eq!(&reader.take(left), &named(&name));
        }
        prop_assert_eq!(reader.raw(), &bytes[..]);
    }

    /// Whatever rustls takes is taken, with the same name.
    #[test]
    fn what_rustls_takes_is_taken(
        name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}",
        changes in prop::collection::vec((0.0_f64..1.0, any::<u8>()), 0..4),
    ) {
        let mut bytes = hello_for(&name, &[]);
        for (place, byte) in changes {
            let at = (place * bytes.len() as f64) as usize;
            bytes[at] = byte;
        }
        if let Some(server_name) = oracle(&bytes) {
            prop_assert_eq!(read(&bytes), Ok(Some(Hello { server_name })));
        }
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes);
        let _ = read(&[&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &bytes].concat());
    }
}
