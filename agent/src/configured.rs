//! What of a GatewayConfig an agent goes by: field by field, so that one that is
//! no good on this node takes no other with it. Looks at no node; what only that
//! shows is found by `settle`.

use std::fmt;
use std::ops::RangeInclusive;

use blixt_dataplane::{MaglevSize, Timeouts};
use blixt_model::{InterfaceChoice, Settings as Configurable};

use crate::flags::{
    DEFAULT_FLOW_CAPACITY, DEFAULT_SNAT_PORTS, FLOW_CAPACITIES, FlagError, Settings,
    check_interfaces,
};
use crate::interfaces::{Choice, whole_name};

/// A field that may be no good on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Slots of each Maglev table.
    MaglevSize,
    /// Flows that each worker can hold.
    FlowCapacity,
    /// The ports that are used of each SNAT address.
    SnatPorts,
    /// The interfaces to attach to.
    Interfaces,
}

/// What a GatewayConfig says and this node can't do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Where it says so.
    pub field: Field,
    /// What it says.
    pub said: String,
    /// Why that can't be.
    pub why: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, but {}", self.field.name(), self.said, self.why)
    }
}

impl Field {
    const ALL: [Self; 4] =
        [Self::MaglevSize, Self::FlowCapacity, Self::SnatPorts, Self::Interfaces];

    /// Those that an agent takes up when it starts.
    pub const AT_START: [Self; 3] = [Self::FlowCapacity, Self::SnatPorts, Self::Interfaces];

    fn name(self) -> &'static str {
        match self {
            Self::MaglevSize => "maglevSize",
            Self::FlowCapacity => "flowCapacity",
            Self::SnatPorts => "snatPorts",
            Self::Interfaces => "interfaces",
        }
    }

    /// What is said in it, in words.
    pub fn said(self, by: &Configurable) -> Option<String> {
        match self {
            Self::MaglevSize => by.maglev_size.map(|size| size.to_string()),
            Self::FlowCapacity => by.flow_capacity.map(|flows| flows.to_string()),
            Self::SnatPorts => by
                .snat_ports
                .as_ref()
                .map(|ports| format!("{}-{}", ports.start().number(), ports.end().number())),
            Self::Interfaces => by.interfaces.as_ref().map(|choice| match choice {
                InterfaceChoice::DefaultRoute => BY_DEFAULT_ROUTE.to_owned(),
                InterfaceChoice::Matching(pattern) => format!("those that match {pattern}"),
                InterfaceChoice::Names(names) => names.join(", "),
            }),
        }
    }

    /// All but this one.
    #[must_use]
    pub fn left_out_of(self, mut wanted: Configurable) -> Configurable {
        match self {
            Self::MaglevSize => wanted.maglev_size = None,
            Self::FlowCapacity => wanted.flow_capacity = None,
            Self::SnatPorts => wanted.snat_ports = None,
            Self::Interfaces => wanted.interfaces = None,
        }
        wanted
    }

    /// This one alone.
    fn alone(self, wanted: &Configurable) -> Configurable {
        let others = Self::ALL.into_iter().filter(|other| *other != self);
        others.fold(wanted.clone(), |wanted, other| other.left_out_of(wanted))
    }

    /// What settings have of it, in words.
    fn of(self, settings: &Settings) -> String {
        let default = || match self {
            Self::MaglevSize => MaglevSize::DEFAULT.slots().to_string(),
            Self::FlowCapacity => DEFAULT_FLOW_CAPACITY.to_string(),
            Self::SnatPorts => {
                format!("{}-{}", DEFAULT_SNAT_PORTS.start(), DEFAULT_SNAT_PORTS.end())
            }
            Self::Interfaces => BY_DEFAULT_ROUTE.to_owned(),
        };
        self.said(&settings.said).unwrap_or_else(default)
    }
}

const BY_DEFAULT_ROUTE: &str = "those of the default route";

impl Settings {
    /// The same, with what a GatewayConfig says where flags say nothing, as far as
    /// that can be.
    pub fn configured(&self, wanted: &Configurable) -> (Self, Vec<Unusable>) {
        let mut usable = wanted.clone();
        let mut unusable = Vec::new();
        for field in Field::ALL {
            let Some(said) = field.said(wanted) else { continue };
            if let Err(why) = self.with(&field.alone(wanted)) {
                unusable.push(Unusable { field, said, why: why.to_string() });
                usable = field.left_out_of(usable);
            }
        }
        // Each of them goes, and none is bound to another.
        let settings = self.with(&usable).unwrap_or_else(|_| self.clone());
        (settings, unusable)
    }

    /// The same, with all that is wanted where flags say nothing.
    pub(crate) fn with(&self, wanted: &Configurable) -> Result<Self, FlagError> {
        let said = self.given.or(wanted);
        let (snat_ports, workers) = (snat_ports(&said), self.workers);
        let ports = u32::from(snat_ports.end().saturating_sub(*snat_ports.start())) + 1;
        if ports < workers.into() {
            return Err(FlagError::FewPorts { ports, workers });
        }
        let flow_capacity = said.flow_capacity.map_or(DEFAULT_FLOW_CAPACITY, |it| it as usize);
        if !FLOW_CAPACITIES.contains(&flow_capacity) {
            return Err(FlagError::FlowCapacity(flow_capacity));
        }
        let slots = said.maglev_size.unwrap_or(MaglevSize::DEFAULT.slots());
        let maglev = MaglevSize::new(slots).map_err(|_| FlagError::Maglev(slots))?;
        let (choice, interfaces) = match &said.interfaces {
            None | Some(InterfaceChoice::DefaultRoute) => (Choice::DefaultRoute, Vec::new()),
            Some(InterfaceChoice::Matching(pattern)) => {
                let pattern = whole_name(pattern).map_err(FlagError::InterfaceRegex)?;
                (Choice::Matching(pattern), Vec::new())
            }
            Some(InterfaceChoice::Names(names)) => {
                check_interfaces(names)?;
                (Choice::Named(names.clone()), names.clone())
            }
        };
        let (own, times) = (Timeouts::default(), &said.timeouts);
        let timeouts = Timeouts {
            tcp_established: times.tcp_established.unwrap_or(own.tcp_established),
            tcp_transitory: times.tcp_transitory.unwrap_or(own.tcp_transitory),
            tcp_rest: times.tcp_rest.unwrap_or(own.tcp_rest),
            udp: times.udp.unwrap_or(own.udp),
            udp_query: times.udp_query.unwrap_or(own.udp_query),
        };
        Ok(Self {
            said,
            choice,
            interfaces,
            snat_ports,
            flow_capacity,
            maglev,
            timeouts,
            ..self.clone()
        })
    }

    /// Whether it is a GatewayConfig that says this, and no flag.
    pub fn are_told(&self, field: Field) -> bool {
        field.said(&self.given).is_none() && field.said(&self.said).is_some()
    }

    /// What of `newer` an agent that has started with these takes up when it
    /// starts again: not what it could not take up this time.
    pub fn awaiting_start(&self, newer: &Self) -> Vec<String> {
        let differing = Field::AT_START.into_iter().filter_map(|field| {
            let (now, newer) = (field.of(self), field.of(newer));
            let was_tried = || self.has_tried(field, &newer);
            (now != newer && !was_tried())
                .then(|| format!("{}: {newer} instead of {now}", field.name()))
        });
        differing.collect()
    }

    /// What this agent could not take up when it started, as far as it is still
    /// wanted.
    pub fn still_unusable(&self, wanted: &Configurable) -> Vec<Unusable> {
        let still = |it: &&Unusable| it.field.said(wanted).as_ref() == Some(&it.said);
        self.unusable.iter().filter(still).cloned().collect()
    }

    fn has_tried(&self, field: Field, said: &str) -> bool {
        self.unusable.iter().any(|it| it.field == field && it.said == said)
    }
}

fn snat_ports(said: &Configurable) -> RangeInclusive<u16> {
    let ports = said.snat_ports.as_ref();
    ports.map_or(DEFAULT_SNAT_PORTS, |ports| ports.start().number()..=ports.end().number())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Flags;
    use blixt_model::{FlowTimeouts, Port};
    use clap::Parser;
    use std::time::Duration;

    fn settings(more: &str) -> Settings {
        let line = format!("blixt-agent --manifests /m --snat-address 192.0.2.10 {more}");
        Flags::parse_from(line.split_whitespace()).settings().unwrap()
    }

    fn wanted() -> Configurable {
        let port = |number: u16| Port::new(number).unwrap();
        Configurable {
            timeouts: FlowTimeouts {
                udp: Some(Duration::from_secs(1)),
                tcp_rest: Some(Duration::from_secs(2)),
                ..FlowTimeouts::default()
            },
            maglev_size: Some(251),
            flow_capacity: Some(16),
            snat_ports: Some(port(7)..=port(9)),
            interfaces: Some(InterfaceChoice::Matching("eth.*".to_owned())),
        }
    }

    fn told(unusable: &[Unusable]) -> Vec<String> {
        unusable.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_win_over_a_gateway_config_and_it_over_defaults() {
        let own = settings("--interface eth0 --flow-capacity 5000 --udp-timeout 9s");
        let (newer, unusable) = own.configured(&wanted());
        assert_eq!(unusable, []);
        assert_eq!((newer.flow_capacity, newer.maglev.slots()), (5_000, 251));
        let (udp, rest) = (Duration::from_secs(9), Duration::from_secs(2));
        assert_eq!((newer.timeouts.udp, newer.timeouts.tcp_rest), (udp, rest));
        assert_eq!(newer.interfaces, ["eth0"]);
        assert!(newer.are_told(Field::SnatPorts) && !newer.are_told(Field::Interfaces));
        assert_eq!(own.awaiting_start(&newer), ["snatPorts: 7-9 instead of 1024-65535"]);
        assert_eq!(own.awaiting_start(&own), [""; 0]);
    }

    #[test]
    fn a_field_that_is_no_good_takes_no_other_with_it() {
        let own = settings("--workers 4");
        let names = ["eth0".to_owned(), "blixt-agent".to_owned()];
        let wanted = Configurable {
            maglev_size: Some(1_000),
            interfaces: Some(InterfaceChoice::Names(names.into())),
            ..wanted()
        };
        let (newer, unusable) = own.configured(&wanted);
        let told = told(&unusable);
        assert_eq!(told.len(), 3, "{told:?}");
        for (told, parts) in told.iter().zip([
            ["maglevSize: 1000, but", "use a prime"],
            ["snatPorts: 7-9, but", "3 ports for --workers 4"],
            ["interfaces: eth0, blixt-agent, but", "the agent's own host path"],
        ]) {
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
        }
        assert_eq!((newer.flow_capacity, newer.maglev), (16, MaglevSize::DEFAULT));
        assert_eq!(newer.snat_ports, DEFAULT_SNAT_PORTS);
        assert_eq!(newer.timeouts.udp, Duration::from_secs(1));
        assert!(matches!(newer.choice, Choice::DefaultRoute));
        assert_eq!(own.awaiting_start(&newer), ["flowCapacity: 16 instead of 262144"]);
    }

    #[test]
    fn what_was_tried_in_vain_awaits_no_start() {
        let mut own = settings("");
        let (newer, _) = own.configured(&wanted());
        assert_eq!(
            own.awaiting_start(&newer),
            [
                "flowCapacity: 16 instead of 262144",
                "snatPorts: 7-9 instead of 1024-65535",
                "interfaces: those that match eth.* instead of those of the default route"
            ]
        );
        let tried = |field, said: &str| Unusable { field, said: said.to_owned(), why: "no".into() };
        own.unusable = vec![
            tried(Field::FlowCapacity, "16"),
            tried(Field::Interfaces, "those that match eth.*"),
            tried(Field::SnatPorts, "7-8"),
        ];
        assert_eq!(own.awaiting_start(&newer), ["snatPorts: 7-9 instead of 1024-65535"]);
        assert_eq!(
            told(&own.still_unusable(&wanted())),
            ["flowCapacity: 16, but no", "interfaces: those that match eth.*, but no"]
        );
    }
}
