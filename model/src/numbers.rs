//! Numbers with a meaning, each of which cannot hold a wrong value.

use std::fmt;
use std::num::NonZeroU16;

/// Why a number was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// Ports go from 1 to 65,535.
    #[error("port {0} is out of range: use 1 to 65535")]
    Port(i64),
    /// Gateway API limits `backendRef.weight`.
    #[error("weight {0} is out of range: use 0 to 1000000")]
    Weight(i64),
}

/// A TCP or UDP port; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// Takes the wide integer that Kubernetes uses on its wire.
    pub fn new(number: impl Into<i64>) -> Result<Self, NumberError> {
        let number = number.into();
        u16::try_from(number)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or(NumberError::Port(number))
    }

    /// The number, in host order.
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The share of traffic a backendRef asks for, in proportion to its siblings.
///
/// 0 means: no new flows, old ones stay (a drain).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The largest weight Gateway API allows (`BackendRef.weight`).
    pub const MAX: Self = Self(1_000_000);
    /// No new flows.
    pub const ZERO: Self = Self(0);
    /// What a backendRef without a weight gets.
    pub const DEFAULT: Self = Self(1);

    /// Takes the wide integer that Kubernetes uses on its wire.
    pub fn new(number: impl Into<i64>) -> Result<Self, NumberError> {
        let number = number.into();
        u32::try_from(number)
            .ok()
            .filter(|&weight| weight <= Self::MAX.0)
            .map(Self)
            .ok_or(NumberError::Weight(number))
    }

    /// The weight as a plain number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The transport protocols that are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp,
    /// User Datagram Protocol.
    Udp,
}

impl Protocol {
    /// The number IANA assigned (IPv4 "protocol", IPv6 "next header").
    pub const fn ip_number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// And back; `None` for what is not balanced.
    pub const fn from_ip_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Which snapshot: grows by one with each that differs from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Seeds the choice of backends. All nodes use the same, so that each of them
/// picks the same backend for the same packet. It is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HashSeed(pub u64);

/// An amount of memory; told in binary units, to a tenth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
            Some((unit, shift)) => {
                write!(f, "{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64)
            }
            None => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_1_to_65535() {
        assert_eq!(Port::new(1).unwrap().number(), 1);
        assert_eq!(Port::new(65_535).unwrap().number(), 65_535);
        for bad in [-1, 0, 65_536, i64::MAX, i64::MIN] {
            assert_eq!(Port::new(bad), Err(NumberError::Port(bad)));
        }
    }

    #[test]
    fn weights_are_0_to_a_million() {
        assert_eq!(Weight::new(0), Ok(Weight::ZERO));
        assert_eq!(Weight::new(1_000_000), Ok(Weight::MAX));
        for bad in [-1, 1_000_001, i64::MAX, i64::MIN] {
            assert_eq!(Weight::new(bad), Err(NumberError::Weight(bad)));
        }
    }

    #[test]
    fn memory_is_told_in_binary_units() {
        for (value, text) in [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_536, "1.5 KiB"),
            (32 << 20, "32.0 MiB"),
            (1_200_000_000, "1.1 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(Bytes(value).to_string(), text);
        }
    }
}
