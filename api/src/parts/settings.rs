//! The part of a snapshot that says how agents are to work.

use std::time::Duration;

use blixt_model as model;

use super::port_in;
use crate::sync::v1alpha1 as wire;
use crate::sync::v1alpha1::interface_choice::By;

/// For the wire. What is left to agents is left out, so that a snapshot that says
/// nothing of it is the same as it was before anything could be said.
pub(super) fn out(seed: model::HashSeed, settings: &model::Settings) -> wire::Settings {
    let model::Settings { timeouts, maglev_size, flow_capacity, snat_ports, interfaces } = settings;
    wire::Settings {
        seed: seed.0,
        timeouts: (*timeouts != model::FlowTimeouts::default()).then(|| timeouts_out(timeouts)),
        maglev_size: *maglev_size,
        flow_capacity: *flow_capacity,
        snat_ports: snat_ports.as_ref().map(|ports| wire::PortRange {
            first: ports.start().number().into(),
            last: ports.end().number().into(),
        }),
        interfaces: interfaces.as_ref().map(interfaces_out),
    }
}

/// And back, or what is wrong with it.
pub(super) fn read(settings: wire::Settings) -> Result<(model::HashSeed, model::Settings), String> {
    let wire::Settings { seed, timeouts, maglev_size, flow_capacity, snat_ports, interfaces } =
        settings;
    let snat_ports = match snat_ports {
        Some(wire::PortRange { first, last }) if first > last => {
            return Err(format!("SNAT ports {first} to {last} are none"));
        }
        Some(wire::PortRange { first, last }) => Some(port_in(first)?..=port_in(last)?),
        None => None,
    };
    let settings = model::Settings {
        timeouts: timeouts.map(|timeouts| timeouts_in(&timeouts)).unwrap_or_default(),
        maglev_size,
        flow_capacity,
        snat_ports,
        interfaces: interfaces.and_then(interfaces_in),
    };
    Ok((model::HashSeed(seed), settings))
}

fn timeouts_out(timeouts: &model::FlowTimeouts) -> wire::FlowTimeouts {
    let ms = |time: Option<Duration>| {
        time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    };
    wire::FlowTimeouts {
        tcp_established_ms: ms(timeouts.tcp_established),
        tcp_transitory_ms: ms(timeouts.tcp_transitory),
        tcp_rest_ms: ms(timeouts.tcp_rest),
        udp_ms: ms(timeouts.udp),
        udp_query_ms: ms(timeouts.udp_query),
    }
}

fn timeouts_in(timeouts: &wire::FlowTimeouts) -> model::FlowTimeouts {
    model::FlowTimeouts {
        tcp_established: timeouts.tcp_established_ms.map(Duration::from_millis),
        tcp_transitory: timeouts.tcp_transitory_ms.map(Duration::from_millis),
        tcp_rest: timeouts.tcp_rest_ms.map(Duration::from_millis),
        udp: timeouts.udp_ms.map(Duration::from_millis),
        udp_query: timeouts.udp_query_ms.map(Duration::from_millis),
    }
}

fn interfaces_out(choice: &model::InterfaceChoice) -> wire::InterfaceChoice {
    let by = match choice.clone() {
        model::InterfaceChoice::Names(names) => By::Names(wire::InterfaceNames { names }),
        model::InterfaceChoice::Matching(pattern) => By::Matching(pattern),
        model::InterfaceChoice::DefaultRoute => By::DefaultRoute(wire::DefaultRoute {}),
    };
    wire::InterfaceChoice { by: Some(by) }
}

/// `None` for a way that only a newer version knows.
fn interfaces_in(choice: wire::InterfaceChoice) -> Option<model::InterfaceChoice> {
    Some(match choice.by? {
        By::Names(wire::InterfaceNames { names }) => model::InterfaceChoice::Names(names),
        By::Matching(pattern) => model::InterfaceChoice::Matching(pattern),
        By::DefaultRoute(wire::DefaultRoute {}) => model::InterfaceChoice::DefaultRoute,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn choice() -> impl Strategy<Value = model::InterfaceChoice> {
        prop_oneof![
            prop::collection::vec("[a-z0-9]{1,15}", 0..3).prop_map(model::InterfaceChoice::Names),
            "[a-z.*]{1,9}".prop_map(model::InterfaceChoice::Matching),
            Just(model::InterfaceChoice::DefaultRoute),
        ]
    }

    proptest! {
        #[test]
        fn settings_come_back(
            seed in any::<u64>(),
            times in any::<[Option<u32>; 5]>(),
            maglev_size in prop::option::of(prop::sample::select(vec![251_u32, 65_537])),
            flow_capacity in any::<Option<u32>>(),
            ports in any::<Option<(u16, u16)>>(),
            interfaces in prop::option::of(choice()),
        ) {
            let port = |number: u16| model::Port::new(number.max(1)).unwrap();
            let [established, transitory, rest, udp, query] =
                times.map(|ms| ms.map(|ms| Duration::from_millis(ms.into())));
            let settings = model::Settings {
                timeouts: model::FlowTimeouts {
                    tcp_established: established,
                    tcp_transitory: transitory,
                    tcp_rest: rest,
                    udp,
                    udp_query: query,
                },
                maglev_size,
                flow_capacity,
                snat_ports: ports.map(|(a, b)| port(a.min(b))..=port(a.max(b))),
                interfaces,
            };
            let wire = out(model::HashSeed(seed), &settings);
            prop_assert_eq!(read(wire), Ok((model::HashSeed(seed), settings)));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_what_is_newer_is_left_alone() {
        for (first, last) in [(9, 2), (0, 2), (1, 65_536)] {
            let snat_ports = Some(wire::PortRange { first, last });
            assert!(read(wire::Settings { snat_ports, ..wire::Settings::default() }).is_err());
        }
        let newer = wire::Settings {
            interfaces: Some(wire::InterfaceChoice { by: None }),
            ..wire::Settings::default()
        };
        assert_eq!(read(newer), Ok(Default::default()));
    }
}
