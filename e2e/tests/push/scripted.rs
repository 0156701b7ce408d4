//! A replica that does what a real one does not: gives certificates that last
//! for seconds or none at all, says what is broken or of another version, and
//! remembers what it heard.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use blixt_api::parts::Parts;
use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::controller_server::{Controller, ControllerServer};
use blixt_api::sync::v1alpha1::follow_request::Message as Said;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use blixt_controller::push::{Authority, Material};
use futures_util::Stream;
use futures_util::stream::poll_fn;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::wires::Pair;

/// How long certificates are good that a controller makes.
const LIFE: Duration = Duration::from_secs(24 * 3_600);

/// How often it says that it lives.
const BEAT: Duration = Duration::from_millis(100);

type Message = Result<wire::FollowResponse, Status>;

/// What a test sets and sees.
pub(crate) struct Script {
    pub(crate) ca: Material,
    /// The certificate that it shows instead of a controller's.
    pub(crate) shows: Option<Pair>,
    /// How long certificates are good that it gives.
    pub(crate) life: Duration,
    /// Why it gives none.
    pub(crate) enrols_not: Option<Status>,
    /// What it sends to whoever wants tables.
    pub(crate) tables: wire::Snapshot,
    /// How many connections there have been.
    pub(crate) knocked: usize,
    /// How often it gave a certificate, or did not.
    pub(crate) enrolled: usize,
    pub(crate) refused: usize,
    /// All that agents have said.
    pub(crate) said: Vec<Said>,
    /// The streams that there have been.
    streams: Vec<UnboundedSender<Message>>,
}

impl Script {
    /// How the next connection is let in.
    fn server(&mut self) -> ServerConfig {
        self.knocked += 1;
        let authority = Authority::open(&self.ca).unwrap();
        let mut server = authority.server(SystemTime::now()).unwrap();
        if let Some(pair) = &self.shows {
            server.cert_resolver = Arc::new(SingleCertAndKey::from(pair.certified()));
        }
        server
    }

    /// How often tables were asked for.
    pub(crate) fn wants(&self) -> usize {
        self.said.iter().filter(|said| matches!(said, Said::Want(want) if want.tables)).count()
    }

    /// What is wrong with the agent by its last beat.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.said.iter().rev().find_map(|said| match said {
            Said::Beat(beat) => Some(beat.trouble.clone()),
            _ => None,
        })
    }

    /// Whether the agent is not to be relied on by its last beat.
    pub(crate) fn is_unsteady(&self) -> bool {
        let last = self.said.iter().rev().find_map(|said| match said {
            Said::Beat(beat) => Some(beat.unsteady),
            _ => None,
        });
        last.unwrap_or_default()
    }

    pub(crate) fn followed(&self) -> usize {
        self.streams.len()
    }

    /// Says something on the newest stream.
    pub(crate) fn tell(&self, message: Option<Told>) {
        let stream = self.streams.last().unwrap();
        let _ = stream.send(Ok(wire::FollowResponse { message }));
    }

    /// Has other tables, and sends them.
    pub(crate) fn publish(&mut self, tables: wire::Snapshot) {
        self.tables = tables;
        self.tell(Some(Told::Snapshot(self.tables.clone())));
    }
}

/// It runs; it is gone when dropped.
pub(crate) struct Scripted {
    pub(crate) at: SocketAddr,
    script: Arc<Mutex<Script>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Scripted {
    pub(crate) async fn start(ca: &Material, tables: &blixt_model::Snapshot) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(ca, listener, tables)
    }

    /// Serves on a socket that may be in another namespace.
    pub(crate) fn serve(
        ca: &Material,
        listener: TcpListener,
        tables: &blixt_model::Snapshot,
    ) -> Self {
        let at = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script {
            ca: ca.clone(),
            shows: None,
            life: LIFE,
            enrols_not: None,
            tables: Parts::of(tables).to_snapshot(),
            knocked: 0,
            enrolled: 0,
            refused: 0,
            said: Vec::new(),
            streams: Vec::new(),
        }));
        let (sender, mut connections) = mpsc::channel(16);
        let opened = script.clone();
        let door = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = opened.lock().unwrap().server();
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = TlsAcceptor::from(Arc::new(server)).accept(stream).await {
                        let _ = sender.send(io::Result::Ok(stream)).await;
                    }
                });
            }
        });
        let connections = poll_fn(move |context| connections.poll_recv(context));
        let service = ControllerServer::new(Service(script.clone()));
        let served = Server::builder().add_service(service).serve_with_incoming(connections);
        let serving = tokio::spawn(async move { served.await.unwrap() });
        Self { at, script, tasks: [door, serving] }
    }

    pub(crate) fn script<T>(&self, act: impl FnOnce(&mut Script) -> T) -> T {
        act(&mut self.script.lock().unwrap())
    }

    /// Ends all streams, for a reason.
    pub(crate) fn hang_up(&self, end: Status) {
        self.script(|script| {
            script.streams.iter().for_each(|stream| drop(stream.send(Err(end.clone()))));
        });
    }
}

struct Service(Arc<Mutex<Script>>);

#[tonic::async_trait]
impl Controller for Service {
    async fn enroll(
        &self,
        request: Request<wire::EnrollRequest>,
    ) -> Result<Response<wire::EnrollResponse>, Status> {
        let mut script = self.0.lock().unwrap();
        if let Some(status) = script.enrols_not.clone() {
            script.refused += 1;
            return Err(status);
        }
        script.enrolled += 1;
        let authority = Authority::open(&script.ca).unwrap();
        // As one that was made long ago.
        let made = SystemTime::now() - (LIFE - script.life);
        let signed = authority.agent(&request.get_ref().request, "node-1", made).unwrap();
        Ok(Response::new(wire::EnrollResponse {
            certificates: signed.into_iter().map(|one| one.to_vec()).collect(),
            good_for_s: script.life.as_secs(),
        }))
    }

    async fn review(
        &self,
        _: Request<wire::ReviewRequest>,
    ) -> Result<Response<wire::ReviewResponse>, Status> {
        Err(Status::unimplemented("as from one that is older than this call"))
    }

    type FollowStream = Pin<Box<dyn Stream<Item = Message> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let script = self.0.clone();
        let mut said = request.into_inner();
        let (tell, mut told) = mpsc::unbounded_channel();
        script.lock().unwrap().streams.push(tell.clone());
        let beaten = script.clone();
        let beats = tell.clone();
        tokio::spawn(async move {
            loop {
                let digest = beaten.lock().unwrap().tables.digest.clone();
                let beat = wire::ControllerBeat {
                    digest,
                    settled: true,
                    ..wire::ControllerBeat::default()
                };
                let message = wire::FollowResponse { message: Some(Told::Beat(beat)) };
                if beats.send(Ok(message)).is_err() {
                    return;
                }
                tokio::time::sleep(BEAT).await;
            }
        });
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                let mut script = script.lock().unwrap();
                let Some(message) = message.message else { continue };
                if matches!(&message, Said::Want(want)
                    if want.tables && want.digest != script.tables.digest)
                {
                    let message = Some(Told::Snapshot(script.tables.clone()));
                    let _ = tell.send(Ok(wire::FollowResponse { message }));
                }
                script.said.push(message);
            }
        });
        Ok(Response::new(Box::pin(poll_fn(move |context| told.poll_recv(context)))))
    }
}
