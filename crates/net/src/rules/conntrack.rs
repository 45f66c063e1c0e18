//! Connections the kernel tracks: found by address, and forgotten.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink;

use crate::netlink::{Message, Netlink, attributes};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const INET: u8 = 2;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const FILTER_SOURCE: u32 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_TO: u16 = 3;
const PROTOCOL_FROM: u16 = 2;

/// How many connections there are.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// So many are read quicker than a second question is answered.
const FEW: usize = 4096;

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    /// Who began it.
    pub(super) from: Ipv4Addr,
    /// Whom they wrote to.
    pub(super) to: Ipv4Addr,
    /// Who answers: another than they wrote to, if ports are published.
    pub(super) answers: Ipv4Addr,
    /// Number of the protocol.
    pub(super) protocol: u8,
    /// The port they wrote to, or 0.
    pub(super) port: u16,
    /// The port that answers, or 0.
    pub(super) answers_port: u16,
    /// Its mark.
    pub(super) mark: u32,
    /// What it is deleted by: attributes of the kernel's.
    handle: Vec<(u16, Vec<u8>)>,
}

/// The tracked connections of a network namespace.
#[derive(Debug)]
pub(super) struct Conntrack {
    socket: Netlink,
}

impl Conntrack {
    /// Of the calling thread's.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { socket: Netlink::open(Some(netlink::NETFILTER))? })
    }

    /// Those begun or answered by one of these addresses.
    ///
    /// The kernel looks at every place of its table for each question, of which there are hundreds of thousands, full or not:
    /// so as few questions as possible.
    pub(super) fn of(&mut self, addresses: &[Ipv4Addr]) -> io::Result<Vec<Connection>> {
        // How many there are is a hint only: unreadable, it is as if there were few.
        let count: usize = std::fs::read_to_string(COUNT).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1);
        match addresses {
            _ if count == 0 => Ok(Vec::new()),
            [address] if count > FEW => self.of_one(*address),
            _ => self.dump(message(GET), |c| addresses.contains(&c.from) || addresses.contains(&c.answers)),
        }
    }

    fn of_one(&mut self, address: Ipv4Addr) -> io::Result<Vec<Connection>> {
        let mut found = self.begun_or_answered(ORIGINAL, FILTER_ORIGINAL, address)?;
        found.extend(self.begun_or_answered(REPLY, FILTER_REPLY, address)?.into_iter().filter(|c| c.from != address));
        Ok(found)
    }

    /// All of them.
    pub(super) fn all(&mut self) -> io::Result<Vec<Connection>> {
        self.dump(message(GET), |_| true)
    }

    /// Forgets these; one that has ended meanwhile is not missed.
    pub(super) fn delete(&mut self, connections: &[Connection]) -> io::Result<()> {
        let request = |connection: &Connection| {
            connection.handle.iter().fold(message(DELETE), |message, (kind, value)| message.with(*kind, value))
        };
        for outcome in self.socket.ask_each(connections.iter().map(request).collect())? {
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn begun_or_answered(&mut self, tuple: u16, flags: u16, address: Ipv4Addr) -> io::Result<Vec<Connection>> {
        // The kernel leaves out the others; one too old for that returns them all, or refuses.
        let narrowed = message(GET)
            .nest(tuple, &[], |m| m.nest(TUPLE_IP, &[], |m| m.with(IP_SOURCE, &address.octets())))
            .nest(FILTER, &[], |m| {
                let value = |kind| if kind == flags { FILTER_SOURCE } else { 0 };
                m.with_u32(FILTER_ORIGINAL, value(FILTER_ORIGINAL)).with_u32(FILTER_REPLY, value(FILTER_REPLY))
            });
        let wanted = |c: &Connection| if tuple == ORIGINAL { c.from == address } else { c.answers == address };
        match self.dump(narrowed, wanted) {
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                self.dump(message(GET), wanted)
            }
            other => other,
        }
    }

    fn dump(&mut self, ask: Message, wanted: impl Fn(&Connection) -> bool) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        self.socket.dump(ask, |_, payload| found.extend(connection(payload).filter(&wanted)))?;
        Ok(found)
    }
}

fn message(kind: u16) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, 0, &[INET, 0, 0, 0])
}

fn connection(payload: &[u8]) -> Option<Connection> {
    let payload = payload.get(4..)?;
    let find = |wanted| attributes(payload).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (original, reply) = (find(ORIGINAL)?, find(REPLY)?);
    let mut handle = vec![(ORIGINAL | NESTED, original.to_vec())];
    handle.extend([ID, ZONE].into_iter().filter_map(|kind| Some((kind, find(kind)?.to_vec()))));
    Some(Connection {
        from: address(original, IP_SOURCE)?,
        to: address(original, IP_DESTINATION)?,
        answers: address(reply, IP_SOURCE)?,
        protocol: *protocol(original, PROTOCOL_NUMBER)?.first()?,
        port: port(original, PROTOCOL_TO),
        answers_port: port(reply, PROTOCOL_FROM),
        mark: find(MARK).and_then(|value| value.try_into().ok()).map_or(0, u32::from_be_bytes),
        handle,
    })
}

const NESTED: u16 = 1 << 15;

fn within(tuple: &[u8], part: u16, wanted: u16) -> Option<&[u8]> {
    let (_, part) = attributes(tuple).find(|(kind, _)| *kind == part)?;
    attributes(part).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn protocol(tuple: &[u8], wanted: u16) -> Option<&[u8]> {
    within(tuple, TUPLE_PROTOCOL, wanted)
}

fn address(tuple: &[u8], wanted: u16) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = within(tuple, TUPLE_IP, wanted)?.try_into().ok()?;
    Some(octets.into())
}

fn port(tuple: &[u8], wanted: u16) -> u16 {
    protocol(tuple, wanted).and_then(|value| value.try_into().ok()).map_or(0, u16::from_be_bytes)
}
