//! What keeps the networks of two nodes on one host apart: a name, a subnet and a gateway of its own for each.
//!
//! They are derived from the node's directory, so that a node has the same after its daemon died, and are written down
//! there once something was made of them. While a daemon lives it holds a socket in the host's network namespace that says
//! what it has: names of sockets end with that namespace and with the process, as locks in files do not.

use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use ipnet::Ipv4Net;
use moat_model::ErrorKind;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::durable;
use crate::error::{Error, Result};

/// The run directory of the one node most hosts have.
const USUAL: &str = "/run/moat";
/// Subnets tried for the others: 10.101.0.0/16 to 10.228.0.0/16.
const OTHERS: u32 = 128;
/// What the sockets' names begin with.
const SOCKET: &str = "moat-net/";

/// What an operator wrote down of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Name.
    pub name: Option<String>,
    /// Subnet.
    pub subnet: Option<Ipv4Net>,
    /// Gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// What a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Prefix of links, name of the table.
    pub name: String,
    /// Addresses of sandboxes.
    pub subnet: Ipv4Net,
    /// Next hop.
    pub gateway: Ipv4Addr,
}

/// A place nobody else has, as long as this lives.
#[derive(Debug)]
pub struct Held {
    /// Which.
    pub place: Place,
    _socket: UnixListener,
}

impl Place {
    /// The `n`th candidate for a run directory; what the operator wrote down is in each.
    pub fn candidate(run_dir: &Path, wanted: &Wanted, n: u32) -> Self {
        let digest = Sha256::digest(run_dir.as_os_str().as_encoded_bytes());
        let mut seed = [0; 4];
        seed.copy_from_slice(digest.get(..4).unwrap_or(&[0; 4]));
        let seed = u32::from_be_bytes(seed);
        let usual = run_dir == Path::new(USUAL);
        let octet = |n: u32| u8::try_from((seed.wrapping_add(n) % OTHERS).min(127)).unwrap_or(0);
        let (name, second, third) = match (usual, n) {
            (true, 0) => ("moat".to_owned(), 100, 1),
            (true, n) => ("moat".to_owned(), 101 + octet(n), 2 + octet(n)),
            (false, n) => (format!("m{:07x}", seed >> 4), 101 + octet(n), 2 + octet(n)),
        };
        Self {
            name: wanted.name.clone().unwrap_or(name),
            subnet: wanted.subnet.unwrap_or_else(|| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16)),
            gateway: wanted.gateway.unwrap_or(Ipv4Addr::new(169, 254, third, 1)),
        }
    }

    /// Why a node cannot have it beside the others, or the links and routes of this host.
    fn taken(&self, others: &[Self], routes: &[(String, Ipv4Net)]) -> Option<(&'static str, String)> {
        for other in others {
            if other.name == self.name {
                let why =
                    format!("{} is the name of another node's network on this host; give each its own", self.name);
                return Some(("network.name", why));
            }
            if overlap(other.subnet, self.subnet) {
                let why = format!("{} overlaps {}, which is that of {}", self.subnet, other.subnet, other.name);
                return Some(("network.subnet", why));
            }
            if other.gateway == self.gateway {
                let why = format!("{} is that of {}; give each node its own", self.gateway, other.name);
                return Some(("network.gateway", why));
            }
        }
        let foreign = |(link, range): &&(String, Ipv4Net)| !self.owns(link) && overlap(*range, self.subnet);
        routes.iter().find(foreign).map(|(link, range)| {
            let why = format!("{} overlaps {range}, which this host reaches by {link}; take another", self.subnet);
            ("network.subnet", why)
        })
    }

    /// Whether a link bears its name.
    fn owns(&self, link: &str) -> bool {
        let number = link.strip_prefix(self.name.as_str());
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    fn socket(&self) -> String {
        format!("{SOCKET}{}/{}/{}", self.name, self.subnet, self.gateway)
    }

    fn parse(socket: &str) -> Option<Self> {
        let mut parts = socket.strip_prefix(SOCKET)?.splitn(2, '/');
        let (name, rest) = (parts.next()?, parts.next()?);
        let (subnet, gateway) = rest.rsplit_once('/')?;
        Some(Self { name: name.to_owned(), subnet: subnet.parse().ok()?, gateway: gateway.parse().ok()? })
    }
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Takes a place for the node of this run directory: the one it had, else the first that is free. Blocking, briefly.
pub fn take(run_dir: &Path, dir: &Path, wanted: &Wanted) -> Result<Held> {
    let path = dir.join("place.json");
    let fits = |had: &Place| {
        wanted.name.as_ref().is_none_or(|name| *name == had.name)
            && wanted.subnet.is_none_or(|subnet| subnet == had.subnet)
            && wanted.gateway.is_none_or(|gateway| gateway == had.gateway)
    };
    // A preference only: without one that can be read, the same candidates are tried as the first time.
    let had = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Place>(&bytes).ok()).filter(fits);
    let candidates = had.into_iter().chain((0..OTHERS).map(|n| Place::candidate(run_dir, wanted, n)));
    let mut first = None;
    for place in candidates {
        match hold(place) {
            Ok(held) => {
                crate::guard::make_private(dir)?;
                let body = serde_json::to_vec(&held.place)
                    .map_err(|e| Error::caused_by(ErrorKind::Internal, "write down the node's network", e))?;
                durable::replace(&path, &body)
                    .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("write {}", path.display()), e))?;
                return Ok(held);
            }
            Err(error) => first = Some(first.unwrap_or(error)),
        }
    }
    Err(first.unwrap_or_else(|| Error::new(ErrorKind::Conflict, "network.subnet: none is free")))
}

/// Whether a place would be free: for a preflight, which takes none.
pub fn free(run_dir: &Path, wanted: &Wanted) -> std::result::Result<Place, String> {
    let (others, routes) = (others(), routes());
    let mut first = None;
    for n in 0..OTHERS {
        let place = Place::candidate(run_dir, wanted, n);
        // A node that runs already holds its own.
        let others: Vec<Place> = others.iter().filter(|other| **other != place).cloned().collect();
        match place.taken(&others, &routes) {
            None => return Ok(place),
            Some((field, why)) => first = Some(first.unwrap_or_else(|| format!("{field}: {why}"))),
        }
    }
    Err(first.unwrap_or_default())
}

/// Says first that it has it and looks then: of two that want the same at once, both may be refused, never both served.
fn hold(place: Place) -> Result<Held> {
    let conflict = |field: &str, why: String| Error::new(ErrorKind::Conflict, format!("{field}: {why}"));
    let internal = |e: std::io::Error| Error::caused_by(ErrorKind::Internal, "hold the name of the network", e);
    let address = SocketAddr::from_abstract_name(place.socket()).map_err(internal)?;
    let socket = UnixListener::bind_addr(&address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let why = format!("{} is the name of another node's network on this host; give each its own", place.name);
            conflict("network.name", why)
        }
        _ => internal(error),
    })?;
    let others: Vec<Place> = others().into_iter().filter(|other| *other != place).collect();
    match place.taken(&others, &routes()) {
        Some((field, why)) => Err(conflict(field, why)),
        None => Ok(Held { place, _socket: socket }),
    }
}

/// Places of the daemons that live in this network namespace.
fn others() -> Vec<Place> {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let named = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'));
    named.filter_map(Place::parse).collect()
}

/// Links and the ranges that are reached by them; the default route is no range.
fn routes() -> Vec<(String, Ipv4Net)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    table.lines().skip(1).filter_map(route).collect()
}

fn route(line: &str) -> Option<(String, Ipv4Net)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // In the order of bytes of the network, read as a number of this machine.
    let number = |at: usize| Some(u32::from_be(u32::from_str_radix(fields.get(at)?, 16).ok()?));
    let (range, mask) = (number(1)?, number(7)?);
    let range = Ipv4Net::with_netmask(range.into(), mask.into()).ok()?;
    (range.prefix_len() > 0).then(|| ((*fields.first().unwrap_or(&"")).to_owned(), range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, subnet: &str, gateway: &str) -> Place {
        Place { name: name.to_owned(), subnet: subnet.parse().unwrap(), gateway: gateway.parse().unwrap() }
    }

    #[test]
    fn every_run_directory_has_a_place_of_its_own() {
        let usual = Place::candidate(Path::new(USUAL), &Wanted::default(), 0);
        assert_eq!(usual, place("moat", "10.100.0.0/16", "169.254.1.1"));
        let (a, b) = (Path::new("/run/a"), Path::new("/run/b"));
        let of = |dir| Place::candidate(dir, &Wanted::default(), 0);
        assert_eq!(of(a), of(a));
        assert_ne!(of(a).name, of(b).name);
        let names: std::collections::BTreeSet<_> =
            (0..OTHERS).map(|n| Place::candidate(a, &Wanted::default(), n).subnet).collect();
        assert_eq!(names.len(), 128);
        for n in 0..OTHERS {
            let one = Place::candidate(a, &Wanted::default(), n);
            let net = moat_net::NetConfig {
                name: one.name,
                subnet: one.subnet,
                gateway: one.gateway,
                ..moat_net::NetConfig::new("/run/a/net")
            };
            assert_eq!(net.check(), Ok(()));
        }
    }

    #[test]
    fn what_another_node_or_the_host_has_is_refused_by_field() {
        let mine = place("moat", "10.100.0.0/16", "169.254.1.1");
        assert_eq!(Place::parse(&mine.socket()), Some(mine.clone()));
        let cases = [
            (vec![place("moat", "10.7.0.0/16", "169.254.9.1")], vec![], "network.name"),
            (vec![place("b", "10.0.0.0/8", "169.254.9.1")], vec![], "network.subnet"),
            (vec![place("b", "10.7.0.0/16", "169.254.1.1")], vec![], "network.gateway"),
            (vec![], vec![("eth0", "10.100.3.0/24")], "network.subnet"),
            (vec![], vec![("moatx", "10.100.3.0/24")], "network.subnet"),
        ];
        for (others, routes, field) in cases {
            let routes: Vec<_> =
                routes.into_iter().map(|(l, r): (&str, &str)| (l.to_owned(), r.parse().unwrap())).collect();
            assert_eq!(mine.taken(&others, &routes).map(|(at, _)| at), Some(field));
        }
        let own = [("moat1f".to_owned(), "10.100.0.9/32".parse().unwrap())];
        assert_eq!(mine.taken(&[place("b", "10.7.0.0/16", "169.254.9.1")], &own), None);
    }

    #[test]
    fn routes_are_read() {
        let line = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0";
        assert_eq!(route(line), Some(("eth0".to_owned(), "192.168.0.0/16".parse().unwrap())));
        assert_eq!(route("eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0"), None);
    }

    #[test]
    fn a_living_daemons_place_is_its_own_and_is_had_again_after_it() {
        let dir = tempfile::tempdir().unwrap();
        // Names and ranges of this test's own: others run beside it.
        let id = format!("t{:06x}", std::process::id() & 0xff_ffff);
        let subnet: Ipv4Net = "198.18.77.0/24".parse().unwrap();
        let gateway = Some("169.254.254.1".parse().unwrap());
        let wanted = Wanted { name: Some(id), subnet: Some(subnet), gateway };
        let held = take(dir.path(), &dir.path().join("net"), &wanted).unwrap();
        let other = tempfile::tempdir().unwrap();
        let refused = take(other.path(), &other.path().join("net"), &wanted).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(refused.chain().contains("network.name"), "{}", refused.chain());
        let near = Wanted {
            name: Some("tother".to_owned()),
            subnet: Some("198.18.0.0/16".parse().unwrap()),
            ..wanted.clone()
        };
        let refused = take(other.path(), &other.path().join("net"), &near).unwrap_err();
        assert!(refused.chain().contains("network.subnet"), "{}", refused.chain());
        let place = held.place.clone();
        drop(held);
        assert_eq!(take(dir.path(), &dir.path().join("net"), &wanted).unwrap().place, place);
    }
}
