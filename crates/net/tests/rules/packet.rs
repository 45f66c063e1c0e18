//! Packets with a number in them, made by hand.

use std::net::Ipv4Addr;

/// What numbers stand behind: nothing else on these wires looks like it.
const MAGIC: [u8; 8] = *b"moat-pkt";

/// What a packet is like.
#[derive(Debug, Clone)]
pub struct Packet {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    /// Number of the protocol.
    pub protocol: u8,
    pub port: u16,
    /// Options of the header, a multiple of four bytes.
    pub options: Vec<u8>,
    /// In two pieces, the first with eight bytes only.
    pub pieces: bool,
}

impl Packet {
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, port: u16) -> Self {
        Self { from, to, protocol, port, options: Vec::new(), pieces: false }
    }

    pub fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Self {
        Self::new(from, to, 17, port)
    }

    /// As sent on the wire.
    pub fn bytes(&self, number: u32) -> Vec<Vec<u8>> {
        let payload = self.payload(number);
        if !self.pieces {
            return vec![self.with_header(&payload, 0)];
        }
        let (first, second) = payload.split_at(8);
        vec![self.with_header(first, 0x2000), self.with_header(second, 1)]
    }

    fn with_header(&self, payload: &[u8], fragment: u16) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let length = u16::try_from(words * 4 + payload.len()).unwrap();
        let mut all = vec![0x40 | u8::try_from(words).unwrap(), 0];
        all.extend(length.to_be_bytes());
        // One number for both pieces of a packet: the kernel puts them together by it.
        all.extend([0x77, 0x01]);
        all.extend(fragment.to_be_bytes());
        all.extend([64, self.protocol, 0, 0]);
        all.extend(self.from.octets());
        all.extend(self.to.octets());
        all.extend(&self.options);
        all.extend(payload);
        all
    }

    fn payload(&self, number: u32) -> Vec<u8> {
        let mut data = MAGIC.to_vec();
        data.extend(number.to_be_bytes());
        // Each is a connection of its own: what was decided of one says nothing of another.
        let source = u16::try_from(1024 + number % 60_000).unwrap().to_be_bytes();
        let port = self.port.to_be_bytes();
        let mut all = match self.protocol {
            17 => {
                let length = u16::try_from(8 + data.len()).unwrap().to_be_bytes();
                [source, port, length, [0, 0]].concat()
            }
            6 => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x20, 0, 0, 0, 0, 0];
                [source.as_slice(), &port, &rest].concat()
            }
            1 => [[8, 0], [0, 0], source, port].concat(),
            _ => [source, port].concat(),
        };
        let at = match self.protocol {
            6 => Some(16),
            1 => Some(2),
            _ => None,
        };
        all.extend(data);
        if let Some(at) = at {
            let sum = self.checksum(&all).to_be_bytes();
            all[at..at + 2].copy_from_slice(&sum);
        }
        all
    }

    fn checksum(&self, bytes: &[u8]) -> u16 {
        let mut all = Vec::new();
        if self.protocol == 6 {
            all.extend(self.from.octets());
            all.extend(self.to.octets());
            all.extend([0, 6]);
            all.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        }
        all.extend(bytes);
        let words = all.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        let sum = words.sum::<u32>();
        let folded = (sum & 0xffff) + (sum >> 16);
        !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
    }
}

/// The number of a packet of ours, in whatever it is wrapped.
pub fn number_in(bytes: &[u8]) -> Option<u32> {
    let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)? + MAGIC.len();
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}
