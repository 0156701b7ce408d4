//! The yardstick: a forwarder that decides nothing.
//!
//! It has the worker's frames, rings and way of sleeping; of each packet it
//! only changes the MAC addresses, as whoever forwards at all must.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use arrayvec::ArrayVec;
use blixt_afxdp::{Account, BURST, Exchange, Frame, Slot};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::Error;
use crate::rig::{CORE, Measured, NEAR_IN, NEAR_OUT, NEXT_MAC, OUR_MACS, Rig, SIZES};

/// The name of its thread.
const THREAD: &str = "bare-forwarder";

/// How many turns without a packet until it sleeps; the worker's number.
const EMPTY_TURNS: u32 = 200;

/// One round of it.
pub fn measure(rig: &Rig, warm_up: Duration, interval: Duration) -> Result<Measured, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sockets, bound) = mpsc::channel();
    let thread: JoinHandle<Result<Account, Error>> = {
        let stop = Arc::clone(&stop);
        std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            core_affinity::set_for_current(core_affinity::CoreId { id: CORE });
            let mut exchange = Exchange::new(SIZES)?;
            for (slot, interface) in [(Slot(0), NEAR_IN), (Slot(1), NEAR_OUT)] {
                for queue in exchange.bind_patiently(slot, interface, &[0], true)? {
                    sockets.send(queue)?;
                }
            }
            drop(sockets);
            forward(&mut exchange, &stop)?;
            Ok(exchange.close())
        })?
    };
    for queue in bound {
        rig.set_socket(usize::from(queue.slot.0), queue.socket.as_fd())?;
    }
    let measured = rig.measure(THREAD, warm_up, interval);
    stop.store(true, Ordering::Relaxed);
    let account = thread.join().map_err(|_| "the bare forwarder panicked")??;
    if account.born != account.home {
        return Err(format!("the bare forwarder lost frames: {account:?}").into());
    }
    measured
}

fn forward(exchange: &mut Exchange, stop: &AtomicBool) -> Result<(), Error> {
    let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    let mut empty_turns = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut received = false;
        for number in 0..exchange.queues() {
            let mut frames = ArrayVec::<Frame, BURST>::new();
            let Some((slot, queue)) = exchange.receive(number, &mut frames) else { continue };
            received |= !frames.is_empty();
            let (egress, from) = if slot == Slot(0) { (Slot(1), 1) } else { (Slot(0), 0) };
            for mut frame in frames {
                if let Some(head) = frame.room_mut().first_chunk_mut::<12>() {
                    let (to, source) = head.split_at_mut(6);
                    to.copy_from_slice(&NEXT_MAC);
                    source.copy_from_slice(OUR_MACS.get(from).unwrap_or(&[0; 6]));
                }
                let _ = exchange.transmit(egress, queue, frame);
            }
        }
        exchange.flush();
        empty_turns = if received { 0 } else { empty_turns + 1 };
        if empty_turns >= EMPTY_TURNS {
            exchange.wait(wake.as_fd(), Duration::from_millis(100))?;
            empty_turns = 0;
        }
    }
    Ok(())
}
