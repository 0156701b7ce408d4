//! One frame, any bytes: it gets a verdict, and what leaves is right.

use blixt_dataplane::InterfaceSlot;

use crate::world::{Roads, World};

/// The first byte says where it comes in and over what; the rest is the
/// frame. It comes twice: what is found out about it must not depend on
/// whether its flow is known.
pub fn packet(data: &[u8]) {
    let Some((&setting, frame)) = data.split_first() else { return };
    let mut world = World::new(1);
    world.roads(Roads { unknown: 0, links: setting & 0x7c, route: 0 });
    let frame = (InterfaceSlot(u16::from(setting & 3)), frame.to_vec());
    world.receive(0, &[frame.clone(), frame]);
}
