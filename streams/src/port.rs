//! What is served on one port, and which of it a client means.

use std::sync::Arc;

use rustls::ServerConfig;

/// What one port of an address does with its connections. Never changed: a new
/// one takes its place.
#[derive(Debug)]
pub enum Port {
    /// Bytes as they come, to a route; `None` refuses all.
    Plain(Option<RoutePlace>),
    /// Bytes as they come: the host that the first HTTP request names tells whose
    /// they are. Who names none, or speaks something else, asks for no name.
    Http(Vec<Listener>),
    /// TLS: the server's name tells whose it is.
    Tls(Vec<Listener>),
}

/// Which route of the port's, as the one who chooses endpoints counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoutePlace(pub usize);

/// One listener of a port that others may share.
#[derive(Debug)]
pub struct Listener {
    /// The names it is for; `None` is for all, and for those who name none.
    pub hostname: Option<Hostname>,
    /// What becomes of TLS, on a port for that.
    pub tls: Tls,
    /// Its routes; the first is taken of those that match equally well.
    pub routes: Vec<Route>,
}

/// What becomes of a client's TLS.
#[derive(Debug, Clone)]
pub enum Tls {
    /// It goes on to the endpoint as it is.
    Passthrough,
    /// It ends here. `None`: its certificate is not here.
    Terminate(Option<Arc<ServerConfig>>),
}

/// One route of it.
#[derive(Debug)]
pub struct Route {
    /// The names it is for; all, if there are none.
    pub hostnames: Vec<Hostname>,
    /// Which one it is.
    pub place: RoutePlace,
}

/// A server's name, or all below one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname {
    /// In small letters; with the dot before it, if it is for all below.
    name: String,
}

/// How well something matches: whole names before the ends of names, longer
/// ends before shorter ones, everything before nothing in particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    All,
    End(usize),
    Name,
}

impl Hostname {
    /// From how Gateway API writes it: a name, or `*.` and a name.
    pub fn new(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        Self { name: text.strip_prefix('*').map_or(text.clone(), str::to_owned) }
    }

    fn matches(&self, name: &str) -> Option<Match> {
        if self.name.starts_with('.') {
            let below = name.strip_suffix(&self.name).is_some_and(|below| !below.is_empty());
            below.then_some(Match::End(self.name.len()))
        } else {
            (self.name == name).then_some(Match::Name)
        }
    }
}

/// The listener that a client means, and its route, if it has one for it. Never
/// a route of another listener that is for the name less exactly: what is not
/// served by the listener it belongs to is not served at all.
pub(crate) fn pick<'a>(
    listeners: &'a [Listener],
    name: Option<&str>,
) -> Option<(&'a Listener, Option<RoutePlace>)> {
    let listener = best(listeners, |listener| best_of(listener.hostname.as_slice(), name))?;
    let route = best(&listener.routes, |route| best_of(&route.hostnames, name));
    Some((listener, route.map(|route| route.place)))
}

/// The first of those that match best.
fn best<T>(all: &[T], matches: impl Fn(&T) -> Option<Match>) -> Option<&T> {
    let mut best: Option<(Match, &T)> = None;
    for one in all {
        if let Some(how) = matches(one)
            && best.is_none_or(|(before, _)| how > before)
        {
            best = Some((how, one));
        }
    }
    best.map(|(_, one)| one)
}

fn best_of(hostnames: &[Hostname], name: Option<&str>) -> Option<Match> {
    match (hostnames, name) {
        ([], _) => Some(Match::All),
        (_, None) => None,
        (hostnames, Some(name)) => hostnames.iter().filter_map(|it| it.matches(name)).max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(hostname: &str, routes: &[&[&str]]) -> Listener {
        let routes = routes.iter().enumerate().map(|(place, hostnames)| Route {
            hostnames: hostnames.iter().map(|name| Hostname::new(name)).collect(),
            place: RoutePlace(place),
        });
        Listener {
            hostname: (!hostname.is_empty()).then(|| Hostname::new(hostname)),
            tls: Tls::Passthrough,
            routes: routes.collect(),
        }
    }

    #[test]
    fn whole_names_come_first_then_the_longest_end_then_all() {
        let listeners = [
            listener("", &[&[]]),
            listener("*.example.com", &[&["a.example.com"], &[]]),
            listener("*.deep.example.com", &[&["*.deep.example.com"], &["x.deep.example.com"]]),
            listener("www.Example.com", &[]),
        ];
        let picked = |name: Option<&str>| {
            let (listener, route) = pick(&listeners, name).unwrap();
            let place = listeners.iter().position(|it| std::ptr::eq(it, listener));
            (place.unwrap(), route.map(|route| route.0))
        };
        assert_eq!(picked(None), (0, Some(0)));
        assert_eq!(picked(Some("example.com")), (0, Some(0)));
        assert_eq!(picked(Some("badexample.com")), (0, Some(0)));
        assert_eq!(picked(Some("a.example.com")), (1, Some(0)));
        assert_eq!(picked(Some("b.a.example.com")), (1, Some(1)));
        assert_eq!(picked(Some("y.deep.example.com")), (2, Some(0)));
        assert_eq!(picked(Some("x.deep.example.com")), (2, Some(1)));
        assert_eq!(picked(Some("deep.example.com")), (1, Some(1)));
        assert_eq!(picked(Some("www.example.com")), (3, None), "and no other listener's route");
        assert!(pick(&listeners[1..], None).is_none());
        assert!(pick(&listeners[1..], Some("example.org")).is_none());
    }

    #[test]
    fn the_first_of_two_equals_is_taken() {
        let listeners = [listener("", &[&["*.example.com"], &["*.example.com"]])];
        let (_, route) = pick(&listeners, Some("a.example.com")).unwrap();
        assert_eq!(route, Some(RoutePlace(0)));
    }
}
