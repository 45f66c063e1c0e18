//! The machine goes on, perhaps as another. Nothing of the user runs meanwhile.

use moat_agent::protocol::machine::{Renewal, Renewed};

use super::root::Root;
use super::{Booted, moment, names, network, sockets};
use crate::agent::Failure;

/// Everything a copy must not share with what it was copied from, and what the kernel says of it afterwards.
pub fn renew(booted: &Booted, root: &Root, renewal: &Renewal) -> Result<Renewed, Failure> {
    if let Some(identity) = &renewal.identity {
        names::check(identity)?;
    }
    // Fails unless the kernel has done it.
    moment::begin(&booted.random, &renewal.moment)?;
    let failed = |e: std::io::Error| Failure::internal("read the link back", &e);
    if let Some(identity) = &renewal.identity {
        let before = network::read_back().map_err(failed)?;
        names::change(&root.own, identity)?;
        match &identity.network {
            Some(network) => network::configure(network)?,
            None if before.is_some() => network::clear()?,
            None => {}
        }
        let address = identity.network.as_ref().map(|network| network.address);
        if let Some((_, old)) = before.filter(|(_, old)| Some(*old) != address) {
            // Without `inet_diag` they cannot be named; their address is gone all the same.
            let _ = sockets::reset(old);
        }
    }
    Ok(Renewed {
        reseeded: true,
        machine_id: names::machine_id_of(&root.own).map_err(|e| Failure::internal("read /etc/machine-id back", &e))?,
        hostname: names::hostname(),
        link: network::read_back().map_err(failed)?,
        unix_nanos: moment::now(),
    })
}
