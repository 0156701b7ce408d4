//! Where the controller's replicas are: given by flags, or in a directory that
//! a ConfigMap is mounted to, which changes as they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::lookup_host;

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

/// The address of each replica that URLs lead to, by its own URL; and what is
/// wrong, if something is.
pub(super) async fn look_up(
    urls: &BTreeSet<Url>,
) -> (BTreeMap<String, SocketAddr>, Option<String>) {
    let mut found = BTreeMap::new();
    let mut trouble = None;
    for url in urls {
        let addresses: Vec<_> = match url.host.parse() {
            Ok(address) => vec![SocketAddr::new(address, url.port)],
            Err(_) => match lookup_host((url.host.as_str(), url.port)).await {
                Ok(addresses) => addresses.collect(),
                Err(why) => {
                    trouble = Some(format!("{url} can't be looked up ({why})"));
                    continue;
                }
            },
        };
        let own = |at: &SocketAddr| Url { host: at.ip().to_string(), port: at.port() };
        found.extend(addresses.iter().map(|at| (own(at).to_string(), *at)));
    }
    (found, trouble)
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
        let (found, trouble) = look_up(&urls.into()).await;
        assert_eq!(trouble, None);
        assert!(found.contains_key("https://192.0.2.1:9874"));
        assert!(found.contains_key("https://127.0.0.1:7") || found.contains_key("https://[::1]:7"));
    }
}
