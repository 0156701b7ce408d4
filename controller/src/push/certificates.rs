//! Who may speak to whom: the CA, and what it signs.
//!
//! A replica makes its own server certificate in memory. Agents make their
//! keys themselves and have them signed here, with their node's name. CA,
//! certificate and key are told as PEM, as a Secret of type
//! kubernetes.io/tls has them; no clock is looked at.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use blixt_api::sync::{AGENT_NAME, SERVER_NAME};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
    UnixTime,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long a CA of ours is good, and after which part of that a new one is
/// made.
const CA_LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);
const CA_RENEWED_AFTER: Duration = Duration::from_secs(240 * 24 * 3_600);

/// How long a new CA is only known before it signs: agents and replicas have
/// taken it up by then, and no certificate of the old one is far from its end.
const OVERLAP: Duration = Duration::from_secs(24 * 3_600);

/// How long certificates are good. Whoever has one asks anew long before.
pub(crate) const LIFE: Duration = Duration::from_secs(24 * 3_600);

/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(3_600);

/// What an agent's certificate has as its organization. A CA that was brought
/// along may have signed others, which are no agents.
const AGENTS: &str = "blixt:agents";

/// Why certificates are of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Something can't be read.
    #[error("{what} can't be used ({why})")]
    Unusable {
        /// Which of them.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A peer has no certificate, or not such a one.
    #[error("the certificate is no agent's: {0}")]
    NoAgent(String),
}

fn unusable<E: ToString>(what: &'static str) -> impl Fn(E) -> TrustError {
    move |why| TrustError::Unusable { what, why: why.to_string() }
}

/// A CA as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The certificate that signs (and whatever is between it and its root).
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// All that certificates may be signed by.
    pub bundle: String,
    /// The one that will sign next, with its key, while it is only known.
    pub next: Option<(String, String)>,
}

impl std::fmt::Debug for Material {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Material {
    /// Makes a CA.
    pub fn new(now: SystemTime) -> Result<Self, TrustError> {
        let (certificate, key) = new_ca(now)?;
        Ok(Self { bundle: certificate.clone(), certificate, key, next: None })
    }

    /// What it has to become by now, if that is something else: first a new CA
    /// is known besides the old one, later it signs, at last the old one is
    /// forgotten. One that has expired locks out nobody by going: nobody
    /// believes it.
    pub fn renewed(&self, now: SystemTime) -> Result<Option<Self>, TrustError> {
        let mut renewed = self.clone();
        let begun = |pem: &str| Ok::<_, TrustError>(validity(pem)?.0 + SKEW);
        let has_expired = |pem: &str| Ok::<_, TrustError>(validity(pem)?.1 <= now);
        match &self.next {
            None if has_expired(&self.certificate)? => return Self::new(now).map(Some),
            Some((next, _)) if has_expired(next)? => return Self::new(now).map(Some),
            None if now >= begun(&self.certificate)? + CA_RENEWED_AFTER => {
                let (certificate, key) = new_ca(now)?;
                renewed.bundle = format!("{}\n{certificate}", self.bundle.trim_end());
                renewed.next = Some((certificate, key));
            }
            Some((certificate, key))
                if now >= begun(certificate)? + OVERLAP || has_expired(&self.certificate)? =>
            {
                (renewed.certificate, renewed.key) = (certificate.clone(), key.clone());
                renewed.next = None;
            }
            _ => {}
        }
        renewed.bundle = without_expired(&renewed.bundle, now)?;
        Ok((renewed != *self).then_some(renewed))
    }
}

fn new_ca(now: SystemTime) -> Result<(String, String), TrustError> {
    let failed = unusable("a new CA");
    let key = KeyPair::generate().map_err(&failed)?;
    let mut params = params("blixt-ca", now, CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(&failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn params(name: &str, now: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::from(now - SKEW);
    params.not_after = OffsetDateTime::from(now + life);
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> Result<Vec<SanType>, rcgen::Error> {
    Ok(vec![SanType::DnsName(name.try_into()?)])
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.map_err(unusable(what))?;
    if read.is_empty() {
        return Err(unusable(what)("there is no certificate in it"));
    }
    Ok(read)
}

/// From when to when the first certificate is good.
fn validity(pem: &str) -> Result<(SystemTime, SystemTime), TrustError> {
    let read = certificates("the CA's certificate", pem)?;
    let first = read.first().ok_or_else(|| unusable("the CA's certificate")("it is empty"))?;
    let (_, parsed) = X509Certificate::from_der(first).map_err(unusable("the CA's certificate"))?;
    Ok((
        parsed.validity.not_before.to_datetime().into(),
        parsed.validity.not_after.to_datetime().into(),
    ))
}

fn without_expired(bundle: &str, now: SystemTime) -> Result<String, TrustError> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut kept = String::new();
    for one in bundle.split_inclusive(END).filter(|one| one.contains(END)) {
        if validity(one)?.1 > now {
            kept.push_str(one.trim_start());
            kept.push('\n');
        }
    }
    // With none at all nobody could be told why.
    Ok(if kept.is_empty() { bundle.to_owned() } else { kept })
}

/// A CA, ready to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What stands between a certificate and the bundle.
    between: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    bundle: String,
    expires: SystemTime,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads it, whoever made it.
    pub fn open(material: &Material) -> Result<Self, TrustError> {
        let chain = certificates("tls.crt", &material.certificate)?;
        let bundle = certificates("ca.crt", &material.bundle)?;
        let key = KeyPair::from_pem(&material.key).map_err(unusable("tls.key"))?;
        let signer = chain.first().ok_or_else(|| unusable("tls.crt")("it is empty"))?;
        let (_, parsed) = X509Certificate::from_der(signer).map_err(unusable("tls.crt"))?;
        if !parsed.is_ca() {
            return Err(unusable("tls.crt")("it is no CA's certificate"));
        }
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(unusable("tls.key")("it does not belong to tls.crt"));
        }
        let expires = parsed.validity.not_after.to_datetime().into();
        let issuer = Issuer::from_ca_cert_der(signer, key).map_err(unusable("tls.crt"))?;
        let mut roots = RootCertStore::empty();
        for root in &bundle {
            roots.add(root.clone()).map_err(unusable("ca.crt"))?;
        }
        let between = chain.into_iter().filter(|one| !bundle.contains(one)).collect();
        let bundle = material.bundle.clone();
        Ok(Self { issuer, between, roots: Arc::new(roots), bundle, expires })
    }

    /// When its own certificate ends.
    pub(crate) fn expires(&self) -> SystemTime {
        self.expires
    }

    /// All that certificates may be signed by, as PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// A server with a new certificate. Clients without one are let in as far
    /// as TLS goes, since they come for one.
    pub fn server(&self, now: SystemTime) -> Result<ServerConfig, TrustError> {
        let failed = unusable("the server's certificate");
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = params(SERVER_NAME, now, LIFE);
        params.subject_alt_names = named(SERVER_NAME).map_err(&failed)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(&failed)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
                .allow_unauthenticated()
                .build()
                .map_err(unusable("ca.crt"))?;
        let chain = self.with_chain(certificate.der().clone());
        self.check(&chain, now, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable("TLS 1.3"))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(unusable("the server's certificate"))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Every connection says anew who it is.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Whether those who know the bundle believe what it signs. A CA that has
    /// expired, or that ca.crt does not lead to, would lock everybody out.
    fn check(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), TrustError> {
        // Of what is trusted TLS looks at the key alone.
        if now >= self.expires {
            return Err(unusable("tls.crt")("it has expired"));
        }
        let Some((first, between)) = chain.split_first() else { return Ok(()) };
        let name = ServerName::try_from(SERVER_NAME).map_err(unusable("the server's name"))?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider.clone())
            .build()
            .map_err(unusable("ca.crt"))?
            .verify_server_cert(first, between, &name, &[], UnixTime::since_unix_epoch(now))
            .map_err(|error| format!("who knows ca.crt does not believe what it signs: {error}"))
            .map_err(unusable("tls.crt"))?;
        Ok(())
    }

    /// A certificate for a node's agent: it is a client of ours, and a server for
    /// those who scrape it. Of its request only the key counts.
    pub fn agent(
        &self,
        request: &[u8],
        node: &str,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, TrustError> {
        let failed = unusable("the certificate signing request");
        let request = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&request).map_err(&failed)?;
        request.params = params(node, now, LIFE);
        request.params.distinguished_name.push(DnType::OrganizationName, AGENTS);
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        request.params.subject_alt_names = named(AGENT_NAME).map_err(&failed)?;
        let certificate = request.signed_by(&self.issuer).map_err(&failed)?;
        Ok(self.with_chain(certificate.der().clone()))
    }

    fn with_chain(&self, leaf: CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        [leaf].into_iter().chain(self.between.iter().cloned()).collect()
    }
}

/// Whom a client certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) node: String,
    pub(crate) expires: SystemTime,
}

impl Peer {
    /// Reads a certificate that TLS has found good.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, TrustError> {
        let no_agent = |why: &str| TrustError::NoAgent(why.to_owned());
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|why| no_agent(&why.to_string()))?;
        let subject = parsed.subject();
        let is_agent =
            subject.iter_organization().any(|value| value.as_str().is_ok_and(|it| it == AGENTS));
        if !is_agent {
            return Err(no_agent(&format!("{subject} is not of {AGENTS}")));
        }
        let node = subject.iter_common_name().find_map(|value| value.as_str().ok());
        let node =
            node.filter(|node| !node.is_empty()).ok_or_else(|| no_agent("it has no name"))?;
        Ok(Self { node: node.to_owned(), expires: parsed.validity.not_after.to_datetime().into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::GeneralName;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn request() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::new(vec!["blixt-controller".to_owned()]).unwrap();
        request.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn an_agent_gets_the_name_of_its_node_and_no_other() {
        let authority = Authority::open(&Material::new(now()).unwrap()).unwrap();
        let signed = authority.agent(&request(), "node-1", now()).unwrap();
        let peer = Peer::of(&signed[0]).unwrap();
        assert_eq!(peer.node, "node-1");
        assert_eq!(peer.expires, now() + DAY);
        let (_, parsed) = X509Certificate::from_der(&signed[0]).unwrap();
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names, &[GeneralName::DNSName("blixt-agent")], "it asked for ours");
        assert!(!parsed.is_ca());

        let why = authority.agent(b"garbage", "node-1", now()).unwrap_err().to_string();
        assert!(why.starts_with("the certificate signing request can't be used"), "{why}");
    }

    #[test]
    fn other_certificates_of_the_ca_are_no_agents() {
        let material = Material::new(now()).unwrap();
        let ca = &certificates("it", &material.certificate).unwrap()[0];
        let why = Peer::of(ca).unwrap_err().to_string();
        assert_eq!(why, "the certificate is no agent's: CN=blixt-ca is not of blixt:agents");
    }

    #[test]
    fn a_ca_is_renewed_with_overlap() {
        let first = Material::new(now()).unwrap();
        assert_eq!(first.renewed(now() + 239 * DAY), Ok(None));
        // Known, but it does not sign yet.
        let second = first.renewed(now() + 241 * DAY).unwrap().unwrap();
        assert_eq!(second.certificate, first.certificate);
        assert_eq!(certificates("it", &second.bundle).unwrap().len(), 2);
        assert!(second.next.is_some());
        assert_eq!(second.renewed(now() + 241 * DAY + DAY / 2), Ok(None));
        // It signs; what the old one signed is good all the same.
        let third = second.renewed(now() + 243 * DAY).unwrap().unwrap();
        assert_ne!(third.certificate, first.certificate);
        assert_eq!((certificates("it", &third.bundle).unwrap().len(), &third.next), (2, &None));
        assert_eq!(third.renewed(now() + 300 * DAY), Ok(None));
        // The old one is over.
        let fourth = third.renewed(now() + 366 * DAY).unwrap().unwrap();
        assert_eq!(fourth.bundle.trim(), fourth.certificate.trim());
        for material in [first, second, third, fourth] {
            Authority::open(&material).unwrap().server(now()).unwrap();
        }
    }

    #[test]
    fn a_ca_that_has_expired_is_followed_at_once() {
        let first = Material::new(now()).unwrap();
        let late = now() + 400 * DAY;
        let next = first.renewed(late).unwrap().unwrap();
        assert!(next.next.is_none() && next.bundle == next.certificate);
        Authority::open(&next).unwrap().server(late).unwrap();
        // The one that was known signs, if it is good still.
        let second = first.renewed(now() + 241 * DAY).unwrap().unwrap();
        let known = second.next.clone().unwrap().0;
        let third = second.renewed(late).unwrap().unwrap();
        assert_eq!((&third.certificate, &third.next), (&known, &None));
        assert_eq!(third.bundle.trim(), known.trim());
        Authority::open(&third).unwrap().server(late).unwrap();
        let later = now() + 700 * DAY;
        let fourth = second.renewed(later).unwrap().unwrap();
        assert!(fourth.next.is_none() && !second.bundle.contains(&fourth.certificate));
        Authority::open(&fourth).unwrap().server(later).unwrap();
    }

    #[test]
    fn what_was_brought_along_and_is_wrong_is_named() {
        let (good, other) = (Material::new(now()).unwrap(), Material::new(now()).unwrap());
        let refused = |material: Material| Authority::open(&material).unwrap_err().to_string();
        let with_key = |key: &str| Material { key: key.to_owned(), ..good.clone() };
        assert_eq!(
            refused(with_key(&other.key)),
            "tls.key can't be used (it does not belong to tls.crt)"
        );
        assert!(refused(with_key("x")).starts_with("tls.key can't be used"));
        let empty = Material { bundle: String::new(), ..good.clone() };
        assert_eq!(refused(empty), "ca.crt can't be used (there is no certificate in it)");
        // Nobody who knows the bundle believes what another CA signs, nor one that
        // is over.
        let served = |material: &Material, now| Authority::open(material).unwrap().server(now);
        let foreign = Material { bundle: other.bundle.clone(), ..good.clone() };
        let foreign = served(&foreign, now()).unwrap_err().to_string();
        assert!(
            foreign.starts_with("tls.crt can't be used (who knows ca.crt does not"),
            "{foreign}"
        );
        let expired = served(&good, now() + 366 * DAY).unwrap_err().to_string();
        assert_eq!(expired, "tls.crt can't be used (it has expired)");
        // A server's certificate does not sign.
        let key = KeyPair::generate().unwrap();
        let leaf = params("x", now(), LIFE).self_signed(&key).unwrap().pem();
        let leaf = Material { certificate: leaf, key: key.serialize_pem(), ..good };
        assert_eq!(refused(leaf), "tls.crt can't be used (it is no CA's certificate)");
    }
}
