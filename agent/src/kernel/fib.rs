//! The mirrored state as a [`Fib`].

use std::sync::Arc;

use blixt_dataplane::{Fib, HostPath, Interface, Link, Route, RouteAction, Routes, Tags};

use super::{AttachedInterface, Attachments, Device, State, View};

/// How deep devices may be stacked on each other: two tags are all that a
/// frame may carry.
const MOST_TAGS: usize = 2;

/// Builds it.
pub(super) fn build(state: &State, attachments: &Attachments) -> Fib {
    let links: Vec<_> =
        state.view.devices.values().map(|device| link(device, &state.view, attachments)).collect();
    let neighbours = state.neighbours.iter().map(|(neighbour, entry)| (*neighbour, entry.mac));
    let interfaces = interfaces(&state.view, attachments);
    let fib = Fib::with_routes(interfaces, links, Arc::clone(&state.routes), neighbours);
    let host = attachments.attached.iter().find_map(|attached| host_path(attached, &state.view));
    let fib = match host {
        Some(host) => fib.with_host_path(host),
        None => fib,
    };
    let rss = attachments.rss.iter();
    rss.fold(fib, |fib, (slot, rss)| fib.with_rss(*slot, Arc::clone(rss)))
}

/// The way through the kernel, if its pair can carry packets.
fn host_path(attached: &AttachedInterface, view: &View) -> Option<HostPath> {
    let host = attached.host?;
    let device = view.devices.get(&attached.ifindex).filter(|device| device.running)?;
    Some(HostPath {
        egress: attached.slot,
        mtu: device.mtu,
        stations: host.stations,
        flows_per_worker: host.flows_per_worker,
    })
}

/// The routes, as the kernel would choose among them: where a local and another
/// route say the same network with the same metric, the local table comes
/// first (`ip rule`).
pub(super) fn routes(routes: Vec<Route>) -> Routes {
    let (local, other): (Vec<_>, Vec<_>) =
        routes.into_iter().partition(|route| matches!(route.action, RouteAction::Local));
    Routes::new(local.into_iter().chain(other))
}

/// The devices whose packets leave through an attached interface.
pub(super) fn devices_over(view: &View, attachments: &Attachments) -> Vec<u32> {
    view.devices
        .values()
        .filter(|device| link(device, view, attachments).attached.is_some())
        .map(|device| device.ifindex)
        .collect()
}

/// By slot. One that is not attached has the number 0, which no device has.
fn interfaces(view: &View, attachments: &Attachments) -> Vec<Interface> {
    let none = Interface { ifindex: 0, mac: [0; 6], partial_checksums: false };
    let mut interfaces = vec![none; attachments.slots];
    for attached in &attachments.attached {
        let device = view.devices.get(&attached.ifindex);
        let place = interfaces.get_mut(usize::from(attached.slot.0));
        if let (Some(device), Some(place)) = (device, place) {
            *place = Interface {
                ifindex: device.ifindex,
                // The kernel sends to our station, which is not the device's.
                mac: attached.host.map_or(device.mac, |host| host.stations[1]),
                partial_checksums: attached.partial_checksums,
            };
        }
    }
    interfaces
}

fn link(device: &Device, view: &View, attachments: &Attachments) -> Link {
    let mut link = Link {
        ifindex: device.ifindex,
        attached: None,
        mac: device.mac,
        mtu: device.mtu,
        tags: Tags::new(),
    };
    let mut tags = Tags::new();
    let mut below = device;
    loop {
        if let Some(found) = attachments.attached.iter().find(|a| a.ifindex == below.ifindex) {
            link.attached = Some(found.slot);
            // The lowest device's tag is the outermost.
            tags.reverse();
            link.tags = tags;
            return link;
        }
        let next = below.vlan.and_then(|vlan| Some((vlan.tag, view.devices.get(&vlan.below)?)));
        match next {
            Some((tag, device)) if tags.len() < MOST_TAGS => {
                tags.push(tag);
                below = device;
            }
            _ => return link,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostEnd, Vlan};
    use super::*;
    use blixt_dataplane::InterfaceSlot;

    fn device(ifindex: u32, on: Option<(u32, u16)>) -> Device {
        Device {
            ifindex,
            name: format!("dev{ifindex}"),
            mac: [2, 0, 0, 0, 0, ifindex as u8],
            mtu: 1_500,
            running: true,
            carrier_ups: 1,
            vlan: on.map(|(below, id)| Vlan { below, tag: [0x8100, id] }),
        }
    }

    fn view() -> View {
        let devices = [
            device(1, None),
            device(2, Some((1, 20))),
            device(3, Some((2, 30))),
            device(4, Some((3, 40))),
            device(5, Some((77, 50))),
        ];
        View {
            devices: devices.into_iter().map(|device| (device.ifindex, device)).collect(),
            ..View::default()
        }
    }

    fn attachments() -> Attachments {
        let slot = InterfaceSlot(1);
        Attachments {
            slots: 3,
            attached: vec![AttachedInterface {
                slot,
                ifindex: 1,
                partial_checksums: true,
                host: None,
            }],
            ..Attachments::default()
        }
    }

    #[test]
    fn vlans_lead_out_of_the_device_below() {
        let view = view();
        let found = |ifindex| {
            let link = link(&view.devices[&ifindex], &view, &attachments());
            let tags: Vec<_> = link.tags.iter().map(|tag| tag[1]).collect();
            (link.attached.map(|slot| slot.0), tags)
        };
        assert_eq!(found(1), (Some(1), vec![]));
        assert_eq!(found(2), (Some(1), vec![20]));
        assert_eq!(found(3), (Some(1), vec![20, 30]), "outer first");
        assert_eq!(found(4), (None, vec![]), "three tags are too many");
        assert_eq!(found(5), (None, vec![]), "nothing below");
    }

    #[test]
    fn our_end_of_the_host_path_is_a_way_while_it_is_up() {
        let stations = [[2; 6], [4; 6]];
        let mut attachments = attachments();
        attachments.attached[0].host = Some(HostEnd { stations, flows_per_worker: 9 });
        let mut state = State { view: view(), ..State::default() };
        let fib = build(&state, &attachments);
        let path = fib.host_path().unwrap();
        assert_eq!((path.egress, path.mtu, path.flows_per_worker), (InterfaceSlot(1), 1_500, 9));
        assert_eq!(fib.interfaces()[1].mac, stations[1], "not the device's");
        state.view.devices.get_mut(&1).unwrap().running = false;
        assert_eq!(build(&state, &attachments).host_path(), None);
    }

    #[test]
    fn slots_that_are_not_attached_have_no_device() {
        let fib = build(&State { view: view(), ..State::default() }, &attachments());
        let numbers: Vec<_> = fib.interfaces().iter().map(|found| found.ifindex).collect();
        assert_eq!(numbers, [0, 1, 0]);
        assert!(fib.interfaces()[1].partial_checksums);
    }
}
