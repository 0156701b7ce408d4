//! Makes Rust of the proto files. protox compiles them, so that nobody needs
//! to install protoc.

use std::error::Error;
use std::path::Path;

const ROOT: &str = "proto";
const FILES: [&str; 2] = ["blixt/v1alpha1/local.proto", "blixt/sync/v1alpha1/sync.proto"];

/// Enumerations are numbers on the wire and in the generated structs; in JSON
/// they are words.
const ENUM_FIELDS: [(&str, &str); 15] = [
    ("Interface.state", "interface_state"),
    ("Interface.xdp_mode", "xdp_mode"),
    ("Queue.mode", "bind_mode"),
    ("Listener.protocol", "protocol"),
    ("Listener.stream", "stream_kind"),
    ("Backend.affinity", "affinity"),
    ("Endpoint.state", "endpoint_state"),
    ("Counter.kind", "counter_kind"),
    ("ExplainRequest.protocol", "protocol"),
    ("ExplainResponse.protocol", "protocol"),
    ("ExplainResponse.side", "side"),
    ("BackendChoice.affinity", "affinity"),
    ("Flow.protocol", "protocol"),
    ("Flow.state", "flow_state"),
    ("ListFlowsRequest.protocol", "protocol"),
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={}", Path::new(ROOT).join(file).display());
    }
    let descriptors = protox::compile(FILES, [ROOT])?;
    let mut builder = tonic_prost_build::configure()
        // The transport belongs to those who use it.
        .build_transport(false)
        // In JSON, labels are in their order.
        .btree_map(".")
        // Bodies are shared by all who are told of them.
        .bytes(".blixt.sync.v1alpha1.Part.body")
        // It has a private key in it.
        .skip_debug([".blixt.sync.v1alpha1.Certificate"])
        .message_attribute(
            ".blixt.v1alpha1",
            "#[cfg_attr(feature = \"serde\", derive(serde::Serialize))]",
        );
    for (field, module) in ENUM_FIELDS {
        builder = builder.field_attribute(
            format!(".blixt.v1alpha1.{field}"),
            format!(
                "#[cfg_attr(feature = \"serde\", serde(serialize_with = \"crate::words::{module}\"))]"
            ),
        );
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
