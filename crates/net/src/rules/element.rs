//! Elements of the table's sets and maps: as bytes for the kernel, as text for `nft`.

use std::fmt::Display;
use std::net::Ipv4Addr;

use crate::netlink::Message;

const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
/// Length of a link's name, its zeros included.
const NAME_LENGTH: usize = 16;

/// One element. Ordered so that a sandbox's can be compared with those it had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    /// The set or map it is in.
    pub(super) set: &'static str,
    /// What it is found by.
    pub(super) key: Vec<Part>,
    /// What is found.
    pub(super) data: Data,
}

/// A field of a key or value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A link, by name.
    Link(String),
    /// An address.
    Address(Ipv4Addr),
    /// A hardware address.
    Mac([u8; 6]),
    /// A packet's mark.
    Mark(u32),
    /// Number of a protocol.
    Protocol(u8),
    /// A port.
    Port(u16),
}

/// What a map has for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Data {
    /// Nothing: it is a set.
    None,
    /// A value.
    Value(Vec<Part>),
    /// On to a chain, and back.
    Jump(String),
    /// On to a chain, and back to where this one was jumped to from.
    Goto(String),
}

impl Element {
    /// Of a set.
    pub(super) fn of(set: &'static str, key: Vec<Part>) -> Self {
        Self { set, key, data: Data::None }
    }

    /// Of a map.
    pub(super) fn to(set: &'static str, key: Vec<Part>, data: Data) -> Self {
        Self { set, key, data }
    }

    /// As an attribute of the kernel's, with its value or without.
    pub(super) fn put(&self, message: Message, with_data: bool) -> Message {
        let message = message.nest(ELEMENT_KEY, &[], |m| m.with(DATA_VALUE, &bytes(&self.key)));
        let verdict = |message: Message, code: i32, chain: &str| {
            message.nest(ELEMENT_DATA, &[], |m| {
                m.nest(DATA_VERDICT, &[], |m| m.with(VERDICT_CODE, &code.to_be_bytes()).with_text(VERDICT_CHAIN, chain))
            })
        };
        match &self.data {
            _ if !with_data => message,
            Data::None => message,
            Data::Value(parts) => message.nest(ELEMENT_DATA, &[], |m| m.with(DATA_VALUE, &bytes(parts))),
            Data::Jump(chain) => verdict(message, JUMP, chain),
            Data::Goto(chain) => verdict(message, GOTO, chain),
        }
    }

    /// As `nft` reads it, with its value or without.
    pub(super) fn text(&self, with_data: bool) -> String {
        let key = joined(&self.key);
        match &self.data {
            _ if !with_data => key,
            Data::None => key,
            Data::Value(parts) => format!("{key} : {}", joined(parts)),
            Data::Jump(chain) => format!("{key} : jump {chain}"),
            Data::Goto(chain) => format!("{key} : goto {chain}"),
        }
    }
}

impl Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(name) => write!(f, "\"{name}\""),
            Self::Address(address) => write!(f, "{address}"),
            Self::Mac([a, b, c, d, e, g]) => write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"),
            Self::Mark(mark) => write!(f, "{mark:#x}"),
            Self::Protocol(number) => write!(f, "{number}"),
            Self::Port(port) => write!(f, "{port}"),
        }
    }
}

fn joined(parts: &[Part]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ")
}

/// Each field fills whole registers of four bytes.
fn bytes(parts: &[Part]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        match part {
            Part::Link(name) => {
                let end = all.len() + NAME_LENGTH;
                all.extend_from_slice(name.as_bytes());
                all.resize(end, 0);
            }
            Part::Address(address) => all.extend_from_slice(&address.octets()),
            Part::Mac(mac) => all.extend_from_slice(mac),
            Part::Mark(mark) => all.extend_from_slice(&mark.to_ne_bytes()),
            Part::Protocol(number) => all.push(*number),
            Part::Port(port) => all.extend_from_slice(&port.to_be_bytes()),
        }
        all.resize(all.len().next_multiple_of(4), 0);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_fill_registers() {
        let key =
            [Part::Link("moat1f".to_owned()), Part::Address(Ipv4Addr::new(10, 0, 0, 1)), Part::Mac([2, 0, 0, 0, 0, 1])];
        assert_eq!(bytes(&key).len(), 16 + 4 + 8);
        assert_eq!(bytes(&[Part::Protocol(6), Part::Port(80)]), [6, 0, 0, 0, 0, 80, 0, 0]);
        let element = Element::to("policies", vec![Part::Link("moat1".to_owned())], Data::Goto("internet".to_owned()));
        assert_eq!(element.text(true), "\"moat1\" : goto internet");
        assert_eq!(element.text(false), "\"moat1\"");
    }
}
