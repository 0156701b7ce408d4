//! The flags, which agent and controller have alike.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// Metrics for scrapers from elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct SecureFlags {
    /// Where /metrics is served to scrapers from elsewhere as well, such as
    /// [::]:9443: over TLS, to whoever has a token of the cluster with which
    /// it may get /metrics (ClusterRole blixt-metrics-reader).
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub secure_metrics: Option<SocketAddr>,
    /// The certificate for --secure-metrics, PEM, with its chain; read anew when
    /// it changes. Without, it is one that Blixt's own CA has signed.
    #[arg(long, value_name = "FILE", requires_all = ["secure_metrics", "tls_private_key_file"])]
    pub tls_cert_file: Option<PathBuf>,
    /// The key of --tls-cert-file, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
}

/// Refuses an address for --http that others may reach: there is neither TLS on
/// it, nor is anybody asked who they are.
pub fn check_local(http: SocketAddr) -> Result<(), String> {
    if http.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(format!(
        "--http {http} is not on localhost, and anybody could read there: give it an address such \
         as 127.0.0.1:{port}, and serve metrics to others by --secure-metrics",
        port = http.port()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_localhost_alone() {
        for local in ["127.0.0.1:9876", "127.8.0.1:1", "[::1]:0", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(check_local(local.parse().unwrap()), Ok(()), "{local}");
        }
        for open in ["0.0.0.0:9876", "[::]:9876", "192.0.2.1:1", "[2001:db8::1]:1"] {
            let why = check_local(open.parse().unwrap()).unwrap_err();
            assert!(why.starts_with(&format!("--http {open} is not on localhost")), "{why}");
            assert!(why.contains("--secure-metrics"), "{why}");
        }
    }
}
