//! `blixtctl status`: the agent, from its interfaces to its conditions.

use std::fmt::Write;
use std::time::Duration;

use blixt_api::Word;
use blixt_api::v1alpha1::{
    Condition, GetStatusResponse, HostPath, Interface, InterfaceState, Memory, ObjectName, Queue,
    RouteParent, Tables, Worker,
};
use blixt_model::Bytes;

use crate::amounts::{Precision, amount, duration};
use crate::or_dash;
use crate::table::{self, number, text};

/// Draws the answer; `now_unix_ms` tells how long ago things were.
pub(crate) fn draw(status: &GetStatusResponse, now_unix_ms: u64, width: Option<u16>) -> String {
    let parts = [
        agent(status, now_unix_ms, width),
        interfaces(&status.interfaces, width),
        workers(&status.workers, width),
        snat(status, width),
        host_path(status, width),
        objects(status, width),
        refusals(status.tables.as_ref(), width),
        warnings(status, width),
        drops(status, width),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn agent(status: &GetStatusResponse, now_unix_ms: u64, width: Option<u16>) -> String {
    let agent = status.agent.clone().unwrap_or_default();
    let tables = status.tables.clone().unwrap_or_default();
    let health = if agent.ready { "ready".to_owned() } else { not_ready(&agent.not_ready_because) };
    let mut rows = vec![
        (
            "Agent",
            format!(
                "version {}, pid {}, up {}",
                agent.version,
                agent.pid,
                duration(Duration::from_millis(agent.uptime_ms)),
            ),
        ),
        ("Health", health),
        ("Source", agent.source),
        ("Tables", generations(&tables, &status.workers, now_unix_ms)),
    ];
    // An older agent does not say.
    if let Some(taken) = &agent.memory {
        rows.push(("Memory", memory(taken)));
    }
    if !agent.restart_awaited_for.is_empty() {
        rows.push(("Restart", format!("awaited for {}", agent.restart_awaited_for.join("\n"))));
    }
    if !agent.settings_unusable.is_empty() {
        rows.push(("Unusable", agent.settings_unusable.join("\n")));
    }
    list(&rows, width)
}

fn memory(memory: &Memory) -> String {
    let parts = [
        ("flow tables", memory.flow_tables_bytes),
        ("frames", memory.frames_bytes),
        ("directory of flows", memory.directory_bytes),
        ("packets between workers", memory.mailboxes_bytes),
    ];
    let taken = parts.iter().filter(|(_, taken)| *taken > 0);
    let parts: Vec<_> = taken.map(|(name, taken)| format!("{name} {}", Bytes(*taken))).collect();
    let mut told = format!("{} taken: {}", Bytes(memory.total_bytes), parts.join(", "));
    if let Some(budget) = memory.budget_bytes {
        let _ = write!(told, "; {} allowed", Bytes(budget));
    }
    told
}

fn not_ready(reasons: &[String]) -> String {
    let mut health = "NOT READY".to_owned();
    for reason in reasons {
        let _ = write!(health, "\n{reason}");
    }
    health
}

fn generations(tables: &Tables, workers: &[Worker], now_unix_ms: u64) -> String {
    let mut told = match tables.applied_at_unix_ms {
        None => "none applied yet".to_owned(),
        Some(at) => format!(
            "generation {} applied {} ago",
            tables.applied_generation,
            duration(Duration::from_millis(now_unix_ms.saturating_sub(at))),
        ),
    };
    let behind = workers
        .iter()
        .filter(|worker| worker.tables_generation < tables.applied_generation)
        .count();
    let _ = match behind {
        0 => Ok(()),
        behind => write!(told, ", {behind} of {} workers still behind", workers.len()),
    };
    if let Some(reason) = &tables.refused_because {
        let _ = write!(told, "\ngeneration {} is REFUSED: {reason}", tables.wanted_generation);
    } else if tables.wanted_generation > tables.applied_generation {
        let _ = write!(told, ", generation {} is on its way", tables.wanted_generation);
    }
    told
}

fn interfaces(interfaces: &[Interface], width: Option<u16>) -> String {
    let columns = [
        text("INTERFACE"),
        text("STATE"),
        text("XDP"),
        text("QUEUES"),
        text("DRIVER"),
        number("MTU"),
        number("RX\nPACKETS"),
        number("TX\nPACKETS"),
    ];
    let rows: Vec<_> = interfaces
        .iter()
        .map(|interface| {
            vec![
                interface.name.clone(),
                state(interface),
                or_dash(interface.xdp_mode.is_some().then(|| interface.xdp_mode().word())),
                queues(&interface.queues),
                driver(interface),
                or_dash(interface.mtu_bytes),
                interface.rx_packets.to_string(),
                interface.tx_packets.to_string(),
            ]
        })
        .collect();
    section(&columns, &rows, width)
}

fn state(interface: &Interface) -> String {
    let word = interface.state().word();
    let word = match interface.state() {
        InterfaceState::Attached => word,
        _ => word.to_ascii_uppercase(),
    };
    match &interface.reason {
        Some(reason) => format!("{word}: {reason}"),
        None => word,
    }
}

fn driver(interface: &Interface) -> String {
    let driver = or_dash(interface.driver.as_ref());
    match interface.offloads_switched_off.len() {
        0 => driver,
        1 => format!("{driver}, 1 offload off"),
        many => format!("{driver}, {many} offloads off"),
    }
}

/// `0-3 zero-copy`, or each run of queues alike on a line of its own.
fn queues(queues: &[Queue]) -> String {
    let mut runs: Vec<(u32, u32, String)> = Vec::new();
    for queue in queues {
        let mode = queue.mode().word().replace('_', "-");
        match runs.last_mut() {
            Some((_, last, known))
                if *known == mode && last.checked_add(1) == Some(queue.queue) =>
            {
                *last = queue.queue;
            }
            _ => runs.push((queue.queue, queue.queue, mode)),
        }
    }
    let runs: Vec<_> = runs
        .into_iter()
        .map(|(first, last, mode)| match first == last {
            true => format!("{first} {mode}"),
            false => format!("{first}-{last} {mode}"),
        })
        .collect();
    if runs.is_empty() { "-".to_owned() } else { runs.join("\n") }
}

fn workers(workers: &[Worker], width: Option<u16>) -> String {
    let columns = [
        number("WORKER"),
        number("CORE"),
        number("TABLES"),
        number("FLOWS"),
        number("OF"),
        number("RESTING"),
        number("STARTED"),
        number("SNAT\nPORTS"),
        number("FRAMES\nFREE"),
        number("OF"),
        number("FILL\nEMPTY"),
        number("TX\nFULL"),
        number("HANDED\nOVER"),
    ];
    let row = |worker: &Worker, precision| {
        let amount = |value| amount(value, precision);
        vec![
            worker.id.to_string(),
            or_dash(worker.core),
            worker.tables_generation.to_string(),
            amount(worker.flow_entries),
            amount(worker.flow_capacity),
            amount(worker.flow_entries_resting),
            amount(worker.flows_created),
            amount(worker.snat_ports_used),
            amount(worker.frames_free),
            amount(worker.frames),
            amount(worker.fill_ring_empty),
            amount(worker.tx_ring_full),
            amount(worker.handoffs),
        ]
    };
    let with = |precision| workers.iter().map(|worker| row(worker, precision)).collect::<Vec<_>>();
    let exact = section(&columns, &with(Precision::Exact), width);
    match width {
        Some(width) if table::width_of(&exact) > width.into() => {
            section(&columns, &with(Precision::Rounded), Some(width))
        }
        _ => exact,
    }
}

fn snat(status: &GetStatusResponse, width: Option<u16>) -> String {
    let rows: Vec<_> = status
        .snat_addresses
        .iter()
        .map(|snat| vec![snat.address.clone(), format!("{}-{}", snat.first_port, snat.last_port)])
        .collect();
    section(&[text("SNAT ADDRESS"), text("PORTS")], &rows, width)
}

/// How it is with the way through the node's kernel.
fn host_path(status: &GetStatusResponse, width: Option<u16>) -> String {
    let Some(host_path) = &status.host_path else { return String::new() };
    let mut told = match &host_path.whole_families[..] {
        [] => "for endpoints and clients that no interface above leads to".to_owned(),
        families => format!(
            "for ALL flows to {} endpoints, which is slower: they have no --snat-address, in a cluster \
             no AddressPool with use SNAT",
            families.join(" and "),
        ),
    };
    let HostPath { addresses, flow_entries, flow_limit, .. } = host_path;
    let from = addresses.join(" and ");
    let _ = write!(told, "\n{flow_entries} flows of {flow_limit}, from {from}");
    for fault in &host_path.faults {
        let _ = write!(told, "\nNOT USABLE: {fault}");
    }
    list(&[("Host path", told)], width)
}

pub(crate) fn objects(status: &GetStatusResponse, width: Option<u16>) -> String {
    let mut rows = Vec::new();
    for class in &status.gateway_classes {
        let name = format!("GatewayClass {}", class.name);
        rows.push(vec![name, conditions(&class.conditions)]);
    }
    for pool in &status.address_pools {
        let free = match pool.free {
            u64::MAX => "more than can be counted".to_owned(),
            free => free.to_string(),
        };
        let told = format!("{}\n{} used, {free} free", conditions(&pool.conditions), pool.used);
        rows.push(vec![format!("AddressPool {}", pool.name), told]);
    }
    for gateway in &status.gateways {
        let mut told = conditions(&gateway.conditions);
        if !gateway.addresses.is_empty() {
            let _ = write!(told, "\n{}", gateway.addresses.join(", "));
        }
        rows.push(vec![format!("Gateway {}", named(&gateway.name)), told]);
        for listener in &gateway.listeners {
            let routes = match listener.attached_routes {
                1 => "1 route".to_owned(),
                many => format!("{many} routes"),
            };
            let name = format!("  listener {} ({routes})", listener.name);
            rows.push(vec![name, conditions(&listener.conditions)]);
        }
    }
    for route in &status.routes {
        for parent in &route.parents {
            let name = format!("{} {}\n  at {}", route.kind, named(&route.name), at(parent));
            rows.push(vec![name, conditions(&parent.conditions)]);
        }
    }
    section(&[text("OBJECT"), text("CONDITIONS")], &rows, width)
}

fn at(parent: &RouteParent) -> String {
    let mut told = named(&parent.gateway);
    if let Some(section) = &parent.section_name {
        let _ = write!(told, "/{section}");
    }
    if let Some(port) = parent.port {
        let _ = write!(told, " port {port}");
    }
    told
}

/// First those that are as they should be, then a line for each that is not.
fn conditions(conditions: &[Condition]) -> String {
    let told = |condition: &Condition| format!("{}={}", condition.r#type, condition.status);
    let (good, bad): (Vec<_>, Vec<_>) =
        conditions.iter().partition(|condition| is_as_it_should_be(condition));
    let mut lines = Vec::new();
    if !good.is_empty() {
        lines.push(good.into_iter().map(told).collect::<Vec<_>>().join(" "));
    }
    for condition in bad {
        lines.push(format!("{} {}: {}", told(condition), condition.reason, condition.message));
    }
    lines.join("\n")
}

/// All conditions of Gateway API are good when True, but for Conflicted.
fn is_as_it_should_be(condition: &Condition) -> bool {
    let good = if condition.r#type == "Conflicted" { "False" } else { "True" };
    condition.status == good
}

pub(crate) fn refusals(tables: Option<&Tables>, width: Option<u16>) -> String {
    let refusals = tables.map(|tables| tables.refusals.as_slice()).unwrap_or_default();
    let rows: Vec<_> = refusals
        .iter()
        .map(|refusal| {
            let place = match refusal.line {
                Some(line) => format!("{}:{line}", refusal.file),
                None => refusal.file.clone(),
            };
            let stays = match refusal.last_good_stays {
                true => "last good version",
                false => "nothing",
            };
            vec![place, or_dash(refusal.object.as_ref()), refusal.reason.clone(), stays.to_owned()]
        })
        .collect();
    let columns = [text("REFUSED"), text("OBJECT"), text("WHY"), text("IN FORCE")];
    section(&columns, &rows, width)
}

pub(crate) fn warnings(status: &GetStatusResponse, width: Option<u16>) -> String {
    let rows: Vec<_> = status
        .warnings
        .iter()
        .map(|warning| vec![warning.object.clone(), warning.message.clone()])
        .collect();
    section(&[text("WARNING"), text("WHAT IS ODD")], &rows, width)
}

fn drops(status: &GetStatusResponse, width: Option<u16>) -> String {
    let rows: Vec<_> = status
        .drops
        .iter()
        .filter(|drops| drops.packets > 0)
        .map(|drops| vec![drops.reason.clone(), drops.packets.to_string(), drops.meaning.clone()])
        .collect();
    section(&[text("DROPPED"), number("PACKETS"), text("WHY")], &rows, width)
}

/// A table, or nothing at all if it has no rows.
fn section(columns: &[table::Column], rows: &[Vec<String>], width: Option<u16>) -> String {
    if rows.is_empty() { String::new() } else { table::draw(columns, rows, width) }
}

/// Names and values, one to a line.
fn list(rows: &[(&str, String)], width: Option<u16>) -> String {
    let rows: Vec<_> =
        rows.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect();
    table::draw_list(&rows, width)
}

fn named(name: &Option<ObjectName>) -> String {
    name.as_ref().map(|name| format!("{}/{}", name.namespace, name.name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_wide_status_tells_everything() {
        fixture::assert_golden("status.txt", &draw(&fixture::status(), fixture::NOW, None));
    }

    #[test]
    fn a_narrow_status_fits() {
        let drawing = draw(&fixture::status(), fixture::NOW, Some(100));
        assert!(table::width_of(&drawing) <= 100, "{drawing}");
        fixture::assert_golden("status-100.txt", &drawing);
    }

    #[test]
    fn trouble_is_told() {
        fixture::assert_golden(
            "status-trouble.txt",
            &draw(&fixture::status_in_trouble(), fixture::NOW, Some(120)),
        );
    }
}
