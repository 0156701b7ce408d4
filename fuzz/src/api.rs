//! The messages of the local API: any bytes are decoded or refused, and what
//! is decoded can be told again, as protobuf and as JSON.

use blixt_api::v1alpha1::{
    ExplainResponse, GetCountersResponse, GetLoadBalancingRequest, GetLoadBalancingResponse,
    GetStatusRequest, GetStatusResponse, ListFlowsRequest, ListFlowsResponse,
};
use prost::Message;

/// Any bytes as any message: the first says which.
pub fn api(data: &[u8]) {
    let Some((&which, bytes)) = data.split_first() else { return };
    match which % 8 {
        0 => told_again::<GetStatusResponse>(bytes, json),
        1 => told_again::<GetLoadBalancingResponse>(bytes, json),
        2 => told_again::<GetStatusRequest>(bytes, |_| ()),
        3 => told_again::<GetLoadBalancingRequest>(bytes, |_| ()),
        4 => told_again::<GetCountersResponse>(bytes, json),
        5 => told_again::<ExplainResponse>(bytes, json),
        6 => told_again::<ListFlowsResponse>(bytes, json),
        _ => told_again::<ListFlowsRequest>(bytes, |_| ()),
    }
}

fn told_again<M: Message + Default + std::fmt::Debug>(bytes: &[u8], print: impl Fn(&M)) {
    let Ok(message) = M::decode(bytes) else { return };
    print(&message);
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    let again = M::decode(&encoded[..]).expect("we decode what we encode");
    // By their bytes: no number equals one that is none (NaN).
    assert!(again.encode_to_vec() == encoded, "{again:?} was {message:?}");
}

/// As `blixtctl -o json` prints it.
fn json(message: &impl serde::Serialize) {
    let text = serde_json::to_string(message).expect("every message is JSON");
    assert!(text.starts_with('{'));
}
