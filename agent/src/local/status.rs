//! The agent's state in the words of the API.

use std::collections::{BTreeSet, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use blixt_api::objects;
use blixt_api::v1alpha1 as api;
use blixt_dataplane::{DropReason, InterfaceSlot};

use super::cpu;
use crate::hostpath::Family;
use crate::memory::Memory;
use crate::metrics;
use crate::state::{ControlState, InterfaceState, LinkState, State, WorkerState};
use crate::worker::thread_name;
use crate::xdp::AttachedMode;

/// All of it.
pub(super) fn of(state: &State) -> api::GetStatusResponse {
    let control = state.control.load();
    let cpu_times = cpu::times();
    let statuses = &control.statuses;
    let interfaces = control.interfaces.iter().zip(0..);
    api::GetStatusResponse {
        agent: Some(agent(state, &control)),
        interfaces: interfaces
            .map(|(found, slot)| interface(found, InterfaceSlot(slot), state))
            .collect(),
        workers: state
            .workers
            .iter()
            .zip(0..)
            .map(|(found, id)| worker(found, id, state, &cpu_times))
            .collect(),
        tables: Some(tables(state, &control)),
        snat_addresses: snat_addresses(state, &control),
        host_path: host_path(state, &control),
        gateway_classes: objects::gateway_classes(statuses),
        address_pools: objects::address_pools(statuses),
        gateways: objects::gateways(statuses),
        routes: objects::routes(statuses),
        drops: drops(state),
        warnings: control.warnings.iter().map(Into::into).collect(),
    }
}

fn agent(state: &State, control: &ControlState) -> api::Agent {
    api::Agent {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at_unix_ms: unix_ms(state.started_at),
        uptime_ms: u64::try_from(state.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        source: state.source.clone(),
        ready: control.not_ready.is_empty(),
        not_ready_because: control.not_ready.clone(),
        memory: Some(memory(&state.memory)),
        restart_awaited_for: control.restart_awaited.clone(),
        settings_unusable: control.unusable.iter().map(ToString::to_string).collect(),
    }
}

fn memory(memory: &Memory) -> api::Memory {
    api::Memory {
        flow_tables_bytes: memory.flows,
        frames_bytes: memory.frames,
        directory_bytes: memory.directory,
        mailboxes_bytes: memory.mailboxes,
        total_bytes: memory.total(),
        budget_bytes: memory.budget,
    }
}

fn interface(found: &InterfaceState, slot: InterfaceSlot, state: &State) -> api::Interface {
    let mut shown = api::Interface { name: found.name.clone(), ..api::Interface::default() };
    for counters in state.workers.iter().filter_map(|worker| worker.status.interface(slot)) {
        shown.rx_packets += counters.rx_packets.value();
        shown.rx_bytes += counters.rx_bytes.value();
        shown.tx_packets += counters.tx_packets.value();
        shown.tx_bytes += counters.tx_bytes.value();
    }
    match &found.link {
        LinkState::Gone => {
            shown.state = api::InterfaceState::Gone.into();
            shown.reason =
                Some("there is no such interface; it is attached when it returns".into());
        }
        LinkState::Failed { reason } => {
            shown.state = api::InterfaceState::Failed.into();
            shown.reason = Some(reason.clone());
        }
        LinkState::Attached(attached) => {
            shown.state = api::InterfaceState::Attached.into();
            shown.reason = match attached.running {
                true => attached.trouble.clone(),
                false => Some("it is down, or its cable is out".to_owned()),
            };
            shown.ifindex = Some(attached.ifindex);
            let mode = match attached.mode {
                AttachedMode::Native => api::XdpMode::Native,
                AttachedMode::Generic => api::XdpMode::Generic,
            };
            shown.xdp_mode = Some(mode.into());
            shown.driver = Some(attached.driver.clone()).filter(|driver| !driver.is_empty());
            shown.mtu_bytes = Some(attached.mtu);
            shown.offloads_switched_off =
                attached.offloads_off.iter().map(|offload| offload.name().to_owned()).collect();
            shown.queues = attached
                .queues
                .iter()
                .map(|queue| {
                    let mode = match queue.zero_copy {
                        true => api::BindMode::ZeroCopy,
                        false => api::BindMode::Copy,
                    };
                    api::Queue {
                        queue: queue.queue,
                        worker: queue.worker.into(),
                        mode: mode.into(),
                    }
                })
                .collect();
        }
    }
    shown
}

fn worker(
    found: &WorkerState,
    id: u32,
    state: &State,
    cpu_times: &HashMap<String, u64>,
) -> api::Worker {
    let status = &found.status;
    let interfaces = 0..u16::try_from(state.control.load().interfaces.len()).unwrap_or(u16::MAX);
    let interfaces: Vec<_> =
        interfaces.filter_map(|slot| status.interface(InterfaceSlot(slot))).collect();
    let entries = status.pipeline.flow_entries.value();
    api::Worker {
        id,
        core: found.core.and_then(|core| u32::try_from(core).ok()),
        frames: status.frames_now().born,
        frames_free: status.frames_now().home,
        flow_entries: entries,
        flow_capacity: state.flow_capacity as u64,
        flow_entries_resting: status.pipeline.flow_entries_resting.value(),
        flows_created: status.pipeline.flows_created.value(),
        // Each entry has just one.
        snat_ports_used: entries,
        tables_generation: status.tables_generation.value(),
        fill_ring_empty: interfaces.iter().map(|found| found.fill_ring_empty.value()).sum(),
        handoffs: status.pipeline.handed_off.value(),
        cpu_time_ns: cpu_times.get(&thread_name(id)).copied(),
        flows_evicted: status.pipeline.flows_evicted.value(),
        tx_ring_full: interfaces.iter().map(|found| found.tx_ring_full.value()).sum(),
        longest_turn_ns: status.longest_turn_ns.value(),
        longest_turn_own_ns: status.longest_turn_own_ns.value(),
        slow_turns_by_itself: status.slow_turns_by_itself.value(),
        slow_turns_by_sending: status.slow_turns_by_sending.value(),
        slow_turns_by_others: status.slow_turns_by_others.value(),
    }
}

fn tables(state: &State, control: &ControlState) -> api::Tables {
    let applied = state.applied.load();
    api::Tables {
        wanted_generation: control.wanted.0,
        applied_generation: applied.snapshot.generation().0,
        applied_at_unix_ms: applied.at.map(unix_ms),
        refused_because: control.refused.clone(),
        refusals: control.refusals.iter().map(Into::into).collect(),
    }
}

fn snat_addresses(state: &State, control: &ControlState) -> Vec<api::SnatAddress> {
    let addresses = control.snat_addresses.iter().map(|address| api::SnatAddress {
        address: address.to_string(),
        first_port: (*state.snat_ports.start()).into(),
        last_port: (*state.snat_ports.end()).into(),
    });
    addresses.collect()
}

fn host_path(state: &State, control: &ControlState) -> Option<api::HostPath> {
    let host_path = state.host_path?;
    let flows = state.workers.iter().map(|it| it.status.pipeline.flow_entries_by_host.value());
    let has: BTreeSet<_> = control.snat_addresses.iter().map(Family::of).collect();
    let without = [Family::V4, Family::V6].into_iter().filter(|family| !has.contains(family));
    Some(api::HostPath {
        addresses: [true, false].map(|v4| host_path.addresses.of(v4).to_string()).into(),
        flow_entries: flows.sum(),
        flow_limit: host_path.flow_limit as u64,
        whole_families: without.map(|family| family.to_string()).collect(),
        faults: control.host_path_faults.clone(),
    })
}

fn drops(state: &State) -> Vec<api::Drops> {
    let reasons = DropReason::ALL.iter().map(|&reason| {
        let workers = state.workers.iter();
        api::Drops {
            reason: reason.name().to_owned(),
            meaning: reason.meaning().to_owned(),
            packets: workers.map(|worker| worker.status.pipeline.dropped(reason).value()).sum(),
        }
    });
    let (reason, meaning) = metrics::NO_SOCKET;
    let no_socket = api::Drops {
        reason: reason.to_owned(),
        meaning: meaning.to_owned(),
        packets: metrics::no_socket(state),
    };
    reasons.chain([no_socket]).collect()
}

fn unix_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::example;

    #[test]
    fn interfaces_say_how_it_is_with_them() {
        let shown = of(&example());
        let [attached, gone] = &shown.interfaces[..] else { panic!("{shown:?}") };
        assert_eq!(attached.state(), api::InterfaceState::Attached);
        assert_eq!(attached.xdp_mode(), api::XdpMode::Native);
        assert_eq!(attached.offloads_switched_off, ["tso"]);
        assert_eq!((attached.rx_packets, attached.reason.as_ref()), (100, None));
        assert_eq!(gone.state(), api::InterfaceState::Gone);
        assert!(gone.reason.is_some() && gone.ifindex.is_none());
        assert_eq!(shown.agent.unwrap().not_ready_because, ["interface eth1 is not there"]);
    }

    #[test]
    fn every_reason_for_a_drop_is_shown_and_explained() {
        let drops = of(&example()).drops;
        assert_eq!(drops.len(), DropReason::ALL.len() + 1);
        assert!(drops.iter().all(|drop| drop.meaning.ends_with('.')));
        let no_flow = drops.iter().find(|drop| drop.reason == "no_flow").unwrap();
        assert_eq!(no_flow.packets, 4);
    }
}
