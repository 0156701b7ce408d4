//! What the patterns of the schemas mean, in words.

/// The words for a pattern, as the end of "must be …".
pub(super) fn of(pattern: &str) -> Option<&'static str> {
    let words = match pattern {
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" => {
            "lower-case letters, digits and '-', with a letter or digit at both ends"
        }
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" => {
            "lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part"
        }
        r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" => {
            "a group such as gateway.networking.k8s.io, or empty for the core group"
        }
        r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$" => "a kind such as Service",
        r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" => {
            "a host name such as www.example.com or *.example.com"
        }
        r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$" => {
            "a domain and a path, such as example.com/name"
        }
        r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$" => {
            "a protocol such as TCP, or a domain and a name such as example.com/name"
        }
        r"^Hostname|IPAddress|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$" => {
            "IPAddress, Hostname, or a domain and a name such as example.com/name"
        }
        r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" => {
            "letters, digits, '-', '_' and '.', with a letter or digit at both ends"
        }
        "^ *[0-9A-Fa-f.:]+ *(/[0-9]{1,3}|- *[0-9A-Fa-f.:]+ *)?$" => {
            "an address, a network or a range, such as 192.0.2.1, 192.0.2.0/28 or 192.0.2.1-192.0.2.9"
        }
        r"^([0-9]{1,5}(h|m|s|ms)){1,4}$" => "a time with units, such as 90s, 5m or 2h4m",
        "^[A-Za-z0-9_-][A-Za-z0-9_.@-]*$" => {
            "the name of an interface: letters, digits, '-', '_', '.' and '@', with no '.' or '@' first"
        }
        r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$" => "a header's name such as X-Name",
        r"(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)" => {
            "an origin such as https://www.example.com, or *"
        }
        _ => return None,
    };
    Some(words)
}
