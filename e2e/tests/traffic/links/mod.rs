//! Links, addresses, routes and neighbours that change while traffic flows:
//! followed without a restart, and transfers go on.

mod apart;
mod devices;
mod paths;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use blixt_e2e::{Answer, Server, Stage, StagePlan, serve_streams};
use blixt_testkit::netns::Namespace;
use serde_json::Value;

use super::balance::short_rest;
use super::live::connected;

/// How long anything may take that is not measured.
const SOON: Duration = Duration::from_secs(15);

/// Without a link, as by a cable that is put back at once.
const A_MOMENT: Duration = Duration::from_millis(200);

fn two_arms() -> Stage {
    Stage::new(StagePlan { flags: short_rest(), ..StagePlan::default() }, |_, _| ())
}

fn streams_everywhere(stage: &Stage) -> Vec<Server> {
    stage.lab.backends.iter().map(|backend| serve_streams(&backend.namespace, 8_080)).collect()
}

/// What `blixtctl status` says of an interface.
fn shown(stage: &Stage, name: &str) -> Value {
    let status = stage.agent().ctl("status");
    let interfaces = status["interfaces"].as_array().unwrap().clone();
    interfaces.into_iter().find(|interface| interface["name"] == name).unwrap()
}

/// Checks that nothing was dropped but for these reasons.
fn dropped_are_only(stage: &Stage, expected: &[&str]) {
    let drops = stage.agent().metrics().drops();
    assert!(drops.keys().all(|reason| expected.contains(&reason.as_str())), "{drops:?}");
}

fn mac_of(namespace: &Namespace, device: &str) -> String {
    let shown = namespace.ip(&format!("link show dev {device}"));
    shown.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

fn as_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Asks and is answered over one UDP flow, and does not wait long for what is
/// lost.
fn pulse(to: SocketAddr) -> impl FnMut() -> io::Result<String> + Send {
    const WAIT: Duration = Duration::from_millis(20);
    let mut socket = None;
    let mut number = 0_u64;
    move || {
        let socket = connected(&mut socket, to, WAIT)?;
        number += 1;
        // Refused when an ICMP error came: it is no answer either.
        socket.send(number.to_string().as_bytes())?;
        let mut answer = [0; 64];
        loop {
            let length = socket.recv(&mut answer)?;
            let text = String::from_utf8_lossy(&answer[..length]);
            if let Some((name, echo)) = text.split_once(' ')
                && echo == number.to_string()
            {
                return Ok(name.to_owned());
            }
        }
    }
}

/// For how long nothing was answered, at worst.
fn longest_pause(answers: &[Answer]) -> Duration {
    let good: Vec<_> = answers.iter().filter(|answer| answer.name.is_ok()).collect();
    assert!(good.len() > 10, "{} of {} questions were answered", good.len(), answers.len());
    good.windows(2).map(|pair| pair[1].answered - pair[0].answered).max().unwrap()
}
