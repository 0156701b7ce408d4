//! Room for connections: so many, and no client has them all.
//!
//! A client is an IPv4 address or an IPv6 network of 64 bits, which is what one
//! host gets at least (RFC 4291 §2.5.1). Many people may be behind one, so it has
//! no fixed share: it may have several times as many connections as there are
//! places left. Alone it gets most of them; the more others want, the fewer it
//! gets; and there are always places for who has few (dynamic thresholds, as
//! switches share their buffers: Choudhury and Hahne 1998).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Reason;

/// How many times the places that are left one client may have. Alone it gets
/// three quarters of all; of two that want all, each gets three sevenths.
const SHARE: usize = 3;

/// All places.
#[derive(Debug)]
pub(crate) struct Rooms {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// Room for one connection, which is given back with this.
#[derive(Debug)]
pub(crate) struct Room {
    rooms: Arc<Rooms>,
    client: IpAddr,
}

impl Rooms {
    /// For so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, taken: Mutex::default() }
    }

    /// Room for one more of a client's, if there is.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr) -> Result<Room, Reason> {
        let client = whole(client);
        let mut taken = self.taken();
        let left = self.most.saturating_sub(taken.all);
        if left == 0 {
            return Err(Reason::TooManyStreams);
        }
        let had = taken.by_client.get(&client).copied().unwrap_or_default();
        if had >= left.saturating_mul(SHARE) {
            return Err(Reason::ClientShare);
        }
        taken.all += 1;
        taken.by_client.insert(client, had + 1);
        drop(taken);
        Ok(Room { rooms: Arc::clone(self), client })
    }

    /// How many are taken.
    pub(crate) fn taken_by_all(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.rooms.taken();
        taken.all = taken.all.saturating_sub(1);
        match taken.by_client.get_mut(&self.client) {
            Some(had) if *had > 1 => *had -= 1,
            _ => drop(taken.by_client.remove(&self.client)),
        }
    }
}

/// All of what one client has.
fn whole(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    /// As many as a client gets.
    fn all_of(rooms: &Arc<Rooms>, client: IpAddr) -> Vec<Room> {
        std::iter::from_fn(|| rooms.enter(client).ok()).collect()
    }

    #[test]
    fn one_client_gets_most_and_leaves_room_for_others() {
        let rooms = Arc::new(Rooms::new(4_096));
        let first = all_of(&rooms, client(1));
        assert_eq!(first.len(), 3_072);
        assert_eq!(rooms.enter(client(1)).unwrap_err(), Reason::ClientShare);
        let second = all_of(&rooms, client(2));
        assert_eq!(second.len(), 768);
        // Who has much gives way to who has little, by and by.
        drop(first);
        let second: Vec<_> = second.into_iter().chain(all_of(&rooms, client(2))).collect();
        assert_eq!(second.len(), 3_072);
        drop(second);
        assert_eq!(rooms.taken_by_all(), 0);
        assert!(rooms.taken().by_client.is_empty());
    }

    #[test]
    fn when_all_are_taken_that_is_the_reason() {
        let rooms = Arc::new(Rooms::new(2));
        let _both = [rooms.enter(client(1)).unwrap(), rooms.enter(client(1)).unwrap()];
        assert_eq!(rooms.enter(client(1)).unwrap_err(), Reason::TooManyStreams);
        assert_eq!(rooms.enter(client(2)).unwrap_err(), Reason::TooManyStreams);
    }

    #[test]
    fn a_client_of_ipv6_is_a_network() {
        let at = |text: &str| whole(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1:2:3"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    proptest! {
        /// Who has nothing is refused only when nothing is left, and what is
        /// counted is what is there.
        #[test]
        fn who_has_none_gets_in(steps in prop::collection::vec((0_u8..5, any::<bool>()), 0..200)) {
            let rooms = Arc::new(Rooms::new(20));
            let mut open: Vec<(u8, Room)> = Vec::new();
            for (number, comes) in steps {
                let has = open.iter().filter(|(owner, _)| *owner == number).count();
                if !comes {
                    let place = open.iter().position(|(owner, _)| *owner == number);
                    drop(place.map(|place| open.swap_remove(place)));
                    continue;
                }
                let left = 20 - open.len();
                let entered = rooms.enter(client(number));
                prop_assert_eq!(entered.is_ok(), left > 0 && has < SHARE * left);
                open.extend(entered.ok().map(|room| (number, room)));
                prop_assert_eq!(rooms.taken_by_all(), open.len());
            }
        }
    }
}
