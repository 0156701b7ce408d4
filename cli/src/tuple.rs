//! Who talks to whom, as it is written by people and by the tools they copy
//! it from: tcpdump, ss, conntrack-like lists, and our own `flows`.

use std::net::{IpAddr, SocketAddr};

use blixt_api::explain::Asked;
use blixt_api::v1alpha1::PeerFilter;
use blixt_model::Protocol;

/// Finds protocol, source and destination in a text: the first two addresses
/// with a port count. What says nothing of them is passed over.
pub(crate) fn asked(words: &[String]) -> Result<Asked, String> {
    let text = words.join(" ");
    let mut ends = text.split_whitespace().filter_map(end);
    let (Some(source), Some(destination)) = (ends.next(), ends.next()) else {
        return Err(format!(
            "{text:?} does not name two addresses with ports: write it as tcp 192.0.2.9:4711 \
             203.0.113.10:80"
        ));
    };
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!("{source} and {destination} are not of one IP version"));
    }
    Ok(Asked { protocol: protocol(&text).unwrap_or(Protocol::Tcp), source, destination })
}

/// An address with a port: `192.0.2.1:80`, `[2001:db8::1]:80`, or, as tcpdump
/// writes it, `192.0.2.1.80`, `2001:db8::1.80`.
fn end(word: &str) -> Option<SocketAddr> {
    let word = word.trim_matches(|c| matches!(c, ',' | ';' | '(' | ')' | '"' | '\''));
    let word = word.strip_suffix(':').unwrap_or(word);
    // conntrack writes src=…, tcpdump an interface's zone behind a percent.
    let at: SocketAddr = match word.parse() {
        Ok(at) => at,
        Err(_) => {
            let (address, port) = word.rsplit_once('.')?;
            SocketAddr::new(address.parse().ok()?, port.parse().ok()?)
        }
    };
    Some(SocketAddr::new(at.ip().to_canonical(), at.port()))
}

/// What is named first; tcpdump names TCP only by its flags.
fn protocol(text: &str) -> Option<Protocol> {
    text.split_whitespace().find_map(|word| {
        match word.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase().as_str() {
            "tcp" | "tcp6" | "flags" => Some(Protocol::Tcp),
            "udp" | "udp6" => Some(Protocol::Udp),
            _ => None,
        }
    })
}

/// What flows are asked for by: `ADDRESS`, `ADDRESS/BITS`, either with `:PORT`,
/// or `:PORT`.
pub(crate) fn peer(text: &str) -> Result<PeerFilter, String> {
    let wrong = || {
        format!(
            "{text:?} is none of 192.0.2.9, 192.0.2.0/24, 192.0.2.9:80, 2001:db8::1, \
             [2001:db8::/32]:80, :80"
        )
    };
    let port_of = |text: &str| text.parse::<u16>().map(u32::from).map_err(|_| wrong());
    if is_network(text) {
        return Ok(PeerFilter { network: Some(text.to_owned()), port: None });
    }
    let (network, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = Some(port_of(port)?);
    if network.is_empty() {
        return Ok(PeerFilter { network: None, port });
    }
    let bare = network.strip_prefix('[').and_then(|bare| bare.strip_suffix(']'));
    let network = bare.unwrap_or(network);
    match is_network(network) {
        true => Ok(PeerFilter { network: Some(network.to_owned()), port }),
        false => Err(wrong()),
    }
}

fn is_network(text: &str) -> bool {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, bits.parse::<u8>().ok()),
        None => (text, Some(0)),
    };
    match (address.parse(), bits) {
        (Ok(IpAddr::V4(_)), Some(bits)) => bits <= 32,
        (Ok(IpAddr::V6(_)), Some(bits)) => bits <= 128,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        match asked(&[text.to_owned()]) {
            Ok(Asked { protocol, source, destination }) => {
                format!("{protocol} {source} {destination}")
            }
            Err(why) => why,
        }
    }

    #[test]
    fn it_is_understood_however_it_was_copied() {
        let v4 = "TCP 192.0.2.9:4711 203.0.113.10:80";
        for text in [
            "tcp 192.0.2.9:4711 203.0.113.10:80",
            "192.0.2.9:4711 203.0.113.10:80",
            "192.0.2.9:4711 -> 203.0.113.10:80 tcp",
            // tcpdump -n
            "12:01:02.123456 IP 192.0.2.9.4711 > 203.0.113.10.80: Flags [S], seq 1, win 64240, length 0",
            // ss -tn
            "ESTAB 0      0      192.0.2.9:4711    203.0.113.10:80",
            "tcp   ESTAB 0      0      [::ffff:192.0.2.9]:4711    [::ffff:203.0.113.10]:80",
            // flows
            "tcp  established  192.0.2.9:4711  203.0.113.10:80  192.0.2.250:1024  10.1.0.11:8080  3 s",
        ] {
            assert_eq!(told(text), v4, "{text}");
        }
        let v6 = "UDP [2001:db8::9]:4711 [2001:db8::10]:53";
        for text in [
            "udp [2001:db8::9]:4711 [2001:db8::10]:53",
            "IP6 2001:db8::9.4711 > 2001:db8::10.53: UDP, length 32",
        ] {
            assert_eq!(told(text), v6, "{text}");
        }
        let words = ["udp", "192.0.2.9:1", ">", "192.0.2.10:2"].map(str::to_owned);
        assert_eq!(asked(&words).unwrap().protocol, Protocol::Udp);
    }

    #[test]
    fn what_names_no_two_ends_is_told() {
        for text in ["", "tcp 192.0.2.9:4711", "tcp 192.0.2.9 203.0.113.10", "tcp a:1 b:2"] {
            assert!(told(text).contains("write it as tcp"), "{text}");
        }
        let mixed = told("tcp 192.0.2.9:1 [2001:db8::1]:80");
        assert!(mixed.contains("not of one IP version"), "{mixed}");
    }

    #[test]
    fn peers_are_addresses_networks_and_ports() {
        let told = |text: &str| {
            let PeerFilter { network, port } = peer(text).unwrap();
            (network.unwrap_or_default(), port)
        };
        for (text, network, port) in [
            ("192.0.2.9", "192.0.2.9", None),
            ("192.0.2.0/24", "192.0.2.0/24", None),
            ("192.0.2.9:80", "192.0.2.9", Some(80)),
            ("192.0.2.0/24:80", "192.0.2.0/24", Some(80)),
            (":80", "", Some(80)),
            ("2001:db8::1", "2001:db8::1", None),
            ("2001:db8::/32", "2001:db8::/32", None),
            ("[2001:db8::1]:80", "2001:db8::1", Some(80)),
            ("[2001:db8::/32]:80", "2001:db8::/32", Some(80)),
        ] {
            assert_eq!(told(text), (network.to_owned(), port), "{text}");
        }
        for wrong in ["", "web", "80", ":web", "192.0.2.0/33", "192.0.2.9:65536", "[::1/129]:80"] {
            assert!(peer(wrong).unwrap_err().contains("is none of"), "{wrong}");
        }
    }
}
