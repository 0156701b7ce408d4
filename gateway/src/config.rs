//! What a GatewayConfig says, as settings; or what is wrong with it. The schema
//! asks for the same, in its own words.

use std::time::Duration;

use blixt_model::{FlowTimeouts, InterfaceChoice, Port, Settings, duration};
use regex_lite::Regex;

use crate::apis::{GatewayConfigInterfaces, GatewayConfigSpec, GatewayConfigTimeouts};
use crate::manifest::{Path, Problem};

/// Primes, one for about each power of two, and the paper's.
const MAGLEV_SIZES: [i32; 12] =
    [251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 65_537, 131_071, 262_139];

/// The most flows of each worker that an object may ask all nodes for: some 2 GB.
/// Who has a node for more says so by its flags.
const MOST_FLOWS: i32 = 1 << 24;

/// What a timeout may be.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(288 * 3_600);

/// Reads a spec, or says all that is wrong with it.
pub(crate) fn read(spec: &GatewayConfigSpec) -> Result<Settings, Vec<Problem>> {
    let mut reading = Reading { problems: Vec::new() };
    let here = Path::of("spec");
    let settings = Settings {
        timeouts: reading.timeouts(spec.timeouts.as_ref(), &here.key("timeouts")),
        maglev_size: spec.maglev_size.and_then(|size| {
            let known = MAGLEV_SIZES.contains(&size);
            let sizes = MAGLEV_SIZES.map(|size| size.to_string()).join(", ");
            reading.expect(known, &here.key("maglevSize"), || {
                format!("is {size}: use one of the primes {sizes}")
            });
            u32::try_from(size).ok()
        }),
        flow_capacity: spec.flow_capacity.and_then(|flows| {
            let fits = (16..=MOST_FLOWS).contains(&flows);
            reading.expect(fits, &here.key("flowCapacity"), || {
                format!("is {flows}: use 16 to {MOST_FLOWS}")
            });
            u32::try_from(flows).ok()
        }),
        snat_ports: spec.snat_ports.as_ref().and_then(|ports| {
            let [first, last] = [ports.first, ports.last].map(Port::new);
            let range = first.ok().zip(last.ok()).filter(|(first, last)| first <= last);
            reading.expect(range.is_some(), &here.key("snatPorts"), || {
                "must be two ports from 1 to 65535, the first not behind the last".to_owned()
            });
            range.map(|(first, last)| first..=last)
        }),
        interfaces: spec
            .interfaces
            .as_ref()
            .map(|choice| reading.interfaces(choice, &here.key("interfaces"))),
    };
    if reading.problems.is_empty() { Ok(settings) } else { Err(reading.problems) }
}

/// The fields that hold for whole nodes, as far as they are given.
pub(crate) fn of_nodes(spec: &GatewayConfigSpec) -> Vec<&'static str> {
    let GatewayConfigSpec {
        forwarding: _,
        timeouts,
        maglev_size,
        flow_capacity,
        snat_ports,
        interfaces,
    } = spec;
    let given = [
        ("timeouts", timeouts.is_some()),
        ("maglevSize", maglev_size.is_some()),
        ("flowCapacity", flow_capacity.is_some()),
        ("snatPorts", snat_ports.is_some()),
        ("interfaces", interfaces.is_some()),
    ];
    given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}

/// What the schema's pattern and length say.
fn is_interface(name: &str) -> bool {
    let has = |c: char, allowed: &str| c.is_ascii_alphanumeric() || allowed.contains(c);
    (1..=15).contains(&name.len())
        && name.starts_with(|c| has(c, "_-"))
        && name.chars().all(|c| has(c, "_-.@"))
}

struct Reading {
    problems: Vec<Problem>,
}

impl Reading {
    fn expect(&mut self, good: bool, path: &Path, why: impl FnOnce() -> String) {
        if !good {
            self.problems.push(Problem::new(path.clone(), why()));
        }
    }

    fn timeouts(&mut self, timeouts: Option<&GatewayConfigTimeouts>, here: &Path) -> FlowTimeouts {
        let Some(timeouts) = timeouts else { return FlowTimeouts::default() };
        let mut time = |name: &str, text: &Option<String>| {
            let text = text.as_ref()?;
            let read = duration(text).ok().filter(|time| (LEAST..=MOST).contains(time));
            self.expect(read.is_some(), &here.key(name), || {
                format!("is {text:?}: use a time from 1s to 288h, such as 90s, 5m or 2h4m")
            });
            read
        };
        FlowTimeouts {
            tcp_established: time("tcpEstablished", &timeouts.tcp_established),
            tcp_transitory: time("tcpTransitory", &timeouts.tcp_transitory),
            tcp_rest: time("tcpRest", &timeouts.tcp_rest),
            udp: time("udp", &timeouts.udp),
            udp_query: time("udpQuery", &timeouts.udp_query),
        }
    }

    fn interfaces(&mut self, choice: &GatewayConfigInterfaces, here: &Path) -> InterfaceChoice {
        match (&choice.names, &choice.matching) {
            (None, None) => InterfaceChoice::DefaultRoute,
            (Some(names), None) => {
                for (index, name) in names.iter().enumerate() {
                    let here = here.key("names").index(index);
                    self.expect(is_interface(name), &here, || {
                        format!(
                            "is {name:?}, which is no interface: use a name that `ip link` shows"
                        )
                    });
                }
                InterfaceChoice::Names(names.clone())
            }
            (None, Some(pattern)) => {
                let good = Regex::new(&format!("^(?:{pattern})$")).is_ok();
                self.expect(good, &here.key("matching"), || {
                    format!("is {pattern:?}: use a regular expression such as eth.*")
                });
                InterfaceChoice::Matching(pattern.clone())
            }
            (Some(_), Some(_)) => {
                self.expect(false, here, || "has names and matching: give one of them".to_owned());
                InterfaceChoice::DefaultRoute
            }
        }
    }
}
