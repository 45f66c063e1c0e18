//! Connections of an address that is this machine's no more.
//!
//! The one it was copied from may go on with them. Where the kernel can (`inet_diag`), each is ended, and its program is told
//! at once; where it cannot, its programs learn of it when their time is up: a packet from an address the machine does not
//! have does not leave it.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink::SOCK_DIAG;

use super::netlink::{Message, Netlink};

const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// All states but that of listening: who listens on an address that is gone is heard by nobody, and may be told so by nobody.
const CONNECTED: u32 = !(1 << 10);
/// Of what the kernel answers: where the ports and addresses lie.
const ID: std::ops::Range<usize> = 4..52;
/// In that: the own address, in four words.
const SOURCE: std::ops::Range<usize> = 4..20;

/// Ends every connection whose own end is `address`; how many there were.
pub fn reset(address: Ipv4Addr) -> io::Result<usize> {
    let netlink = Netlink::open(Some(SOCK_DIAG))?;
    let mut reset = 0;
    for (family, source) in [(INET, plain(address)), (INET6, mapped(address))] {
        for protocol in [TCP, UDP] {
            let mut found = Vec::new();
            netlink.dump(Message::new(BY_FAMILY, 0, &request(family, protocol, &[0; 48])), |_, body| {
                if let Some(id) = body.get(ID).filter(|id| id.get(SOURCE) == Some(&source[..])) {
                    found.push(id.to_vec());
                }
            })?;
            for id in found {
                match netlink.ask(Message::new(DESTROY, 0, &request(family, protocol, &id))) {
                    Ok(()) => reset += 1,
                    // It ended meanwhile.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
    Ok(reset)
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8, id: &[u8]) -> Vec<u8> {
    let mut fixed = vec![family, protocol, 0, 0];
    fixed.extend_from_slice(&CONNECTED.to_ne_bytes());
    fixed.extend_from_slice(id);
    fixed
}

fn plain(address: Ipv4Addr) -> [u8; 16] {
    let [a, b, c, d] = address.octets();
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn mapped(address: Ipv4Addr) -> [u8; 16] {
    address.to_ipv6_mapped().octets()
}
