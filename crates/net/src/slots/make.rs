//! The kernel's things of one slot: made, given another address, removed.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::network::NetworkLease;

use super::requests::{self, End};
use super::{namespace, naming, tap};
use crate::NetConfig;
use crate::netlink::{Message, Netlink, number32};

/// Number of the link inside: the first after the loopback's.
pub const INNER_INDEX: u32 = 2;
/// Number of the loopback.
pub const LOOPBACK_INDEX: u32 = 1;

/// What was made of a slot.
#[derive(Debug)]
pub struct Made {
    /// Its namespace.
    pub inside: Arc<OwnedFd>,
    /// Number of the host's link.
    pub index: u32,
    /// Its address.
    pub address: Ipv4Addr,
}

/// Makes a slot: nobody's yet, and the rules let nothing of it pass.
pub fn make(config: &NetConfig, lease: &NetworkLease) -> Result<Made> {
    let failed = |e: io::Error| {
        Error::caused_by(ErrorKind::Internal, format!("network: make slot {:x}, {}", lease.slot, lease.address), e)
    };
    make_in_kernel(config, lease).map_err(failed)
}

fn make_in_kernel(config: &NetConfig, lease: &NetworkLease) -> io::Result<Made> {
    let mut outside = Netlink::route()?;
    let name = naming::link(config, lease.slot);
    let here = End { name: &name, mac: naming::host_mac(lease.slot) };
    let there = End { name: naming::INNER, mac: naming::inner_mac(lease.slot) };
    let inside = namespace::fresh(|inside| {
        inner_settings()?;
        outside.ask(requests::new_pair(here, there, inside.as_fd(), INNER_INDEX))?;
        Netlink::route()?.ask_all(inner(config, lease))?;
        Ok(inside)
    })?;
    let index = index_of(&mut outside, &name)?;
    outer_settings(&name)?;
    outside.ask_all(outer(config, lease, index))?;
    show(&naming::way(config, lease.slot), &inside)?;
    Ok(Made { inside: Arc::new(inside), index, address: lease.address })
}

/// Has a namespace be told, from within, what it is to have: an address, or a machine's tap instead.
pub fn furnish(config: &NetConfig, lease: &NetworkLease, tap_owner: Option<u32>) -> io::Result<()> {
    match tap_owner {
        None => Netlink::route()?.ask_all(inner(config, lease)),
        Some(owner) => tap::set(config, lease, owner),
    }
}

/// Makes a slot that stands a machine's.
pub fn give_tap(config: &NetConfig, lease: &NetworkLease, made: &Made, owner: u32) -> Result<()> {
    namespace::within(made.inside.as_fd(), || tap::set(config, lease, owner)).map_err(|e| {
        let kind = if e.kind() == io::ErrorKind::Unsupported { ErrorKind::Unsupported } else { ErrorKind::Internal };
        Error::caused_by(kind, format!("network: give slot {:x} a tap", lease.slot), e)
    })
}

/// What a namespace is told, in its order. Right again when it is told twice.
fn inner(config: &NetConfig, lease: &NetworkLease) -> Vec<Message> {
    vec![
        requests::up(LOOPBACK_INDEX),
        requests::up(INNER_INDEX),
        requests::new_address(INNER_INDEX, lease.address),
        requests::new_neighbour(INNER_INDEX, config.gateway, naming::host_mac(lease.slot)),
        requests::new_route(INNER_INDEX, config.gateway, None),
        requests::new_default_route(INNER_INDEX, config.gateway),
    ]
}

/// What the host is told of a link, in its order. Right again when it is told twice.
pub fn outer(config: &NetConfig, lease: &NetworkLease, index: u32) -> Vec<Message> {
    vec![
        requests::up(index),
        requests::new_neighbour(index, lease.address, naming::inner_mac(lease.slot)),
        requests::new_route(index, lease.address, Some(config.gateway)),
    ]
}

/// Settings of a new namespace, before it has a link: no IPv6, ports below 1024 for everybody, and so is `ping`.
fn inner_settings() -> io::Result<()> {
    for which in ["all", "default"] {
        set_if_known(&format!("net/ipv6/conf/{which}/disable_ipv6"), "1")?;
    }
    set("net/ipv4/ip_unprivileged_port_start", "0")?;
    set("net/ipv4/ping_group_range", "0 2147483647")
}

/// Settings of the host's end, before it is up: no IPv6, no packet from where none can come, published loopback ports.
pub fn outer_settings(link: &str) -> io::Result<()> {
    set_if_known(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1")?;
    for (what, value) in [("rp_filter", "1"), ("forwarding", "1"), ("route_localnet", "1"), ("accept_redirects", "0")] {
        set(&format!("net/ipv4/conf/{link}/{what}"), value)?;
    }
    Ok(())
}

/// Writes a setting of the namespace this thread is in.
pub fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys").join(name), value)
        .map_err(|e| io::Error::new(e.kind(), format!("set {name} to {value}: {e}")))
}

/// The same of one that a kernel may be built without.
fn set_if_known(name: &str, value: &str) -> io::Result<()> {
    match set(name, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Number of the link of this name.
pub fn index_of(netlink: &mut Netlink, name: &str) -> io::Result<u32> {
    let (_, payload) = netlink.get(requests::link_named(name))?;
    Ok(number32(&payload, 4))
}

/// Has the path lead to the namespace.
pub fn show(path: &Path, namespace: &OwnedFd) -> io::Result<()> {
    let to = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    hide(path)?;
    symlink(to, path)
}

fn hide(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a slot that nobody uses yet another address.
pub fn readdress(config: &NetConfig, lease: &NetworkLease, made: &Made) -> Result<Made> {
    let failed = |e: io::Error| {
        let doing = format!("network: slot {:x} from {} to {}", lease.slot, made.address, lease.address);
        Error::caused_by(ErrorKind::Internal, doing, e)
    };
    let old = requests::delete_address(INNER_INDEX, made.address);
    namespace::within(made.inside.as_fd(), || {
        Netlink::route()?.ask_all(vec![requests::new_address(INNER_INDEX, lease.address), old])
    })
    .map_err(failed)?;
    let mut messages = outer(config, lease, made.index);
    messages.push(requests::delete_route(made.index, made.address));
    messages.push(requests::delete_neighbour(made.index, made.address));
    Netlink::route().and_then(|mut outside| outside.ask_all(messages)).map_err(failed)?;
    Ok(Made { inside: Arc::clone(&made.inside), index: made.index, address: lease.address })
}

/// Removes what there is of a slot: its links, with them routes, neighbours and queues, and the way into it.
pub fn remove(config: &NetConfig, slot: u32) -> Result<()> {
    let name = naming::link(config, slot);
    let outcome = Netlink::route().and_then(|mut outside| match outside.ask(requests::delete_link(&name)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        other => other,
    });
    outcome
        .and_then(|()| hide(&naming::way(config, slot)))
        .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("network: remove slot {slot:x}"), e))
}
