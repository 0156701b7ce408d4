//! What an agent works with, settled before anything is taken: by its flags, and
//! where these say nothing by a GatewayConfig, as far as this node can do that. No
//! object keeps an agent from starting: it could never be mended then.

use blixt_afxdp::nic::Nic;
use blixt_afxdp::{FrameBytes, Sizes};
use blixt_model::Settings as Configurable;
use tracing::error;

use crate::configured::{Field, Unusable};
use crate::flags::{HostPathMode, Settings};
use crate::interfaces;
use crate::memory::{Available, Memory};
use crate::preflight;
use crate::run::RunError;

/// The smallest MTU that IPv6 runs on (RFC 8200, 5).
const IPV6_MTU: u32 = 1_280;

/// What there is to know before anything is taken.
pub(crate) struct Settled {
    /// All that was told.
    pub(crate) settings: Settings,
    /// Frames for all queues.
    pub(crate) sizes: Sizes,
    /// The largest MTU.
    pub(crate) mtu: u32,
    /// What is going to be taken.
    pub(crate) memory: Memory,
}

/// What an agent does that nobody tells anything but its flags.
pub(crate) async fn by_flags(flags: &Settings) -> Result<Settled, RunError> {
    look(flags.clone()).await
}

/// The same with what a GatewayConfig says, given what would be without. Where the
/// last agent has `failed` with that it is not tried again.
pub(crate) async fn settle(
    flags: &Settings,
    by_flags: Result<Settled, RunError>,
    wanted: &Configurable,
    failed: bool,
) -> Result<Settled, RunError> {
    if !failed {
        return settle_all(flags, by_flags, wanted).await;
    }
    let at_start = Field::AT_START.into_iter();
    let rest = at_start.fold(wanted.clone(), |rest, field| field.left_out_of(rest));
    let mut settled = settle_all(flags, by_flags, &rest).await?;
    for field in Field::AT_START {
        let Some(said) = field.said(wanted) else { continue };
        let why =
            "the last agent did not get through its start with it: start it anew to try that \
                   once more"
                .to_owned();
        let unusable = Unusable { field, said, why };
        error!("the GatewayConfig can't be followed on this node: {unusable}");
        settled.settings.unusable.push(unusable);
    }
    Ok(settled)
}

async fn settle_all(
    flags: &Settings,
    by_flags: Result<Settled, RunError>,
    wanted: &Configurable,
) -> Result<Settled, RunError> {
    if *wanted == Configurable::default() {
        return by_flags;
    }
    // Which of them it is that asks for too much shows by doing without.
    const LEFT_OUT: [&[Field]; 4] = [
        &[],
        &[Field::FlowCapacity],
        &[Field::Interfaces],
        &[Field::FlowCapacity, Field::Interfaces],
    ];
    let mut first = None;
    for left_out in LEFT_OUT {
        let usable = left_out.iter().fold(wanted.clone(), |rest, field| field.left_out_of(rest));
        let (settings, unusable) = flags.configured(&usable);
        match look(settings).await {
            Ok(mut settled) => {
                let why = first.unwrap_or_default();
                settled.settings.unusable.extend(left_out.iter().filter_map(|&field| {
                    let said = field.said(wanted)?;
                    Some(Unusable { field, said, why: String::clone(&why) })
                }));
                for unusable in unusable.iter().chain(&settled.settings.unusable) {
                    error!("the GatewayConfig can't be followed on this node: {unusable}");
                }
                return Ok(settled);
            }
            Err(why) => {
                first.get_or_insert_with(|| why.to_string());
            }
        }
    }
    by_flags
}

async fn look(mut settings: Settings) -> Result<Settled, RunError> {
    let chosen = settings.choice.interfaces().await?;
    settings.interfaces = match settings.are_told(Field::Interfaces) {
        true => attachable(chosen, &mut settings)?,
        // Who gives flags is obeyed, or told why not.
        false => chosen,
    };
    let (sizes, mtu) = sizes(&settings)?;
    let memory = Memory::needed(&settings, &sizes);
    let available = match settings.are_told(Field::FlowCapacity) {
        // An object speaks to all nodes, and knows none of them.
        true => Available::now().half(),
        false => Available::now(),
    };
    memory.check(&settings, &sizes, &available)?;
    Ok(Settled { settings, sizes, mtu, memory })
}

/// Those of the interfaces that can be attached, as far as that shows now. That
/// others can't be is noted, unless it is all of them.
fn attachable(chosen: Vec<String>, settings: &mut Settings) -> Result<Vec<String>, RunError> {
    let field = Field::Interfaces;
    let said = field.said(&settings.said).unwrap_or_default();
    let mut first = None;
    let mut good = Vec::new();
    for name in chosen {
        match interfaces::attachable(&name, settings.workers.into()) {
            Ok(()) => good.push(name),
            Err(why) => {
                let told = Unusable { field, said: said.clone(), why: why.to_string() };
                settings.unusable.push(told);
                first.get_or_insert(why);
            }
        }
    }
    match first {
        Some(why) if good.is_empty() => Err(why.into()),
        _ => Ok(good),
    }
}

/// Frames for all queues of all interfaces, large enough for each MTU; and the
/// largest of these that is possible.
fn sizes(settings: &Settings) -> Result<(Sizes, u32), RunError> {
    let (mut queues, mut sockets, mut mtu) = (0, 0, 0);
    for name in &settings.interfaces {
        let nic = Nic::new(name)?;
        let own = nic.rx_queues()? as usize;
        sockets += own;
        // Those of the first worker, which nobody has more of.
        queues += own.div_ceil(usize::from(settings.workers.max(1)));
        mtu = mtu.max(nic.mtu()?);
    }
    if settings.host_path != HostPathMode::Off {
        queues += 1;
        sockets += usize::from(settings.workers);
    }
    preflight::check_descriptors(sockets)?;
    // An MTU that no frame fits is refused when its interface is attached,
    // with its name.
    let frame_bytes = FrameBytes::for_mtu(mtu).unwrap_or(FrameBytes::Page);
    let sizes = Sizes::for_queues(queues, frame_bytes, settings.ring_entries);
    Ok((sizes, mtu.clamp(IPV6_MTU, frame_bytes.largest_mtu())))
}
