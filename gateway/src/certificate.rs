//! Secrets as certificates: parsed once, where they come in, and looked at as
//! closely as an agent will.

use blixt_model::{Certificate, CertificateId, ObjectName, PrivateKey};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::apis::Secret;

/// The only type of Secret that listeners take (Gateway API, "Core" support).
const TYPE: &str = "kubernetes.io/tls";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Certificates travel together to each agent, so none may be large.
const MOST_BYTES: usize = 64 << 10;

/// What is around each part of a certificate in a message: a tag and a length.
const AROUND: usize = 8;

/// What is known of a Secret.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Known {
    /// The certificate in it; or the last one that was, while what is there now can't
    /// be used: a slip of who renews it should close no listener. Nothing remembers
    /// it but this.
    pub(crate) certificate: Option<Certificate>,
    /// What is wrong with what is there now, as the end of a sentence that begins
    /// with the Secret.
    pub(crate) fault: Option<String>,
}

impl Known {
    /// The same Secret, with this in it now.
    pub(crate) fn with(self, found: Result<Certificate, String>) -> Self {
        match found {
            Ok(certificate) => Self { certificate: Some(certificate), fault: None },
            Err(fault) => Self { fault: Some(fault), ..self },
        }
    }

    /// The bytes that its certificate takes on its way, about.
    pub(crate) fn bytes(&self) -> usize {
        let parts = self.certificate.iter().flat_map(|it| it.chain.iter().chain([&it.key.0]));
        parts.map(|part| part.len() + AROUND).sum()
    }
}

/// The certificate in a Secret; or why there is none, as the end of a sentence
/// that begins with the Secret.
pub(crate) fn read(name: &ObjectName, secret: &Secret) -> Result<Certificate, String> {
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    if kind != TYPE {
        return Err(format!("is of type {kind}: only {TYPE} can be used"));
    }
    let field = |key| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map(|bytes| bytes.0.as_slice()).filter(|bytes| !bytes.is_empty())
    };
    let chain_pem = field(CHAIN).ok_or_else(|| format!("has no {CHAIN}"))?;
    let key_pem = field(KEY).ok_or_else(|| format!("has no {KEY}"))?;
    if let Some((large, _)) =
        [(CHAIN, chain_pem), (KEY, key_pem)].iter().find(|(_, pem)| pem.len() > MOST_BYTES)
    {
        return Err(format!("has a {large} of more than {} KiB", MOST_BYTES >> 10));
    }
    let chain = CertificateDer::pem_slice_iter(chain_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|why| no_pem(CHAIN, &why))?;
    if chain.is_empty() {
        return Err(format!("has no certificate in {CHAIN}: it must be PEM"));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|why| no_pem(KEY, &why))?;
    let kept = Certificate {
        id: CertificateId { secret: name.clone(), sha256: digest(&chain, &key) },
        chain: chain.iter().map(|certificate| certificate.to_vec()).collect(),
        key: PrivateKey(key.secret_der().to_vec()),
    };
    fits(chain, key).map_err(|why| format!("has a {CHAIN} and {KEY} that can't be used: {why}"))?;
    Ok(kept)
}

fn no_pem(field: &str, why: &pem::Error) -> String {
    match why {
        // What stands there instead may be a key.
        pem::Error::NoItemsFound => format!("has nothing in {field} that is PEM"),
        _ => format!("has a {field} that is no PEM"),
    }
}

/// Whether the key is that of the first certificate, and both are of a kind that
/// TLS can use.
fn fits(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), rustls::Error> {
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
    ParsedCertificate::try_from(certified.end_entity_cert()?)?;
    Ok(())
}

/// Of the lengths too, so that nothing can be moved from one to the other.
fn digest(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in chain.iter().map(AsRef::as_ref).chain([key.secret_der()]) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use std::collections::BTreeMap;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["www.example.com".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn secret(kind: Option<&str>, data: &[(&str, &str)]) -> Secret {
        let data = data
            .iter()
            .map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
        Secret {
            type_: kind.map(str::to_owned),
            data: Some(data.collect::<BTreeMap<_, _>>()),
            ..Secret::default()
        }
    }

    fn read_from(secret: &Secret) -> Result<Certificate, String> {
        read(&"shop/web".parse().unwrap(), secret)
    }

    #[test]
    fn one_that_is_large_is_refused() {
        let (chain, key) = pair();
        let filler = "#\n".repeat(MOST_BYTES / 2);
        let of = |chain: &str, key: &str| secret(Some(TYPE), &[(CHAIN, chain), (KEY, key)]);
        let why = read_from(&of(&format!("{filler}{chain}"), &key)).unwrap_err();
        assert_eq!(why, "has a tls.crt of more than 64 KiB");
        let why = read_from(&of(&chain, &format!("{filler}{key}"))).unwrap_err();
        assert_eq!(why, "has a tls.key of more than 64 KiB");
    }

    #[test]
    fn a_chain_and_its_key_are_read() {
        let (chain, key) = pair();
        let of = |chain: &str, key: &str| secret(Some(TYPE), &[(CHAIN, chain), (KEY, key)]);
        let read = read_from(&of(&chain, &key)).unwrap();
        assert_eq!(read.id.secret, "shop/web".parse().unwrap());
        assert_eq!(read.chain.len(), 1);
        // What is around the PEM makes no other certificate of it.
        assert_eq!(read_from(&of(&format!("# ours\n{chain}"), &key)).unwrap(), read);
        let longer = read_from(&of(&format!("{chain}{}", pair().0), &key)).unwrap();
        assert_eq!(longer.chain.len(), 2);
        assert_ne!(longer.id.sha256, read.id.sha256);
    }

    #[test]
    fn the_last_good_one_stays_while_the_newest_is_none() {
        let (chain, key) = pair();
        let read = read_from(&secret(Some(TYPE), &[(CHAIN, &chain), (KEY, &key)]));
        let good = Known::default().with(read.clone());
        assert_eq!(good, Known { certificate: read.clone().ok(), fault: None });
        let bytes = good.bytes();
        assert!((400..2_000).contains(&bytes), "{bytes}");
        let broken = good.clone().with(Err("is no good".to_owned()));
        assert_eq!((&broken.certificate, broken.bytes()), (&good.certificate, bytes));
        assert_eq!(broken.fault.as_deref(), Some("is no good"));
        assert_eq!(broken.with(read), good);
        let never = Known::default().with(Err("is no good".to_owned()));
        assert_eq!((never.certificate.is_none(), never.fault.is_some()), (true, true));
    }

    #[test]
    fn what_cannot_be_used_is_told_without_the_key() {
        let (chain, key) = pair();
        let (_, other) = pair();
        let cut = &chain[..chain.len() / 2];
        let refused = |kind, data: &[(&str, &str)]| read_from(&secret(kind, data)).unwrap_err();
        for (kind, data, why) in [
            (None, vec![], "is of type Opaque: only kubernetes.io/tls can be used"),
            (Some(TYPE), vec![(KEY, key.as_str())], "has no tls.crt"),
            (Some(TYPE), vec![(CHAIN, chain.as_str()), (KEY, "")], "has no tls.key"),
            (
                Some(TYPE),
                vec![(CHAIN, "Hello world\n"), (KEY, key.as_str())],
                "has no certificate in tls.crt: it must be PEM",
            ),
            (Some(TYPE), vec![(CHAIN, cut), (KEY, key.as_str())], "has a tls.crt that is no PEM"),
            (
                Some(TYPE),
                vec![(CHAIN, chain.as_str()), (KEY, chain.as_str())],
                "has nothing in tls.key that is PEM",
            ),
        ] {
            assert_eq!(refused(kind, &data), why);
        }
        let mixed = refused(Some(TYPE), &[(CHAIN, &chain), (KEY, &other)]);
        assert!(mixed.starts_with("has a tls.crt and tls.key that can't be used: "), "{mixed}");
    }
}
