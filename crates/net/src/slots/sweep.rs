//! After a restart: what the living hold is kept and put in order, everything else that bears our name is removed.
//!
//! Who lives in which namespace is nowhere written down. A link tells which namespace its other end is in, by an id that the
//! kernel also gives for the namespace of any process: so all processes are looked at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;

use super::make::{self, INNER_INDEX, Made};
use super::{Held, host, namespace, naming, requests, shape};
use crate::NetConfig;
use crate::netlink::{Netlink, attributes, number32};

/// A link of ours, as it was found.
#[derive(Debug, Clone, Copy)]
struct Found {
    index: u32,
    namespace: Option<u32>,
}

/// Removes what is nobody's, and returns what is somebody's, in order again.
pub fn restore(config: &NetConfig, held: &[Held]) -> Result<Vec<(u32, Arc<Made>)>> {
    let failed = |doing: &str| {
        let doing = format!("network: {doing}");
        move |e: io::Error| Error::caused_by(ErrorKind::Internal, doing, e)
    };
    let links = links(config).map_err(failed("list the host's links"))?;
    for slot in links.keys().filter(|slot| !held.iter().any(|held| held.lease.slot == **slot)) {
        tracing::info!(link = naming::link(config, *slot), "nobody's: removed");
        make::remove(config, *slot)?;
    }
    forget_ways(config, held).map_err(failed("clear its directory"))?;
    let mut namespaces = namespaces().map_err(failed("look for the namespaces of the living"))?;
    let mut all = Vec::new();
    for one in held {
        let lease = one.lease;
        let found = links.get(&lease.slot);
        let inside = found.and_then(|found| namespaces.remove(&found.namespace?));
        let made = match (found, inside) {
            (Some(found), Some(inside)) => Made { inside, index: found.index, address: lease.address },
            (found, _) => {
                tracing::info!(slot = lease.slot, address = %lease.address, "nobody lives in a sandbox's network");
                if found.is_some() {
                    // Nobody can come to live there again, and the link may be going this moment.
                    make::remove(config, lease.slot)?;
                }
                // Taken and not made, or about to be removed; but a machine may lie on disk, and come back to its place.
                if one.tap_owner.is_none() {
                    continue;
                }
                make::make(config, &lease)?
            }
        };
        repair(config, one, &made).map_err(failed(&format!("put slot {:x} in order", lease.slot)))?;
        all.push((lease.slot, Arc::new(made)));
    }
    Ok(all)
}

fn links(config: &NetConfig) -> io::Result<BTreeMap<u32, Found>> {
    let mut all = BTreeMap::new();
    Netlink::route()?.dump(requests::links(), |_, payload| {
        let rest = payload.get(requests::LINK_HEADER..).unwrap_or_default();
        let value = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let slot = value(requests::LINK_NAME).and_then(|name| naming::slot_of(config, &host::text(name)));
        if let Some(slot) = slot {
            let namespace = value(requests::LINK_NAMESPACE_ID).map(|id| number32(id, 0));
            all.insert(slot, Found { index: number32(payload, 4), namespace });
        }
    })?;
    Ok(all)
}

/// Those of slots that nobody holds; they led to a daemon that is no more.
fn forget_ways(config: &NetConfig, held: &[Held]) -> io::Result<()> {
    for entry in fs::read_dir(config.run_dir.join("ns"))? {
        let entry = entry?;
        let slot = entry.file_name().to_str().and_then(|name| u32::from_str_radix(name, 16).ok());
        if !held.iter().any(|held| Some(held.lease.slot) == slot) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The namespaces processes live in, by the id this one knows them by.
fn namespaces() -> io::Result<BTreeMap<u32, Arc<OwnedFd>>> {
    let mut netlink = Netlink::route()?;
    let mut seen = Vec::new();
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        // A process that ended meanwhile lives nowhere.
        let path = entry.path().join("ns/net");
        let Ok(name) = fs::read_link(&path) else { continue };
        if seen.contains(&name) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        seen.push(name);
        let file = OwnedFd::from(file);
        if let Ok((_, payload)) = netlink.get(requests::id_of(file.as_fd())) {
            let rest = payload.get(requests::NAMESPACE_HEADER..).unwrap_or_default();
            let id = attributes(rest).find(|(kind, _)| *kind == requests::NAMESPACE_ID).map(|(_, v)| number32(v, 0));
            // One without an id is no link's other side.
            if let Some(id) = id.filter(|id| id.cast_signed() >= 0) {
                all.insert(id, Arc::new(file));
            }
        }
    }
    Ok(all)
}

fn repair(config: &NetConfig, held: &Held, made: &Made) -> io::Result<()> {
    let Held { lease, limits, tap_owner } = held;
    let mut outside = Netlink::route()?;
    make::outer_settings(&naming::link(config, lease.slot))?;
    outside.ask_all(make::outer(config, lease, made.index))?;
    shape::set(&mut outside, made.index, limits.down_bits_per_sec)?;
    namespace::within(made.inside.as_fd(), || {
        make::furnish(config, lease, *tap_owner)?;
        shape::set(&mut Netlink::route()?, INNER_INDEX, limits.up_bits_per_sec)
    })?;
    make::show(&naming::way(config, lease.slot), &made.inside)
}
