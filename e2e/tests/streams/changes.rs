//! What changes while streams are there, and what fails.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use blixt_e2e::{Prober, connect};
use blixt_testkit::netns::{eventually, eventually_some};
use blixt_testkit::require_root;

use super::world::{Endpoint, Pair, VIPS, World, curl, get, programmed, vips};
use super::{HTTP, TCP, alone, refused};

#[test]
fn a_certificate_is_exchanged_and_nobody_notices() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    let agent = world.start();
    let old = world.wanted.certificate.clone();
    let new = Pair::new(&["*.example.com"]);
    let (both, old_only, new_only) =
        (world.trusting(&[&old, &new]), world.trusting(&[&old]), world.trusting(&[&new]));
    // One that stays open, and asks again and again.
    let talking = Arc::new(AtomicBool::new(true));
    let goes_on = Arc::clone(&talking);
    let asked = Arc::new(AtomicUsize::new(0));
    let (trusted, asks) = (both.clone(), Arc::clone(&asked));
    let kept = world.outside.thread(move || {
        let mut tls = tls::connect(vips(443)[0], "www.example.com", &trusted);
        while goes_on.load(Ordering::Relaxed) {
            who(&mut tls);
            asks.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let asks_more = |at_least: usize| {
        let before = asked.load(Ordering::Relaxed);
        eventually("more questions to be answered", Duration::from_secs(10), || {
            asked.load(Ordering::Relaxed) >= before + at_least
        });
    };
    // And new ones all the time.
    let trusted = both.clone();
    let prober = Prober::start(&world.outside, Duration::from_millis(2), move || {
        let mut tls = tls::try_connect(vips(443)[0], "www.example.com", &trusted)?;
        tls.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        tls.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asks_more(26);
    curl(&world.outside, "www.example.com", VIPS[0], &old_only).unwrap();
    world.tell(|wanted| wanted.certificate = new);
    eventually_some("the new certificate", Duration::from_secs(5), || {
        curl(&world.outside, "www.example.com", VIPS[0], &new_only)
            .map_err(|code| format!("curl ends with {code}"))
    });
    // 60: the certificate is not trusted.
    let refused = curl(&world.outside, "www.example.com", VIPS[0], &old_only);
    assert_eq!(refused, Err(60));
    asks_more(26);
    talking.store(false, Ordering::Relaxed);
    kept.join().unwrap();
    let answers = prober.stop();
    assert!(answers.len() > 20, "{} answers only", answers.len());
    for answer in answers {
        let said = answer.name.unwrap_or_else(|error| panic!("one failed: {error}"));
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
    agent.stop();
}

#[test]
fn a_secret_that_breaks_takes_no_listener_down() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    let agent = world.start();
    let good = world.wanted.certificate.clone();
    let trusted = world.trusting(&[&good]);
    let new = Pair::new(&["*.example.com"]);
    world.tell(|wanted| wanted.certificate = new.with_key_of(&good));
    eventually_some("the condition", Duration::from_secs(5), || {
        let status = agent.ctl_text(&["status"]);
        match status.contains("last good certificate") {
            true => Ok(()),
            false => Err(status),
        }
    });
    for vip in VIPS {
        curl(&world.outside, "www.example.com", vip, &trusted).unwrap();
    }
    let (is_programmed, why) = programmed(&agent, "edge");
    assert!(is_programmed, "{why}");
    let renewed = world.trusting(&[&new]);
    world.tell(|wanted| wanted.certificate = new);
    eventually_some("the new certificate", Duration::from_secs(5), || {
        curl(&world.outside, "www.example.com", VIPS[0], &renewed)
            .map_err(|code| format!("curl ends with {code}"))
    });
    agent.stop();
}

#[test]
fn streams_to_an_endpoint_that_is_gone_are_reset_and_others_stay() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    let agent = world.start();
    let mut open: Vec<_> = (0..24)
        .map(|n| {
            let to = vips(HTTP)[n % 2];
            let mut stream = world.outside.inside(move || connect(to).unwrap());
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            (who(&mut stream), stream)
        })
        .collect();
    for name in ["a", "b"] {
        assert!(open.iter().any(|(by, _)| by == name), "nobody is at {name}");
    }
    // It terminates: whoever is there stays, and nobody comes.
    world.tell(|wanted| wanted.other = Endpoint::Ends);
    eventually("nobody else than a to be asked", Duration::from_secs(5), || {
        world.outside.inside(|| (0..40).all(|_| get(vips(HTTP)[0]).is_ok_and(|by| by == "a")))
    });
    for (by, stream) in &mut open {
        assert_eq!(who(stream), *by);
    }

    world.tell(|wanted| wanted.other = Endpoint::Gone);
    for (by, stream) in &mut open {
        if by == "b" {
            let error = stream.read(&mut [0]).expect_err("the endpoint is gone");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        } else {
            assert_eq!(who(stream), "a");
        }
    }
    let gone = open.iter().filter(|(by, _)| by == "b").count();
    assert_eq!(refused(&agent, "endpoint_gone"), gone as f64);
    // Its share is refused, as that of a Service without endpoints is.
    let answers = world
        .outside
        .inside(|| (0..40).map(|_| get(vips(HTTP)[0]).map_err(|it| it.kind())).collect::<Vec<_>>());
    assert!(answers.contains(&Ok("a".to_owned())));
    assert!(answers.contains(&Err(ErrorKind::ConnectionReset)));
    assert!(refused(&agent, "no_endpoint") > 0.0);

    // Weight 0: those that there are stay, and nobody comes.
    world.tell(|wanted| {
        wanted.other = Endpoint::There;
        wanted.weights = [0, 1, 0];
    });
    eventually("nobody else than b to be asked", Duration::from_secs(5), || {
        world.outside.inside(|| (0..10).all(|_| get(vips(HTTP)[0]).is_ok_and(|by| by == "b")))
    });
    for (_, stream) in open.iter_mut().filter(|(by, _)| by == "a") {
        assert_eq!(who(stream), "a");
    }
    agent.stop();
}

/// Asks on a connection that stays open.
fn who(stream: &mut (impl Read + Write)) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut bytes = [0; 1_000];
    while !answer.ends_with(b"\na\n") && !answer.ends_with(b"\nb\n") {
        let length = stream.read(&mut bytes).unwrap();
        assert!(length > 0, "the end, after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&bytes[..length]);
    }
    char::from(answer[answer.len() - 2]).to_string()
}

#[test]
fn a_port_that_is_taken_is_named_and_served_once_it_is_free() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    let other = world.node.inside(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let agent = world.launch();
    eventually_some("Programmed=False to say why", Duration::from_secs(10), || {
        match programmed(&agent, "edge") {
            (false, why) if why.contains("port 80 is taken on this node") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let status = agent.ctl_text(&["status"]);
    assert!(status.contains("port 80 is taken on this node"), "{status}");
    // Everything else is served, IPv6's port 80 included, which is free.
    world.outside.inside(|| {
        for to in [vips(TCP)[0], vips(TCP)[1], vips(HTTP)[1]] {
            get(to).unwrap_or_else(|error| panic!("{to}: {error}"));
        }
        // The agent refuses what it does not pass to the kernel.
        let refused = connect(vips(HTTP)[0]).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
    drop(other);
    world.is_programmed(&agent);
    world.outside.inside(|| drop(get(vips(HTTP)[0]).unwrap()));

    // Another port: the one before is given back.
    world.tell(|wanted| wanted.http = 8_081);
    eventually("the new port", Duration::from_secs(5), || {
        world.outside.inside(|| vips(8_081).iter().all(|to| get(*to).is_ok()))
    });
    world.is_programmed(&agent);
    assert!(!world.node.ip("rule show").contains("dport 80 "), "{}", world.node.ip("rule show"));
    let error = world.outside.inside(|| connect(vips(HTTP)[0]).map(drop)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let _free = world.node.inside(|| TcpListener::bind("0.0.0.0:80").unwrap());
    agent.stop();
}

#[test]
fn what_a_killed_agent_leaves_behind_is_taken_away() {
    require_root!();
    let _alone = alone();
    let mut world = World::new();
    let before = world.inventory();
    let agent = world.start();
    agent.kill();
    assert!(world.node.ip("rule show").contains("dport 80 "), "nothing is left behind");
    // The next one wants another port, and nothing of the first.
    world.tell(|wanted| wanted.http = 8_081);
    let agent = world.start();
    let rules = world.node.ip("rule show");
    assert!(rules.contains("dport 8081 ") && !rules.contains("dport 80 "), "{rules}");
    world.outside.inside(|| drop(get(vips(8_081)[0]).unwrap()));
    // Others tidy up; the agent puts it back.
    world.node.ip("rule del ipproto tcp dport 8081");
    eventually("the rule to be back", Duration::from_secs(5), || {
        world.node.ip("rule show").contains("dport 8081 ")
    });
    world.outside.inside(|| drop(get(vips(8_081)[0]).unwrap()));
    agent.stop();
    let after = world.inventory();
    let left: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(left.is_empty(), "not as it was: {left:#?}");
}

/// TLS clients.
mod tls {
    use super::*;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
    use std::io;
    use std::net::TcpStream;

    pub(super) type Client = StreamOwned<ClientConnection, TcpStream>;

    pub(super) fn connect(to: SocketAddr, name: &str, trusts: &str) -> Client {
        try_connect(to, name, trusts).unwrap()
    }

    pub(super) fn try_connect(to: SocketAddr, name: &str, trusts: &str) -> io::Result<Client> {
        let mut roots = RootCertStore::empty();
        for pem in pem::parse_many(std::fs::read(trusts)?).map_err(io::Error::other)? {
            roots.add(pem.into_contents().into()).map_err(io::Error::other)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = super::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut client =
            StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream);
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock)?;
        }
        Ok(client)
    }
}
