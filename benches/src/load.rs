//! UDP packets as fast as they can be made: by an XDP program that the kernel
//! runs again and again on the generator's core. It needs no socket, no
//! process and no wake-up for a packet, so it offers more than anybody
//! forwards.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use blixt_afxdp::lab::Program;
use blixt_afxdp::nic;
use blixt_testkit::frame;

use crate::Error;
use crate::contest::{Busy, Done, Work};
use crate::rig::{CLIENT, FAR_IN, FAR_MACS, GENERATOR_CORE, OUR_MACS, Rig, VIP, VIP_PORTS};

/// Packets in one call of the kernel.
const CALL: u32 = 1 << 16;

/// How many packets each flow shall have had, on average, before anything is
/// measured: of flows chosen by chance 3 in 10,000 are new then (e^-8).
const PACKETS_PER_FLOW: u64 = 8;

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// How long frames are.
    pub frame_bytes: usize,
    /// To how many flows they belong, all alike; up to 2^20.
    pub flows: u32,
    /// Where they are made. On a veth this is also the number of the queue
    /// that they come in by (`veth_select_rxq` in drivers/net/veth.c). Each
    /// core has clients of its own; several cores take up to 2^15 flows.
    pub cores: Vec<usize>,
}

/// A generator that runs; it stops when dropped.
#[derive(Debug)]
pub struct Generator {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), std::io::Error>>>,
}

impl Load {
    /// Of the generator's core.
    pub fn new(frame_bytes: usize, flows: u32) -> Self {
        Self { frame_bytes, flows, cores: vec![GENERATOR_CORE] }
    }

    /// Begins to send.
    pub fn generate(&self, rig: &Rig) -> Result<Generator, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut generator = Generator { stop: Arc::clone(&stop), threads: Vec::new() };
        // The kernel takes 20 ms to begin a call; meanwhile the other one of two
        // threads runs. On a core that is shared with a worker it is better
        // not to take that much.
        let threads = if self.cores.len() == 1 { 2 } else { 1 };
        for (number, &core) in self.cores.iter().enumerate() {
            let frame = Arc::new(self.frame(number)?);
            let (flows, copy) = (self.flows, Arc::clone(&frame));
            let program = rig.client.inside(move || {
                let out = nic::ifindex(FAR_IN).map_err(std::io::Error::other)?;
                Program::generate(out, &copy, flows)
            })?;
            let program = Arc::new(program);
            for _ in 0..threads {
                let (program, frame, stop) =
                    (Arc::clone(&program), Arc::clone(&frame), Arc::clone(&stop));
                generator.threads.push(rig.client.thread(move || {
                    core_affinity::set_for_current(core_affinity::CoreId { id: core });
                    while !stop.load(Ordering::Relaxed) {
                        program.run(&frame, CALL)?;
                    }
                    Ok(())
                }));
            }
        }
        Ok(generator)
    }

    fn frame(&self, number: usize) -> Result<Vec<u8>, Error> {
        let [port, _] = VIP_PORTS;
        let [from_mac, _] = FAR_MACS;
        let [to_mac, _] = OUR_MACS;
        let client = u32::from(CLIENT.parse::<Ipv4Addr>()?) + number as u32;
        let from = SocketAddr::from((Ipv4Addr::from(client), 0x8000));
        let to = format!("{VIP}:{port}").parse()?;
        let frame = || frame::udp(from, to).from(from_mac).to(to_mac);
        let payload = self.frame_bytes.saturating_sub(frame().bytes().len());
        Ok(frame().payload(&vec![0; payload]).bytes())
    }
}

impl Work for Load {
    fn start(&self, rig: &Rig) -> Result<Box<dyn Busy>, Error> {
        Ok(Box::new(self.generate(rig)?))
    }

    fn warm_up(&self) -> u64 {
        u64::from(self.flows) * self.cores.len() as u64 * PACKETS_PER_FLOW
    }
}

impl Busy for Generator {
    fn done(&self, rig: &Rig) -> Result<Done, Error> {
        rig.passed()
    }

    fn stop(mut self: Box<Self>) -> Result<(), Error> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "the generator panicked")??;
        }
        Ok(())
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
