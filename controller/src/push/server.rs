//! What agents call: `Enroll` and `Follow`.
//!
//! What goes out to an agent is looked up at the moment when its connection
//! takes it: a slow one gets the newest there is then, has nothing queued, and
//! holds up nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blixt_api::parts::{Digest, Parts, assignment_out, name_in, taken_in};
use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::controller_server::Controller;
use blixt_api::sync::v1alpha1::follow_request::Message as Said;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use blixt_api::sync::{BEAT, MAX_MESSAGE_BYTES};
use blixt_model::ObjectName;
use blixt_scrape::Decisions;
use futures_util::{Stream, stream};
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::agents::Greeting;
use super::certificates::{LIFE, Peer};
use super::door::Connection;
use super::enrolment::{ReviewError, Reviewer};
use super::scrapers;
use super::seldom::Seldom;
use super::trust::Trust;
use super::{Push, Said as News, meters};

/// How long an agent may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);

/// How many tokens are asked about at once, how long one waits for its turn, and
/// how long for its answer. Anybody may come with one.
const REVIEWS: usize = 8;
const TURN: Duration = Duration::from_secs(2);
const REVIEW: Duration = Duration::from_secs(5);

/// Tokens and requests are smaller than this.
const MOST_BYTES: usize = 16 << 10;

/// What an agent says for people is cut here: it goes into conditions and logs.
const MOST_TEXT: usize = 1_024;

type Tls = <Connection as Connected>::ConnectInfo;

/// The service.
pub(crate) struct Service {
    push: Push,
    trust: Trust,
    reviewer: Arc<dyn Reviewer>,
    reviews: Semaphore,
    scrapers: Decisions,
    /// Of enrolments that are refused.
    warnings: Seldom,
}

impl Service {
    pub(crate) fn new(push: Push, trust: Trust, reviewer: Arc<dyn Reviewer>) -> Self {
        let scrapers = Decisions::new(reviewer.clone());
        let (reviews, warnings) = (Semaphore::new(REVIEWS), Seldom::default());
        Self { push, trust, reviewer, reviews, scrapers, warnings }
    }

    /// The certificate; or why not, in one word for whoever counts, too.
    async fn sign(
        &self,
        request: &wire::EnrollRequest,
    ) -> Result<Vec<Vec<u8>>, (&'static str, Status)> {
        if request.token.len() > MOST_BYTES || request.request.len() > MOST_BYTES {
            let status = Status::invalid_argument("the request or the token is too long");
            return Err((meters::REQUEST, status));
        }
        let Ok(Ok(_turn)) = timeout(TURN, self.reviews.acquire()).await else {
            let why = "too many agents ask for a certificate at once: try again";
            return Err((meters::BUSY, Status::resource_exhausted(why)));
        };
        let reviewed = timeout(REVIEW, self.reviewer.node_of(&request.token)).await;
        let reviewed = reviewed.unwrap_or_else(|_| {
            Err(ReviewError::Unavailable(format!("it does not answer within {REVIEW:?}")))
        });
        let node = reviewed.map_err(|error| match error {
            ReviewError::Refused(_) => {
                (meters::TOKEN, Status::permission_denied(error.to_string()))
            }
            ReviewError::Unavailable(_) => {
                (meters::UNAVAILABLE, Status::unavailable(error.to_string()))
            }
        })?;
        let Some(authority) = self.trust.authority() else {
            return Err((meters::UNAVAILABLE, Status::unavailable("there is no CA yet")));
        };
        let signed = authority.agent(&request.request, &node, SystemTime::now());
        let signed = signed
            .map_err(|error| (meters::REQUEST, Status::invalid_argument(error.to_string())))?;
        info!(node, "an agent has enrolled");
        Ok(signed.into_iter().map(|certificate| certificate.to_vec()).collect())
    }
}

#[tonic::async_trait]
impl Controller for Service {
    async fn enroll(
        &self,
        request: Request<wire::EnrollRequest>,
    ) -> Result<Response<wire::EnrollResponse>, Status> {
        let from = from(&request);
        match self.sign(request.get_ref()).await {
            Ok(certificates) => {
                self.push.meters().enrolled(meters::SIGNED);
                Ok(Response::new(wire::EnrollResponse { certificates, good_for_s: LIFE.as_secs() }))
            }
            Err((outcome, status)) => {
                self.push.meters().enrolled(outcome);
                if self.warnings.turn(Instant::now()) {
                    warn!("an enrolment from {from} is refused: {}", status.message());
                } else {
                    debug!("an enrolment from {from} is refused: {}", status.message());
                }
                Err(status)
            }
        }
    }

    async fn review(
        &self,
        request: Request<wire::ReviewRequest>,
    ) -> Result<Response<wire::ReviewResponse>, Status> {
        peer(&request).map_err(Status::unauthenticated)?;
        let verdict = self.scrapers.of(&request.get_ref().token).await;
        scrapers::answer(verdict).map(Response::new)
    }

    type FollowStream =
        Pin<Box<dyn Stream<Item = Result<wire::FollowResponse, Status>> + Send + 'static>>;

    async fn follow(
        &self,
        request: Request<Streaming<wire::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let from = from(&request);
        let refused = |why: String| {
            self.push.meters().refused(meters::CERTIFICATE);
            warn!("a stream from {from} is refused: {why}");
            Status::unauthenticated(why)
        };
        let peer = peer(&request).map_err(refused)?;
        let said = request.into_inner();
        Ok(Response::new(follow(self.push.clone(), peer, from, said)))
    }
}

fn from<T>(request: &Request<T>) -> String {
    let address = request.extensions().get::<Tls>().and_then(|tls| tls.get_ref().remote_addr());
    address.map_or_else(|| "nowhere".to_owned(), |address| address.to_string())
}

fn peer<T>(request: &Request<T>) -> Result<Peer, String> {
    let certificates = request.extensions().get::<Tls>().and_then(Tls::peer_certs);
    let certificate = certificates.as_ref().and_then(|all| all.first());
    let certificate = certificate.ok_or("there is no client certificate: enrol for one")?;
    Peer::of(certificate).map_err(|error| error.to_string())
}

/// What an agent wants of this replica.
#[derive(Debug, Clone, Default, PartialEq)]
struct Wants {
    tables: bool,
    /// The snapshot that changes may be told against.
    base: Option<Digest>,
    /// Certificates too, since it serves streams.
    certificates: bool,
}

/// Begins to listen to an agent, in a task of its own, and tells it what is
/// new for as long as that takes.
fn follow(
    push: Push,
    peer: Peer,
    from: String,
    said: Streaming<wire::FollowRequest>,
) -> <Service as Controller>::FollowStream {
    // The sender goes with the task: that ends the other direction too.
    let (wants, wanted) = watch::channel(None);
    tokio::spawn(listen(push.clone(), peer.clone(), from, said, wants));
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let telling = Telling {
        published: push.published(),
        certificates: push.certificates(),
        assigned: push.assigned(),
        peers: push.peers(),
        ending: push.ending(),
        push,
        peer,
        wanted,
        wants: Wants::default(),
        beats,
        sent: None,
        certified: Arc::default(),
        assignment: None,
        urls: Vec::new(),
        over: false,
    };
    Box::pin(stream::unfold(telling, |mut telling| async {
        let next = telling.next().await?;
        Some((next, telling))
    }))
}

/// The addresses that an agent's node has itself.
fn taken(said: Vec<wire::Taken>) -> BTreeMap<IpAddr, String> {
    taken_in(said).into_iter().map(|(address, why)| (address, short(why))).collect()
}

/// Takes in all that an agent says.
async fn listen(
    push: Push,
    peer: Peer,
    from: String,
    mut said: Streaming<wire::FollowRequest>,
    wants: watch::Sender<Option<Wants>>,
) {
    let node = peer.node;
    let refused = |why: &str| {
        push.meters().refused(meters::GREETING);
        warn!(node, "a stream from {from} is refused: {why}");
    };
    let hello = match timeout(HELLO, said.message()).await {
        Ok(Ok(Some(wire::FollowRequest { message: Some(Said::Hello(hello)) }))) => hello,
        _ => return refused("it does not begin with a greeting"),
    };
    if hello.protocol == 0 {
        return refused("it speaks version 0 of the protocol");
    }
    let greeting = Greeting {
        version: short(hello.version),
        has: Digest::read(&hello.digest),
        streams: hello.streams,
    };
    let stream = push.come(&node, &greeting);
    info!(node, version = greeting.version, %from, "an agent follows");
    push.meters().streams.inc();
    let certificates = greeting.streams;
    wants.send_replace(Some(Wants { certificates, ..Wants::default() }));
    let mut for_good = false;
    let end = loop {
        let message = match said.message().await {
            Ok(Some(said)) => said.message,
            Ok(None) => break "it has ended".to_owned(),
            Err(status) => break status.message().to_owned(),
        };
        push.hears(&node, stream);
        match message {
            Some(Said::Applied(it)) => {
                if let Some(digest) = Digest::read(&it.digest) {
                    let (taken, troubles) = (taken(it.taken), troubles(it.troubles));
                    push.said(&node, stream, News::Applied { digest, taken, troubles });
                }
            }
            Some(Said::Refused(it)) => {
                if let Some(digest) = Digest::read(&it.digest) {
                    push.said(&node, stream, News::Refused(digest, short(it.reason)));
                }
            }
            Some(Said::Want(it)) => {
                let base = Digest::read(&it.digest);
                let wanted = Wants { tables: it.tables, base, certificates };
                wants.send_replace(Some(wanted));
            }
            Some(Said::Beat(it)) => push.beats(&node, stream, &short(it.trouble), it.unsteady),
            // What it owned is others' from now on: it serves a moment longer, for that.
            Some(Said::Bye(wire::Bye {})) => {
                for_good = true;
                break "it has said goodbye".to_owned();
            }
            // Also what only a newer version knows.
            Some(Said::Hello(_)) | None => {}
        }
    };
    push.left(&node, stream, for_good);
    push.meters().streams.dec();
    info!(node, %from, "an agent follows no more: {end}");
}

/// A Gateway without a name has no trouble.
fn troubles(told: Vec<wire::GatewayTrouble>) -> BTreeMap<ObjectName, String> {
    told.into_iter().filter_map(|it| Some((name_in(it.gateway).ok()?, short(it.why)))).collect()
}

fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    text
}

/// One agent's stream, outwards.
struct Telling {
    push: Push,
    peer: Peer,
    wanted: watch::Receiver<Option<Wants>>,
    wants: Wants,
    published: watch::Receiver<Option<Arc<Parts>>>,
    certificates: watch::Receiver<Arc<wire::Certificates>>,
    assigned: watch::Receiver<super::Assignments>,
    peers: watch::Receiver<Vec<String>>,
    /// Becomes true when the controller ends.
    ending: watch::Receiver<bool>,
    beats: Interval,
    /// What it has been told last.
    sent: Option<Arc<Parts>>,
    certified: Arc<wire::Certificates>,
    assignment: Option<wire::Assignment>,
    urls: Vec<String>,
    over: bool,
}

impl Telling {
    /// The next message; waits until there is one.
    async fn next(&mut self) -> Option<Result<wire::FollowResponse, Status>> {
        if self.over || *self.ending.borrow() {
            return None;
        }
        loop {
            if let Some(message) = self.due() {
                return Some(Ok(wire::FollowResponse { message: Some(message) }));
            }
            let left = self.peer.expires.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                biased;
                () = sleep(left) => {
                    self.over = true;
                    let why = "the client certificate has expired: enrol for a new one";
                    return Some(Err(Status::unauthenticated(why)));
                }
                _ = self.beats.tick() => {
                    let message = Some(Told::Beat(self.push.beat(&self.peer.node, Instant::now())));
                    return Some(Ok(wire::FollowResponse { message }));
                }
                changed = self.wanted.changed() => {
                    // Nobody listens any more.
                    changed.ok()?;
                    self.want();
                }
                changed = self.published.changed() => changed.ok()?,
                changed = self.certificates.changed() => changed.ok()?,
                changed = self.assigned.changed() => changed.ok()?,
                changed = self.peers.changed() => changed.ok()?,
                // With true, the only change there is.
                _ = self.ending.changed() => return None,
            }
        }
    }

    fn want(&mut self) {
        let wants = self.wanted.borrow_and_update().clone().unwrap_or_default();
        self.sent = wants.base.and_then(|base| self.push.known(base));
        self.assignment = None;
        self.certified = Arc::default();
        self.wants = wants;
    }

    /// What it has not been told yet.
    fn due(&mut self) -> Option<Told> {
        // Before it has said who it is nothing is told.
        if self.wanted.borrow().is_none() {
            return None;
        }
        let urls = self.peers.borrow_and_update().clone();
        if urls != self.urls {
            self.urls.clone_from(&urls);
            return Some(Told::Peers(wire::Peers { urls }));
        }
        if !self.wants.tables {
            return None;
        }
        // In this order: what it names was there before the snapshot.
        let newest = self.published.borrow_and_update().clone();
        self.certify().or_else(|| self.tables(newest?)).or_else(|| self.assign())
    }

    fn certify(&mut self) -> Option<Told> {
        let newest = self.certificates.borrow_and_update().clone();
        if !self.wants.certificates || newest == self.certified {
            return None;
        }
        self.certified = newest.clone();
        Some(Told::Certificates(wire::Certificates::clone(&newest)))
    }

    fn tables(&mut self, newest: Arc<Parts>) -> Option<Told> {
        let before = self.sent.replace(newest.clone());
        match before {
            Some(before) if before.digest() == newest.digest() => return None,
            Some(before) => {
                if let Some(delta) = self.push.since(&before, &newest) {
                    self.push.meters().sent(meters::DELTA, delta.encoded_len());
                    return Some(Told::Delta(wire::Delta::clone(&delta)));
                }
            }
            // It has just these.
            None if self.wants.base == Some(newest.digest()) => return None,
            None => {}
        }
        let snapshot = newest.to_snapshot();
        self.push.meters().sent(meters::SNAPSHOT, snapshot.encoded_len());
        Some(Told::Snapshot(snapshot))
    }

    fn assign(&mut self) -> Option<Told> {
        // Of all agents only its own.
        let assignment = {
            let all = self.assigned.borrow_and_update();
            let owned = all.as_ref()?;
            let of_it = |all: &BTreeMap<String, BTreeSet<IpAddr>>| {
                all.get(&self.peer.node).cloned().unwrap_or_default()
            };
            assignment_out(&of_it(&owned.vips), &of_it(&owned.snat))
        };
        if self.assignment.as_ref() == Some(&assignment) {
            return None;
        }
        self.assignment = Some(assignment.clone());
        Some(Told::Assignment(assignment))
    }
}

/// How the service is served.
pub(crate) fn service(service: Service) -> wire::controller_server::ControllerServer<Service> {
    wire::controller_server::ControllerServer::new(service)
        .max_decoding_message_size(4 * MOST_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
