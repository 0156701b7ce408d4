//! All that is counted, in the words of the API.

use blixt_api::v1alpha1 as api;

use crate::metrics::{self, Sample};
use crate::state::State;

/// What `/metrics` says, with what to do about it.
pub(super) fn of(state: &State) -> api::GetCountersResponse {
    api::GetCountersResponse {
        uptime_ms: u64::try_from(state.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        counters: metrics::samples(state).into_iter().map(shown).collect(),
    }
}

fn shown(sample: Sample) -> api::Counter {
    let kind = match sample.grows {
        true => api::CounterKind::Total,
        false => api::CounterKind::Level,
    };
    api::Counter {
        metric: sample.name,
        labels: sample.labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        kind: kind.into(),
        value: sample.value,
        meaning: sample.meaning,
        advice: sample.advice.map(str::to_owned),
    }
}
