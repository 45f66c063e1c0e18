//! Ports of the node given to allocations. Each is given once; before it is given it is tried.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

use moat_model::job::allocation::PortMapping;
use moat_model::job::group::{GroupNetwork, GroupNetworkMode};
use moat_model::{AllocId, ErrorKind};

use crate::error::{Error, Result};

/// Who has which port of the node.
#[derive(Debug, Default)]
pub(super) struct Ports {
    given: Mutex<BTreeMap<u16, AllocId>>,
}

/// From where ports are given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range<'a> {
    pub first: u16,
    pub last: u16,
    pub reserved: &'a [u16],
    /// Where they lead in from.
    pub address: Ipv4Addr,
}

impl Ports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, AllocId>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of one that was found again.
    pub(super) fn hold(&self, id: &AllocId, ports: &BTreeMap<String, PortMapping>) {
        let mut given = self.lock();
        for port in ports.values() {
            given.insert(port.host_port, id.clone());
        }
    }

    /// Those of one that is over.
    pub(super) fn free(&self, id: &AllocId) {
        self.lock().retain(|_, holder| holder != id);
    }

    /// One for each label, all or none. `chance`: where in the range it is begun to look.
    pub(super) fn give(
        &self,
        id: &AllocId,
        network: &GroupNetwork,
        range: Range<'_>,
        chance: u16,
    ) -> Result<BTreeMap<String, PortMapping>> {
        let mut given = self.lock();
        let mut chosen: BTreeMap<String, PortMapping> = BTreeMap::new();
        let taken = |given: &BTreeMap<u16, AllocId>, chosen: &BTreeMap<String, PortMapping>, port: u16| {
            given.get(&port).is_some_and(|holder| holder != id) || chosen.values().any(|other| other.host_port == port)
        };
        for (label, wish) in &network.ports {
            let host_port = match wish.fixed {
                Some(port) if taken(&given, &chosen, port) || !is_free(range.address, port) => {
                    let what = format!("network.port {label:?}: {port} is in use on this node");
                    return Err(Error::new(ErrorKind::Conflict, what));
                }
                Some(port) => port,
                None => {
                    let span = u32::from(range.last.saturating_sub(range.first)) + 1;
                    let nth = |n: u32| u32::from(range.first) + (u32::from(chance) + n) % span;
                    let free = |port: &u16| {
                        !range.reserved.contains(port)
                            && !taken(&given, &chosen, *port)
                            && is_free(range.address, *port)
                    };
                    let found = (0..span).filter_map(|n| u16::try_from(nth(n)).ok()).find(free);
                    found.ok_or_else(|| {
                        let what = format!("network.port {label:?}: none of {} to {} is free", range.first, range.last);
                        Error::new(ErrorKind::Exhausted, what)
                    })?
                }
            };
            let inside = if network.mode == GroupNetworkMode::Host { None } else { wish.to };
            let to = inside.unwrap_or(host_port);
            chosen.insert(label.clone(), PortMapping { host_ip: range.address.to_string(), host_port, to });
        }
        for port in chosen.values() {
            given.insert(port.host_port, id.clone());
        }
        Ok(chosen)
    }
}

/// Whether nobody on the node listens there.
fn is_free(address: Ipv4Addr, port: u16) -> bool {
    let at = SocketAddrV4::new(address, port);
    TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
}

#[cfg(test)]
mod tests {
    use moat_model::job::PortSpec;

    use super::*;

    fn network(ports: &[(&str, Option<u16>)]) -> GroupNetwork {
        let spec = |fixed| PortSpec { fixed, to: Some(80) };
        GroupNetwork {
            mode: GroupNetworkMode::Bridge,
            ports: ports.iter().map(|(label, fixed)| ((*label).to_owned(), spec(*fixed))).collect(),
            hostname: None,
        }
    }

    #[test]
    fn each_port_is_given_once_and_all_or_none() {
        let ports = Ports::default();
        let [one, two] = ["1", "2"].map(|n| AllocId::parse(&format!("{n:0>8}-0000-0000-0000-000000000000")).unwrap());
        // Whoever holds a listener has the port for the length of the test.
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let busy = holder.local_addr().unwrap().port();
        let range = Range { first: busy, last: busy, reserved: &[], address: Ipv4Addr::LOCALHOST };
        assert!(ports.give(&one, &network(&[("a", None)]), range, 7).is_err(), "somebody listens there");
        assert!(ports.give(&one, &network(&[("a", Some(busy))]), range, 7).is_err());
        let wide = Range { first: 20_000, last: 32_000, ..range };
        let first = ports.give(&one, &network(&[("a", None), ("b", None)]), wide, 65_000).unwrap();
        assert_ne!(first["a"].host_port, first["b"].host_port);
        assert_eq!(first["a"].to, 80);
        let again = network(&[("x", Some(first["a"].host_port))]);
        assert!(ports.give(&two, &again, wide, 0).is_err(), "it is the other's");
        ports.free(&one);
        assert!(ports.give(&two, &again, wide, 0).is_ok());
    }
}
