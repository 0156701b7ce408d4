//! How many Secrets are read, and how much of their certificates travels: no more
//! than the API server and a message to an agent can bear, whatever listeners refer
//! to. Every Gateway gets a few first, so that names which somebody makes up take no
//! certificate away from who has one; then each gets more. Those of the oldest Gateway
//! come first, of it those that its spec names first, then those of its ListenerSets;
//! what comes too late is told at its listener.

use std::collections::{BTreeMap, BTreeSet};

use blixt_model::ObjectName;

use super::certificates::secrets_of;
use super::grants::{Grants, Referrer};
use super::sets;
use crate::apis::GatewaySpec;
use crate::index::{Index, Stored};
use crate::set::SetSpec;

/// What every Gateway gets before any gets more.
const AT_FIRST: Most = Most { secrets: 16, bytes: 128 << 10 };
/// Each of them is a watch, so that rights to single ones are enough.
const OF_GATEWAY: Most = Most { secrets: 256, bytes: 2 << 20 };
const OF_ALL: Most = Most { secrets: 1_024, bytes: MOST_CERTIFICATE_BYTES };

/// The bytes that all certificates of a snapshot take at most, as a message.
pub const MOST_CERTIFICATE_BYTES: usize = 32 << 20;

/// How much there may be.
struct Most {
    secrets: usize,
    bytes: usize,
}

/// What one Gateway wants and gets.
#[derive(Debug, Default)]
struct Wants {
    wanted: Vec<ObjectName>,
    taken: BTreeSet<ObjectName>,
    bytes: usize,
    /// Those that it had no room for.
    too_large: BTreeSet<ObjectName>,
}

/// The Secrets that there is room for.
#[derive(Debug, Default)]
pub(super) struct Room {
    read: BTreeSet<ObjectName>,
    /// Those that are read, and too large with those before.
    too_large: BTreeSet<ObjectName>,
}

/// The Secrets that listeners of this controller's Gateways refer to, and may:
/// no other ones need be read.
pub fn wanted_secrets(index: &Index, controller_name: &str) -> BTreeSet<ObjectName> {
    Room::new(index, &Grants::new(index), controller_name).read
}

impl Room {
    pub(super) fn new(index: &Index, grants: &Grants<'_>, controller_name: &str) -> Self {
        let sets = sets_by_gateway(index);
        let mut all: Vec<_> = ours(index, controller_name)
            .into_iter()
            .map(|(name, gateway)| {
                let owner = Referrer { kind: "Gateway", namespace: name.namespace() };
                let mut wanted: Vec<_> =
                    secrets_of(&gateway.spec.listeners, owner, grants).collect();
                for (set, stored) in sets.get(name).into_iter().flatten() {
                    if sets::is_let_in(gateway, name, set, index) {
                        let owner = Referrer { kind: "ListenerSet", namespace: set.namespace() };
                        wanted.extend(secrets_of(&stored.spec.listeners, owner, grants));
                    }
                }
                Wants { wanted, ..Wants::default() }
            })
            .collect();
        let (mut room, mut bytes) = (Self::default(), 0);
        for most in [AT_FIRST, OF_GATEWAY] {
            all.iter_mut().for_each(|wants| room.take(wants, &most, index, &mut bytes));
        }
        // They are read all the same: who makes room is served at once.
        for secret in all.iter().flat_map(|wants| &wants.too_large) {
            if !room.read.contains(secret) && room.read.len() < OF_ALL.secrets {
                room.read.insert(secret.clone());
                room.too_large.insert(secret.clone());
            }
        }
        room
    }

    /// Takes in those of one Gateway.
    fn take(&mut self, wants: &mut Wants, most: &Most, index: &Index, bytes_of_all: &mut usize) {
        wants.too_large.clear();
        for secret in &wants.wanted {
            if wants.taken.contains(secret) {
                continue;
            }
            let is_known = self.read.contains(secret);
            let has_room = is_known || self.read.len() < OF_ALL.secrets;
            if wants.taken.len() + wants.too_large.len() >= most.secrets || !has_room {
                continue;
            }
            let more = index.secret(secret).map_or(0, |known| known.bytes());
            let more = if is_known { 0 } else { more };
            if wants.bytes + more > most.bytes || *bytes_of_all + more > OF_ALL.bytes {
                wants.too_large.insert(secret.clone());
                continue;
            }
            wants.bytes += more;
            *bytes_of_all += more;
            wants.taken.insert(secret.clone());
            self.read.insert(secret.clone());
        }
    }

    /// Why a Secret is not used, if it is not, as the end of a sentence.
    pub(super) fn refusal(&self, secret: &ObjectName) -> Option<String> {
        if !self.read.contains(secret) {
            return Some(format!(
                "is not read: of all Secrets that listeners refer to {} are, and {} of one \
                 Gateway's and its ListenerSets'",
                OF_ALL.secrets, OF_GATEWAY.secrets
            ));
        }
        self.too_large.contains(secret).then(|| {
            format!(
                "has a certificate for which there is no room: those of all listeners may take {} \
                 MiB, and {} MiB those of one Gateway and its ListenerSets",
                OF_ALL.bytes >> 20,
                OF_GATEWAY.bytes >> 20
            )
        })
    }
}

/// The Gateways of this controller, the oldest first.
fn ours<'a>(
    index: &'a Index,
    controller_name: &str,
) -> Vec<(&'a ObjectName, &'a Stored<GatewaySpec>)> {
    let is_ours = |class: &String| {
        index.classes().get(class).is_some_and(|it| it.spec.controller_name == controller_name)
    };
    let gateways = index.gateways().iter();
    let mut ours: Vec<_> =
        gateways.filter(|(_, gateway)| is_ours(&gateway.spec.gateway_class_name)).collect();
    ours.sort_by(|(name, gateway), (other_name, other)| gateway.before(name, other, other_name));
    ours
}

/// Sets by the Gateway that they name, the oldest first.
fn sets_by_gateway(index: &Index) -> BTreeMap<&ObjectName, Vec<(&ObjectName, &Stored<SetSpec>)>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, set) in index.sets() {
        if let Some(gateway) = &set.spec.gateway {
            all.entry(gateway).or_default().push((name, set));
        }
    }
    for sets in all.values_mut() {
        sets.sort_by(|(name, set), (other_name, other)| set.before(*name, other, *other_name));
    }
    all
}
