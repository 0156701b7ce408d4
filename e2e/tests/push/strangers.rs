//! Whoever is no agent, and whoever is too many.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use blixt_api::parts::Parts;
use blixt_api::sync::v1alpha1 as wire;
use blixt_controller::push::Material;
use rcgen::CertificateParams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::replica::{Agent, Files, Replica, ca, eventually, snapshot};
use crate::scripted::Scripted;
use crate::wires::{Pair, client, follow, refusal, signed};

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_trusted_gets_nothing_and_is_told_why() {
    let (good, foreign) = (ca(), ca());
    let replica = Replica::start(&good).await;
    replica.push.publish(&snapshot(80, 1));

    // An agent with somebody's token, and one that knows another CA.
    let stranger = Agent::start(Files::new(&good, "somebody's"), &[&replica]);
    eventually("the reason", || stranger.trouble().contains("the token is nobody's")).await;
    let lost = Agent::start(Files::new(&foreign, "token of node-1"), &[&replica]);
    eventually("the reason", || lost.trouble().contains("invalid peer certificate")).await;
    assert!(stranger.wish().is_none() && lost.wish().is_none());

    // No certificate, one of another CA, one that has expired.
    let now = SystemTime::now();
    let old = now - Duration::from_secs(25 * 3_600);
    let status = follow(&replica, &good, None).await.unwrap_err();
    assert_eq!(status, "Unauthenticated: there is no client certificate: enrol for one");
    // All CAs have one name, so that of another one the signature is wrong.
    for (material, made, alert) in
        [(&foreign, now, "DecryptError"), (&good, old, "CertificateExpired")]
    {
        let pair = signed(material, "node-9", made);
        is_told(&replica, &good, &pair, alert).await;
        follow(&replica, &good, Some(pair.identity())).await.unwrap_err();
    }
    // Of the right CA, and no agent's: a server's, and somebody else's.
    let issuer = || {
        let its = rcgen::KeyPair::from_pem(&good.key).unwrap();
        rcgen::Issuer::from_ca_cert_pem(&good.certificate, its).unwrap()
    };
    let of_right_ca = |usage| {
        let mut params = CertificateParams::new(vec!["blixt-controller".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "node-9");
        params.extended_key_usages = vec![usage];
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &issuer()).unwrap();
        Pair { certificate: made.pem(), key: key.serialize_pem() }
    };
    let server = of_right_ca(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    is_told(&replica, &good, &server, "UnsupportedCertificate").await;
    follow(&replica, &good, Some(server.identity())).await.unwrap_err();
    let other = of_right_ca(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let status = follow(&replica, &good, Some(other.identity())).await.unwrap_err();
    let why = "the certificate is no agent's: CN=node-9 is not of blixt:agents";
    assert_eq!(status, format!("Unauthenticated: {why}"));
    assert_eq!(replica.push.agents(), []);
    follow(&replica, &good, Some(signed(&good, "node-9", now).identity())).await.unwrap();
}

/// By an alert of TLS (RFC 8446, 6.2).
async fn is_told(replica: &Replica, ca: &Material, pair: &Pair, alert: &str) {
    let refused = refusal(replica, ca, pair).await;
    assert!(refused.ends_with(&format!("fatal alert: {alert}")), "{refused}");
}

/// An agent's certificate is a server's too, for those who scrape it, and of the CA
/// that all agents trust.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_poses_as_a_controller_pushes_nothing() {
    let ca = ca();
    let (first, second) = (snapshot(80, 1), snapshot(80, 2));
    let replica = Scripted::start(&ca, &first).await;
    let agent = Agent::start_at(Files::new(&ca, "token of node-1"), &[replica.at]);
    agent.gets(&first).await;

    replica.script(|script| {
        script.shows = Some(signed(&ca, "node-2", SystemTime::now()));
        script.tables = Parts::of(&second).to_snapshot();
    });
    replica.hang_up(tonic::Status::unavailable("the test ends this stream"));
    let refused = "invalid peer certificate: certificate not valid for name \"blixt-controller\"";
    eventually("the reason", || agent.trouble().contains(refused)).await;
    let knocked = replica.script(|script| script.knocked);
    eventually("it to try again", || replica.script(|script| script.knocked > knocked + 1)).await;
    let (followed, enrolled) = replica.script(|script| (script.followed(), script.enrolled));
    assert_eq!((followed, enrolled), (1, 1), "nobody was spoken to");
    assert!(agent.has(&first), "what it has stays");
    assert!(agent.trouble().contains(refused), "{}", agent.trouble());

    // With a controller's own, the same is taken.
    replica.script(|script| script.shows = None);
    agent.gets(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nobody_stays_and_there_are_not_many() {
    let ca = ca();
    let replica = Replica::start(&ca).await;
    let wanted = snapshot(80, 1);
    replica.push.publish(&wanted);
    let agent = Agent::start(Files::new(&ca, "token of node-1"), &[&replica]);
    agent.gets(&wanted).await;

    // As many as there may be, who say nothing.
    let silent: Vec<_> = (0..64).map(|_| TcpStream::connect(replica.at).unwrap()).collect();
    let begin = Instant::now();
    let ends = |mut stream: TcpStream| async move {
        tokio::task::spawn_blocking(move || {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.read(&mut [0; 64])
        })
        .await
        .unwrap()
    };
    let one_more = ends(TcpStream::connect(replica.at).unwrap()).await;
    assert!(matches!(one_more, Ok(0)) || one_more.is_err(), "{one_more:?}");
    assert!(begin.elapsed() < Duration::from_secs(4), "only since there were too many");
    // Who is known is served all the same; and the others have to go.
    let second = snapshot(80, 2);
    replica.push.publish(&second);
    agent.gets(&second).await;
    for stream in silent {
        assert!(matches!(ends(stream).await, Ok(0)));
    }

    // One that has shaken hands, and has no certificate, may enrol; no more.
    let mut stranger = client(&replica, &ca, None).await.unwrap();
    let request = wire::EnrollRequest { request: vec![], token: "somebody's".to_owned() };
    let asked = stranger.enroll(request.clone()).await.unwrap_err();
    assert_eq!(asked.code(), Code::PermissionDenied);
    let hello = futures_util::stream::pending::<wire::FollowRequest>();
    let refused = stranger.follow(hello).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(agent.sync.reach.borrow().connected, 1);
}

/// Frames of HTTP/2 (RFC 9113, 6).
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_certificate_ends() {
    let ca = ca();
    let replica = Replica::start(&ca).await;
    let connector = crate::wires::tls(&ca, None);
    let stream = tokio::net::TcpStream::connect(replica.at).await.unwrap();
    let name = "blixt-controller".try_into().unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let begin = Instant::now();
    // It says that it lives, and asks for nothing (RFC 9113, 3.4, 6.7).
    let lives = async {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            if head[3] == PING && head[4] & ACK == 0 {
                head[4] |= ACK;
                stream.write_all(&head).await?;
                stream.write_all(&body).await?;
            }
        }
        #[expect(unreachable_code, reason = "it tells the type of the error")]
        std::io::Result::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), lives).await.unwrap().unwrap_err();
    println!("it ended after {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_review_waits_not_for_ever() {
    let ca = ca();
    let replica = Replica::start(&ca).await;
    let enrol = async |token: &str| {
        let mut client = client(&replica, &ca, None).await.unwrap();
        let request = wire::EnrollRequest { request: vec![], token: token.to_owned() };
        client.enroll(request).await.unwrap_err()
    };
    let stuck = futures_util::future::join_all((0..8).map(|_| enrol("nobody answers")));
    let late = async {
        eventually("all to be asked about", || replica.reviews() == 8).await;
        enrol("token of node-1").await
    };
    let (stuck, late) = tokio::join!(stuck, late);
    assert_eq!(late.code(), Code::ResourceExhausted);
    assert_eq!(late.message(), "too many agents ask for a certificate at once: try again");
    for status in stuck {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("does not answer within"), "{status:?}");
    }
}
