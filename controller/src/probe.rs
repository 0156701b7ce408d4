//! Asks a controller in the same pod how it is.
//!
//! It serves HTTP on localhost, which a kubelet does not reach, and its image
//! has no shell and no curl: so its own program is the probe.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::flags::Probe;

/// Less than the kubelet waits (manifests/default).
const PATIENCE: Duration = Duration::from_secs(4);

/// An answer is a line, or a sentence.
const LONGEST: u64 = 4_096;

/// Asks, and gives what it said if it is not well.
pub fn ask(http: SocketAddr, what: Probe) -> Result<(), String> {
    let path = match what {
        Probe::Healthz => "healthz",
        Probe::Readyz => "readyz",
    };
    let answer = get(http, path).map_err(|error| format!("http://{http}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(()),
        _ => Err(body.trim().to_owned()),
    }
}

fn get(from: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Of 1.0, so that it closes the connection after it.
    stream.write_all(format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Serves one answer, and gives what was asked.
    fn asked(answer: &'static str) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let http = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 128];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (ask(http, Probe::Readyz), server.join().unwrap())
    }

    #[test]
    fn a_controller_that_is_well_is_well() {
        let (outcome, request) = asked("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
        assert_eq!(outcome, Ok(()));
        assert!(request.starts_with("GET /readyz HTTP/1.0\r\n"), "{request}");
    }

    #[test]
    fn what_it_waits_for_is_said() {
        let (outcome, _) =
            asked("HTTP/1.0 503 Service Unavailable\r\n\r\nwaiting for the API server\n");
        assert_eq!(outcome, Err("waiting for the API server".to_owned()));
    }

    #[test]
    fn nobody_there_is_not_well() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(nobody, Probe::Healthz).unwrap_err().contains("refused"));
    }
}
