//! What is asked of the kernel about links, addresses, routes and neighbours, in its words (`rtnetlink(7)`).

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::naming::GROUP;
use crate::netlink::{CREATE, EXCLUSIVE, Message, REPLACE};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const GET_NAMESPACE_ID: u16 = 90;

/// Length of what precedes the attributes of a link.
pub const LINK_HEADER: usize = 16;
/// The same of an address.
pub const ADDRESS_HEADER: usize = 8;
/// The same of a route.
pub const ROUTE_HEADER: usize = 12;
/// The same of a namespace's id.
pub const NAMESPACE_HEADER: usize = 4;

/// Attribute of a link: how long its frames may be.
pub const LINK_MTU: u16 = 4;
/// Attribute of a link: its name.
pub const LINK_NAME: u16 = 3;
/// Attribute of a link: the id of the namespace its other end is in.
pub const LINK_NAMESPACE_ID: u16 = 37;
/// Attribute of an address: itself.
pub const ADDRESS_LOCAL: u16 = 2;
/// Attribute of an address: its label.
pub const ADDRESS_LABEL: u16 = 3;
/// Attribute of a route: the link it leads over.
pub const ROUTE_LINK: u16 = 4;
/// Attribute of a namespace's id: the id.
pub const NAMESPACE_ID: u16 = 1;

const LINK_ADDRESS: u16 = 1;
const LINK_INFO: u16 = 18;
const LINK_GROUP: u16 = 27;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const PEER: u16 = 1;
const NAMESPACE_FD: u16 = 3;
const ADDRESS_ADDRESS: u16 = 1;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_SOURCE: u16 = 7;
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_MAC: u16 = 2;

const INET: u8 = 2;
const UP: u32 = 1;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const TABLE_MAIN: u8 = 254;
const BY_ADMINISTRATOR: u8 = 4;
const UNICAST: u8 = 1;
const FIB_MATCH: u32 = 0x2000;
const PERMANENT: u16 = 0x80;

fn link(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let mut bytes = [0; LINK_HEADER];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// One end of a pair of links.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Name.
    pub name: &'a str,
    /// Hardware address.
    pub mac: [u8; 6],
}

/// Makes a pair of links, both down: one here, the other in a namespace, as its link of this number.
pub fn new_pair(here: End<'_>, there: End<'_>, namespace: BorrowedFd<'_>, index: u32) -> Message {
    let namespace = namespace.as_raw_fd().to_ne_bytes();
    Message::new(NEW_LINK, CREATE | EXCLUSIVE, &link(0, 0))
        .with_text(LINK_NAME, here.name)
        .with(LINK_ADDRESS, &here.mac)
        .with(LINK_GROUP, &GROUP.to_ne_bytes())
        .nest(LINK_INFO, &[], |info| {
            info.with_text(INFO_KIND, "veth").nest(INFO_DATA, &[], |data| {
                data.nest(PEER, &link(index, 0), |peer| {
                    peer.with_text(LINK_NAME, there.name)
                        .with(LINK_ADDRESS, &there.mac)
                        .with(LINK_NAMESPACE, &namespace)
                })
            })
        })
}

/// Puts a link up.
pub fn up(index: u32) -> Message {
    Message::new(NEW_LINK, 0, &link(index, UP))
}

/// Has a link take frames of this length.
pub fn set_mtu(index: u32, bytes: u32) -> Message {
    Message::new(NEW_LINK, 0, &link(index, 0)).with_u32(LINK_MTU, bytes)
}

/// Asks for the link of this number.
pub fn link_at(index: u32) -> Message {
    Message::new(GET_LINK, 0, &link(index, 0))
}

/// Removes a link, and its other end.
pub fn delete_link(name: &str) -> Message {
    Message::new(DELETE_LINK, 0, &link(0, 0)).with_text(LINK_NAME, name)
}

/// Asks for the link of this name.
pub fn link_named(name: &str) -> Message {
    Message::new(GET_LINK, 0, &link(0, 0)).with_text(LINK_NAME, name)
}

/// Asks for all links.
pub fn links() -> Message {
    Message::new(GET_LINK, 0, &link(0, 0))
}

fn address(index: u32, scope: u8) -> [u8; ADDRESS_HEADER] {
    let [a, b, c, d] = index.to_ne_bytes();
    [INET, 32, 0, scope, a, b, c, d]
}

/// Gives a link an address, of which it is the only one.
pub fn new_address(index: u32, of: Ipv4Addr) -> Message {
    Message::new(NEW_ADDRESS, CREATE | REPLACE, &address(index, 0))
        .with(ADDRESS_LOCAL, &of.octets())
        .with(ADDRESS_ADDRESS, &of.octets())
}

/// Gives the host an address that nobody learns of, with a label.
pub fn new_host_address(index: u32, of: Ipv4Addr, label: &str) -> Message {
    Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &address(index, SCOPE_HOST))
        .with(ADDRESS_LOCAL, &of.octets())
        .with(ADDRESS_ADDRESS, &of.octets())
        .with_text(ADDRESS_LABEL, label)
}

/// Takes an address from a link.
pub fn delete_address(index: u32, of: Ipv4Addr) -> Message {
    Message::new(DELETE_ADDRESS, 0, &address(index, 0)).with(ADDRESS_LOCAL, &of.octets())
}

/// Asks for all addresses.
pub fn addresses() -> Message {
    Message::new(GET_ADDRESS, 0, &[INET, 0, 0, 0, 0, 0, 0, 0])
}

fn route(length: u8, scope: u8) -> [u8; ROUTE_HEADER] {
    [INET, length, 0, 0, TABLE_MAIN, BY_ADMINISTRATOR, scope, UNICAST, 0, 0, 0, 0]
}

/// One address is right behind a link; what the host sends there itself comes from `source`.
pub fn new_route(index: u32, to: Ipv4Addr, source: Option<Ipv4Addr>) -> Message {
    let message = Message::new(NEW_ROUTE, CREATE | REPLACE, &route(32, SCOPE_LINK))
        .with(ROUTE_DESTINATION, &to.octets())
        .with_u32(ROUTE_LINK, index);
    match source {
        Some(source) => message.with(ROUTE_SOURCE, &source.octets()),
        None => message,
    }
}

/// Everything else is behind a gateway.
pub fn new_default_route(index: u32, gateway: Ipv4Addr) -> Message {
    Message::new(NEW_ROUTE, CREATE | REPLACE, &route(0, 0))
        .with(ROUTE_GATEWAY, &gateway.octets())
        .with_u32(ROUTE_LINK, index)
}

/// An address is no longer behind a link.
pub fn delete_route(index: u32, to: Ipv4Addr) -> Message {
    Message::new(DELETE_ROUTE, 0, &route(32, SCOPE_LINK))
        .with(ROUTE_DESTINATION, &to.octets())
        .with_u32(ROUTE_LINK, index)
}

/// Asks which route an address is reached by: the route itself, with its length.
pub fn route_to(address: Ipv4Addr) -> Message {
    let mut header = [INET, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[8..].copy_from_slice(&FIB_MATCH.to_ne_bytes());
    Message::new(GET_ROUTE, 0, &header).with(ROUTE_DESTINATION, &address.octets())
}

fn neighbour(index: u32, state: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = INET;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes
}

/// An address is at this hardware address, whatever anybody says.
pub fn new_neighbour(index: u32, of: Ipv4Addr, mac: [u8; 6]) -> Message {
    Message::new(NEW_NEIGHBOUR, CREATE | REPLACE, &neighbour(index, PERMANENT))
        .with(NEIGHBOUR_ADDRESS, &of.octets())
        .with(NEIGHBOUR_MAC, &mac)
}

/// Forgets where an address is.
pub fn delete_neighbour(index: u32, of: Ipv4Addr) -> Message {
    Message::new(DELETE_NEIGHBOUR, 0, &neighbour(index, 0)).with(NEIGHBOUR_ADDRESS, &of.octets())
}

/// Asks for the id this namespace knows another by.
pub fn id_of(namespace: BorrowedFd<'_>) -> Message {
    Message::new(GET_NAMESPACE_ID, 0, &[0; NAMESPACE_HEADER]).with(NAMESPACE_FD, &namespace.as_raw_fd().to_ne_bytes())
}
