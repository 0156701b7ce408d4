//! Enumerations as words: `ZERO_COPY` of `BindMode` is `zero_copy`, in JSON
//! and in tables alike.

use crate::v1alpha1::{
    Affinity, BindMode, CounterKind, EndpointState, FlowState, InterfaceState, Protocol, Side,
    StreamKind, XdpMode,
};

/// An enumeration of the API, as a word for people and for JSON.
pub trait Word: Copy {
    /// The value's name in the proto file, without the enumeration's name and
    /// in lower case.
    fn word(self) -> String;
}

/// What a number is called that this version of the API does not know: it
/// comes from a newer agent.
#[cfg(feature = "serde")]
const UNKNOWN: &str = "unknown";

macro_rules! words {
    ($($kind:ident, $field:ident, $prefix:literal;)*) => {
        $(
            impl Word for $kind {
                fn word(self) -> String {
                    let name = self.as_str_name();
                    name.strip_prefix($prefix).unwrap_or(name).to_ascii_lowercase()
                }
            }

            #[cfg(feature = "serde")]
            pub(crate) fn $field<S: serde::Serializer>(
                value: &(impl Copy + Into<Option<i32>>),
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match (*value).into() {
                    None => serializer.serialize_none(),
                    Some(number) => match $kind::try_from(number) {
                        Ok(value) => serializer.serialize_str(&value.word()),
                        Err(_) => serializer.serialize_str(UNKNOWN),
                    },
                }
            }
        )*
    };
}

words! {
    InterfaceState, interface_state, "INTERFACE_STATE_";
    XdpMode, xdp_mode, "XDP_MODE_";
    BindMode, bind_mode, "BIND_MODE_";
    Protocol, protocol, "PROTOCOL_";
    Affinity, affinity, "AFFINITY_";
    EndpointState, endpoint_state, "ENDPOINT_STATE_";
    CounterKind, counter_kind, "COUNTER_KIND_";
    Side, side, "SIDE_";
    FlowState, flow_state, "FLOW_STATE_";
    StreamKind, stream_kind, "STREAM_KIND_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_leave_out_the_name_of_their_enumeration() {
        assert_eq!(BindMode::ZeroCopy.word(), "zero_copy");
        assert_eq!(InterfaceState::Gone.word(), "gone");
        assert_eq!(XdpMode::Native.word(), "native");
        assert_eq!(Protocol::Tcp.word(), "tcp");
        assert_eq!(Affinity::ClientIp.word(), "client_ip");
        assert_eq!(EndpointState::Draining.word(), "draining");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn json_has_words_and_nulls() {
        use crate::v1alpha1::{Interface, Queue};

        let gone = Interface {
            name: "eth0".to_owned(),
            state: InterfaceState::Gone.into(),
            queues: vec![Queue { queue: 1, worker: 0, mode: BindMode::Copy.into() }],
            ..Interface::default()
        };
        let json = serde_json::to_value(&gone).unwrap();
        assert_eq!(json["state"], "gone");
        assert_eq!(json["xdp_mode"], serde_json::Value::Null);
        assert_eq!(json["queues"][0]["mode"], "copy");

        let newer = Interface { state: 99, xdp_mode: Some(99), ..Interface::default() };
        let json = serde_json::to_value(&newer).unwrap();
        assert_eq!((&json["state"], &json["xdp_mode"]), (&"unknown".into(), &"unknown".into()));
    }
}
