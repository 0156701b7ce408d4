//! What others ask a worker about its flows.
//!
//! It answers between bursts, one question a turn, and each answer is a bounded
//! piece of work that allocates nothing: who wants to know of many flows asks
//! many times.

use std::net::SocketAddr;
use std::sync::Arc;

use blixt_dataplane::{Explanation, FlowFilter, FlowRecord, Pipeline, Scanned, Tick, View};
use blixt_model::Protocol;
use tokio::sync::oneshot;

/// A question, with where its answer goes.
#[derive(Debug)]
pub enum Question {
    /// Which flows are there, from an entry of the table on?
    Flows {
        /// The entry.
        from: u32,
        /// Which of them are asked for.
        filter: Arc<FlowFilter>,
        /// Where they are put. Those for which there is no room are counted
        /// only.
        page: Vec<FlowRecord>,
        /// Takes the answer.
        reply: oneshot::Sender<FlowPage>,
    },
    /// What becomes of a packet?
    Explain {
        /// Where it comes from.
        source: SocketAddr,
        /// Where it goes to.
        destination: SocketAddr,
        /// What it speaks.
        protocol: Protocol,
        /// Takes the answer.
        reply: oneshot::Sender<Explanation>,
    },
}

/// Some of a worker's flows.
#[derive(Debug)]
pub struct FlowPage {
    /// Those that were asked for.
    pub flows: Vec<FlowRecord>,
    /// How many they are, and where to go on.
    pub scanned: Scanned,
}

impl Question {
    /// Answers it. Who does not wait any more misses nothing.
    #[cold]
    pub(super) fn answer(self, pipeline: &Pipeline, view: View<'_>, now: Tick) {
        match self {
            Self::Flows { from, filter, mut page, reply } => {
                page.clear();
                let scanned = pipeline.list_flows(from, &filter, now, &mut |flow| {
                    if page.len() < page.capacity() {
                        page.push(flow);
                    }
                });
                let _ = reply.send(FlowPage { flows: page, scanned });
            }
            Self::Explain { source, destination, protocol, reply } => {
                let told = pipeline.explain(source, destination, protocol, view, now);
                let _ = reply.send(told);
            }
        }
    }
}
