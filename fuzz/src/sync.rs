//! What agents and controllers say to each other: any bytes are decoded or
//! refused, what makes a snapshot makes the same one again, and changes lead
//! where they say or nowhere.

use blixt_api::parts::{Parts, certificates_in};
use blixt_api::sync::v1alpha1::{FollowRequest, FollowResponse, follow_response::Message as Told};
use blixt_model::Generation;
use prost::Message;

use crate::bytes::Bytes;

/// The first byte says what the rest is.
pub fn sync(data: &[u8]) {
    let mut bytes = Bytes(data);
    match bytes.u8() % 4 {
        0 => {
            if let Ok(parts) = Parts::decode(bytes.0) {
                make_sense(&parts);
            }
        }
        1 => {
            let Ok(FollowResponse { message: Some(message) }) = FollowResponse::decode(bytes.0)
            else {
                return;
            };
            match message {
                Told::Snapshot(snapshot) => drop(Parts::from_snapshot(snapshot)),
                Told::Delta(delta) => drop(Parts::decode(&[]).map(|none| none.changed_by(delta))),
                Told::Certificates(told) => drop(certificates_in(told)),
                Told::Assignment(_) | Told::Peers(_) | Told::Beat(_) => {}
            }
        }
        2 => drop(FollowRequest::decode(bytes.0)),
        _ => {
            let length = usize::from(bytes.u16());
            let (Ok(base), Ok(goal)) = (Parts::decode(bytes.take(length)), Parts::decode(bytes.0))
            else {
                return;
            };
            let delta = goal.since(&base);
            assert_eq!(base.changed_by(delta.clone()), Ok(goal.clone()));
            assert_eq!(goal.changed_by(delta).is_ok(), base == goal);
        }
    }
}

fn make_sense(parts: &Parts) {
    assert_eq!(Parts::decode(&parts.encode()).as_ref(), Ok(parts));
    assert_eq!(Parts::from_snapshot(parts.to_snapshot()).as_ref(), Ok(parts));
    if let Ok(snapshot) = parts.snapshot(Generation(1)) {
        assert_eq!(Parts::of(&snapshot).snapshot(Generation(1)), Ok(snapshot));
    }
}
