//! An agent's metrics over TLS: a controller says who may read them.

use std::net::SocketAddr;
use std::sync::Arc;

use blixt_api::sync::v1alpha1::ReviewRequest;
use blixt_api::sync::v1alpha1::controller_client::ControllerClient;
use blixt_scrape::{Door, Page, SecureFlags};
use blixt_testkit::netns::program;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::replica::{Agent, Files, Replica, ca, eventually};

/// The status and what is said with it, by a client that verifies the
/// certificate.
async fn scrape(at: SocketAddr, files: &Files, token: Option<&str>) -> (u16, String) {
    let ca = files.path("ca.crt");
    let header = token.map(|token| format!("Authorization: Bearer {token}"));
    let asked = tokio::task::spawn_blocking(move || {
        program("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--cacert"])
            .arg(ca)
            .args(["--connect-to", &format!("blixt-agent:443:{at}")])
            .args(header.iter().flat_map(|header| ["--header", header]))
            .args(["--write-out", "\n%{http_code}", "https://blixt-agent/metrics"])
            .ok()
    });
    let answer = asked.await.unwrap();
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_says_who_may_read_an_agents_metrics() {
    let ca = ca();
    let replica = Replica::start(&ca).await;
    let agent = Agent::start(Files::new(&ca, "token of node-1"), &[&replica]);
    let flags = SecureFlags {
        secure_metrics: Some("127.0.0.1:0".parse().unwrap()),
        ..SecureFlags::default()
    };
    let door = Door::open(&flags).await.unwrap().unwrap();
    let at = door.address().unwrap();
    let page: Page = Arc::new(|| http::Response::new("blixt_up 1\n".into()));
    let review = Arc::new(agent.sync.scrapers.clone());
    tokio::spawn(door.serve(agent.sync.certificate(), review, page));
    eventually("the agent to be connected", || agent.trouble().is_empty()).await;

    let asked = |token| scrape(at, &agent.files, token);
    let is = |status: u16, text: &str| (status, text.to_owned());
    assert_eq!(asked(Some("good")).await, is(200, "blixt_up 1\n"));
    assert_eq!(asked(Some("lame")).await, is(403, "lame may not get /metrics\n"));
    assert_eq!(asked(Some("bad")).await, is(401, "the token is nobody's\n"));
    let (status, why) = asked(None).await;
    assert_eq!((status, why.contains("a token is needed")), (401, true), "{why}");
    let (status, why) = asked(Some("late")).await;
    assert_eq!((status, why.ends_with("the API server can't be asked\n")), (503, true), "{why}");

    // Without a controller nobody is let in who is not known.
    replica.stop().await;
    eventually("the agent to notice", || !agent.trouble().is_empty()).await;
    let expected = "no controller says whether the token is good: none is in reach\n";
    assert_eq!(asked(Some("another")).await, is(503, expected));
    assert_eq!(asked(Some("good")).await, is(200, "blixt_up 1\n"), "known for a moment");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_agents_may_ask_about_tokens() {
    let ca = ca();
    let replica = Replica::start(&ca).await;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&ca.bundle))
        .domain_name("blixt-controller");
    let endpoint = Endpoint::from_shared(format!("https://{}", replica.at)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let asked =
        ControllerClient::new(channel).review(ReviewRequest { token: "good".to_owned() }).await;
    let why = asked.unwrap_err();
    assert_eq!(why.code(), Code::Unauthenticated);
    assert_eq!(why.message(), "there is no client certificate: enrol for one");
}
