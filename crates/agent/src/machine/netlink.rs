//! Requests to the kernel over netlink, one at a time.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const HEADER: usize = 16;
/// The kernel writes answers in pieces of at most 32 KiB.
const ANSWER_MAX: usize = 64 << 10;
const F_REQUEST: u16 = 0x1;
const F_ACK: u16 = 0x4;
const F_DUMP: u16 = 0x300;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;

/// A request: a header, a structure of fixed size, attributes.
#[derive(Debug, Clone)]
pub struct Message(Vec<u8>);

impl Message {
    /// Of this type, with flags beyond those every request has.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | F_REQUEST).to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend_from_slice(fixed);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self(bytes)
    }

    /// With an attribute.
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(&mut self, flags: u16) {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_ne_bytes();
        let flags = (number16(&self.0, 6) | flags).to_ne_bytes();
        for (at, part) in [(0, length.as_slice()), (6, &flags)] {
            if let Some(place) = self.0.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
        }
    }
}

/// A number in the machine's byte order; 0 where there is none.
pub fn number16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// A number in the machine's byte order; 0 where there is none.
pub fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The value of an attribute. What is cut short ends them.
pub fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(number16(bytes, 0));
        let value = bytes.get(4..length)?;
        if number16(bytes, 2) & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// A socket to a part of the kernel.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// To a part that has this number; to that of links, addresses and routes without one.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?))
    }

    /// Has something done.
    pub fn ask(&self, mut message: Message) -> io::Result<()> {
        message.finish(F_ACK);
        self.exchange(&message, |_, _| {})
    }

    /// Has everything of a kind told: type and body of each.
    pub fn dump(&self, mut message: Message, each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        message.finish(F_DUMP);
        self.exchange(&message, each)
    }

    fn exchange(&self, message: &Message, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        send(&self.0, &message.0, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER_MAX];
        loop {
            let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
            let mut rest = answer.get(..length).unwrap_or_default();
            while rest.len() >= HEADER {
                let length = (number32(rest, 0) as usize).clamp(HEADER, rest.len());
                let (one, later) = rest.split_at(length.next_multiple_of(4).min(rest.len()));
                let body = one.get(HEADER..length).unwrap_or_default();
                match number16(one, 4) {
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => {
                        let errno = number32(body, 0).cast_signed();
                        return if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-errno)) };
                    }
                    kind => each(kind, body),
                }
                rest = later;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_what_is_cut_short_is_not() {
        let message = Message::new(1, 0, &[]).with(3, &[7]).with(5, &[1, 2, 3, 4, 5, 6]);
        let attributes = &message.0[HEADER..];
        assert_eq!(attribute(attributes, 3), Some(&[7][..]));
        assert_eq!(attribute(attributes, 5), Some(&[1, 2, 3, 4, 5, 6][..]));
        assert_eq!(attribute(attributes, 4), None);
        for cut in 0..attributes.len() {
            let _ = attribute(&attributes[..cut], 5);
        }
        assert_eq!(attribute(&[0; 8], 1), None, "a length of nothing ends it");
    }

    /// Of the kernel the test runs on, without a change to it.
    #[test]
    fn the_kernel_tells_of_the_loopback() {
        let netlink = Netlink::open(None).unwrap();
        let mut names = Vec::new();
        let all = Message::new(18, 0, &[0; 16]);
        netlink.dump(all, |_, body| names.extend(attribute(&body[16..], 3).map(<[u8]>::to_vec))).unwrap();
        assert!(names.contains(&b"lo\0".to_vec()), "{names:?}");
        let nothing = Message::new(u16::MAX, 0, &[]);
        assert!(netlink.ask(nothing).is_err());
    }
}
