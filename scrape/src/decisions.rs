//! Who may read metrics, remembered for a moment: scrapers come again and
//! again, and the API server is not there for them alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// No token is longer than this.
pub const LONGEST_TOKEN: usize = 16 << 10;

/// How long an answer is believed. A token that is no good now may be in a
/// moment: a binding that was forgotten is made.
const ALLOWED: Duration = Duration::from_secs(30);
const REFUSED: Duration = Duration::from_secs(5);

/// How many answers are remembered.
const REMEMBERED: usize = 256;

/// How many tokens are asked about at once, and how long one may take. Anybody
/// may come with one.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_secs(6);

/// What became of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its owner may read metrics.
    Allowed,
    /// It is nobody's, and why.
    NotAuthenticated(String),
    /// Its owner may not, and why.
    NotAllowed(String),
}

/// Nobody can say, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Says what a token is good for.
pub trait Review: Send + Sync + 'static {
    /// Whether whoever has the token may read metrics.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Unavailable>>;
}

/// Asks, and remembers.
pub struct Decisions {
    review: Arc<dyn Review>,
    patience: Duration,
    room: Semaphore,
    known: Mutex<Known>,
}

impl std::fmt::Debug for Decisions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decisions").finish_non_exhaustive()
    }
}

impl Decisions {
    /// Nothing is known yet.
    pub fn new(review: Arc<dyn Review>) -> Self {
        Self::within(review, PATIENCE)
    }

    fn within(review: Arc<dyn Review>, patience: Duration) -> Self {
        Self { review, patience, room: Semaphore::new(AT_ONCE), known: Mutex::default() }
    }

    /// What a token is good for. Takes [`PATIENCE`] at most.
    pub async fn of(&self, token: &str) -> Result<Verdict, Unavailable> {
        if token.len() > LONGEST_TOKEN {
            return Ok(Verdict::NotAuthenticated("the token is too long".to_owned()));
        }
        let key = Sha256::digest(token).into();
        if let Some(verdict) = self.known().of(&key, Instant::now()) {
            return Ok(verdict);
        }
        let patience = self.patience;
        timeout(patience, self.ask(key, token)).await.unwrap_or_else(|_| {
            Err(Unavailable(format!("nobody said within {patience:?} whether the token is good")))
        })
    }

    async fn ask(&self, key: Key, token: &str) -> Result<Verdict, Unavailable> {
        let ended = |_| Unavailable("nobody is asked any more".to_owned());
        let _permit = self.room.acquire().await.map_err(ended)?;
        // Somebody else may have asked meanwhile.
        if let Some(verdict) = self.known().of(&key, Instant::now()) {
            return Ok(verdict);
        }
        let verdict = self.review.review(token).await?;
        self.known().add(key, verdict.clone(), Instant::now());
        Ok(verdict)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token's SHA-256: tokens themselves are not kept.
type Key = [u8; 32];

/// The answers that are believed, and until when.
#[derive(Debug, Default)]
struct Known(HashMap<Key, (Verdict, Instant)>);

impl Known {
    fn of(&self, key: &Key, now: Instant) -> Option<Verdict> {
        let (verdict, until) = self.0.get(key)?;
        (*until > now).then(|| verdict.clone())
    }

    fn add(&mut self, key: Key, verdict: Verdict, now: Instant) {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&key) {
            self.0.retain(|_, (_, until)| *until > now);
        }
        // The first to end are those that were refused: no flood of them drives
        // good ones out.
        if self.0.len() >= REMEMBERED
            && !self.0.contains_key(&key)
            && let Some(first) = self.0.iter().min_by_key(|(_, (_, until))| *until)
        {
            let first = *first.0;
            self.0.remove(&first);
        }
        let life = if verdict == Verdict::Allowed { ALLOWED } else { REFUSED };
        self.0.insert(key, (verdict, now + life));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Knows "good" and "lame", nothing for ever of "slow", and counts.
    #[derive(Default)]
    struct Asked(AtomicUsize);

    impl Review for Asked {
        fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Unavailable>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                match token {
                    "good" => Ok(Verdict::Allowed),
                    "lame" => Ok(Verdict::NotAllowed("no".to_owned())),
                    "slow" => std::future::pending().await,
                    "down" => Err(Unavailable("it is down".to_owned())),
                    _ => Ok(Verdict::NotAuthenticated("bad".to_owned())),
                }
            })
        }
    }

    #[tokio::test]
    async fn answers_are_remembered_and_failures_are_not() {
        let asked = Arc::new(Asked::default());
        let decisions = Decisions::new(asked.clone());
        let no = Ok(Verdict::NotAllowed("no".to_owned()));
        let bad = Ok(Verdict::NotAuthenticated("bad".to_owned()));
        let down = Err(Unavailable("it is down".to_owned()));
        for _ in 0..3 {
            assert_eq!(decisions.of("good").await, Ok(Verdict::Allowed));
            assert_eq!(decisions.of("lame").await, no);
            assert_eq!(decisions.of("other").await, bad);
            assert_eq!(decisions.of("down").await, down);
        }
        assert_eq!(asked.0.load(Ordering::Relaxed), 3 + 3);
        let long = "x".repeat(LONGEST_TOKEN + 1);
        let too_long = Verdict::NotAuthenticated("the token is too long".to_owned());
        assert_eq!(decisions.of(&long).await, Ok(too_long));
        assert_eq!(asked.0.load(Ordering::Relaxed), 3 + 3);
    }

    #[test]
    fn refusals_are_believed_for_less() {
        let (mut known, now) = (Known::default(), Instant::now());
        let no = Verdict::NotAllowed("no".to_owned());
        known.add([1; 32], Verdict::Allowed, now);
        known.add([2; 32], no.clone(), now);
        let moment = Duration::from_millis(1);
        assert_eq!(known.of(&[2; 32], now + REFUSED - moment), Some(no));
        assert_eq!(known.of(&[2; 32], now + REFUSED), None);
        assert_eq!(known.of(&[1; 32], now + ALLOWED - moment), Some(Verdict::Allowed));
        assert_eq!(known.of(&[1; 32], now + ALLOWED), None);
        assert_eq!(known.of(&[3; 32], now), None);
    }

    #[tokio::test]
    async fn few_are_asked_about_at_once_and_nobody_waits_for_ever() {
        let asked = Arc::new(Asked::default());
        let patience = Duration::from_millis(300);
        let decisions = Arc::new(Decisions::within(asked.clone(), patience));
        assert_eq!(decisions.of("good").await, Ok(Verdict::Allowed));
        let many: Vec<_> = (0..3 * AT_ONCE)
            .map(|_| {
                let decisions = Arc::clone(&decisions);
                tokio::spawn(async move { decisions.of("slow").await })
            })
            .collect();
        while asked.0.load(Ordering::Relaxed) < 1 + AT_ONCE {
            tokio::task::yield_now().await;
        }
        // Who is known does not wait for those.
        assert_eq!(decisions.of("good").await, Ok(Verdict::Allowed));
        for one in many {
            let why = one.await.unwrap().unwrap_err().to_string();
            assert_eq!(why, "nobody said within 300ms whether the token is good");
        }
        assert_eq!(decisions.room.available_permits(), AT_ONCE);
    }

    proptest! {
        /// Whatever comes, they are few, none is older than it may be, and
        /// refusals drive no good one out.
        #[test]
        fn what_is_known_is_bounded(tokens in prop::collection::vec((any::<u16>(), 0u64..200), 1..900)) {
            let mut known = Known::default();
            let mut now = Instant::now();
            let good = [7; 32];
            for (token, pause) in tokens {
                now += Duration::from_millis(pause);
                if known.of(&good, now).is_none() {
                    known.add(good, Verdict::Allowed, now);
                }
                let until = known.0[&good].1;
                let key = Sha256::digest(token.to_be_bytes()).into();
                known.add(key, Verdict::NotAuthenticated("bad".to_owned()), now);
                prop_assert!(known.0.len() <= REMEMBERED);
                prop_assert_eq!(known.of(&key, now + REFUSED), None);
                prop_assert!(until <= now + REFUSED || known.0.contains_key(&good));
            }
        }
    }
}
