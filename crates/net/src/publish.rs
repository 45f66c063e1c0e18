//! Published ports: the host's ports are held by bound sockets, so that two sandboxes, or a sandbox and a program of the host,
//! never both believe one is theirs. The kernel's rules do the rest, and go on without the daemon.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::network::{Protocol, PublishSpec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::NetConfig;

/// One port of the host.
type HostPort = (Protocol, Ipv4Addr, u16);

/// Which ports of the host are held, and for which slot.
#[derive(Debug)]
pub struct Published {
    within: (u16, u16),
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    held: HashMap<u32, HashMap<HostPort, OwnedFd>>,
    /// Where the next search for a free port begins: two callers who ask one after the other get different ones, though
    /// neither holds its port yet.
    next: u16,
}

impl Published {
    /// None yet.
    pub fn new(config: &NetConfig) -> Self {
        Self { within: config.publish_ports, inner: Mutex::default() }
    }

    /// Holds these for a slot, beside what it holds already. All or none.
    pub fn reserve(&self, slot: u32, publish: &[PublishSpec]) -> Result<()> {
        let mut inner = self.lock();
        let mut taken = HashMap::new();
        for (index, spec) in publish.iter().enumerate() {
            for key in ports_of(index, spec)? {
                let has = inner.held.get(&slot).is_some_and(|held| held.contains_key(&key));
                if !has && !taken.contains_key(&key) {
                    taken.insert(key, bind(key).map_err(|errno| refused(index, key, errno))?);
                }
            }
        }
        if !taken.is_empty() {
            inner.held.entry(slot).or_default().extend(taken);
        }
        Ok(())
    }

    /// Lets go what a slot holds, but these. Idempotent.
    pub fn keep(&self, slot: u32, publish: &[PublishSpec]) {
        let of = |(index, spec)| ports_of(index, spec).unwrap_or_default();
        let wanted: Vec<HostPort> = publish.iter().enumerate().flat_map(of).collect();
        let mut inner = self.lock();
        let Some(held) = inner.held.get_mut(&slot) else { return };
        held.retain(|key, _| wanted.contains(key));
        if held.is_empty() {
            inner.held.remove(&slot);
        }
    }

    /// A first port of so many in a row that are free at this address now.
    pub fn choose_port(&self, address: Ipv4Addr, protocol: Protocol, count: u16) -> Result<u16> {
        let mut inner = self.lock();
        let (low, high) = (u32::from(self.within.0), u32::from(self.within.1) + 1);
        let count = u32::from(count.max(1));
        let begin = u32::from(inner.next).clamp(low, high - 1);
        let starts = (begin..high).chain(low..begin).filter(|start| start + count <= high);
        let free = |start: &u32| {
            let ports = (*start..start + count).filter_map(|port| u16::try_from(port).ok());
            // All of them are held while the rest is tried, and let go when it is decided.
            ports.map(|port| bind((protocol, address, port))).collect::<std::result::Result<Vec<_>, _>>().is_ok()
        };
        let found = starts.into_iter().find(free).and_then(|start| u16::try_from(start).ok());
        let found = found.ok_or_else(|| {
            let why =
                format!("network.publish: no {count} ports in a row are free at {address} in network.publish_ports");
            Error::new(ErrorKind::Exhausted, why)
        })?;
        inner.next =
            u16::try_from(u32::from(found) + count).ok().filter(|next| *next <= self.within.1).unwrap_or_default();
        Ok(found)
    }

    // A map is changed by whole entries only: a panic elsewhere cannot have left it half changed.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ports_of(index: usize, spec: &PublishSpec) -> Result<Vec<HostPort>> {
    let port = |offset| spec.host_port.checked_add(offset).filter(|port| *port > 0);
    let all: Option<Vec<u16>> = (0..spec.count).map(port).collect();
    let all = all.ok_or_else(|| field(index, "host_port", "the range passes 65535 or begins at 0"))?;
    Ok(all.into_iter().map(|port| (spec.protocol, spec.host_address, port)).collect())
}

/// Bound, never listening: nobody connects to the socket itself, and nobody else can have the port.
fn bind((protocol, address, port): HostPort) -> std::result::Result<OwnedFd, Errno> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Icmp => return Err(Errno::PROTONOSUPPORT),
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(address, port))?;
    if protocol == Protocol::Udp {
        // What reaches it came past the rules, before they stood: nobody will read it, so nothing is kept.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 0);
    }
    Ok(socket)
}

fn field(index: usize, name: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(&format!("network.publish[{index}].{name}"), why)
}

fn refused(index: usize, (protocol, address, port): HostPort, errno: Errno) -> Error {
    match errno {
        Errno::ADDRINUSE => Error::new(
            ErrorKind::Conflict,
            format!(
                "network.publish[{index}].host_port: {} port {port} of {address} is in use; choose another, or leave it open",
                protocol.as_str()
            ),
        ),
        Errno::ADDRNOTAVAIL => field(index, "host_address", format!("{address} is no address of this host")),
        Errno::PROTONOSUPPORT => field(index, "protocol", "tcp or udp"),
        other => Error::caused_by(
            ErrorKind::Internal,
            format!("network.publish[{index}].host_port: binding port {port} of {address}"),
            std::io::Error::from(other),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(host_port: u16, count: u16) -> PublishSpec {
        PublishSpec { host_address: own_address(), host_port, port: 80, count, protocol: Protocol::Tcp }
    }

    /// An address of loopback that no other test, of this process or another, binds ports at.
    fn own_address() -> Ipv4Addr {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        let test = name.bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        Ipv4Addr::new(127, high | 1, low, test)
    }

    fn published() -> Published {
        Published::new(&NetConfig { publish_ports: (14_000, 19_000), ..NetConfig::new("/run/moat/net") })
    }

    fn free(published: &Published, count: u16) -> u16 {
        published.choose_port(own_address(), Protocol::Tcp, count).unwrap()
    }

    #[test]
    fn a_port_is_one_slots_and_a_conflict_names_it() {
        let published = published();
        let port = free(&published, 1);
        published.reserve(1, &[spec(port, 1)]).unwrap();
        published.reserve(1, &[spec(port, 1)]).unwrap();
        let conflict = published.reserve(2, &[spec(port, 1)]).unwrap_err();
        assert_eq!(conflict.kind, ErrorKind::Conflict);
        assert!(conflict.doing.starts_with("network.publish[0].host_port"), "{conflict}");
        assert!(std::net::TcpListener::bind((own_address(), port)).is_err());
        published.keep(1, &[]);
        published.keep(1, &[]);
        published.reserve(2, &[spec(port, 1)]).unwrap();
    }

    #[test]
    fn a_change_takes_all_or_none_and_lets_go_the_rest() {
        let published = published();
        let port = free(&published, 3);
        published.reserve(1, &[spec(port, 1)]).unwrap();
        published.reserve(2, &[spec(port + 2, 1)]).unwrap();
        assert!(published.reserve(1, &[spec(port + 1, 2)]).is_err(), "the last is another's");
        published.reserve(3, &[spec(port + 1, 1)]).unwrap();
        published.keep(3, &[]);
        published.reserve(1, &[spec(port, 2)]).unwrap();
        published.keep(1, &[spec(port + 1, 1)]);
        published.reserve(2, &[spec(port, 1)]).unwrap();
        assert!(published.reserve(2, &[spec(port + 1, 1)]).is_err(), "kept");
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        let published = published();
        let bad = [
            ("host_port", spec(0, 1)),
            ("host_port", spec(65_535, 2)),
            ("host_address", PublishSpec { host_address: Ipv4Addr::new(192, 0, 2, 1), ..spec(14_000, 1) }),
            ("protocol", PublishSpec { protocol: Protocol::Icmp, ..spec(14_000, 1) }),
        ];
        for (name, spec) in bad {
            let refused = published.reserve(1, &[spec]).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::InvalidSpec, "{refused}");
            assert!(refused.doing.starts_with(&format!("network.publish[0].{name}:")), "{refused}");
        }
    }

    #[test]
    fn two_who_ask_for_a_port_get_two() {
        let published = published();
        assert_ne!(free(&published, 1), free(&published, 1));
        let small = Published::new(&NetConfig { publish_ports: (14_000, 14_001), ..NetConfig::new("/run/moat/net") });
        let refused = small.choose_port(own_address(), Protocol::Tcp, 3).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Exhausted);
    }
}
