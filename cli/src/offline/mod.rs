//! What an agent would make of manifests, without an agent: the same reading,
//! compiling and tables.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use blixt_dataplane::{CompileOptions, Slots, Tables};
use blixt_gateway::{
    CONTROLLER_NAME, Compiled, CrdVersion, Environment, Index, Manifests, Programming, Refusal,
    SEED, Statuses, Warning, compile, warnings,
};
use blixt_model::{Generation, ObjectName, Snapshot};

use crate::connect::Failure;

/// All that follows from manifests.
#[derive(Debug)]
pub(crate) struct World {
    /// What is wanted.
    pub(crate) snapshot: Snapshot,
    /// The tables made of it; empty if they are refused.
    pub(crate) tables: Tables,
    /// Why no tables can be made of it, if that is so.
    pub(crate) tables_refused: Option<String>,
    /// What becomes of each object.
    pub(crate) statuses: Statuses,
    /// What is refused of the files.
    pub(crate) refusals: Vec<Refusal>,
    /// What was hardly meant so.
    pub(crate) warnings: Vec<Warning>,
}

/// Reads files and directories as an agent that starts with them.
pub(crate) fn world(paths: &[PathBuf], options: &CompileOptions) -> Result<World, Failure> {
    let mut manifests = Manifests::default();
    let mut index = Index::default();
    let update = manifests.update(&read::files(paths)?);
    for event in update.events {
        index.apply(event);
    }

    let unusable = unusable(&options.snat_addresses);
    let wanted = compiled(&index, &unusable, &Programming::Pending)?;
    let made =
        Tables::compile(&wanted.snapshot, options, &mut Slots::default(), &Tables::default());
    let (tables, tables_refused) = match made {
        Ok(tables) => (tables, None),
        Err(error) => (Tables::default(), Some(error.to_string())),
    };
    // The conditions of a node that has taken the tables up, or that cannot.
    let programming = match &tables_refused {
        None => Programming::Applied,
        Some(reason) => Programming::Refused { node: "any".to_owned(), reason: reason.clone() },
    };
    let compiled = compiled(&index, &unusable, &programming)?;
    Ok(World {
        warnings: warnings(&index, &compiled),
        snapshot: compiled.snapshot,
        tables,
        tables_refused,
        statuses: compiled.status,
        refusals: update.refusals,
    })
}

fn compiled(
    index: &Index,
    unusable: &BTreeMap<IpAddr, String>,
    programming: &Programming,
) -> Result<Compiled, Failure> {
    let programmed = |_: &ObjectName| programming.clone();
    let environment = Environment {
        controller_name: CONTROLLER_NAME,
        seed: SEED,
        generation: Generation(1),
        crds: CrdVersion::Supported,
        unusable_addresses: unusable,
        assigned: &BTreeMap::new(),
        nodes: &BTreeMap::new(),
        programmed: &programmed,
    };
    compile(index, &environment).map_err(|fault| Failure::Fault(fault.to_string()))
}

/// What an agent with these flags says of its own addresses.
fn unusable(snat: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
    let why = "is given as --snat-address: use one that nothing else has";
    snat.iter().map(|&address| (address, why.to_owned())).collect()
}
