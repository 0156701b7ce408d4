//! Many agents without packets: each follows the controller as the real one
//! does, and says at once that it uses what it got.
//!
//! A few of them are strict: they put every snapshot together from its parts and
//! hold its digest against what it should be.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use blixt_api::parts::Parts;
use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::controller_client::ControllerClient;
use blixt_api::sync::v1alpha1::follow_request::Message as Said;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use blixt_api::sync::{BEAT, MAX_MESSAGE_BYTES, SERVER_NAME};
use blixt_controller::push::{Authority, Material};
use futures_util::StreamExt;
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// How many of them check everything.
const STRICT: usize = 3;

/// How many come at the same time: a TLS handshake takes a core's millisecond.
const COMING: usize = 50;

/// One agent has applied this.
struct Applied {
    agent: usize,
    digest: Vec<u8>,
    at: Instant,
}

/// Agents that follow a controller; gone when dropped.
pub(crate) struct Agents {
    number: usize,
    applied: mpsc::UnboundedReceiver<Applied>,
    /// What each has applied last, and how many have each of these.
    have: Vec<Vec<u8>>,
    having: HashMap<Vec<u8>, usize>,
    told: Arc<AtomicU64>,
    runtime: Runtime,
}

/// What one change took.
#[derive(Debug)]
pub(crate) struct Change {
    /// When the last agent had applied it.
    pub(crate) at: Instant,
    /// How many bytes of tables each agent was told, on average.
    pub(crate) bytes: u64,
}

impl Agents {
    /// Begins so many, from the threads of a runtime that is where the
    /// controller is.
    pub(crate) fn start(runtime: Runtime, number: usize, port: u16, ca: &Material) -> Self {
        let (applies, applied) = mpsc::unbounded_channel();
        let told = Arc::new(AtomicU64::new(0));
        let coming = Arc::new(Semaphore::new(COMING));
        let authority = Authority::open(ca).unwrap();
        for index in 0..number {
            let endpoint = endpoint(&format!("node-{index}"), port, ca, &authority);
            let agent = Agent {
                index,
                strict: index < STRICT,
                applies: applies.clone(),
                told: told.clone(),
                has: Vec::new(),
                parts: None,
            };
            let coming = coming.clone();
            runtime.spawn(async move {
                // One that ends has said why; the test waits for it in vain.
                if let Err(why) = agent.follow(endpoint, &coming).await {
                    eprintln!("agent {index} ended: {why}");
                }
            });
        }
        let (have, having) = (vec![Vec::new(); number], HashMap::new());
        Self { number, applied, have, having, told, runtime }
    }

    /// Waits until all of them have applied one and the same snapshot, which is
    /// another one than `before`; gives its digest and what it took.
    pub(crate) fn all_apply(&mut self, before: &[u8], patience: Duration) -> (Vec<u8>, Change) {
        let told_before = self.told.swap(0, Ordering::Relaxed);
        let all = async {
            loop {
                let Applied { agent, digest, at } = self.applied.recv().await.unwrap();
                // Some may have had two while others had none yet.
                let last = mem::replace(&mut self.have[agent], digest.clone());
                if let Some(others) = self.having.get_mut(&last) {
                    *others -= 1;
                }
                let having = self.having.entry(digest.clone()).or_default();
                *having += 1;
                if *having == self.number && digest != before {
                    return (digest, at);
                }
            }
        };
        let waited = self.runtime.block_on(async { tokio::time::timeout(patience, all).await });
        let Ok((digest, at)) = waited else {
            panic!("of {} agents so many have each of these: {:?}", self.number, self.having);
        };
        self.having.retain(|_, agents| *agents > 0);
        let bytes = told_before + self.told.load(Ordering::Relaxed);
        (digest, Change { at, bytes: bytes / self.number as u64 })
    }

    /// Nothing that was told until now counts for what comes.
    pub(crate) fn forget_bytes(&self) {
        self.told.store(0, Ordering::Relaxed);
    }
}

/// The way to the controller, for a node's agent. Its certificate is what
/// enrolling would give it.
fn endpoint(node: &str, port: u16, ca: &Material, authority: &Authority) -> Endpoint {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let chain = authority.agent(request.der(), node, SystemTime::now()).unwrap();
    let blocks = chain.iter().map(|one| pem::Pem::new("CERTIFICATE", one.to_vec()));
    let chain = pem::encode_many(&blocks.collect::<Vec<_>>());
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ca.bundle))
        .identity(Identity::from_pem(chain, key.serialize_pem()))
        .domain_name(SERVER_NAME);
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap()
}

struct Agent {
    index: usize,
    strict: bool,
    applies: mpsc::UnboundedSender<Applied>,
    told: Arc<AtomicU64>,
    /// The digest of what it has.
    has: Vec<u8>,
    /// What it has, if it is strict.
    parts: Option<Parts>,
}

impl Agent {
    async fn follow(mut self, endpoint: Endpoint, coming: &Semaphore) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| format!("{error:?}");
        let permit = coming.acquire().await.map_err(|error| text(&error))?;
        let channel = endpoint.connect().await.map_err(|error| text(&error))?;
        let mut client =
            ControllerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (say, said) = mpsc::channel(16);
        let hello = wire::Hello { protocol: 1, version: "scale".to_owned(), ..Default::default() };
        let want = wire::Want { tables: true, digest: Vec::new() };
        for message in [Said::Hello(hello), Said::Want(want)] {
            say.send(message).await.map_err(|error| text(&error))?;
        }
        let outwards = tokio_stream::wrappers::ReceiverStream::new(said)
            .map(|message| wire::FollowRequest { message: Some(message) });
        let mut told = client.follow(outwards).await.map_err(|status| text(&status))?.into_inner();
        drop(permit);
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = told.message() => message.map_err(|status| text(&status))?,
                _ = beats.tick() => {
                    let beat = Said::Beat(wire::AgentBeat::default());
                    say.send(beat).await.map_err(|error| text(&error))?;
                    continue;
                }
            };
            let Some(message) = message else { return Err("the stream has ended".to_owned()) };
            if self.takes(message.message)? {
                let digest = self.has.clone();
                let applied = Said::Applied(wire::Applied {
                    digest: digest.clone(),
                    ..wire::Applied::default()
                });
                say.send(applied).await.map_err(|error| text(&error))?;
                // Nobody listens any more when the test is over.
                let applied = Applied { agent: self.index, digest, at: Instant::now() };
                let _ = self.applies.send(applied);
            }
        }
    }

    /// Takes up tables, if that is what it was told.
    fn takes(&mut self, told: Option<Told>) -> Result<bool, String> {
        let (digest, bytes) = match &told {
            Some(Told::Snapshot(snapshot)) => (snapshot.digest.clone(), snapshot.encoded_len()),
            Some(Told::Delta(delta)) if delta.base == self.has => {
                (delta.digest.clone(), delta.encoded_len())
            }
            Some(Told::Delta(_)) => return Err("a change of something it does not have".to_owned()),
            _ => return Ok(false),
        };
        self.told.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.strict {
            let parts = match told {
                Some(Told::Snapshot(snapshot)) => Parts::from_snapshot(snapshot),
                Some(Told::Delta(delta)) => {
                    let before = self.parts.as_ref().ok_or("a change of nothing")?;
                    before.changed_by(delta)
                }
                _ => return Ok(false),
            };
            let parts = parts.map_err(|error| error.to_string())?;
            parts.snapshot(blixt_model::Generation(1)).map_err(|error| error.to_string())?;
            if parts.digest().to_vec() != digest {
                return Err("the digest is another one".to_owned());
            }
            self.parts = Some(parts);
        }
        self.has = digest;
        Ok(true)
    }
}
