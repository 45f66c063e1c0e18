//! The kernel's side of the table: elements, chains and sets by netlink, without another process.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::net::netlink;

use super::element::Element;
use super::policy::Built;
use crate::netlink::{CREATE, Message, Netlink, attributes};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const INET: u8 = 1;

const DELETE_TABLE: u16 = 2;
const DELETE_CHAIN: u16 = 5;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const GET_OBJECT: u16 = 19;

const TABLE_NAME: u16 = 1;
const CHAIN_NAME: u16 = 3;
const SET_NAME: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ONE: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const DATA_VALUE: u16 = 1;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
const OBJECT_COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;

/// One of our table's.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Netlink,
    table: String,
}

/// An address of a set of such, and how long it stays.
pub(super) type Pin = (Ipv4Addr, Duration);

impl Kernel {
    /// In the network namespace of the calling thread.
    pub(super) fn open(table: &str) -> io::Result<Self> {
        Ok(Self { socket: Netlink::open(Some(netlink::NETFILTER))?, table: table.to_owned() })
    }

    /// Takes elements away and adds others, in one transaction.
    pub(super) fn exchange<'a>(
        &mut self,
        gone: impl Iterator<Item = &'a Element>,
        new: impl Iterator<Item = &'a Element>,
    ) -> io::Result<()> {
        let gone = gone.map(|element| (element.set, self.element(element, false)));
        let new = new.map(|element| (element.set, self.element(element, true)));
        let all: Vec<_> = gone.chain(new).collect();
        self.transact(all)
    }

    /// Removes everything of a sandbox. What is not there is not missed.
    pub(super) fn clear(&mut self, built: &Built) -> io::Result<()> {
        let elements = built.elements.iter().map(|element| (element.set, self.element(element, false)));
        // Elements lead to chains, chains look into sets.
        let chains = built.chains.keys().map(|chain| (chain.as_str(), self.named(DELETE_CHAIN, CHAIN_NAME, chain)));
        let sets = built.pinned.iter().map(|set| (set.as_str(), self.named(DELETE_SET, SET_NAME, set)));
        let all: Vec<_> = elements.chain(chains).chain(sets).collect();
        match self.transact(all.clone()) {
            Err(error) if is_missing(&error) => {}
            other => return other,
        }
        // Some of it is there and some is not: one by one.
        for one in all {
            match self.transact(vec![one]) {
                Err(error) if is_missing(&error) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Puts addresses into sets of such for a time, whether they are there already or not.
    pub(super) fn pin(&mut self, pins: &BTreeMap<String, Vec<Pin>>) -> io::Result<()> {
        let mut all = Vec::new();
        for (set, pins) in pins {
            for (address, time) in pins {
                // An older kernel leaves the time of an element that is there: so it is made sure of, removed, and made.
                all.push((set.as_str(), self.address(NEW_ELEMENT, set, *address, *time)));
                all.push((set.as_str(), self.address(DELETE_ELEMENT, set, *address, *time)));
                all.push((set.as_str(), self.address(NEW_ELEMENT, set, *address, *time)));
            }
        }
        self.transact(all)
    }

    /// What a set of addresses has; nothing if there is no such set.
    pub(super) fn pinned(&mut self, set: &str) -> io::Result<Vec<Pin>> {
        let ask = self.named(GET_ELEMENT, SET_NAME, set);
        let mut found = Vec::new();
        let asked = self.socket.dump(ask, |_, payload| {
            let lists = attributes(payload.get(4..).unwrap_or_default()).filter(|(kind, _)| *kind == LIST_ELEMENTS);
            for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
                found.extend(pin_of(element));
            }
        });
        match asked {
            Err(error) if is_missing(&error) => Ok(Vec::new()),
            other => other.map(|()| found),
        }
    }

    /// Removes the table with everything in it. What is not there is not missed.
    pub(super) fn remove_table(&mut self) -> io::Result<()> {
        let name = self.table.clone();
        let message = message(DELETE_TABLE, 0).with_text(TABLE_NAME, &name);
        match self.transact(vec![(name.as_str(), message)]) {
            Err(error) if is_missing(&error) => Ok(()),
            other => other,
        }
    }

    /// Packets a counter has counted.
    pub(super) fn counted(&mut self, counter: &str) -> io::Result<u64> {
        let ask = self.named(GET_OBJECT, SET_NAME, counter).with(OBJECT_TYPE, &OBJECT_COUNTER.to_be_bytes());
        let (_, payload) = self.socket.get(ask)?;
        let data = attributes(payload.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == OBJECT_DATA);
        let packets = data.and_then(|(_, data)| attributes(data).find(|(kind, _)| *kind == COUNTER_PACKETS));
        packets.and_then(|(_, value)| number64(value)).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn element(&self, element: &Element, add: bool) -> Message {
        let (kind, flags) = if add { (NEW_ELEMENT, CREATE) } else { (DELETE_ELEMENT, 0) };
        message(kind, flags).with_text(TABLE_NAME, &self.table).with_text(SET_NAME, element.set).nest(
            LIST_ELEMENTS,
            &[],
            |list| list.nest(LIST_ONE, &[], |one| element.put(one, add)),
        )
    }

    fn address(&self, kind: u16, set: &str, address: Ipv4Addr, time: Duration) -> Message {
        let flags = if kind == NEW_ELEMENT { CREATE } else { 0 };
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).to_be_bytes();
        let fill = |one: Message| {
            let one = one.nest(ELEMENT_KEY, &[], |key| key.with(DATA_VALUE, &address.octets()));
            if kind == NEW_ELEMENT { one.with(ELEMENT_TIMEOUT, &milliseconds) } else { one }
        };
        message(kind, flags).with_text(TABLE_NAME, &self.table).with_text(SET_NAME, set).nest(
            LIST_ELEMENTS,
            &[],
            |list| list.nest(LIST_ONE, &[], fill),
        )
    }

    /// About something of the table that has a name.
    fn named(&self, kind: u16, attribute: u16, name: &str) -> Message {
        message(kind, 0).with_text(TABLE_NAME, &self.table).with_text(attribute, name)
    }

    /// All or none; an error tells of what.
    fn transact(&mut self, all: Vec<(&str, Message)>) -> io::Result<()> {
        if all.is_empty() {
            return Ok(());
        }
        let (names, messages): (Vec<&str>, Vec<Message>) = all.into_iter().unzip();
        let edge = |kind| Message::new(kind, 0, &[0, 0, 0, SUBSYSTEM.to_be_bytes()[1]]);
        let outcome = self.socket.transact(edge(BATCH_BEGIN), messages, edge(BATCH_END))?;
        outcome.map_err(|(at, error)| {
            let name = at.and_then(|at| names.get(at)).copied().unwrap_or("as a whole");
            io::Error::new(error.kind(), Refused { name: name.to_owned(), error })
        })
    }
}

/// What of a transaction the kernel refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {error}")]
struct Refused {
    name: String,
    error: io::Error,
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(SUBSYSTEM << 8 | kind, flags, &[INET, 0, 0, 0])
}

fn number64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

fn pin_of(element: &[u8]) -> Option<Pin> {
    let find = |wanted| attributes(element).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let (_, key) = attributes(find(ELEMENT_KEY)?).find(|(kind, _)| *kind == DATA_VALUE)?;
    let octets: [u8; 4] = key.try_into().ok()?;
    Some((Ipv4Addr::from(octets), Duration::from_millis(number64(find(ELEMENT_EXPIRATION)?)?)))
}
