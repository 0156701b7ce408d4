//! Hostnames of listeners and routes, and which names they are for.

use std::fmt;
use std::str::FromStr;

/// A DNS name, or a wildcard for all names below one (`*.example.com`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname {
    wildcard: bool,
    /// Without the leading `*.`.
    name: String,
}

/// Why a text is not a hostname.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a hostname: use at most 253 lower-case letters, digits, '-' and '.', as in \"www.example.com\" or \"*.example.com\""
)]
pub struct HostnameError(String);

impl Hostname {
    /// Whether it is for a name that a client asks for. Case is ignored, as
    /// is a dot at the end.
    pub fn matches(&self, asked: &str) -> bool {
        let asked = asked.strip_suffix('.').unwrap_or(asked).to_ascii_lowercase();
        if self.wildcard { below(&asked, &self.name) } else { asked == self.name }
    }

    /// What both are for; `None` if no name is.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (narrow, wide) =
            if self.specificity() < other.specificity() { (other, self) } else { (self, other) };
        let both = narrow == wide || (wide.wildcard && below(&narrow.name, &wide.name));
        both.then(|| narrow.clone())
    }

    /// The more specific of two that match a name is greater: an exact name
    /// before wildcards, and of these the longest.
    pub fn specificity(&self) -> impl Ord + use<> {
        (!self.wildcard, self.name.len())
    }
}

/// Whether a name is one label or more below another.
fn below(name: &str, parent: &str) -> bool {
    let label = name.strip_suffix(parent).and_then(|rest| rest.strip_suffix('.'));
    label.is_some_and(|label| !label.is_empty())
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if text.len() <= 253 && crate::names::is_subdomain(name) {
            Ok(Self { wildcard, name: name.to_owned() })
        } else {
            Err(HostnameError(text.to_owned()))
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.wildcard { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hostname(text: &str) -> Hostname {
        text.parse().unwrap()
    }

    #[test]
    fn texts_come_back() {
        for good in ["a", "www.example.com", "*.example.com", "*.a"] {
            assert_eq!(hostname(good).to_string(), good);
        }
        for bad in ["", "*", "*.", "*.*.a", "a.*.b", "A.b", "a..b", "a.", "1.2.3.4 ", "ä.de"] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_is_for_what_is_below_it() {
        let wildcard = hostname("*.example.com");
        for (name, is) in [
            ("www.example.com", true),
            ("a.b.example.com.", true),
            ("WWW.Example.COM", true),
            ("example.com", false),
            (".example.com", false),
            ("wexample.com", false),
            ("www.example.org", false),
        ] {
            assert_eq!(wildcard.matches(name), is, "{name}");
        }
        assert!(hostname("example.com").matches("Example.com"));
        assert!(!hostname("example.com").matches("www.example.com"));
    }

    #[test]
    fn two_have_in_common_what_both_are_for() {
        for (one, other, both) in [
            ("a.b.c", "a.b.c", Some("a.b.c")),
            ("*.c", "a.b.c", Some("a.b.c")),
            ("*.b.c", "*.c", Some("*.b.c")),
            ("*.c", "*.c", Some("*.c")),
            ("*.c", "c", None),
            ("a.c", "b.c", None),
            ("*.b.c", "*.a.c", None),
        ] {
            let both = both.map(hostname);
            assert_eq!(hostname(one).intersection(&hostname(other)), both, "{one} {other}");
            assert_eq!(hostname(other).intersection(&hostname(one)), both, "{other} {one}");
        }
    }

    #[test]
    fn exact_names_come_before_long_wildcards_and_these_before_short_ones() {
        let mut all = ["*.c", "a.c", "*.long.long.c"].map(hostname);
        all.sort_by_key(Hostname::specificity);
        assert_eq!(all.map(|it| it.to_string()), ["*.c", "*.long.long.c", "a.c"]);
    }
}
