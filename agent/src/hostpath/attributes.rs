//! Netlink attributes (include/uapi/linux/netlink.h), for messages that no crate
//! knows: written one after the other, and read.

use netlink_packet_core::NlasIterator;

/// The attribute holds attributes itself.
const NESTED: u16 = 1 << 15;

/// Length and type.
const HEADER: usize = 4;

/// A row of attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds one.
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        // No attribute of ours is near 64 KiB.
        let length = (HEADER + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number as the kernel has it.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Adds a number as netfilter wants it.
    pub(super) fn big_endian(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text with its end.
    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds one that holds others.
    pub(super) fn nested(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// All of them, as they are sent.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// The value of the first attribute of a kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    each(attributes, kind).next()
}

/// The values of all attributes of a kind.
pub(super) fn each(attributes: &[u8], kind: u16) -> impl Iterator<Item = Vec<u8>> {
    let found = NlasIterator::new(attributes).filter_map(Result::ok);
    found.filter(move |nla| nla.kind() & !NESTED == kind).map(|nla| nla.value().to_vec())
}

/// A number as netfilter has it.
pub(super) fn find_big_endian(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(attributes, kind)?.try_into().ok()?))
}

/// A text, without its end.
pub(super) fn find_text(attributes: &[u8], kind: u16) -> Option<String> {
    let bytes = find(attributes, kind)?;
    let text = bytes.split(|byte| *byte == 0).next()?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::default().big_endian(1, 7).text(2, "blixt");
        let bytes = Attributes::default().bytes(5, &[1, 2, 3]).nested(9, inner).into_bytes();
        // Length, type, three bytes and one to fill up.
        assert_eq!(bytes[..8], [7, 0, 5, 0, 1, 2, 3, 0].map(|byte: u8| byte));
        assert_eq!(find(&bytes, 5).unwrap(), [1, 2, 3]);
        let inner = find(&bytes, 9).unwrap();
        assert_eq!(find_big_endian(&inner, 1), Some(7));
        assert_eq!(find_text(&inner, 2).unwrap(), "blixt");
        assert_eq!(find(&inner, 3), None);
        let twice = Attributes::default().big_endian(1, 7).text(2, "x").big_endian(1, 8);
        let values: Vec<_> = each(&twice.into_bytes(), 1).collect();
        assert_eq!(values, [[0, 0, 0, 7], [0, 0, 0, 8]]);
    }

    #[test]
    fn garbage_has_nothing() {
        for bytes in [&[][..], &[1], &[3, 0, 1, 0], &[200, 0, 1, 0, 5]] {
            assert_eq!(find(bytes, 1), None);
        }
    }
}
