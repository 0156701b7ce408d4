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
use crate::contest::{Contestant, Running};
use crate::rig::{CORE, FAR_MACS, NEAR_IN, NEAR_OUT, OUR_MACS, Rig, SIZES, Sockets};

/// The name of its thread.
const THREAD: &str = "bare-forwarder";

/// How many turns without a packet until it sleeps; the worker's number.
const EMPTY_TURNS: u32 = 200;

/// The bare forwarder.
#[derive(Debug)]
pub struct Bare;

struct Forwarding {
    threads: [String; 1],
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Account, Error>>,
    _sockets: Sockets,
}

impl Contestant for Bare {
    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>, Error> {
        let sockets = rig.sockets()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (bind, bound) = mpsc::channel();
        let thread = {
            let stop = Arc::clone(&stop);
            let queues: Vec<u32> = (0..rig.queues).collect();
            let [client, _] = FAR_MACS;
            let next_hops = [client, rig.far.next_hop()];
            std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
                core_affinity::set_for_current(core_affinity::CoreId { id: CORE });
                let mut exchange = Exchange::new(SIZES)?;
                for (slot, interface) in [(Slot(0), NEAR_IN), (Slot(1), NEAR_OUT)] {
                    for queue in exchange.bind_patiently(slot, interface, &queues, true)? {
                        bind.send(queue)?;
                    }
                }
                drop(bind);
                forward(&mut exchange, next_hops, &stop)?;
                Ok(exchange.close())
            })?
        };
        for queue in bound {
            sockets.set(usize::from(queue.slot.0), queue.queue, queue.socket.as_fd())?;
        }
        let threads = [THREAD.to_owned()];
        Ok(Box::new(Forwarding { threads, stop, thread, _sockets: sockets }))
    }
}

impl Running for Forwarding {
    fn threads(&self) -> &[String] {
        &self.threads
    }

    fn stop(self: Box<Self>) -> Result<(), Error> {
        self.stop.store(true, Ordering::Relaxed);
        let account = self.thread.join().map_err(|_| "it panicked")??;
        if account.born != account.home {
            return Err(format!("it lost frames: {account:?}").into());
        }
        Ok(())
    }
}

fn forward(
    exchange: &mut Exchange,
    [client, server]: [[u8; 6]; 2],
    stop: &AtomicBool,
) -> Result<(), Error> {
    let [near_in, near_out] = OUR_MACS;
    let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
    let mut empty_turns = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut received = false;
        for number in 0..exchange.queues() {
            let mut frames = ArrayVec::<Frame, BURST>::new();
            let Some((slot, queue)) = exchange.receive(number, &mut frames) else { continue };
            received |= !frames.is_empty();
            let (egress, to, from) = match slot {
                Slot(0) => (Slot(1), server, near_out),
                _ => (Slot(0), client, near_in),
            };
            for mut frame in frames {
                if let Some(head) = frame.room_mut().first_chunk_mut::<12>() {
                    let (destination, source) = head.split_at_mut(6);
                    destination.copy_from_slice(&to);
                    source.copy_from_slice(&from);
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
