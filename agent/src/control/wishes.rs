//! From what is wanted to tables in the workers' hands.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use blixt_gateway::Programming;
use blixt_model::{ObjectName, Snapshot};
use tracing::{error, info, warn};

use super::{ADOPTED, Control};
use crate::configured::Unusable;
use crate::flags::Settings;
use crate::sync::{Pushed, Wish};
use crate::worker::Command;

impl Control {
    /// Brings everything in line with what the controller wants now.
    pub(super) fn take_wish(&mut self) {
        let wanted = self.pushed.as_mut().and_then(Pushed::wanted);
        if let Some(wish) = wanted {
            self.fulfil(wish);
        } else if self.pushed.is_some() {
            // Certificates may be new.
            self.want_streams();
        }
        let apart = self.pushed.as_ref().map(|pushed| pushed.reach().apart).unwrap_or_default();
        if apart != self.apart {
            self.apart = apart;
            self.announce_later();
        }
        self.show();
    }

    /// Puts a wish in force, but for those of its addresses that are the node's
    /// own: these stay with the kernel.
    pub(super) fn fulfil(&mut self, wish: Arc<Wish>) {
        let own = self.own_addresses();
        let is_free = |address: &IpAddr| !own.contains_key(address);
        let snat = wish.assignment.snat.iter().copied().filter(is_free);
        let snat = self.settings.snat_addresses.iter().copied().chain(snat);
        self.tables.assign(snat.collect(), wish.assignment.owned.clone());
        self.wanted.push(without(&wish.snapshot, &own));
        let is_whole = wish.snapshot.vips().iter().all(is_free);
        let outcome = self.put_in_force((!is_whole).then_some(&wish.snapshot));
        if outcome.is_err() {
            let last = self.pushed.as_ref().and_then(Pushed::in_force).cloned();
            self.keep_last(&last.unwrap_or_else(|| self.tables.applied().load().snapshot.clone()));
        }
        if let Some(pushed) = &mut self.pushed {
            match outcome {
                Ok(()) => pushed.published(wish),
                Err(why) => pushed.refused(&wish, why),
            }
            let taken = pushed.own_among_wanted(&own);
            let is_news = |it: &(&IpAddr, &String)| pushed.own().get(it.0) != Some(it.1);
            for (address, why) in taken.iter().filter(is_news) {
                warn!("{address} is not used, though the controller asks for it: it {why}");
            }
            pushed.set_own(taken);
        }
        self.look_for_adoption();
    }

    /// The last tables stay, but for addresses that are the node's own by now,
    /// and with what is assigned now.
    pub(super) fn keep_last(&mut self, last: &Snapshot) {
        let refused = self.wanted.snapshot().clone();
        let last = without(last, &self.own_addresses()).with_generation(refused.generation());
        self.wanted.push(refused);
        if let Err(why) = self.tables.apply_again(&last) {
            error!("the last tables stay as they are: {why}");
        }
        self.want_streams();
        self.wake_workers();
        self.map_by.get_or_insert_with(|| Instant::now() + ADOPTED);
    }

    /// Takes out of tables that stay, as those after them are refused, what the
    /// node has got itself since then.
    pub(super) fn give_back(&mut self) {
        let own = self.own_addresses();
        let last = self.tables.applied().load().snapshot.clone();
        if self.tables.refused().is_some() && last.vips().iter().any(|vip| own.contains_key(vip)) {
            self.keep_last(&last);
        }
    }

    /// Brings everything in line with what is wanted now.
    pub(super) fn compile(&mut self) {
        // Of a controller's snapshot there is nothing to compile anew, but the
        // node may have got or lost an address that is in it.
        if let Some(pushed) = &self.pushed {
            let has_changed = pushed.own_among_wanted(&self.own_addresses()) != *pushed.own();
            if let Some(wish) = pushed.newest().filter(|_| has_changed) {
                self.fulfil(wish);
            }
            return self.show();
        }
        self.compile_once();
        self.give_back();
        self.look_for_adoption();
        // The statuses also say how far the tables have got by now.
        self.compile_once();
        self.show();
    }

    /// From what is wanted to tables in the workers' hands. The kernel's
    /// addresses may change at any time, so each time may bring new tables.
    pub(super) fn compile_once(&mut self) {
        if self.pushed.is_some() {
            return;
        }
        let unusable = self.unusable_addresses();
        let programming = |name: &_| self.programming(name);
        let Some(compiled) = self.wanted.compile(&unusable, &programming) else { return };
        if self.wanted.take(compiled) {
            // Statuses and readiness say what is refused.
            let _ = self.put_in_force(None);
        }
    }

    /// Puts the wanted snapshot in the workers' hands, or says why not. The `whole`
    /// one has to be good too, where addresses are left out of it.
    pub(super) fn put_in_force(&mut self, whole: Option<&Snapshot>) -> Result<(), String> {
        let snapshot = self.wanted.snapshot();
        let generation = snapshot.generation();
        let (newer, unusable) = self.settings.configured(snapshot.settings());
        let maglev = self.tables.set_maglev(newer.maglev);
        let checked = whole.map_or(Ok(()), |whole| self.tables.check(whole));
        let told = self.tables.held_back().clone();
        let applied = checked.and_then(|()| self.tables.apply(snapshot));
        match &applied {
            Ok(()) => {
                info!(%generation, "tables are in force");
                let held_back = self.tables.held_back().iter();
                for (gateway, why) in held_back.filter(|it| told.get(it.0) != Some(it.1)) {
                    error!(%generation, "Gateway {gateway} is refused: {why}");
                }
                self.work_by(&newer, unusable);
            }
            Err(why) => {
                error!("generation {generation} is refused, the last tables stay: {why}");
                self.tables.set_maglev(maglev);
            }
        }
        self.want_streams();
        self.wake_workers();
        self.map_by.get_or_insert_with(|| Instant::now() + ADOPTED);
        applied
    }

    /// Works as the snapshot that is in force says from now on, as far as that goes
    /// without a new start.
    pub(super) fn work_by(&mut self, newer: &Settings, unusable: Vec<Unusable>) {
        if newer.timeouts != self.settings.timeouts {
            info!(timeouts = ?newer.timeouts, "flows are kept for another time");
            self.settings.timeouts = newer.timeouts;
            let all = self.workers.iter();
            all.for_each(|worker| worker.send(Command::KeepFor(newer.timeouts)));
        }
        if newer.maglev != self.settings.maglev {
            info!(slots = newer.maglev.slots(), "Maglev tables have another size");
            self.settings.maglev = newer.maglev;
        }
        let awaited = self.settings.awaiting_start(newer);
        for what in awaited.iter().filter(|what| !self.awaited.contains(what)) {
            warn!("the GatewayConfig asks for what takes a new start of the agent: {what}");
        }
        for what in unusable.iter().filter(|what| !self.unusable.contains(what)) {
            warn!("the GatewayConfig can't be followed on this node: {what}");
        }
        self.awaited = awaited;
        self.unusable = self.settings.still_unusable(self.wanted.snapshot().settings());
        self.unusable.extend(unusable);
    }

    /// How far this node is with a Gateway.
    pub(super) fn programming(&self, name: &ObjectName) -> Programming {
        match &self.unmapped {
            Some(reason) => self.tables.refusal(reason.clone()),
            None => match self.tables.programming(self.wanted.snapshot(), name) {
                Programming::Applied => self.streaming(name),
                other => other,
            },
        }
    }
}

/// A snapshot without the node's own addresses.
fn without(snapshot: &Snapshot, own: &BTreeMap<IpAddr, String>) -> Snapshot {
    snapshot.clone().retain_addresses(|_, address| !own.contains_key(&address))
}
