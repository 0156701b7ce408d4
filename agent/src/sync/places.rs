//! Where the controller's replicas are: given by flags, or in a directory that
//! a ConfigMap is mounted to, which changes as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// How often is looked where replicas are.
const LOOK: Duration = Duration::from_secs(1);

/// How long it may take until it is known which addresses a name has.
const ANSWER: Duration = Duration::from_secs(3);

/// The port of a URL without one.
const PORT: u16 = 9_874;

/// The files of the directory.
const URLS: &str = "urls";
const BUNDLE: &str = "ca.crt";

/// The URL of a replica, or of all of them by one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    host: String,
    port: u16,
}

/// A text is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no URL of a controller: write https://HOST:PORT, such as https://192.0.2.1:9874")]
pub struct UrlError(String);

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = || UrlError(text.to_owned());
        let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if let Ok(at) = rest.parse::<SocketAddr>() {
            return Ok(Self { host: at.ip().to_string(), port: at.port() });
        }
        let bare = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(rest);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: PORT });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (rest, PORT),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if host.is_empty() || port == 0 || !host.chars().all(is_name) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(address) => write!(f, "https://{}", SocketAddr::new(address, self.port)),
            Err(_) => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

/// Where replicas are told, and whom they are signed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// By flags.
    Given {
        /// The URLs.
        urls: Vec<Url>,
        /// The file with the CA.
        ca: PathBuf,
    },
    /// In a directory.
    Directory(PathBuf),
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given { urls, .. } => {
                let urls: Vec<_> = urls.iter().map(ToString::to_string).collect();
                f.write_str(&urls.join(", "))
            }
            Self::Directory(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Places {
    /// The file with the CA.
    pub(super) fn ca(&self) -> PathBuf {
        match self {
            Self::Given { ca, .. } => ca.clone(),
            Self::Directory(path) => path.join(BUNDLE),
        }
    }

    /// The URLs there are now.
    pub(super) fn urls(&self) -> Result<Vec<Url>, String> {
        match self {
            Self::Given { urls, .. } => Ok(urls.clone()),
            Self::Directory(path) => read(&path.join(URLS)),
        }
    }
}

fn read(file: &Path) -> Result<Vec<Url>, String> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|why| format!("{name} can't be read ({why})"))?;
    let urls: Result<Vec<_>, _> = text.split_whitespace().map(Url::from_str).collect();
    let urls = urls.map_err(|why| format!("{name}: {why}"))?;
    if urls.is_empty() { Err(format!("{name} names no controller yet")) } else { Ok(urls) }
}

/// Where replicas are, as far as that can be told.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The address of each, by its own URL.
    pub(super) replicas: BTreeMap<String, SocketAddr>,
    /// What is wrong, if something is; then there may be more.
    pub(super) trouble: Option<String>,
}

/// Tells where replicas are, now and once a second, for as long as somebody
/// listens. `peers` are URLs that replicas themselves have told. However long a
/// look-up takes, nobody waits for it.
pub(super) async fn look(
    places: Places,
    mut peers: watch::Receiver<BTreeSet<Url>>,
    found: mpsc::Sender<Found>,
) {
    loop {
        let mut urls = peers.borrow_and_update().clone();
        let unread = places.urls().map(|given| urls.extend(given)).err();
        let mut all = look_up(&urls, |host, port| lookup_host((host, port))).await;
        all.trouble = unread.or(all.trouble);
        if found.send(all).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            Ok(()) = peers.changed() => {}
        }
    }
}

/// The replicas that URLs lead to. One name that can't be looked up holds up
/// no other.
async fn look_up<A, F>(urls: &BTreeSet<Url>, resolve: impl Fn(String, u16) -> F) -> Found
where
    A: Iterator<Item = SocketAddr>,
    F: Future<Output = io::Result<A>>,
{
    let mut found = Found::default();
    let mut names = Vec::new();
    let own = |at: SocketAddr| (Url { host: at.ip().to_string(), port: at.port() }.to_string(), at);
    for url in urls {
        match url.host.parse() {
            Ok(address) => found.replicas.extend([own(SocketAddr::new(address, url.port))]),
            Err(_) => names.push(url),
        }
    }
    let answers = names.iter().map(|url| timeout(ANSWER, resolve(url.host.clone(), url.port)));
    for (url, answer) in names.iter().zip(join_all(answers).await) {
        let why = match answer {
            Ok(Ok(addresses)) => {
                found.replicas.extend(addresses.map(own));
                continue;
            }
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        found.trouble = Some(format!("{url} can't be looked up ({why})"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_told() {
        for (text, told) in [
            ("https://192.0.2.1:9000", "https://192.0.2.1:9000"),
            ("https://192.0.2.1", "https://192.0.2.1:9874"),
            ("https://[2001:db8::1]:1/", "https://[2001:db8::1]:1"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:9874"),
            ("https://blixt-controller.blixt-system", "https://blixt-controller.blixt-system:9874"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), told);
        }
        for bad in ["http://a", "a:1", "https://", "https://a:0", "https://a:x", "https://a/b"] {
            let why = bad.parse::<Url>().unwrap_err().to_string();
            assert!(why.contains("is no URL of a controller: write https://"), "{why}");
        }
    }

    #[test]
    fn a_directory_is_read_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places::Directory(directory.path().to_owned());
        assert!(places.urls().unwrap_err().contains("urls can't be read"));
        let file = directory.path().join("urls");
        fs::write(&file, "\n").unwrap();
        assert!(places.urls().unwrap_err().ends_with("names no controller yet"));
        fs::write(&file, "https://192.0.2.1:9874\nhttps://192.0.2.2:9874\n").unwrap();
        assert_eq!(places.urls().unwrap().len(), 2);
        fs::write(&file, "ftp://x\n").unwrap();
        assert!(places.urls().unwrap_err().contains("no URL of a controller"));
    }

    #[tokio::test]
    async fn a_name_means_all_its_addresses() {
        let urls = ["https://localhost:7", "https://192.0.2.1"].map(|url| url.parse().unwrap());
        let found = look_up(&urls.into(), |host, port| lookup_host((host, port))).await;
        assert_eq!(found.trouble, None);
        let has = |url: &str| found.replicas.contains_key(url);
        assert!(has("https://192.0.2.1:9874"));
        assert!(has("https://127.0.0.1:7") || has("https://[::1]:7"));
    }

    #[tokio::test]
    async fn a_name_server_that_is_silent_hides_no_other_replica() {
        let urls = ["https://silent:7", "https://known:8", "https://192.0.2.1"];
        let urls = urls.map(|url| url.parse().unwrap()).into();
        let begin = tokio::time::Instant::now();
        let found = look_up(&urls, |host, port| async move {
            if host == "silent" {
                std::future::pending::<()>().await;
            }
            Ok([SocketAddr::from(([192, 0, 2, 2], port))].into_iter())
        });
        let found = found.await;
        assert!(begin.elapsed() < 5 * ANSWER, "{:?}", begin.elapsed());
        let replicas: Vec<_> = found.replicas.keys().collect();
        assert_eq!(replicas, ["https://192.0.2.1:9874", "https://192.0.2.2:8"]);
        let why = "https://silent:7 can't be looked up (no answer within 3s)";
        assert_eq!(found.trouble.as_deref(), Some(why));
    }
}
