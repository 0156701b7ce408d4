//! Streams of what is in force, and how far they are.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use blixt_dataplane::Tables;
use blixt_gateway::Programming;
use blixt_model::ObjectName;

use super::Control;
use crate::streams::Wish;

impl Control {
    /// How far it is with the streams of one whose tables are in force.
    pub(super) fn streaming(&self, name: &ObjectName) -> Programming {
        let mut gateways = self.wanted.snapshot().gateways().iter();
        let gateway = gateways.find(|gateway| gateway.name == *name);
        match gateway.map(|gateway| self.streams.shown().of(gateway, &self.passed)) {
            None | Some(Some(Ok(()))) => Programming::Applied,
            Some(Some(Err(why))) => self.tables.refusal(why),
            Some(None) => Programming::Pending,
        }
    }

    /// Has streams served by what is in force, with the certificates that are here.
    pub(super) fn want_streams(&self) {
        self.streams.want(Wish {
            applied: self.state.applied.load_full(),
            tables: self.state.published.tables.load_full(),
            certificates: match &self.pushed {
                Some(pushed) => pushed.certificates(),
                None => self.wanted.certificates(),
            },
        });
    }

    /// Streams are farther, or something of theirs is in trouble.
    pub(super) fn note_streams(&mut self) {
        // Else that is waited for, and comes.
        if self.map_by.is_none() {
            self.map_addresses();
        }
        self.report();
        self.compile();
    }

    /// Whether nothing of the newest tables' streams is left to do.
    pub(super) fn streams_are_settled(&self) -> bool {
        let tables = self.state.published.tables.load();
        self.streams.shown().generation == tables.generation()
            && self.passed == self.stream_ports(&tables)
    }

    /// The ports of streams that are served, and wanted still.
    pub(super) fn stream_ports(&self, tables: &Tables) -> BTreeSet<SocketAddr> {
        let served = self.streams.shown().served;
        tables.stream_ports().filter(|port| served.contains(port)).collect()
    }
}
