//! How agents are to work, as far as it is said for all of them at once.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::Port;

/// How agents are to work. What is `None` is each agent's own to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// How long flows are kept.
    pub timeouts: FlowTimeouts,
    /// Slots of each Maglev table.
    pub maglev_size: Option<u32>,
    /// Flows that each worker can hold.
    pub flow_capacity: Option<u32>,
    /// The ports that are used of each SNAT address.
    pub snat_ports: Option<RangeInclusive<Port>>,
    /// The interfaces to attach to.
    pub interfaces: Option<InterfaceChoice>,
}

/// How long a flow without a packet is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowTimeouts {
    /// An open TCP connection.
    pub tcp_established: Option<Duration>,
    /// A TCP connection that is opening or closing.
    pub tcp_transitory: Option<Duration>,
    /// The SNAT port of an ended TCP connection.
    pub tcp_rest: Option<Duration>,
    /// A UDP flow.
    pub udp: Option<Duration>,
    /// A UDP flow that is a question and at most one answer.
    pub udp_query: Option<Duration>,
}

/// How an agent finds its interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceChoice {
    /// By these names.
    Names(Vec<String>),
    /// All whose whole names match this regular expression.
    Matching(String),
    /// Those of the node's default route.
    DefaultRoute,
}

impl Settings {
    /// These, and where they say nothing the others.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            timeouts: self.timeouts.or(&other.timeouts),
            maglev_size: self.maglev_size.or(other.maglev_size),
            flow_capacity: self.flow_capacity.or(other.flow_capacity),
            snat_ports: self.snat_ports.clone().or_else(|| other.snat_ports.clone()),
            interfaces: self.interfaces.clone().or_else(|| other.interfaces.clone()),
        }
    }
}

impl FlowTimeouts {
    fn or(&self, other: &Self) -> Self {
        Self {
            tcp_established: self.tcp_established.or(other.tcp_established),
            tcp_transitory: self.tcp_transitory.or(other.tcp_transitory),
            tcp_rest: self.tcp_rest.or(other.tcp_rest),
            udp: self.udp.or(other.udp),
            udp_query: self.udp_query.or(other.udp_query),
        }
    }
}

/// Numbers with units, added up: `90s`, `2h4m`, `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time with units, such as 90s, 5m or 2h4m".to_owned();
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(letters);
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            _ => return Err(wrong()),
        };
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let part = unit.checked_mul(number).ok_or_else(wrong)?;
        sum = sum.checked_add(part).ok_or_else(wrong)?;
        rest = next;
    }
    if sum.is_zero() { Err(wrong()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up() {
        assert_eq!(duration("2h4m").unwrap(), Duration::from_secs(7_440));
        assert_eq!(duration("1s500ms").unwrap(), Duration::from_millis(1_500));
        for bad in ["", "h", "5", "5 s", "-5s", "99999999999s", "4294967295h4294967295h1s2x"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_says_something_comes_before_who_does_not() {
        let udp =
            |secs| FlowTimeouts { udp: Some(Duration::from_secs(secs)), ..Default::default() };
        let ours = Settings { timeouts: udp(1), flow_capacity: Some(5), ..Settings::default() };
        let theirs = Settings { timeouts: udp(2), maglev_size: Some(251), ..Settings::default() };
        let both = ours.or(&theirs);
        assert_eq!(
            (both.timeouts, both.maglev_size, both.flow_capacity),
            (udp(1), Some(251), Some(5))
        );
        assert_eq!(Settings::default().or(&theirs), theirs);
    }
}
