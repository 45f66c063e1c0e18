//! What all slots share: the gateway's address, forwarding, the directory of namespaces.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;

use super::make::{index_of, set};
use super::requests;
use crate::NetConfig;
use crate::netlink::{Netlink, attributes, number32};

const FORWARDING: &str = "net/ipv4/ip_forward";
const LOOPBACK: &str = "lo";

/// Makes it, but for forwarding. Says whether the host forwards nothing of its own accord: then the rules have to see that it
/// forwards for nobody else, before [`forward`].
pub fn prepare(config: &NetConfig) -> Result<bool> {
    if let Some(net) = overlap(config).map_err(|e| failed("look at the host's addresses", e))? {
        let why = format!("{} overlaps {net}, which this host is in; choose another range", config.subnet);
        return Err(Error::invalid("network.subnet", why));
    }
    fs::create_dir_all(config.run_dir.join("ns")).map_err(|e| failed("make its directory", e))?;
    gateway(config).map_err(|e| failed("give the host the gateway's address", e))?;
    guard(config).map_err(|e| failed("remember whether the host forwards packets", e))
}

/// Has the host forward packets.
pub fn forward() -> Result<()> {
    let off = forwards().map(|on| !on);
    off.and_then(|off| if off { set(FORWARDING, "1") } else { Ok(()) })
        .map_err(|e| failed("have the host forward packets", e))
}

fn forwards() -> io::Result<bool> {
    Ok(fs::read_to_string(Path::new("/proc/sys").join(FORWARDING))?.trim() != "0")
}

fn failed(doing: &str, error: io::Error) -> Error {
    Error::caused_by(ErrorKind::Unavailable, format!("network: {doing}"), error)
}

/// An address of the host.
#[derive(Debug, Clone)]
struct HostAddress {
    net: Ipv4Net,
    label: String,
    index: u32,
}

fn addresses(netlink: &mut Netlink) -> io::Result<Vec<HostAddress>> {
    let mut all = Vec::new();
    netlink.dump(requests::addresses(), |_, payload| {
        let rest = payload.get(requests::ADDRESS_HEADER..).unwrap_or_default();
        let value = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let local = value(requests::ADDRESS_LOCAL).and_then(|v| <[u8; 4]>::try_from(v).ok()).map(Ipv4Addr::from);
        let length = payload.get(1).copied().unwrap_or(32);
        if let Some(net) = local.and_then(|local| Ipv4Net::new(local, length).ok()) {
            let label = value(requests::ADDRESS_LABEL).map(text).unwrap_or_default();
            all.push(HostAddress { net, label, index: number32(payload, 4) });
        }
    })?;
    Ok(all)
}

/// A name in an answer, which ends in a zero.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// A net of the host's that our subnet would hide, or be hidden by.
pub fn overlap(config: &NetConfig) -> io::Result<Option<Ipv4Net>> {
    let all = addresses(&mut Netlink::route()?)?;
    let both = |net: &Ipv4Net| net.contains(&config.subnet.network()) || config.subnet.contains(&net.network());
    Ok(all.into_iter().map(|address| address.net).find(both))
}

fn label(config: &NetConfig) -> String {
    format!("{LOOPBACK}:{}", config.name)
}

fn gateway(config: &NetConfig) -> io::Result<()> {
    let mut netlink = Netlink::route()?;
    let loopback = index_of(&mut netlink, LOOPBACK)?;
    netlink.ask(requests::up(loopback))?;
    for old in ours(config, &mut netlink)? {
        if old.net.addr() != config.gateway {
            netlink.ask(requests::delete_address(old.index, old.net.addr()))?;
        }
    }
    match netlink.ask(requests::new_host_address(loopback, config.gateway, &label(config))) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Addresses of the host that bear our name.
fn ours(config: &NetConfig, netlink: &mut Netlink) -> io::Result<Vec<HostAddress>> {
    let label = label(config);
    Ok(addresses(netlink)?.into_iter().filter(|address| address.label == label).collect())
}

/// Written before forwarding is switched on, so that whoever comes after a crash knows that it was off.
fn marker(config: &NetConfig) -> PathBuf {
    config.run_dir.join("forwarding-was-off")
}

fn guard(config: &NetConfig) -> io::Result<bool> {
    let marker = marker(config);
    if !forwards()? {
        fs::write(&marker, "")?;
    }
    marker.try_exists()
}

/// Takes all of it back: for a node that leaves nothing behind.
pub fn remove(config: &NetConfig) -> Result<()> {
    remove_all(config).map_err(|e| failed("take back what all sandboxes shared", e))
}

fn remove_all(config: &NetConfig) -> io::Result<()> {
    let mut netlink = Netlink::route()?;
    for old in ours(config, &mut netlink)? {
        netlink.ask(requests::delete_address(old.index, old.net.addr()))?;
    }
    if marker(config).try_exists()? {
        set(FORWARDING, "0")?;
        fs::remove_file(marker(config))?;
    }
    match fs::remove_dir_all(config.run_dir.join("ns")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
