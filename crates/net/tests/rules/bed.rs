//! Network namespaces of a test's own: a node, what is outside, and sandboxes wired by hand.
//!
//! Every packet the tests send bears a number. One that must not arrive is known not to have: another that may was sent
//! after it, on the same processor and thus through the same queue, and has arrived everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moat_engine::fabric::Attachment;
use moat_model::network::{NetworkLease, NetworkSpec};
use moat_model::{Namespace, SandboxId, Timestamp};
use moat_net::NetConfig;
use moat_net::slots::naming;
use moat_net::table::Attached;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_getaffinity, sched_setaffinity};

use crate::packet::{self, Packet};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The node's own address, towards outside.
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// Where markers go.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// Addresses that live outside, and answer.
const HOSTS: [&str; 12] = [
    "8.8.8.8",
    "1.1.1.1",
    "151.101.0.223",
    "10.1.2.3",
    "172.16.5.5",
    "192.168.5.5",
    "100.64.3.3",
    "169.254.169.254",
    "169.254.7.7",
    "100.100.100.200",
    "198.18.5.5",
    "192.0.2.7",
];

/// A network namespace, as long as a process of ours stands in it.
#[derive(Debug)]
pub struct Space {
    child: Child,
}

impl Space {
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo in; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "in\n");
        let space = Self { child };
        space.run("ip link set lo up");
        space
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn enter(&self) {
        let file = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs something on a thread in it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                self.enter();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }

    /// Runs commands of a shell in it; they have to succeed.
    pub fn run(&self, script: &str) {
        let status = self.command(script).status().unwrap();
        assert!(status.success(), "{script}");
    }

    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid().to_string(), "-n", "sh", "-ec", script]).stdin(Stdio::null());
        command
    }

    pub fn output(&self, script: &str) -> String {
        String::from_utf8(self.command(script).output().unwrap().stdout).unwrap()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sees packets that bear our number.
#[derive(Debug)]
struct Tap {
    sockets: Vec<OwnedFd>,
    seen: BTreeSet<u32>,
}

impl Tap {
    /// On every link of a namespace.
    fn wire(space: &Space) -> Self {
        let all = rustix::net::Protocol::from_raw(std::num::NonZero::new(u32::from(3u16.to_be())).unwrap());
        Self::new(space, &[(AddressFamily::PACKET, all)])
    }

    /// Of what the namespace itself takes for its own.
    fn delivered(space: &Space) -> Self {
        let raw = [rustix::net::ipproto::UDP, rustix::net::ipproto::TCP, rustix::net::ipproto::ICMP];
        Self::new(space, &raw.map(|protocol| (AddressFamily::INET, protocol)))
    }

    fn new(space: &Space, kinds: &[(AddressFamily, rustix::net::Protocol)]) -> Self {
        let open = |(family, protocol): &(AddressFamily, rustix::net::Protocol)| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(*family, SocketType::RAW, flags, Some(*protocol)).unwrap();
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
            socket
        };
        Self { sockets: space.within(|| kinds.iter().map(open).collect()), seen: BTreeSet::new() }
    }

    fn look(&mut self) {
        let mut buffer = vec![0; 70_000];
        for socket in &self.sockets {
            while let Ok((length, _)) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                self.seen.extend(packet::number_in(&buffer[..length]));
            }
        }
    }
}

/// A sandbox, wired.
#[derive(Debug)]
pub struct Sandbox {
    pub space: Space,
    pub attached: Attached,
    raw: OwnedFd,
}

/// A node, what is outside of it, and sandboxes.
#[derive(Debug)]
pub struct Bed {
    pub node: Space,
    pub outside: Space,
    pub config: NetConfig,
    pub sandboxes: BTreeMap<&'static str, Sandbox>,
    taps: BTreeMap<&'static str, Tap>,
    next: u32,
}

/// Where packets can be seen to arrive: outside, at the node itself, and at each sandbox by its name.
pub type Place = &'static str;

impl Bed {
    /// The calling thread is in the node's namespace from now on, and on one processor.
    pub fn new(config: NetConfig) -> Self {
        let (node, outside) = (Space::new(), Space::new());
        let pid = outside.pid();
        node.run(&format!(
            "ip link add up0 type veth peer name in0 netns {pid}
             ip link set up0 address 02:77:00:00:00:02
             ip addr add {NODE}/24 dev up0; ip -6 addr add fd77::2/64 dev up0 nodad; ip link set up0 up
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip addr add {}/32 dev lo",
            config.gateway
        ));
        outside
            .run("ip link set in0 address 02:77:00:00:00:01; ip addr add 192.168.77.1/24 dev in0; ip link set in0 up");
        outside.run("ip -6 addr add fd77::1/64 dev in0 nodad; sysctl -qw net.ipv4.conf.all.rp_filter=0");
        for host in HOSTS {
            outside.run(&format!("ip addr add {host}/32 dev lo"));
        }
        node.run(&format!(
            "ip neigh replace {OUTSIDE} lladdr 02:77:00:00:00:01 dev up0 nud permanent
             ip neigh replace fd77::1 lladdr 02:77:00:00:00:01 dev up0 nud permanent
             ip route add default via {OUTSIDE}; ip -6 route add default via fd77::1"
        ));
        // Back to addresses of sandboxes there is a way too: what leaks is answered.
        outside.run(&format!(
            "ip neigh replace {NODE} lladdr 02:77:00:00:00:02 dev in0 nud permanent
             ip route add {} via {NODE}",
            config.subnet
        ));
        node.enter();
        let mut one = CpuSet::new();
        let allowed = sched_getaffinity(None).unwrap();
        one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
        sched_setaffinity(None, &one).unwrap();
        let taps = BTreeMap::from([("outside", Tap::wire(&outside)), ("node", Tap::delivered(&node))]);
        Self { node, outside, config, sandboxes: BTreeMap::new(), taps, next: 1 }
    }

    /// Wires a sandbox. Its rules are not asked here.
    pub fn wire(&mut self, name: Place, slot: u32, namespace: &str, pooled: bool, spec: NetworkSpec) -> Attached {
        let space = Space::new();
        let address = Ipv4Addr::from(u32::from(self.config.subnet.network()) + slot);
        let (link, gateway) = (naming::link(&self.config, slot), self.config.gateway);
        let (host, inner) = (mac(naming::host_mac(slot)), mac(naming::inner_mac(slot)));
        self.node.run(&format!(
            "ip link add {link} address {host} type veth peer name eth0 address {inner} netns {}
             sysctl -qw net.ipv6.conf.{link}.disable_ipv6=1 net.ipv4.conf.{link}.route_localnet=1
             ip link set {link} up; ip route add {address}/32 dev {link} src {gateway}
             ip neigh replace {address} lladdr {inner} dev {link} nud permanent",
            space.pid()
        ));
        space.run(&format!(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
             ip addr add {address}/32 dev eth0; ip link set eth0 up
             ip neigh replace {gateway} lladdr {host} dev eth0 nud permanent
             ip route add {gateway} dev eth0 scope link; ip route add default via {gateway}"
        ));
        let attachment = Attachment {
            id: SandboxId::from_parts(Timestamp::from_millis(1), [u8::try_from(slot).unwrap(); 10]),
            namespace: Namespace::parse(namespace).unwrap(),
            labels: BTreeMap::new(),
            pooled,
            tap_owner: None,
            spec,
        };
        let attached = Attached { lease: NetworkLease { slot, address }, attachment };
        let raw = space.within(|| {
            let raw = Some(rustix::net::ipproto::RAW);
            rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, raw).unwrap()
        });
        self.taps.insert(name, Tap::wire(&space));
        self.sandboxes.insert(name, Sandbox { space, attached: attached.clone(), raw });
        attached
    }

    pub fn address(&self, name: Place) -> Ipv4Addr {
        self.sandboxes[name].attached.lease.address
    }

    /// Sends a packet as root in a sandbox's namespace could, with whatever header; returns its number.
    pub fn send(&mut self, name: Place, packet: &Packet) -> u32 {
        self.next += 1;
        for bytes in packet.bytes(self.next) {
            let sandbox = &self.sandboxes[name];
            // The way out is that to any address; the packet itself says where to.
            let way = SocketAddrV4::new(PUBLIC, 0);
            rustix::net::sendto(&sandbox.raw, &bytes, SendFlags::empty(), &way).unwrap();
        }
        self.next
    }

    /// A packet that may go from a sandbox to another, or outside.
    pub fn send_to(&mut self, name: Place, to: Ipv4Addr, port: u16) -> u32 {
        let from = self.address(name);
        self.send(name, &Packet::udp(from, to, port))
    }

    /// Where these arrived, by number, once everything sent before has gone where it goes. `guide` is a sandbox that may
    /// send to all other live ones of its namespace and outside.
    pub fn arrived(&mut self, guide: Place, numbers: &[u32]) -> BTreeMap<u32, BTreeSet<Place>> {
        let marker = self.send_to(guide, PUBLIC, 9);
        let end = Instant::now() + PATIENCE;
        while !self.taps["outside"].seen.contains(&marker) {
            assert!(Instant::now() < end, "the marker never arrived");
            self.taps.get_mut("outside").unwrap().look();
            std::thread::yield_now();
        }
        self.taps.values_mut().for_each(Tap::look);
        let own = |place: &Place, number: &u32| self.taps[place].seen.contains(number);
        let places: Vec<Place> = self.taps.keys().copied().collect();
        let at = |number: &u32| places.iter().copied().filter(|place| own(place, number)).collect();
        numbers.iter().map(|number| (*number, at(number))).collect()
    }

    /// Sends one packet from a sandbox and tells where it arrived, itself left out.
    pub fn reaches(&mut self, name: Place, guide: Place, packet: &Packet) -> BTreeSet<Place> {
        let number = self.send(name, packet);
        let mut places = self.arrived(guide, &[number]).remove(&number).unwrap();
        places.remove(name);
        places
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
