//! What the tests of this crate share: the way from files to a result, and a
//! result as text for people.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod render;

use std::collections::BTreeMap;
use std::net::IpAddr;

use blixt_gateway::{
    CONTROLLER_NAME, Compiled, CrdVersion, Environment, Event, Index, Manifests, Programming,
    Update, compile,
};
use blixt_model::{Generation, HashSeed, ObjectName};

/// The address that no Gateway can have in these tests.
pub(crate) const ADDRESS_OF_THE_NODE: &str = "10.0.0.99";

/// Compiles as the standalone agent does. A Gateway named `waits` is one that
/// the data plane has not applied yet, one named `too-large` one that a node
/// refused.
pub(crate) fn compiled(index: &Index) -> Compiled {
    compiled_after(index, &Assigned::new())
}

/// The addresses that Gateways have.
pub(crate) type Assigned = BTreeMap<ObjectName, Vec<IpAddr>>;

pub(crate) fn assigned(compiled: &Compiled) -> Assigned {
    let gateways = compiled.status.gateways.iter();
    gateways.map(|(name, status)| (name.clone(), status.addresses.clone())).collect()
}

/// The same, where Gateways have had addresses before.
pub(crate) fn compiled_after(index: &Index, assigned: &Assigned) -> Compiled {
    let unusable: BTreeMap<IpAddr, String> = [(
        ADDRESS_OF_THE_NODE.parse().unwrap(),
        "is the node's own address on eth0: use one that nobody has".to_owned(),
    )]
    .into();
    let programmed = |name: &ObjectName| match name.name() {
        "waits" => Programming::Pending,
        "too-large" => Programming::Refused {
            node: "node-a".to_owned(),
            reason: "the kernel refused 4096 MiB of memory".to_owned(),
        },
        _ => Programming::Applied,
    };
    compile(
        index,
        &Environment {
            controller_name: CONTROLLER_NAME,
            seed: HashSeed(1),
            generation: Generation(1),
            crds: CrdVersion::Supported,
            unusable_addresses: &unusable,
            assigned,
            nodes: &BTreeMap::new(),
            programmed: &programmed,
        },
    )
    .unwrap_or_else(|error| panic!("compile has a fault: {error}"))
}

/// An index of these events, in this order.
pub(crate) fn index_of(events: impl IntoIterator<Item = Event>) -> Index {
    let mut index = Index::default();
    for event in events {
        index.apply(event);
    }
    index
}

/// One file becomes this text.
pub(crate) fn read(manifests: &mut Manifests, file: &str, text: impl Into<Vec<u8>>) -> Update {
    manifests.update(&[(file.to_owned(), Ok(text.into()))].into())
}
