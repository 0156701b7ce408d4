//! Certificates with their private keys. A snapshot only names them: they
//! travel beside it, and stay off the disk.

use std::fmt;

use crate::ObjectName;

/// A Secret with certain contents: other contents, another certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CertificateId {
    /// The Secret.
    pub secret: ObjectName,
    /// SHA-256 of its `tls.crt` and `tls.key`.
    pub sha256: [u8; 32],
}

impl fmt::Display for CertificateId {
    /// With the first 12 digits, which tell the contents of a Secret apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@", self.secret)?;
        self.sha256.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A certificate, what leads from it to a root, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// What snapshots call it.
    pub id: CertificateId,
    /// DER; the server's own first.
    pub chain: Vec<Vec<u8>>,
    /// The key of the first.
    pub key: PrivateKey,
}

/// A private key: DER, as PKCS#8, PKCS#1 or SEC1 has it. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub Vec<u8>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let id = CertificateId { secret: "shop/web".parse().unwrap(), sha256: [0xab; 32] };
        assert_eq!(id.to_string(), "shop/web@abababababab");
        let key = PrivateKey(vec![201, 202]);
        let shown = format!("{:?}", Certificate { id, chain: vec![], key });
        assert!(shown.contains("hidden") && !shown.contains("201"), "{shown}");
    }
}
