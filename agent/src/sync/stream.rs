//! The stream to one replica: kept for as long as there is one, and begun anew
//! when it ends, with pauses that grow and differ from agent to agent.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_api::parts::{Digest, name_out, taken_out};
use blixt_api::sync::v1alpha1 as wire;
use blixt_api::sync::v1alpha1::follow_request::Message as Said;
use blixt_api::sync::v1alpha1::follow_response::Message as Told;
use blixt_api::sync::{BEAT, MAX_MESSAGE_BYTES};
use futures_util::stream::poll_fn;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::{Code, Status, Streaming};

use super::pauses::Pauses;
use super::scrapers::{Asked, Scrapers};
use super::trust::{Identity, Trust, TrustError, Turn, client, connect, describe};
use super::{Report, Serving};

/// The version of the protocol.
const PROTOCOL: u32 = 1;

/// A replica that says nothing for so long is taken for dead. Longer than an
/// agent's own second: a controller that stalls costs nothing but time.
const SILENCE: Duration = BEAT.saturating_mul(8);

/// Pauses between attempts. The longest is less than the time after which a new
/// replica believes that all agents are there.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A moment for a goodbye to get out.
const PARTING: Duration = Duration::from_millis(50);

/// Messages that wait for a connection which takes none.
const WAITING: usize = 16;

/// What a stream tells.
#[derive(Debug)]
pub(super) struct Event {
    /// Which replica's it is.
    pub(super) replica: String,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// It is there; this way it is spoken to.
    Up(mpsc::Sender<Said>),
    /// The replica says something.
    Told(Told),
    /// It says something that can't be taken, and why; the stream ends of it.
    Unreadable(String),
    /// It is not there, and why.
    Down(String),
}

/// What every stream needs.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) trust: Arc<Trust>,
    pub(super) scrapers: Scrapers,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) report: watch::Receiver<Report>,
    pub(super) serving: watch::Receiver<Serving>,
    /// Until when a replica does not rely on this agent.
    pub(super) doubted: watch::Receiver<Option<Instant>>,
    /// Becomes true when the agent ends.
    pub(super) ending: watch::Receiver<bool>,
}

impl Means {
    /// What replicas are told again and again. What one of them has seen, all are told.
    fn beat(&self) -> Said {
        let serving = self.serving.borrow();
        let is_doubted = self.doubted.borrow().is_some_and(|until| Instant::now() < until);
        Said::Beat(wire::AgentBeat {
            trouble: serving.trouble(),
            unsteady: serving.is_unsteady() || is_doubted,
        })
    }
}

/// Why a stream ended.
enum End {
    /// Something went wrong.
    Failed(String),
    /// There is a new certificate, and it is this stream's turn to go over to it.
    Renewed(Turn),
    /// The agent ends, or nobody listens.
    Over,
}

impl From<TrustError> for End {
    fn from(error: TrustError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Keeps a stream to a replica until the agent ends.
pub(super) async fn keep(replica: String, at: SocketAddr, mut means: Means) {
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut turn = None;
    loop {
        let begin = Instant::now();
        let ended = follow(&replica, at, &mut means, turn.take()).await;
        if begin.elapsed() > LONGEST_PAUSE {
            pauses.reset();
        }
        let why = match ended {
            End::Over => return,
            // To others it is as if it were still the same one.
            End::Renewed(next) => {
                turn = Some(next);
                continue;
            }
            End::Failed(why) => why,
        };
        let event = Event { replica: replica.clone(), kind: Kind::Down(why) };
        if means.events.send(event).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(pauses.grow()) => {}
            () = ends(&mut means.ending) => return,
        }
    }
}

/// Waits until the agent ends.
pub(super) async fn ends(ending: &mut watch::Receiver<bool>) {
    // An error: nobody is left who could say so.
    let _ = ending.wait_for(|ends| *ends).await;
}

async fn follow(replica: &str, at: SocketAddr, means: &mut Means, turn: Option<Turn>) -> End {
    match follow_once(replica, at, means, turn).await {
        Ok(end) | Err(end) => end,
    }
}

/// A stream that has been answered.
struct Open {
    identity: Arc<Identity>,
    /// What was said of tables.
    reported: Report,
    told: Streaming<wire::FollowResponse>,
    /// As long as the connection lives.
    _asked: Asked,
}

async fn open(
    replica: &str,
    at: SocketAddr,
    means: &mut Means,
    say: &mpsc::Sender<Said>,
    mut said: mpsc::Receiver<Said>,
) -> Result<Open, End> {
    let trust = &means.trust;
    let identity = trust.identity(at).await?;
    let connected = connect(at, trust.config(&identity)?).await;
    if let Err(TrustError::HungUp(_)) = &connected {
        trust.doubt(&identity);
    }
    let mut client = client(connected?);
    let reported = means.report.borrow_and_update().clone();
    let hello = wire::Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        digest: reported.applied.map(Digest::to_vec).unwrap_or_default(),
        streams: true,
    };
    // There is room in a new channel.
    let _ = say.try_send(Said::Hello(hello));
    // A greeting has no room for what is wrong with it.
    if let Some(digest) = reported.applied {
        let _ = say.try_send(applied(digest, &reported));
    }
    if let Some((digest, reason)) = reported.refused.clone() {
        let _ = say.try_send(refused(digest, reason));
    }
    let outwards = poll_fn(move |context| said.poll_recv(context));
    let outwards = futures_util::StreamExt::map(outwards, |message| wire::FollowRequest {
        message: Some(message),
    });
    let answered = timeout(SILENCE, client.follow(outwards)).await;
    let _asked = means.scrapers.may_ask(replica, client);
    let told = match answered {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Err(failed(&status, trust, &identity, false)),
        Err(_) => return Err(End::Failed(format!("it says nothing for {SILENCE:?}"))),
    };
    Ok(Open { identity, reported, told, _asked })
}

/// Whoever waits for a turn gets it when this one is up, or failed.
async fn follow_once(
    replica: &str,
    at: SocketAddr,
    means: &mut Means,
    mut turn: Option<Turn>,
) -> Result<End, End> {
    let trust = means.trust.clone();
    let mut ending = means.ending.clone();
    let (say, said) = mpsc::channel(WAITING);
    let Open { identity, mut reported, mut told, _asked } = {
        let mut opening = pin!(open(replica, at, means, &say, said));
        tokio::select! {
            opened = &mut opening => opened?,
            // It may have been greeted, and not have answered yet.
            () = ends(&mut ending) => {
                let _ = say.try_send(Said::Bye(wire::Bye {}));
                let _ = timeout(PARTING, opening).await;
                return Ok(End::Over);
            }
        }
    };
    let newer = trust.newer(&identity, at);
    tokio::pin!(newer);
    let mut is_up = false;
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            message = told.message() => {
                heard = Instant::now();
                let message = match message {
                    Ok(Some(message)) => message.message,
                    Ok(None) => return Err(End::Failed("it has ended the stream".to_owned())),
                    Err(status) => {
                        if let Some(why) = unreadable(&status) {
                            tell(means, replica, Kind::Unreadable(why.clone())).await?;
                            return Err(End::Failed(why));
                        }
                        return Err(failed(&status, &trust, &identity, is_up));
                    }
                };
                if !is_up {
                    is_up = true;
                    drop(turn.take());
                    tell(means, replica, Kind::Up(say.clone())).await?;
                }
                // What only a newer version knows is nothing.
                if let Some(message) = message {
                    tell(means, replica, Kind::Told(message)).await?;
                }
            }
            _ = beats.tick() => {
                if heard.elapsed() > SILENCE {
                    return Err(End::Failed(format!("it says nothing for {SILENCE:?}")));
                }
                // One that does not fit is one that nobody takes.
                let _ = say.try_send(means.beat());
            }
            // At once: until replicas believe the same, a VIP may be nobody's.
            Ok(()) = means.doubted.changed() => {
                let _ = say.try_send(means.beat());
            }
            turn = &mut newer => return Ok(End::Renewed(turn)),
            changed = means.report.changed() => {
                changed.map_err(|_| End::Over)?;
                let report = means.report.borrow_and_update().clone();
                for message in news(&reported, &report) {
                    say.send(message).await.map_err(|_| End::Failed("it is gone".to_owned()))?;
                }
                reported = report;
            }
            () = ends(&mut ending) => {
                let _ = say.try_send(Said::Bye(wire::Bye {}));
                sleep(PARTING).await;
                return Ok(End::Over);
            }
        }
    }
}

async fn tell(means: &Means, replica: &str, kind: Kind) -> Result<(), End> {
    let event = Event { replica: replica.to_owned(), kind };
    means.events.send(event).await.map_err(|_| End::Over)
}

fn failed(status: &Status, trust: &Trust, identity: &Arc<Identity>, was_up: bool) -> End {
    if status.code() == Code::Unauthenticated {
        trust.forget(identity);
    } else if !was_up {
        // A server that does not take our certificate may have no time to say so.
        trust.doubt(identity);
    }
    End::Failed(describe(status))
}

/// What a message was that can't be taken, if that is why a stream ends.
fn unreadable(status: &Status) -> Option<String> {
    match status.code() {
        // From here or from there, whoever noticed first.
        Code::OutOfRange => Some(format!(
            "the tables are larger than the {} MiB that one message may have ({}): have fewer \
             Gateways, listeners and endpoints",
            MAX_MESSAGE_BYTES >> 20,
            describe(status)
        )),
        Code::Internal => Some(describe(status)),
        _ => None,
    }
}

fn applied(digest: Digest, report: &Report) -> Said {
    let troubles = report.troubles.iter().map(|(gateway, why)| wire::GatewayTrouble {
        gateway: Some(name_out(gateway)),
        why: why.clone(),
    });
    Said::Applied(wire::Applied {
        digest: digest.to_vec(),
        taken: taken_out(&report.taken),
        troubles: troubles.collect(),
    })
}

fn refused(digest: Digest, reason: String) -> Said {
    Said::Refused(wire::Refused { digest: digest.to_vec(), reason })
}

/// What a replica has to be told.
fn news(before: &Report, now: &Report) -> Vec<Said> {
    let mut news = Vec::new();
    let again = before.applied != now.applied
        || before.taken != now.taken
        || before.troubles != now.troubles
        || before.refused.is_some() && now.refused.is_none();
    if let Some(digest) = now.applied.filter(|_| again) {
        news.push(applied(digest, now));
    }
    // Whoever says that it applied something takes a refusal back with that.
    if let Some((digest, reason)) = &now.refused
        && (before.refused != now.refused || !news.is_empty())
    {
        news.push(refused(*digest, reason.clone()));
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_told_once() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let report = |applied, refused: Option<Digest>| Report {
            applied: Some(applied),
            refused: refused.map(|digest| (digest, "why".to_owned())),
            ..Report::default()
        };
        let kinds = |before, now| {
            let kind = |said: Said| match said {
                Said::Applied(_) => "applied",
                Said::Refused(_) => "refused",
                _ => "other",
            };
            news(&before, &now).into_iter().map(kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(Report::default(), report(one, None)), ["applied"]);
        assert_eq!(kinds(report(one, None), report(one, None)), [""; 0]);
        assert_eq!(kinds(report(one, None), report(one, Some(two))), ["refused"]);
        // It was taken back.
        assert_eq!(kinds(report(one, Some(two)), report(one, None)), ["applied"]);
        assert_eq!(kinds(report(one, Some(two)), report(two, None)), ["applied"]);
        // An address became the node's own, and nothing is taken back with that.
        let mut taken = report(one, Some(two));
        taken.taken.insert([192, 0, 2, 1].into(), "is the node's".to_owned());
        assert_eq!(kinds(report(one, Some(two)), taken), ["applied", "refused"]);
        // A port is taken, and free again.
        let troubles = || [("edge".parse().unwrap(), "it is taken".to_owned())].into();
        let taken = || Report { troubles: troubles(), ..report(one, None) };
        assert_eq!(kinds(report(one, None), taken()), ["applied"]);
        assert_eq!(kinds(taken(), taken()), [""; 0]);
        assert_eq!(kinds(taken(), report(one, None)), ["applied"]);
    }
}
