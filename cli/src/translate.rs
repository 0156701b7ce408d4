//! `blixtctl translate`: what an agent would make of manifests.

use blixt_api::v1alpha1::{
    AddressPool, Gateway, GatewayClass, GetStatusResponse, Listener, MaglevShare, Refusal, Route,
    Tables, Warning,
};
use blixt_api::{listeners, objects};
use serde::Serialize;

use crate::amounts::percent;
use crate::offline::World;
use crate::table::{self, number, text};
use crate::{lb, or_dash, status};

/// All of it, in the words of the agent's API.
#[derive(Debug, Serialize)]
pub(crate) struct Translation {
    /// What is refused of the files.
    refusals: Vec<Refusal>,
    /// Why no tables can be made of the rest, if that is so.
    tables_refused_because: Option<String>,
    /// What is odd.
    warnings: Vec<Warning>,
    /// GatewayClasses with their conditions.
    gateway_classes: Vec<GatewayClass>,
    /// AddressPools with their conditions.
    address_pools: Vec<AddressPool>,
    /// Gateways with their conditions.
    gateways: Vec<Gateway>,
    /// Routes with their conditions.
    routes: Vec<Route>,
    /// The tables.
    listeners: Vec<Listener>,
}

impl Translation {
    pub(crate) fn of(world: &World) -> Self {
        let tables = Some(&world.tables).filter(|_| world.tables_refused.is_none());
        Self {
            refusals: world.refusals.iter().map(Into::into).collect(),
            tables_refused_because: world.tables_refused.clone(),
            warnings: world.warnings.iter().map(Into::into).collect(),
            gateway_classes: objects::gateway_classes(&world.statuses),
            address_pools: objects::address_pools(&world.statuses),
            gateways: objects::gateways(&world.statuses),
            routes: objects::routes(&world.statuses),
            listeners: listeners::listeners(&world.snapshot, tables, None),
        }
    }

    /// How many things an agent would refuse.
    pub(crate) fn refused(&self) -> usize {
        self.refusals.len() + usize::from(self.tables_refused_because.is_some())
    }

    /// Draws it: what is good first, so that what is wrong ends up beside the
    /// prompt.
    pub(crate) fn draw(&self, width: Option<u16>) -> String {
        // As the agent tells them.
        let told = GetStatusResponse {
            gateway_classes: self.gateway_classes.clone(),
            address_pools: self.address_pools.clone(),
            gateways: self.gateways.clone(),
            routes: self.routes.clone(),
            warnings: self.warnings.clone(),
            tables: Some(Tables { refusals: self.refusals.clone(), ..Tables::default() }),
            ..GetStatusResponse::default()
        };
        let parts = [
            status::objects(&told, width),
            self.draw_listeners(width),
            status::warnings(&told, width),
            status::refusals(told.tables.as_ref(), width),
            self.draw_tables_refused(width),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            return "There is nothing for Blixt in these files.\n".to_owned();
        }
        parts.join("\n")
    }

    fn draw_listeners(&self, width: Option<u16>) -> String {
        let mut rows = Vec::new();
        for listener in &self.listeners {
            if !rows.is_empty() {
                rows.push(vec![String::new()]);
            }
            rows.push(vec![lb::listener_cell(listener)]);
            for backend in &listener.backends {
                let weight = backend.weight.to_string();
                rows.push(row(lb::backend_cell(backend), weight, backend.maglev));
                for endpoint in &backend.endpoints {
                    rows.push(row(lb::endpoint_cell(endpoint), String::new(), endpoint.maglev));
                }
            }
        }
        if rows.is_empty() {
            return String::new();
        }
        let columns = [
            text("LISTENER\n  -> BACKEND\n     -> ENDPOINT"),
            number("WEIGHT"),
            number("SHARE"),
            number("SLOTS"),
            number("OF"),
        ];
        table::draw(&columns, &rows, width)
    }

    fn draw_tables_refused(&self, width: Option<u16>) -> String {
        let rows: Vec<_> =
            self.tables_refused_because.iter().map(|why| vec![why.clone()]).collect();
        if rows.is_empty() {
            return String::new();
        }
        table::draw(&[text("NO TABLES, SINCE")], &rows, width)
    }
}

fn row(name: String, weight: String, share: Option<MaglevShare>) -> Vec<String> {
    let part = share.map(|MaglevShare { slots, of }| match of {
        0 => percent(0.0),
        of => percent(f64::from(slots) / f64::from(of)),
    });
    let slots = or_dash(share.map(|share| share.slots));
    vec![name, weight, or_dash(part), slots, or_dash(share.map(|share| share.of))]
}
