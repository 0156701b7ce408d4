use super::*;
use blixt_model::{Generation, HashSeed, Snapshot};

fn parts(seed: u64) -> Parts {
    Parts::of(&Snapshot::new(Generation(1), HashSeed(seed), vec![], vec![]).unwrap())
}

/// Replicas.
const A: &str = "https://192.0.2.1:9874";
const B: &str = "https://192.0.2.2:9874";

/// An agent whose streams are this test: one to A that is up, one to B that is not.
struct Stage {
    following: Following,
    said: mpsc::Receiver<Said>,
    wishes: watch::Receiver<Option<Arc<Wish>>>,
}

impl Stage {
    fn new() -> Self {
        let (events, _) = mpsc::channel(1);
        let (_, report) = watch::channel(Report::default());
        let (_, ending) = watch::channel(false);
        let (wishes, wanted) = watch::channel(None);
        let (reach, _) = watch::channel(Reach::default());
        let trust = Arc::new(Trust::new("ca".into(), "token".into()));
        let (_, serving) = watch::channel(Serving::default());
        let scrapers = Scrapers::default();
        let (_, doubted) = watch::channel(None);
        let means = Means { trust, scrapers, events, report, serving, doubted, ending };
        let mut following = Following::new(means, watch::Sender::default(), wishes, reach);
        let (say, said) = mpsc::channel(16);
        for replica in [A, B] {
            let abort = following.tasks.spawn(pending());
            following
                .streams
                .insert(replica.to_owned(), Stream { abort, say: None, peers: BTreeSet::new() });
        }
        let mut stage = Self { following, said, wishes: wanted };
        stage.take(Kind::Up(say));
        let beat = wire::ControllerBeat {
            digest: vec![1; 32],
            settled: true,
            ..wire::ControllerBeat::default()
        };
        stage.take(Kind::Told(Told::Beat(beat)));
        assert_eq!(stage.asked_for(), Some(vec![]), "it wants all there is");
        stage
    }

    fn take(&mut self, kind: Kind) {
        self.take_of(A, kind);
    }

    fn take_of(&mut self, replica: &str, kind: Kind) {
        self.following.take(Event { replica: replica.to_owned(), kind });
    }

    /// Where a replica says that all are.
    fn hears_of(&mut self, replica: &str, urls: &[&str]) {
        let urls = urls.iter().map(ToString::to_string).collect();
        self.take_of(replica, Kind::Told(Told::Peers(wire::Peers { urls })));
    }

    /// Where they are looked for.
    fn peers(&self) -> Vec<String> {
        self.following.peers.borrow().iter().map(ToString::to_string).collect()
    }

    fn hears(&mut self, told: Told) {
        self.take(Kind::Told(told));
    }

    /// The digest of the last thing that was asked for.
    fn asked_for(&mut self) -> Option<Vec<u8>> {
        let mut asked = None;
        while let Ok(said) = self.said.try_recv() {
            if let Said::Want(want) = said {
                asked = Some(want.digest);
            }
        }
        asked
    }

    /// Lets the pause before something is asked for again be over.
    async fn waits(&mut self) {
        until(self.following.ask_at).await;
        self.following.ask_again();
    }

    fn wanted(&self) -> Option<Digest> {
        self.wishes.borrow().as_ref().map(|wish| wish.parts.digest())
    }
}

#[tokio::test]
async fn what_is_cut_off_is_asked_for_again_and_what_was_wanted_stays() {
    let mut stage = Stage::new();
    let (first, second) = (parts(1), parts(2));
    stage.hears(Told::Snapshot(first.to_snapshot()));
    assert_eq!((stage.wanted(), stage.asked_for()), (Some(first.digest()), None));

    let mut cut = second.to_snapshot();
    cut.parts.pop();
    let mut wrong = second.since(&first);
    wrong.changed.clear();
    let begin = Instant::now();
    for bad in [
        Told::Snapshot(cut),
        Told::Delta(wrong.clone()),
        // A change of something else.
        Told::Delta(first.since(&second)),
    ] {
        stage.hears(bad);
        assert_eq!(stage.wanted(), Some(first.digest()));
        assert_eq!(stage.asked_for(), None, "not at once");
        // What comes meanwhile is no reason to ask more.
        let at = stage.following.ask_at;
        stage.hears(Told::Delta(wrong.clone()));
        assert_eq!(stage.following.ask_at, at);
        stage.waits().await;
        assert_eq!(stage.asked_for(), Some(vec![]), "all of it, anew");
    }
    assert!(begin.elapsed() >= FIRST_ASK * 7 / 2, "each time later: {:?}", begin.elapsed());
    stage.hears(Told::Delta(second.since(&first)));
    assert_eq!((stage.wanted(), stage.asked_for()), (Some(second.digest()), None));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_reason() {
    let mut stage = Stage::new();
    let first = parts(1);
    stage.hears(Told::Snapshot(first.to_snapshot()));
    let mut wire = first.to_wire();
    let part = wire::Part { key: "Gateway a/b".to_owned(), body: vec![0xff].into() };
    wire.parts.insert(0, part);
    let broken = Parts::from_wire(wire).unwrap();
    stage.hears(Told::Snapshot(broken.to_snapshot()));
    assert_eq!(stage.wanted(), Some(first.digest()));
    let Ok(Said::Refused(refused)) = stage.said.try_recv() else { panic!() };
    assert_eq!(refused.digest, broken.digest().to_vec());
    assert!(refused.reason.starts_with("part \"Gateway a/b\": "), "{}", refused.reason);
    // Changes to it make sense again.
    let second = parts(2);
    stage.hears(Told::Delta(second.since(&broken)));
    assert_eq!(stage.wanted(), Some(second.digest()));
}

#[tokio::test]
async fn an_assignment_comes_with_the_tables_that_there_are() {
    let mut stage = Stage::new();
    let owned = |stage: &Stage| stage.wishes.borrow().as_ref().unwrap().assignment.owned.clone();
    let mine = Assignment { owned: [[192, 0, 2, 1].into()].into(), ..Assignment::default() };
    // It may come first.
    stage.hears(Told::Assignment(mine.to_wire()));
    assert_eq!(stage.wanted(), None);
    stage.hears(Told::Snapshot(parts(1).to_snapshot()));
    assert_eq!(owned(&stage), mine.owned);
    let broken = wire::Assignment { owned_vips: vec![vec![1]], ..wire::Assignment::default() };
    stage.hears(Told::Assignment(broken));
    assert_eq!(owned(&stage), mine.owned);
    stage.hears(Told::Assignment(wire::Assignment::default()));
    assert!(owned(&stage).is_empty());
}

#[tokio::test]
async fn a_replica_that_has_not_heard_of_itself_is_not_lost() {
    let mut stage = Stage::new();
    stage.hears_of(A, &[A, B]);
    assert_eq!(stage.peers(), [A, B]);
    stage.take_of(B, Kind::Up(mpsc::channel(16).0));
    stage.hears_of(B, &[A]);
    assert_eq!(stage.peers(), [A, B]);
    // What the first one said goes with it, who is up stays.
    stage.take(Kind::Down("it has ended the stream".to_owned()));
    assert_eq!(stage.peers(), [A, B], "B still leads to A");
    stage.hears_of(B, &[B]);
    assert_eq!(stage.peers(), [B]);
    // Whoever comes back is where they were.
    stage.take_of(B, Kind::Down("it has ended the stream".to_owned()));
    assert_eq!(stage.peers(), [B]);
}
