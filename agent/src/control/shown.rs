//! How the agent is, for others to look at.

use std::sync::Arc;
use std::time::{Duration, Instant};

use blixt_gateway::{Kind, ObjectKey, Refusal, Warning};
use blixt_model::{Generation, ObjectName};

use super::{Control, Pulse};
use crate::families;
use crate::hostpath::{Fault, OUR_END};
use crate::interfaces::Shown;
use crate::state::{ControlState, ControllerState, InterfaceState, LinkState};
use crate::streams::StreamServer;
use crate::tables::TablesWriter;

/// How long a worker may stand still. It turns ten times a second even where
/// there is nothing to do.
const STUCK: Duration = Duration::from_secs(5);

impl Control {
    pub(super) fn feel_pulses(&mut self) {
        for (worker, pulse) in self.workers.iter().zip(&mut self.pulses) {
            let beats = worker.status().heartbeats.value();
            if beats != pulse.beats {
                *pulse = Pulse { beats, at: Instant::now() };
            }
        }
    }

    pub(super) fn stuck(&self) -> Option<String> {
        let place = self.pulses.iter().position(|pulse| pulse.at.elapsed() > STUCK)?;
        Some(format!("worker {place} has not moved for {STUCK:?}: restart the agent"))
    }

    /// Shows others how it is.
    pub(super) fn show(&mut self) {
        // First: what took long may have been this thread.
        self.feel_pulses();
        let stuck = self.stuck();
        let Shown { states, faults, .. } = self.interfaces.shown();
        let host_path_faults = self.host_path_faults(&states);
        if let Some(pushed) = &mut self.pushed {
            // One that serves something keeps its VIPs, whatever else is wrong.
            let cut_off = || is_cut_off(&states).then(|| faults.join("; "));
            pushed.serves(stuck.clone().or_else(cut_off));
        }
        let mut not_ready = faults;
        if !host_path_faults.is_empty() {
            let fib = self.state.published.fib.load();
            let snat = self.tables.snat_addresses();
            let needed = families::needing_host(self.wanted.snapshot(), snat, &fib);
            not_ready.extend(families::sentences(&host_path_faults, &needed));
        }
        not_ready.extend(stuck.clone());
        not_ready.extend(self.unmapped.clone());
        not_ready.extend(self.stolen_addresses());
        let controller = self.controller();
        if let Some(ControllerState { reach, .. }) = &controller {
            if self.wanted.snapshot().generation() == Generation::default() {
                not_ready.push("no controller has said yet what is wanted".to_owned());
            }
            not_ready.extend(reach.trouble.as_ref().map(|why| {
                format!("no controller is in reach, what was wanted last stays in force: {why}")
            }));
            not_ready.extend(reach.unreadable.as_ref().map(|why| {
                format!(
                    "what is wanted now can't be read, what was wanted last stays in force: {why}"
                )
            }));
        }
        if self.tables.is_pending() {
            not_ready.push("some worker has yet to take up the newest tables".to_owned());
        }
        let served = families::served(self.wanted.snapshot());
        let control = ControlState {
            interfaces: states,
            statuses: self.wanted.statuses().clone(),
            refusals: self.refusals(),
            warnings: self.warnings(),
            wanted: self.wanted.snapshot().generation(),
            refused: self.tables.refused().map(str::to_owned),
            xdp: self.map.counters().ok(),
            not_ready,
            host_path_faults: families::sentences(&host_path_faults, &served),
            stuck,
            snat_addresses: self.tables.snat_addresses().clone(),
            controller,
            restart_awaited: self.awaited.clone(),
            unusable: self.unusable.clone(),
        };
        self.state.control.store(Arc::new(control));
    }

    /// How it is with the controller, if there is one.
    pub(super) fn controller(&self) -> Option<ControllerState> {
        let pushed = self.pushed.as_ref()?;
        let owned = pushed.assignment().map_or(0, |assignment| assignment.owned.len());
        Some(ControllerState { reach: pushed.reach(), owned })
    }

    /// What is refused of the manifests: all of them, if they can't be read.
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let unreadable = self.unreadable.as_ref().map(|why| Refusal {
            file: self.settings.source.to_string(),
            line: None,
            object: None,
            reason: format!("can't be read: {why}"),
            last_good_stays: true,
        });
        self.wanted.refusals().iter().cloned().chain(unreadable).collect()
    }

    /// What was hardly meant so, with what only this node knows.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let missing = match self.host {
            // Flows without a SNAT address go through the kernel.
            Some(_) => Vec::new(),
            None => families::missing(self.wanted.snapshot(), self.tables.snat_addresses()),
        };
        let of_gateways = troubles(&self.streams, &self.tables).map(|(gateway, message)| {
            let namespace = Some(gateway.namespace().to_owned());
            let name = gateway.name().to_owned();
            Warning { object: ObjectKey { kind: Kind::Gateway, namespace, name }, message }
        });
        self.wanted.warnings().iter().cloned().chain(missing).chain(of_gateways).collect()
    }

    /// What keeps packets from going through the node's kernel.
    pub(super) fn host_path_faults(&self, states: &[InterfaceState]) -> Vec<Fault> {
        let Some(host) = &self.host else { return Vec::new() };
        let mut faults = host.faults();
        let end = states.iter().find(|state| state.name == OUR_END).map(|state| &state.link);
        let sentence = match end {
            Some(LinkState::Attached(attached)) if attached.running => return faults,
            Some(LinkState::Failed { reason }) => reason.clone(),
            _ => format!("{OUR_END}, the agent's end of the host path, is not up"),
        };
        faults.push(Fault { family: None, sentence });
        faults
    }
}

/// Whether there is no way out to clients or backends: the host path's own end
/// leads to neither.
fn is_cut_off(states: &[InterfaceState]) -> bool {
    let is_up = |link: &LinkState| matches!(link, LinkState::Attached(it) if it.running);
    !states.iter().any(|state| state.name != OUR_END && is_up(&state.link))
}

/// Gateways that this node does not serve as it should, and why.
pub(super) fn troubles(
    streams: &StreamServer,
    tables: &TablesWriter,
) -> impl Iterator<Item = (ObjectName, String)> + use<> {
    streams.shown().troubles.into_iter().chain(tables.held_back().clone())
}
