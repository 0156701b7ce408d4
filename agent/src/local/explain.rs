//! What becomes of a packet: what tables decide, and what the workers say.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use blixt_api::explain::{Asked, of_tables};
use blixt_api::v1alpha1 as api;
use blixt_dataplane::{DropReason, Explanation, Fate, Tables, address};
use blixt_model::Protocol;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Status;

use super::flows::{Owners, flow};
use crate::state::State;
use crate::tables::Applied;
use crate::worker::{Question, WorkerHandle};

/// How long a worker may take to answer. It turns ten times a second even where
/// there is nothing to do.
const PATIENCE: Duration = Duration::from_secs(2);

/// All of it.
pub(super) async fn of(
    state: &State,
    workers: &[WorkerHandle],
    request: &api::ExplainRequest,
) -> Result<api::ExplainResponse, Status> {
    let asked = asked(request)?;
    let (tables, applied) = in_force(state).await;
    let turned_round = asked.is_ours(&tables);
    let asked = if turned_round { asked.turned_round() } else { asked };
    let (mut told, decision) = of_tables(&asked, &applied.snapshot, &tables);
    told.turned_round = turned_round;
    // No worker sees it.
    if decision.stream {
        told.opening = Some(api::Fate {
            destination: decision.endpoint.map(|(at, _)| at.into()),
            drop: decision.refused.map(Into::into),
            ..api::Fate::default()
        });
        return Ok(told);
    }

    let questions: Vec<_> = workers.iter().map(|worker| ask(worker, asked)).collect();
    let mut answers = Vec::new();
    for (worker, question) in (0..).zip(questions) {
        answers.push((worker, question.await?));
    }
    let owner = answers.iter().find_map(|(worker, told)| Some((*worker, told, told.flow?)));
    if let Some((worker, explanation, record)) = owner {
        told.flow = Some(flow(&record, worker, &Owners::of(&applied)));
        told.opening = fate(&explanation.opening, state);
        told.other = explanation.other.as_ref().and_then(|other| fate(other, state));
        return Ok(told);
    }
    told.other = answers
        .iter()
        .filter_map(|(_, told)| told.other.as_ref())
        .find_map(|other| fate(other, state));
    let refusing: Vec<_> = answers.iter().filter_map(refusing).collect();
    let willing = answers
        .iter()
        .filter(|(worker, _)| refusing.iter().all(|refusal| refusal.worker != *worker));
    told.opening = willing.map(|(_, told)| &told.opening).find_map(|opening| fate(opening, state));
    match told.opening {
        Some(_) => told.refusing_workers = refusing,
        // They all say the same, or nearly so.
        None => told.opening = answers.iter().find_map(|(_, told)| fate(&told.opening, state)),
    }
    Ok(told)
}

/// The tables and the snapshot they were made of. They are exchanged one after
/// the other, so for a moment they may not belong together.
async fn in_force(state: &State) -> (Arc<Tables>, Arc<Applied>) {
    const MOMENTS: usize = 100;
    let mut loaded = (state.published.tables.load_full(), state.applied.load_full());
    for _ in 0..MOMENTS {
        let (tables, applied) = &loaded;
        if tables.generation() == applied.snapshot.generation() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        loaded = (state.published.tables.load_full(), state.applied.load_full());
    }
    loaded
}

fn asked(request: &api::ExplainRequest) -> Result<Asked, Status> {
    let protocol = Protocol::try_from(request.protocol());
    let protocol = protocol.map_err(|_| Status::invalid_argument("no protocol is given"))?;
    let end = |end: &Option<api::SocketAddress>, what: &str| {
        let end =
            end.as_ref().ok_or_else(|| Status::invalid_argument(format!("no {what} is given")));
        SocketAddr::try_from(end?).map_err(|error| Status::invalid_argument(error.to_string()))
    };
    let source = end(&request.source, "source")?;
    Ok(Asked { protocol, source, destination: end(&request.destination, "destination")? })
}

/// Asks at once; the answer may be waited for later.
fn ask(
    worker: &WorkerHandle,
    asked: Asked,
) -> impl Future<Output = Result<Explanation, Status>> + use<> {
    let Asked { protocol, source, destination } = asked;
    let (reply, answer) = oneshot::channel();
    worker.ask(Question::Explain { source, destination, protocol, reply });
    answered(worker.id().0, answer)
}

/// Waits for a worker's answer, but not for ever.
pub(super) async fn answered<T>(worker: u16, answer: oneshot::Receiver<T>) -> Result<T, Status> {
    match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Status::unavailable(format!("worker {worker} has stopped"))),
        Err(_) => Err(Status::internal(format!(
            "worker {worker} does not answer; `blixtctl status` says whether it is stuck"
        ))),
    }
}

/// A worker that would start the flow if it had room.
fn refusing((worker, told): &(u32, Explanation)) -> Option<api::WorkerRefusal> {
    match told.opening {
        Fate::Refused(
            reason @ (DropReason::HostPathFull | DropReason::FlowTableFull | DropReason::SnatPorts),
        ) => Some(api::WorkerRefusal { worker: *worker, drop: Some(reason.into()) }),
        _ => None,
    }
}

/// `None` for what another worker tells.
fn fate(fate: &Fate, state: &State) -> Option<api::Fate> {
    match fate {
        Fate::HandedOff(_) => None,
        Fate::Refused(reason) => {
            Some(api::Fate { drop: Some((*reason).into()), ..api::Fate::default() })
        }
        Fate::Becomes { source, destination, hop } => Some(api::Fate {
            source: Some((*source).into()),
            destination: Some((*destination).into()),
            drop: hop.err().map(Into::into),
            next_hop: hop.ok().map(|hop| api::NextHop {
                interface: interface(hop.egress.0, state),
                address: address::to_ip(hop.neighbour.address).to_string(),
                mac: hop.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")),
                mtu_bytes: u32::try_from(hop.mtu).unwrap_or(u32::MAX),
                by_host: hop.by_host,
            }),
        }),
    }
}

fn interface(slot: u16, state: &State) -> String {
    let control = state.control.load();
    let interface = control.interfaces.get(usize::from(slot));
    interface.map_or_else(|| "?".to_owned(), |interface| interface.name.clone())
}
