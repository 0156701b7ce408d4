//! What opens a TLS connection: any bytes are read or refused, however they are
//! cut, and what rustls takes has the name that rustls reads.

use blixt_streams::hello::{Hello, HelloError, HelloReader, MOST_BYTES};
use rustls::server::Acceptor;

/// The first byte says how the rest is cut.
pub fn hello(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let whole = HelloReader::default().take(bytes);
    if let Some(server_name) = by_rustls(bytes) {
        assert_eq!(whole, Ok(Some(Hello { server_name })));
    }
    let mut reader = HelloReader::default();
    let mut last = Ok(None);
    let mut fed = 0;
    for part in bytes.chunks(usize::from(*cut).max(1)) {
        fed += part.len();
        last = reader.take(part);
        if last != Ok(None) {
            break;
        }
    }
    assert_eq!(reader.raw(), &bytes[..fed]);
    assert!(fed <= MOST_BYTES + 255 || last != Ok(None));
    // What is wrong later is not seen by who has a hello before.
    if last != Ok(None) || whole == Ok(None) {
        assert_eq!(last, whole);
    }
    assert!(last != Ok(None) || whole == Ok(None) || whole == Err(HelloError::TooLong));
}

fn by_rustls(mut bytes: &[u8]) -> Option<Option<String>> {
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
