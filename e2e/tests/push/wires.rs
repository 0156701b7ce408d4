//! What is said on the wire, without an agent that says it.

use std::sync::Arc;
use std::time::SystemTime;

use blixt_api::parts::{Digest, Parts};
use blixt_api::sync::BEAT;
use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::controller_client::ControllerClient;
use blixt_api::sync::v1alpha1::follow_request::Message as Said;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use blixt_controller::push::{Authority, Material};
use futures_util::StreamExt;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::replica::{Replica, SOON, ca, eventually, snapshot};

/// An agent that has a snapshot, and says how it is.
pub(crate) struct Puppet {
    /// What it says, at each beat; nothing while it is silent.
    says: watch::Sender<Option<Said>>,
    /// How many VIPs it owns.
    pub(crate) owns: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Puppet {
    /// Two that a replica has given VIPs to, and how many of these there are.
    pub(crate) async fn two() -> (Replica, [Self; 2], usize) {
        let ca = ca();
        let replica = Replica::start(&ca).await;
        let wanted = snapshot(80, 1);
        replica.push.publish(&wanted);
        let digest = Parts::of(&wanted).digest();
        let one = Self::start(&replica, &ca, "node-1", digest).await;
        let two = Self::start(&replica, &ca, "node-2", digest).await;
        let all = wanted.vips().len();
        let both = || one.owned() > 0 && two.owned() > 0 && one.owned() + two.owned() == all;
        eventually("both to own some", both).await;
        (replica, [one, two], all)
    }

    async fn start(replica: &Replica, ca: &Material, node: &str, has: Digest) -> Self {
        let identity = signed(ca, node, SystemTime::now()).identity();
        let mut client = client(replica, ca, Some(identity)).await.unwrap();
        let (says, said) = watch::channel(Some(trouble("")));
        let (own, owns) = watch::channel(0);
        let hello = wire::Hello {
            protocol: 1,
            version: "1".to_owned(),
            digest: has.to_vec(),
            streams: true,
        };
        let want = wire::Want { tables: true, digest: has.to_vec() };
        let begin = futures_util::stream::iter([Said::Hello(hello), Said::Want(want)]);
        let beats = futures_util::stream::unfold(said, async |said| {
            tokio::time::sleep(BEAT).await;
            let now = said.borrow().clone();
            Some((now, said))
        });
        let beats = beats.filter_map(async |said| said);
        let said = begin.chain(beats);
        let said = said.map(|message| wire::FollowRequest { message: Some(message) });
        let mut told = client.follow(Box::pin(said)).await.unwrap().into_inner();
        let task = tokio::spawn(async move {
            while let Ok(Some(message)) = told.message().await {
                if let Some(Told::Assignment(assignment)) = message.message {
                    own.send_replace(assignment.owned_vips.len());
                }
            }
        });
        Self { says, owns, task }
    }

    /// Has this trouble from now on; none if it is empty.
    pub(crate) fn has_trouble(&self, why: &str) {
        self.says.send_replace(Some(trouble(why)));
    }

    /// Says nothing from now on, until it has trouble or none.
    pub(crate) fn is_silent(&self) {
        self.says.send_replace(None);
    }

    /// Says goodbye, and stays.
    pub(crate) fn says_goodbye(&self) {
        self.says.send_replace(Some(Said::Bye(wire::Bye {})));
    }

    pub(crate) fn owned(&self) -> usize {
        *self.owns.borrow()
    }
}

fn trouble(why: &str) -> Said {
    Said::Beat(wire::AgentBeat { trouble: why.to_owned(), unsteady: false })
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client's certificate and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    /// The same for a server to show.
    pub(crate) fn certified(&self) -> CertifiedKey {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::from_der(vec![certificate], key, &provider).unwrap()
    }
}

/// That of a node's agent.
pub(crate) fn signed(ca: &Material, node: &str, made: SystemTime) -> Pair {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let authority = Authority::open(ca).unwrap();
    let certificates = authority.agent(request.der(), node, made).unwrap();
    Pair { certificate: pem(&certificates[0]), key: key.serialize_pem() }
}

pub(crate) fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = (0..3).fold(0, |bits, n| {
                bits << 8 | u32::from(group.get(n).copied().unwrap_or_default())
            });
            let digits = (0..4).map(|n| {
                let digit = DIGITS[(bits >> (18 - 6 * n) & 63) as usize];
                if n > group.len() { '=' } else { char::from(digit) }
            });
            text.extend(digits);
        }
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// How a client connects, with a certificate or without.
pub(crate) fn tls(ca: &Material, pair: Option<&Pair>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.bundle.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let mut config = match pair {
        Some(Pair { certificate, key }) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// What a client with this certificate is told instead of being let in. In TLS 1.3 it
/// believes before that it is connected.
pub(crate) async fn refusal(replica: &Replica, ca: &Material, pair: &Pair) -> String {
    let stream = TcpStream::connect(replica.at).await.unwrap();
    let name = "blixt-controller".try_into().unwrap();
    let mut stream = tls(ca, Some(pair)).connect(name, stream).await.unwrap();
    let told = tokio::time::timeout(SOON, stream.read(&mut [0; 64])).await.unwrap();
    told.unwrap_err().to_string()
}

pub(crate) async fn client(
    replica: &Replica,
    ca: &Material,
    identity: Option<Identity>,
) -> Result<ControllerClient<Channel>, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ca.bundle))
        .domain_name("blixt-controller");
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", replica.at)).unwrap();
    Ok(ControllerClient::new(endpoint.tls_config(tls)?.connect().await?))
}

/// Follows for one message; tells why not.
pub(crate) async fn follow(
    replica: &Replica,
    ca: &Material,
    identity: Option<Identity>,
) -> Result<(), String> {
    let mut client = client(replica, ca, identity).await.map_err(|error| format!("{error:?}"))?;
    let hello = wire::Hello { protocol: 1, version: "1".to_owned(), digest: vec![], streams: true };
    let hello = wire::FollowRequest { message: Some(Said::Hello(hello)) };
    let said = futures_util::StreamExt::chain(
        futures_util::stream::iter([hello]),
        futures_util::stream::pending(),
    );
    let told = tokio::time::timeout(SOON, client.follow(said)).await.unwrap();
    let mut told = told.map_err(|status| match status.code() {
        Code::Unauthenticated => format!("Unauthenticated: {}", status.message()),
        _ => format!("{status:?}"),
    })?;
    told.get_mut().message().await.map(drop).map_err(|status| format!("{status:?}"))
}
