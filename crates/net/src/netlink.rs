//! Requests to the kernel over netlink, several at once, and its answers.
//!
//! Blocking, on purpose: the kernel does what it is asked within the call that sends it, and a socket belongs to the
//! namespace of the thread that opened it, which for a sandbox's is a thread that is thrown away.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel answers within the call that asks; only a host in deep trouble takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel writes dumps in pieces of at most 32 KiB.
const ANSWER_MAX: usize = 64 * 1024;
/// Answers of one round have to fit the socket's buffer: an acknowledgement is below 1 KiB there, the buffer above 200.
const ROUND_MAX: usize = 64;

const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;
const F_REQUEST: u16 = 0x1;
const F_ACK: u16 = 0x4;
const F_DUMP: u16 = 0x300;
/// The thing is replaced if it exists.
pub const REPLACE: u16 = 0x100;
/// It is an error if the thing exists.
pub const EXCLUSIVE: u16 = 0x200;
/// The thing is made if it does not exist.
pub const CREATE: u16 = 0x400;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;

/// One request: a header, a structure of fixed size, attributes.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of this type, with flags beyond those every request has.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | F_REQUEST).to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self { bytes }
    }

    /// With an attribute.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(&mut self.bytes);
        self
    }

    /// With a number in the machine's byte order.
    pub fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// With a text that ends in a zero.
    pub fn with_text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// With attributes in an attribute, after a structure of fixed size if there is one.
    pub fn nest(self, kind: u16, fixed: &[u8], fill: impl FnOnce(Self) -> Self) -> Self {
        let inner = fill(Self { bytes: fixed.to_vec() });
        self.with(kind | NESTED, &inner.bytes)
    }

    fn finish(&mut self, sequence: u32, flags: u16) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
        let flags = (number16(&self.bytes, 6) | flags).to_ne_bytes();
        for (at, part) in [(0, length.as_slice()), (6, &flags), (8, &sequence.to_ne_bytes())] {
            if let Some(place) = self.bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Reads a number of the machine's byte order; 0 where there is none.
pub fn number16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// Reads a number of the machine's byte order; 0 where there is none.
pub fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The attributes of an answer: type without flags, and value. What is cut short ends them.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(number16(bytes, 0));
        let kind = number16(bytes, 2) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A socket to the kernel's network of the namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    answer: Vec<u8>,
}

impl Netlink {
    /// Links, addresses, routes, neighbours, queues.
    pub fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// Of another protocol.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0, answer: vec![0; ANSWER_MAX] })
    }

    /// Has one request done.
    pub fn ask(&mut self, message: Message) -> io::Result<()> {
        self.ask_all(vec![message])
    }

    /// Has these done in order, in as few calls as possible. All are tried; the first error is told.
    pub fn ask_all(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let mut outcome = Ok(());
        for result in self.ask_each(messages)? {
            outcome = outcome.and(result);
        }
        outcome
    }

    /// Has these done in order, and tells how each went.
    pub fn ask_each(&mut self, mut messages: Vec<Message>) -> io::Result<Vec<io::Result<()>>> {
        let mut outcomes = Vec::with_capacity(messages.len());
        for round in messages.chunks_mut(ROUND_MAX) {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            for message in round.iter_mut() {
                self.sequence = self.sequence.wrapping_add(1);
                message.finish(self.sequence, F_ACK);
                bytes.extend_from_slice(&message.bytes);
            }
            rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
            let mut results: Vec<Option<io::Result<()>>> = round.iter().map(|_| None).collect();
            while results.iter().any(Option::is_none) {
                self.receive(|sequence, kind, payload| {
                    let place = results.get_mut(sequence.wrapping_sub(first) as usize);
                    if let (Some(place), TYPE_ERROR) = (place, kind) {
                        *place = Some(outcome_of(payload));
                    }
                })?;
            }
            outcomes.extend(results.into_iter().flatten());
        }
        Ok(outcomes)
    }

    /// Has these done as one transaction, between these edges: all of them or none. If it was none, tells the first that was
    /// refused, if it was one of them.
    pub fn transact(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> io::Result<Result<(), (Option<usize>, io::Error)>> {
        let first = self.sequence.wrapping_add(1);
        let count = messages.len();
        let mut bytes = Vec::new();
        for (at, mut message) in std::iter::once(begin).chain(messages).chain([end]).enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            // The kernel tells every error, in order, and then this: one acknowledgement, however many they are.
            message.finish(self.sequence, if at == count { F_ACK } else { 0 });
            bytes.extend_from_slice(&message.bytes);
        }
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let (mut outcome, mut ended) = (Ok(()), false);
        while !ended {
            self.receive(|sequence, kind, payload| {
                let at = sequence.wrapping_sub(first) as usize;
                if at > count || kind != TYPE_ERROR {
                    return;
                }
                if let (Ok(()), Err(error)) = (&outcome, outcome_of(payload)) {
                    outcome = Err((at.checked_sub(1), error));
                }
                // What is said of the beginning is said of all, and is the last.
                ended |= at == count || at == 0;
            })?;
        }
        Ok(outcome)
    }

    /// Asks for one thing and returns the answer: its type and what follows the header.
    pub fn get(&mut self, mut message: Message) -> io::Result<(u16, Vec<u8>)> {
        self.sequence = self.sequence.wrapping_add(1);
        let ours = self.sequence;
        message.finish(ours, 0);
        rustix::net::send(&self.socket, &message.bytes, SendFlags::empty())?;
        let mut found = None;
        while found.is_none() {
            self.receive(|sequence, kind, payload| {
                if sequence == ours && found.is_none() {
                    found = Some(if kind == TYPE_ERROR {
                        outcome_of(payload).map(|()| (kind, Vec::new()))
                    } else {
                        Ok((kind, payload.to_vec()))
                    });
                }
            })?;
        }
        found.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Asks for all there are: type and what follows the header, of each.
    pub fn dump(&mut self, mut message: Message, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let ours = self.sequence;
        message.finish(ours, F_DUMP);
        rustix::net::send(&self.socket, &message.bytes, SendFlags::empty())?;
        let mut end = None;
        while end.is_none() {
            self.receive(|sequence, kind, payload| match kind {
                _ if sequence != ours => {}
                TYPE_DONE => end = Some(Ok(())),
                TYPE_ERROR => end = Some(outcome_of(payload)),
                kind => each(kind, payload),
            })?;
        }
        end.unwrap_or(Ok(()))
    }

    /// One datagram, which may hold several answers.
    fn receive(&mut self, mut each: impl FnMut(u32, u16, &[u8])) -> io::Result<()> {
        let received = loop {
            match rustix::net::recv(&self.socket, self.answer.as_mut_slice(), RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                other => break other?.0,
            }
        };
        let mut rest = self.answer.get(..received).unwrap_or_default();
        while rest.len() >= HEADER {
            let length = number32(rest, 0) as usize;
            let Some(payload) = rest.get(HEADER..length) else { return Err(io::ErrorKind::InvalidData.into()) };
            each(number32(rest, 8), number16(rest, 4), payload);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

fn outcome_of(payload: &[u8]) -> io::Result<()> {
    match number32(payload, 0).cast_signed() {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new(16, CREATE, &[7; 3]).with_text(3, "lo").nest(18, &[], |m| m.with_u32(1, 9));
        let all: Vec<_> = attributes(&message.bytes[HEADER + 4..]).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], (3, b"lo\0".as_slice()));
        assert_eq!(attributes(all[1].1).collect::<Vec<_>>(), [(1, 9u32.to_ne_bytes().as_slice())]);
        assert!(attributes(&[9, 0, 1, 0, 5]).next().is_none(), "cut short");
    }
}
