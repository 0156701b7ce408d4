//! How far agents are with each Gateway: what its `Programmed` says.

use std::sync::Arc;
use std::time::Instant;

use blixt_api::parts::Parts;
use blixt_gateway::Programming;
use blixt_model::ObjectName;

use super::{Agent, Agents, COUNTS};
use crate::push::health::Health;

/// All agents at one moment. What is the same for all Gateways is found out once: there
/// are hundreds of them, up to a thousand agents, and a few snapshots that these use.
pub(crate) struct Survey<'a> {
    agents: &'a Agents,
    now: Instant,
    counting: Vec<Counted<'a>>,
    /// Those that agents use or refuse, each once.
    snapshots: Vec<&'a Arc<Parts>>,
}

/// An agent that carries Gateways.
struct Counted<'a> {
    node: &'a str,
    agent: &'a Agent,
    /// Which of the snapshots it uses, as far as it is known.
    uses: Option<usize>,
    /// Which it could not use.
    refuses: Option<usize>,
}

impl Agents {
    /// All of them, as they are now.
    pub(crate) fn survey(&self, now: Instant) -> Survey<'_> {
        let mut snapshots = Vec::new();
        let counting = self.counting(now).map(|(node, agent)| {
            let refused = agent.refused.as_ref().and_then(|refused| refused.snapshot.as_ref());
            let [uses, refuses] = [agent.uses(now), refused]
                .map(|parts| parts.map(|parts| number(&mut snapshots, parts)));
            Counted { node, agent, uses, refuses }
        });
        let counting = counting.collect();
        Survey { agents: self, now, counting, snapshots }
    }

    /// Those who carry Gateways. Where all are in trouble, those who are out of it since
    /// a moment ago: they own VIPs then.
    fn counting(&self, now: Instant) -> impl Iterator<Item = (&String, &Agent)> {
        let those = |fit: fn(&Health) -> bool| {
            self.by_node.iter().filter(move |(_, agent)| agent.counts(now, fit))
        };
        let is_out_of_trouble = |health: &Health| health.trouble().is_none();
        let nobody = those(is_out_of_trouble).next().is_none();
        those(if nobody { Health::can_serve } else { is_out_of_trouble })
    }

    /// Which node has an address of a Gateway itself, and why it stays there.
    fn taken_from(&self, name: &ObjectName) -> Option<Programming> {
        self.addresses.get(name)?.iter().find_map(|address| {
            let (node, why) = self.taken.by(address)?;
            let (node, reason) = (node.to_owned(), format!("{address} {why}"));
            Some(Programming::AddressTaken { node, reason })
        })
    }
}

impl Agent {
    /// Whether it carries Gateways.
    fn counts(&self, now: Instant, fit: fn(&Health) -> bool) -> bool {
        let is_new = now.saturating_duration_since(self.since) < COUNTS;
        self.is_there(now) && fit(&self.health) && (self.answered || !is_new)
    }

    /// The snapshot it uses, as far as it is known here.
    fn uses(&self, now: Instant) -> Option<&Arc<Parts>> {
        let is_late = |since| now.saturating_duration_since(since) >= COUNTS;
        self.applied.as_ref().filter(|_| !self.unsure.is_some_and(is_late))
    }
}

/// Which of the snapshots this is; it becomes one of them.
fn number<'a>(snapshots: &mut Vec<&'a Arc<Parts>>, parts: &'a Arc<Parts>) -> usize {
    let known = snapshots.iter().position(|known| Arc::ptr_eq(known, parts));
    known.unwrap_or_else(|| {
        snapshots.push(parts);
        snapshots.len() - 1
    })
}

impl Survey<'_> {
    /// How far the agents are with a Gateway of the newest snapshot. `None`
    /// while a replica that has just begun has yet to hear of its agents: then
    /// nobody knows better than what status says already.
    pub(crate) fn programming(&self, name: &ObjectName) -> Option<Programming> {
        let agents = self.agents;
        let begins = self.now.saturating_duration_since(agents.started) < COUNTS;
        let pending = || (!begins).then_some(Programming::Pending);
        let withheld = agents.withheld.as_ref().and_then(|withheld| withheld.gateway(name));
        if withheld.is_some() && withheld != agents.newest().and_then(|newest| newest.gateway(name))
        {
            return Some(Programming::NoNode { why: agents.too_large() });
        }
        let Some(newest) = agents.newest() else { return pending() };
        let Some(wanted) = newest.gateway(name) else { return pending() };
        if let Some(taken) = agents.taken_from(name) {
            return Some(taken);
        }
        let same = self.snapshots.iter().map(|parts| parts.gateway(name) == Some(wanted));
        let same: Vec<_> = same.collect();
        let is_same = |at: Option<usize>| at.is_some_and(|at| same.get(at) == Some(&true));
        let has_streams = agents.streaming.contains(name);
        let mut found = None;
        for Counted { node, agent, uses, refuses } in &self.counting {
            let uses = is_same(*uses);
            let refused = |reason| Programming::Refused { node: (*node).to_owned(), reason };
            match &agent.refused {
                _ if has_streams && !agent.streams => {
                    return Some(refused(format!(
                        "its agent, version {}, serves no HTTP, HTTPS and TLS listeners: upgrade it",
                        agent.version
                    )));
                }
                Some(why) if !(uses && agent.unsure.is_none()) && is_same(*refuses) => {
                    return Some(refused(why.reason.clone()));
                }
                _ if uses => {
                    if let Some(reason) = agent.troubles.get(name).cloned() {
                        return Some(refused(reason));
                    }
                    found.get_or_insert(Programming::Applied);
                }
                _ => found = Some(Programming::Pending),
            }
        }
        match found {
            None => {
                let there = || agents.by_node.iter().filter(|(_, it)| it.is_there(self.now));
                let unable = if there().next().is_none() {
                    Programming::NoAgent
                } else if let Some(why) = all_in_trouble(there()) {
                    Programming::NoNode { why }
                } else {
                    Programming::Pending
                };
                (!begins).then_some(unable)
            }
            Some(Programming::Pending) => pending(),
            found => found,
        }
    }
}

/// Why nobody serves anything, if all are in trouble.
fn all_in_trouble<'a>(agents: impl Iterator<Item = (&'a String, &'a Agent)>) -> Option<String> {
    let troubles = agents.map(|(node, agent)| Some((node, agent.health.trouble()?)));
    let troubles = troubles.collect::<Option<Vec<_>>>()?;
    let (node, why) = troubles.first()?;
    let others = match troubles.len() - 1 {
        0 => String::new(),
        others => format!(" ({others} more can't either)"),
    };
    Some(format!("No node can serve it now. {node}: {why}{others}."))
}
