//! What may be called how: the checks of Kubernetes' `util/validation`.

/// RFC 1123 label: up to 63 of a-z, 0-9 and '-', alphanumeric at both ends.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= 63
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

/// RFC 1123 subdomain: up to 253 characters, labels with dots between. A
/// single label may be longer than 63 here, as in Kubernetes.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(alphanumeric)
                && bytes.last().is_some_and(alphanumeric)
                && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
        })
}

/// `IsFullyQualifiedDomainName`: two labels or more, perhaps a dot at the end.
pub(crate) fn is_fqdn(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    is_dns_subdomain(name) && name.contains('.') && name.split('.').all(is_dns_label)
}

/// `IsQualifiedName`: the key of a label or annotation, with or without a
/// domain before it.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_dns_subdomain(domain) && is_label_text(name),
        None => is_label_text(text),
    }
}

/// `IsValidLabelValue`: empty, or like the name in a key.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_text(text)
}

/// `IsValidPortName`: an IANA service name (RFC 6335 §5.1).
pub(crate) fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_dns_label(text)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(is: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(is(text), "{text:?} is good");
        }
        for text in bad {
            assert!(!is(text), "{text:?} is bad");
        }
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        let (l63, l64) = ("x".repeat(63), "x".repeat(64));
        let (l253, l254) = ("x".repeat(253), "x".repeat(254));
        check(is_dns_label, &["a", "9-b", &l63], &["", "-a", "a-", "A", "a.b", "a_b", &l64]);
        check(is_dns_subdomain, &["a", "a.b-c", &l64, &l253], &["", "a..b", ".a", "A", &l254]);
        check(is_fqdn, &["a.b", "a.b.", "x.example.com"], &["a", "a.", "", "a..b", "A.b"]);
        check(
            is_qualified_name,
            &["a", "A_b.c", "example.com/a", &l63],
            &["", "/a", "a/", "a/b/c", "Example.com/a", "-a", "a~", &l64],
        );
        check(is_label_value, &["", "a", "A_b.c-d", &l63], &["-a", "a-", "a b", "a/b", &l64]);
        check(
            is_port_name,
            &["http", "p-1", "8a"],
            &["", "80", "a--b", "-a", "a-", "Http", "sixteen-letters-", "sixteenletterss1"],
        );
    }
}
