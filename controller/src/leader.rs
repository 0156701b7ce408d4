//! The lease: one of the replicas holds it, and only that one writes.
//!
//! Clocks of nodes are never compared. A lease has run out when it was seen
//! unchanged for as long as it says, by the clock of whoever looks; and who
//! holds it stops by itself well before that. Each write answers the version
//! that was read, so of two that want the lease one is refused.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

/// The lease's name.
const LEASE: &str = "blixt-controller";

/// A holder that is not heard of for so long has lost it. The others look each
/// [`PAUSE`], so one of them leads at most 11 s after the holder died.
const DURATION: Duration = Duration::from_secs(9);

/// A holder that could not renew it for so long stops. What it sent until then
/// is done before somebody else leads: no request takes longer than the rest
/// of [`DURATION`] (`crate::clients`).
const STOP: Duration = Duration::from_secs(6);

/// How often it is renewed, or looked at.
const PAUSE: Duration = Duration::from_secs(2);

/// Takes part in the election, in a task of its own, until nobody listens;
/// then the lease is given back. Says whether we lead, and calls `answered`
/// whenever the API server has answered.
pub(crate) fn run(
    client: Client,
    namespace: &str,
    identity: &str,
    answered: impl Fn() + Send + 'static,
) -> (watch::Receiver<bool>, JoinHandle<()>) {
    let (leads, receiver) = watch::channel(false);
    // A container that is started again is not the one that held the lease.
    let begun = Timestamp::now().as_microsecond();
    let place = Place {
        api: Api::namespaced(client, namespace),
        text: format!("the lease {namespace}/{LEASE}"),
        trouble: None,
    };
    let election = Election::new(format!("{identity}_{begun:x}"));
    (receiver, tokio::spawn(take_part(election, place, leads, answered)))
}

async fn take_part(
    mut election: Election,
    mut place: Place,
    leads: watch::Sender<bool>,
    answered: impl Fn() + Send,
) {
    loop {
        let begun = Instant::now();
        // A request that hangs must not make us believe that we still lead.
        let end = election.stops_at().unwrap_or(begun + STOP);
        match timeout_at(end, place.turn(&mut election)).await {
            Ok(Ok(())) => {
                place.works();
                answered();
            }
            Ok(Err(error)) => place.fails(&error.to_string()),
            Err(_) => place.fails("the API server does not answer"),
        }
        if election.stops_at().is_some_and(|at| at <= Instant::now()) {
            election.lose();
        }
        let now = election.leads();
        if leads.send_replace(now) != now {
            let identity = &election.identity;
            info!(leads = now, identity, "the lease was {}", if now { "taken" } else { "lost" });
        }
        tokio::select! {
            () = sleep_until(election.wakes_at(begun)) => {}
            () = leads.closed() => break,
        }
    }
    // Nobody needs to wait until it runs out.
    if let Some(lease) = election.release()
        && let Err(error) = place.replace(&lease).await
    {
        place.fails(&error.to_string());
    }
}

/// What one replica knows of the lease, and what it does about it.
#[derive(Debug)]
struct Election {
    identity: String,
    seen: Option<Seen>,
    /// When the renewal began that we hold it by.
    held: Option<Instant>,
}

/// The lease as it was seen last.
#[derive(Debug)]
struct Seen {
    lease: Lease,
    /// When it was seen first.
    at: Instant,
}

/// What is to be done with the lease.
#[derive(Debug, PartialEq)]
enum Step {
    /// Nothing: somebody else holds it.
    Wait,
    /// There is none: make this one.
    Create(Box<Lease>),
    /// Write this one in its place.
    Replace(Box<Lease>),
}

impl Election {
    fn new(identity: String) -> Self {
        Self { identity, seen: None, held: None }
    }

    fn leads(&self) -> bool {
        self.held.is_some()
    }

    /// When we stop leading unless it is renewed.
    fn stops_at(&self) -> Option<Instant> {
        self.held.map(|held| held + STOP)
    }

    fn lose(&mut self) {
        self.held = None;
    }

    /// When it is looked at again: earlier if it runs out earlier.
    fn wakes_at(&self, begun: Instant) -> Instant {
        let usual = begun + PAUSE;
        match (&self.seen, self.held) {
            (Some(seen), None) if !is_free(&seen.lease) && seen.ends_at() > begun => {
                usual.min(seen.ends_at())
            }
            _ => usual,
        }
    }

    /// The lease was read.
    fn saw(&mut self, lease: Option<Lease>, now: Instant) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        match lease {
            None => self.seen = None,
            Some(lease) => match &self.seen {
                Some(seen) if version(&seen.lease) == version(&lease) => {}
                _ => self.seen = Some(Seen { lease, at: now }),
            },
        }
        if !self.seen.as_ref().is_some_and(|seen| self.is_ours(&seen.lease)) {
            self.lose();
        }
    }

    /// A write of ours was accepted that was begun at `begun`.
    fn wrote(&mut self, lease: Lease, begun: Instant) {
        self.held = self.is_ours(&lease).then_some(begun);
        self.seen = Some(Seen { lease, at: begun });
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        holder(lease) == Some(&self.identity)
    }

    fn step(&self, now: Instant, clock: Timestamp) -> Step {
        let Some(seen) = &self.seen else {
            let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None, clock)) };
            return Step::Create(Box::new(lease));
        };
        // One that we wrote, and whose answer never came, is ours too.
        if !self.is_ours(&seen.lease) && !is_free(&seen.lease) && now < seen.ends_at() {
            return Step::Wait;
        }
        let mut lease = seen.lease.clone();
        lease.spec = Some(self.spec(seen.lease.spec.as_ref(), clock));
        Step::Replace(Box::new(lease))
    }

    fn spec(&self, before: Option<&LeaseSpec>, clock: Timestamp) -> LeaseSpec {
        let was_ours =
            before.is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: match before.and_then(|spec| spec.acquire_time.clone()) {
                Some(since) if was_ours => Some(since),
                _ => Some(MicroTime(clock)),
            },
            renew_time: Some(MicroTime(clock)),
            lease_transitions: Some(if was_ours {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..before.cloned().unwrap_or_default()
        }
    }

    /// The lease without a holder, if we are it.
    fn release(&mut self) -> Option<Lease> {
        self.held.take()?;
        let mut lease = self.seen.take()?.lease;
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.acquire_time = None;
        spec.renew_time = None;
        Some(lease)
    }
}

impl Seen {
    fn ends_at(&self) -> Instant {
        let spec = self.lease.spec.as_ref();
        let told = spec.and_then(|spec| spec.lease_duration_seconds);
        // Another version of ours may have other ideas, but not any.
        let told = told.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        self.at + told.map_or(DURATION, |told| told.clamp(Duration::from_secs(1), 4 * DURATION))
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref()?.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}

fn is_free(lease: &Lease) -> bool {
    holder(lease).is_none()
}

/// Where the lease is kept.
struct Place {
    api: Api<Lease>,
    text: String,
    /// What went wrong last, which was told.
    trouble: Option<String>,
}

impl Place {
    async fn turn(&self, election: &mut Election) -> Result<(), kube::Error> {
        // Whoever holds it knows it; if somebody else wrote it the API server
        // says so.
        if !election.leads() {
            election.saw(self.api.get_opt(LEASE).await?, Instant::now());
        }
        let begun = Instant::now();
        let written = match election.step(begun, Timestamp::now()) {
            Step::Wait => return Ok(()),
            Step::Create(lease) => self.api.create(&PostParams::default(), &lease).await,
            Step::Replace(lease) => self.replace(&lease).await,
        };
        match written {
            Ok(lease) => election.wrote(lease, begun),
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                election.saw(self.api.get_opt(LEASE).await?, Instant::now());
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, kube::Error> {
        self.api.replace(LEASE, &PostParams::default(), lease).await
    }

    fn works(&mut self) {
        if self.trouble.take().is_some() {
            info!("{} can be had again", self.text);
        }
    }

    fn fails(&mut self, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            warn!("{}: {why}; trying again", self.text);
            self.trouble = Some(why.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// An API server with one lease, and replicas that look at it whenever a
    /// test says so.
    #[derive(Default)]
    struct Server {
        lease: Option<Lease>,
        version: u32,
    }

    impl Server {
        fn write(&mut self, lease: &Lease) -> Option<Lease> {
            let before =
                self.lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            if lease.metadata.resource_version != before {
                return None;
            }
            self.version += 1;
            let mut lease = lease.clone();
            lease.metadata.resource_version = Some(self.version.to_string());
            self.lease = Some(lease.clone());
            Some(lease)
        }

        fn turn(&mut self, election: &mut Election, now: Instant) -> bool {
            if !election.leads() {
                election.saw(self.lease.clone(), now);
            }
            // The clocks of nodes differ as they like.
            let clock =
                Timestamp::from_second(i64::try_from(election.identity.len()).unwrap() * 1_000);
            match election.step(now, clock.unwrap()) {
                Step::Wait => {}
                Step::Create(lease) | Step::Replace(lease) => match self.write(&lease) {
                    Some(lease) => election.wrote(lease, now),
                    None => election.saw(self.lease.clone(), now),
                },
            }
            election.leads()
        }
    }

    fn replicas() -> (Server, Election, Election, Instant) {
        let [a, b] = ["a", "bbbbbb"].map(|name| Election::new(name.to_owned()));
        (Server::default(), a, b, Instant::now())
    }

    #[test]
    fn one_leads_as_long_as_it_renews() {
        let (mut server, mut a, mut b, start) = replicas();
        for second in 0..60 {
            assert!(server.turn(&mut a, start + second * S));
            assert!(!server.turn(&mut b, start + second * S));
        }
        let spec = server.lease.unwrap().spec.unwrap();
        assert_eq!(spec.lease_transitions, Some(1));
    }

    #[test]
    fn another_one_leads_when_it_is_silent() {
        let (mut server, mut a, mut b, start) = replicas();
        server.turn(&mut a, start);
        server.turn(&mut b, start + S);
        assert!(!server.turn(&mut b, start + S + DURATION - S / 2));
        // It looks again just when it runs out.
        assert_eq!(b.wakes_at(start + 9 * S), start + S + DURATION);
        assert!(server.turn(&mut b, start + S + DURATION));
        // By then the first one had stopped by itself, request or no request.
        assert!(a.stops_at().unwrap() < start + DURATION);
        assert!(!server.turn(&mut a, start + 11 * S), "the version it knew is not the newest");
        assert_eq!(server.lease.unwrap().spec.unwrap().lease_transitions, Some(2));
    }

    #[test]
    fn of_two_that_want_it_one_gets_it() {
        let (mut server, mut a, mut b, start) = replicas();
        for election in [&mut a, &mut b] {
            election.saw(None, start);
        }
        let steps = [&a, &b].map(|election| election.step(start, Timestamp::UNIX_EPOCH));
        let mut written = steps.into_iter().map(|step| match step {
            Step::Create(lease) => server.write(&lease).is_some(),
            other => panic!("{other:?}"),
        });
        assert_eq!([written.next(), written.next()], [Some(true), Some(false)]);
    }

    #[test]
    fn who_ends_gives_it_back() {
        let (mut server, mut a, mut b, start) = replicas();
        server.turn(&mut a, start);
        assert!(!server.turn(&mut b, start));
        server.write(&a.release().unwrap()).unwrap();
        assert!(!a.leads() && a.release().is_none());
        assert!(server.turn(&mut b, start + S));
    }

    #[test]
    fn an_answer_that_was_lost_does_no_harm() {
        let (mut server, mut a, mut b, start) = replicas();
        a.saw(None, start);
        let Step::Create(lease) = a.step(start, Timestamp::UNIX_EPOCH) else { panic!() };
        server.write(&lease).unwrap();
        // It does not know that it leads, but sees it the next time.
        assert!(!a.leads());
        assert!(!server.turn(&mut b, start + S));
        assert!(server.turn(&mut a, start + 2 * S));
    }

    #[test]
    fn a_lease_that_is_removed_is_made_again() {
        let (mut server, mut a, _, start) = replicas();
        server.turn(&mut a, start);
        server.lease = None;
        assert!(!server.turn(&mut a, start + S));
        assert!(server.turn(&mut a, start + 2 * S));
    }
}
