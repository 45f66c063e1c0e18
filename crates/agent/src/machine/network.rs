//! The machine's link.
//!
//! It has one address, and one neighbour it knows beforehand: there is nobody on the other side who would be asked.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use moat_agent::protocol::machine::GuestNetwork;
use moat_model::ErrorKind;

use super::netlink::{Message, Netlink, attribute, number32};
use crate::agent::Failure;

const LINKS: &str = "/sys/class/net";
/// What it is called where there is more than one.
const FIRST: &str = "eth0";

const SET_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;
/// Made if it is not there, replaced if it is.
const PUT: u16 = 0x500;

/// `IFLA_ADDRESS`, `IFA_LOCAL` and so on, each of its own kind of request.
const LINK_ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const ROUTE_TO: u16 = 1;
const ROUTE_LINK: u16 = 4;
const ROUTE_VIA: u16 = 5;
const ROUTE_FROM: u16 = 7;
const NEIGHBOUR: u16 = 1;
const NEIGHBOUR_AT: u16 = 2;

const UP: u32 = 1;
const INET: u8 = 2;
/// Longest prefix: one address.
const ONE: u8 = 32;

/// What programs are used to from containers, and no IPv6, which nothing outside would carry. Written while `/proc` may be.
pub fn prepare(network: Option<&GuestNetwork>) -> Result<(), Failure> {
    let mut switches = vec![("ipv4/ip_unprivileged_port_start", "0"), ("ipv4/ping_group_range", "0 2147483647")];
    if network.is_some() {
        switches.extend([("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]);
    }
    for (name, value) in switches {
        let path = PathBuf::from("/proc/sys/net").join(name);
        match fs::write(&path, value) {
            Ok(()) => {}
            // A kernel without it has nothing to switch.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::internal(&format!("write {}", path.display()), &e)),
        }
    }
    crate::launcher::kernel::loopback_up().map_err(|e| Failure::internal("bring the loopback up", &e))
}

/// A link, by its number.
#[derive(Debug, Clone)]
struct Link {
    name: String,
    index: u32,
}

/// Gives the link what it is told, and takes what it had. What goes through it is interrupted.
pub fn configure(network: &GuestNetwork) -> Result<(), Failure> {
    let link = find()?;
    let apply = || -> io::Result<()> {
        let netlink = Netlink::open(None)?;
        empty(&netlink, &link)?;
        netlink.ask(set(&link, 0).with(LINK_ADDRESS, &network.mac))?;
        netlink.ask(set(&link, UP))?;
        let address = network.address.octets();
        netlink
            .ask(Message::new(NEW_ADDRESS, PUT, &about(&link)).with(LOCAL, &address).with(LINK_ADDRESS, &address))?;
        netlink.ask(neighbour(&link, network))?;
        for message in routes(&link, network) {
            netlink.ask(message)?;
        }
        Ok(())
    };
    apply().map_err(|e| Failure::internal(&format!("configure {}", link.name), &e))
}

/// Takes what the link had: nothing goes through it any more.
pub fn clear() -> Result<(), Failure> {
    let link = find()?;
    let cleared = Netlink::open(None).and_then(|netlink| empty(&netlink, &link));
    cleared.map_err(|e| Failure::internal(&format!("clear {}", link.name), &e))
}

/// Down: routes and neighbours go, and the hardware address may be changed.
fn empty(netlink: &Netlink, link: &Link) -> io::Result<()> {
    netlink.ask(set(link, 0))?;
    for address in addresses(netlink, link)? {
        netlink.ask(Message::new(DELETE_ADDRESS, 0, &about(link)).with(LOCAL, &address.octets()))?;
    }
    Ok(())
}

/// Hardware address and address of the link as the kernel has them now; none without a link or an address.
pub fn read_back() -> io::Result<Option<([u8; 6], Ipv4Addr)>> {
    let Ok(link) = find() else { return Ok(None) };
    let netlink = Netlink::open(None)?;
    let Some(address) = addresses(&netlink, &link)?.first().copied() else { return Ok(None) };
    let text = fs::read_to_string(PathBuf::from(LINKS).join(&link.name).join("address"))?;
    Ok(hardware_address(text.trim_end()).map(|mac| (mac, address)))
}

/// The one link that is not the loopback.
fn find() -> Result<Link, Failure> {
    let failed = |e: io::Error| Failure::internal(&format!("read {LINKS}"), &e);
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(LINKS).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // What the kernel makes by itself, such as tunnels of a module, is no device.
        if entry.path().join("device").exists() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort_by_key(|name| (name != FIRST, name.clone()));
    let name = names.into_iter().next().ok_or_else(|| {
        Failure::new(ErrorKind::InvalidSpec, "identity.network: this machine has no link to give it to")
    })?;
    let text = fs::read_to_string(PathBuf::from(LINKS).join(&name).join("ifindex")).map_err(failed)?;
    let index = text.trim().parse().map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
    Ok(Link { name, index })
}

/// `struct ifinfomsg`: the flag that says up is set to what is given.
fn set(link: &Link, up: u32) -> Message {
    let mut fixed = vec![0; 4];
    for word in [link.index, up, UP] {
        fixed.extend_from_slice(&word.to_ne_bytes());
    }
    Message::new(SET_LINK, 0, &fixed)
}

/// `struct ifaddrmsg`.
fn about(link: &Link) -> Vec<u8> {
    let mut fixed = vec![INET, ONE, 0, 0];
    fixed.extend_from_slice(&link.index.to_ne_bytes());
    fixed
}

fn addresses(netlink: &Netlink, link: &Link) -> io::Result<Vec<Ipv4Addr>> {
    let mut found = Vec::new();
    netlink.dump(Message::new(GET_ADDRESS, 0, &[INET, 0, 0, 0, 0, 0, 0, 0]), |kind, body| {
        let local = body.get(8..).and_then(|attributes| attribute(attributes, LOCAL));
        let octets = local.and_then(|local| <[u8; 4]>::try_from(local).ok());
        if let Some(octets) = octets.filter(|_| kind == NEW_ADDRESS && number32(body, 4) == link.index) {
            found.push(Ipv4Addr::from(octets));
        }
    })?;
    Ok(found)
}

/// `struct ndmsg`, for good.
fn neighbour(link: &Link, network: &GuestNetwork) -> Message {
    const PERMANENT: u16 = 0x80;
    let mut fixed = vec![INET, 0, 0, 0];
    fixed.extend_from_slice(&link.index.to_ne_bytes());
    fixed.extend_from_slice(&PERMANENT.to_ne_bytes());
    fixed.extend_from_slice(&[0, 0]);
    Message::new(NEW_NEIGHBOUR, PUT, &fixed)
        .with(NEIGHBOUR, &network.gateway.octets())
        .with(NEIGHBOUR_AT, &network.gateway_mac)
}

/// The gateway is on the link although no prefix says so, and everything else is behind it.
fn routes(link: &Link, network: &GuestNetwork) -> [Message; 2] {
    const MAIN: u8 = 254;
    const STATIC: u8 = 4;
    const ANYWHERE: u8 = 0;
    const ON_LINK_SCOPE: u8 = 253;
    const UNICAST: u8 = 1;
    const ON_LINK: u32 = 4;
    let route = |length: u8, scope: u8, flags: u32| {
        let mut fixed = vec![INET, length, 0, 0, MAIN, STATIC, scope, UNICAST];
        fixed.extend_from_slice(&flags.to_ne_bytes());
        Message::new(NEW_ROUTE, PUT, &fixed)
            .with(ROUTE_LINK, &link.index.to_ne_bytes())
            .with(ROUTE_FROM, &network.address.octets())
    };
    let gateway = network.gateway.octets();
    [route(ONE, ON_LINK_SCOPE, 0).with(ROUTE_TO, &gateway), route(0, ANYWHERE, ON_LINK).with(ROUTE_VIA, &gateway)]
}

fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read() {
        assert_eq!(hardware_address("02:00:00:0a:ff:01"), Some([2, 0, 0, 10, 255, 1]));
        for bad in ["", "02:00:00:0a:ff", "02:00:00:0a:ff:01:02", "02:00:00:0a:ff:zz"] {
            assert_eq!(hardware_address(bad), None, "{bad}");
        }
    }
}
