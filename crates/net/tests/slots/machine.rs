//! Slots of machines: a guest behind the tap is a kernel of its own here, a second namespace whose link's frames are carried
//! to the tap as a monitor does; what no kernel would send is put onto the tap by hand.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use moat_engine::fabric::{Attachment, Fabric};
use moat_model::network::{
    Action, Destination, EgressPolicy, EgressRule, NetworkLease, NetworkLimits, Protocol, PublishSpec,
};
use moat_net::slots::{namespace, naming, tap};
use moat_net::{Net, NetConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::harness::*;
use super::packet::{Packet, number_in};

/// `struct virtio_net_hdr` that says nothing.
const BARE: [u8; 10] = [0; 10];
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// Where numbered packets go.
const PORT: u16 = 9;

fn machine(n: u32) -> Attachment {
    Attachment { tap_owner: Some(0x5000_0000), ..sandbox(n) }
}

/// [`in_own_network`], where machines can have one.
fn in_network_with_taps<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    if !Path::new("/dev/net/tun").exists() {
        return moat_testkit::not_run_here("no /dev/net/tun: modprobe tun");
    }
    in_own_network(test);
}

/// The monitor's and the guest's part of a machine.
struct Guest {
    space: OwnedFd,
    carrier: Option<JoinHandle<()>>,
    ends: Arc<AtomicBool>,
}

impl Guest {
    /// Boots: opens the tap, and carries frames between it and the link of a namespace with the place's addresses.
    fn boot(node: &Node, lease: &NetworkLease) -> Self {
        let place = node.net.place(lease);
        let theirs = node.inside(lease, || tap::open(&place.tap)).unwrap();
        let (space, ours) = namespace::fresh(|space| Ok((space, tap::open("eth0")?))).unwrap();
        namespace::within(space.as_fd(), || {
            let hex = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
            let (address, gateway) = (place.address.to_string(), place.gateway.to_string());
            ip(&["link", "set", "lo", "up"]);
            ip(&["link", "set", "eth0", "address", &hex(place.mac), "up"]);
            ip(&["addr", "add", &format!("{address}/32"), "dev", "eth0"]);
            ip(&["route", "add", &gateway, "dev", "eth0", "scope", "link"]);
            ip(&["route", "add", "default", "via", &gateway]);
            Ok(())
        })
        .unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let carrier = std::thread::spawn(move || carry(&theirs, &ours, &told));
        Self { space, carrier: Some(carrier), ends }
    }

    fn inside<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        namespace::within(self.space.as_fd(), || Ok(job())).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        let _ = self.carrier.take().map(JoinHandle::join);
    }
}

fn carry(one: &OwnedFd, other: &OwnedFd, ends: &AtomicBool) {
    let mut frame = vec![0; 70_000];
    let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !ends.load(Ordering::Acquire) {
        let mut both = [PollFd::new(one, PollFlags::IN), PollFd::new(other, PollFlags::IN)];
        if poll(&mut both, Some(&moment)).is_err() {
            continue;
        }
        for (from, to) in [(one, other), (other, one)] {
            while let Ok(length) = rustix::io::read(from, frame.as_mut_slice()) {
                // A link that is full drops it, as links do.
                let _ = rustix::io::write(to, &frame[..length]);
            }
        }
    }
}

/// Who puts frames onto a tap by hand, on one processor, so that they come in order.
struct Liar {
    tap: OwnedFd,
    lease: NetworkLease,
    gateway: Ipv4Addr,
    next: u32,
}

impl Liar {
    fn new(node: &Node, lease: &NetworkLease) -> Self {
        let mut one = CpuSet::new();
        let allowed = sched_getaffinity(None).unwrap();
        one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
        sched_setaffinity(None, &one).unwrap();
        let place = node.net.place(lease);
        let tap = node.inside(lease, || tap::open(&place.tap)).unwrap();
        Self { tap, lease: *lease, gateway: place.gateway, next: 1 }
    }

    fn put(&self, from: [u8; 6], to: [u8; 6], kind: u16, payload: &[u8]) {
        let frame = [BARE.as_slice(), &to, &from, &kind.to_be_bytes(), payload].concat();
        assert_eq!(rustix::io::write(&self.tap, &frame).unwrap(), frame.len());
    }

    fn send(&mut self, from: [u8; 6], kind: u16, packet: &Packet) -> u32 {
        self.next += 1;
        for mut bytes in packet.bytes(self.next) {
            add_checksum(&mut bytes);
            self.put(from, naming::host_mac(self.lease.slot), kind, &bytes);
        }
        self.next
    }

    /// As the place's rightful owner.
    fn honest(&mut self, to: Ipv4Addr) -> u32 {
        let packet = Packet::udp(self.lease.address, to, PORT);
        self.send(naming::inner_mac(self.lease.slot), IPV4, &packet)
    }

    /// Once what it sends arrives where that is watched: that links have a carrier is noticed some time after they are up.
    async fn is_through(&mut self, to: Ipv4Addr, watch: &Watch) {
        let arrives = async || {
            let sent = self.honest(to);
            watch.frames().iter().any(|frame| number_in(frame).is_some()).then_some(sent)
        };
        moat_testkit::wait_until(PATIENCE, "a way", arrives).await.unwrap();
        let last = self.honest(to);
        watch.numbers_upto(last);
    }

    /// Frames that came for the guest.
    fn heard(&self) -> Vec<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let mut all = Vec::new();
        while let Ok(length) = rustix::io::read(&self.tap, frame.as_mut_slice()) {
            all.push(frame[BARE.len()..length].to_vec());
        }
        all
    }
}

/// Sees every frame at the links of a namespace.
struct Watch(OwnedFd);

impl Watch {
    fn here() -> Self {
        let all = rustix::net::Protocol::from_raw(std::num::NonZero::new(u32::from(3u16.to_be())).unwrap());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(all)).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
        Self(socket)
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        let mut all = Vec::new();
        while let Ok((length, _)) = rustix::net::recv(&self.0, frame.as_mut_slice(), RecvFlags::empty()) {
            all.push(frame[..length].to_vec());
        }
        all
    }

    /// Numbers that were seen until this one was.
    fn numbers_upto(&self, last: u32) -> BTreeSet<u32> {
        let end = Instant::now() + PATIENCE;
        let mut all = BTreeSet::new();
        while !all.contains(&last) {
            assert!(Instant::now() < end, "number {last} never arrived: {all:?}");
            all.extend(self.frames().iter().filter_map(|frame| number_in(frame)));
            std::thread::yield_now();
        }
        all
    }
}

/// Of the header, which kernels add where they make it.
fn add_checksum(packet: &mut [u8]) {
    let header = &packet[..usize::from(packet[0] & 0xf) * 4];
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
}

fn arp(operation: u8, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, address) in [sender, target] {
        bytes.extend(mac);
        bytes.extend(address.octets());
    }
    bytes
}

#[test]
fn a_machine_talks_as_a_container_does() {
    in_network_with_taps(|| async {
        let node = Node::start(1).await;
        node.is_full().await;
        let before = audit(&node).lines().count();
        let mut web = machine(1);
        web.spec.name = named(1, "web").spec.name;
        web.spec.publish = vec![PublishSpec {
            host_address: Ipv4Addr::LOCALHOST,
            host_port: 8080,
            port: 80,
            count: 1,
            protocol: Protocol::Tcp,
        }];
        let (m, c) = (node.connect(&web).await, node.connect(&sandbox(2)).await);
        let second = node.connect(&machine(3)).await;
        let guests = [Guest::boot(&node, &m), Guest::boot(&node, &second)];
        guests[0].inside(|| serve(Ipv4Addr::UNSPECIFIED, 80));
        guests[1].inside(|| serve(Ipv4Addr::UNSPECIFIED, 80));
        node.inside(&c, || serve(Ipv4Addr::UNSPECIFIED, 80));
        // Machine and container, both ways; machine and machine; the host; a published port.
        assert_eq!(guests[0].inside(|| ask(c.address, 80)).unwrap(), m.address.to_string());
        assert_eq!(node.inside(&c, || ask(m.address, 80)).unwrap(), c.address.to_string());
        assert_eq!(guests[0].inside(|| ask(second.address, 80)).unwrap(), m.address.to_string());
        let gateway = node.net.config().gateway;
        assert_eq!(ask(m.address, 80).unwrap(), gateway.to_string());
        assert_eq!(ask(Ipv4Addr::LOCALHOST, 8080).unwrap(), gateway.to_string());
        // The resolver knows it by its address, and answers it.
        for (asked, outcome) in [("web.moat.internal", Some(m.address)), ("nobody.moat.internal", None)] {
            assert_eq!(guests[1].inside(|| look_up(gateway, asked)), outcome, "{asked}");
        }
        drop(guests);
        for lease in [m, c, second] {
            node.disconnect(&lease).await;
        }
        node.is_full().await;
        assert_eq!(audit(&node).lines().count(), before);
        node.net.stop().await.unwrap();
        assert_eq!(ip(&["-o", "link"]).lines().count(), 1, "the loopback alone");
    });
}

/// The address of a name, by a question of our own.
fn look_up(server: Ipv4Addr, name: &str) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    socket.send_to(&question, (server, 53)).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap();
    assert_eq!(answer[..2], question[..2]);
    // One address, at the end.
    let octets: [u8; 4] = answer[..length].last_chunk().copied().unwrap();
    (answer[7] == 1).then(|| Ipv4Addr::from(octets))
}

#[test]
fn a_guest_that_lies_reaches_nobody() {
    in_network_with_taps(|| async {
        let node = Node::start(0).await;
        let (m, c) = (node.connect(&machine(1)).await, node.connect(&sandbox(2)).await);
        let stranger = Attachment { namespace: moat_model::Namespace::parse("blue").unwrap(), ..sandbox(3) };
        let blue = node.connect(&stranger).await;
        let (host, peer, other) = (Watch::here(), node.inside(&c, Watch::here), node.inside(&blue, Watch::here));
        let mut liar = Liar::new(&node, &m);
        let (mac, host_mac) = (naming::inner_mac(m.slot), naming::host_mac(m.slot));
        let udp = |from, to| Packet::udp(from, to, PORT);

        liar.is_through(c.address, &peer).await;
        host.frames();

        // IPv4: it gets to the host's link, and no further.
        let drops = node.net.status().await.drops.unwrap();
        let lies = [
            liar.send(mac, IPV4, &udp(c.address, blue.address)),
            liar.send(mac, IPV4, &udp(Ipv4Addr::new(10, 9, 9, 9), c.address)),
            liar.send(mac, IPV4, &udp(Ipv4Addr::LOCALHOST, c.address)),
            liar.send(mac, IPV4, &udp(liar.gateway, c.address)),
            liar.send(mac, IPV4, &udp(Ipv4Addr::UNSPECIFIED, c.address)),
            // As the neighbour, to a neighbour; another hardware address; another namespace; another protocol; options.
            liar.send(naming::inner_mac(c.slot), IPV4, &udp(c.address, c.address)),
            liar.send(naming::inner_mac(c.slot), IPV4, &udp(m.address, c.address)),
            liar.send([2, 0, 0, 0, 0, 9], IPV4, &udp(m.address, c.address)),
            liar.send(mac, IPV4, &udp(m.address, blue.address)),
            liar.send(mac, IPV4, &Packet::new(m.address, c.address, 47, PORT)),
            liar.send(mac, IPV4, &Packet { options: vec![1; 4], ..udp(m.address, c.address) }),
        ];
        let marker = liar.honest(c.address);
        let seen = peer.numbers_upto(marker);
        assert_eq!(seen, BTreeSet::from([marker]), "of {lies:?}");
        assert_eq!(other.frames().iter().filter_map(|frame| number_in(frame)).count(), 0);
        assert!(host.numbers_upto(marker).len() > lies.len(), "they went as far as the host's link");
        assert_eq!(node.net.status().await.drops.unwrap() - drops, lies.len() as u64, "and were counted there");

        // Anything else does not even get to the host's link.
        let everybody = [0xff; 6];
        let mut packet = udp(m.address, c.address).bytes(7).remove(0);
        add_checksum(&mut packet);
        let tagged = [&[0, 5, 8, 0], packet.as_slice()].concat();
        liar.put(mac, host_mac, 0x86dd, &[&[0x60, 0, 0, 0], [0; 60].as_slice()].concat());
        liar.put(mac, [0x33, 0x33, 0, 0, 0, 1], 0x86dd, &[&[0x60, 0, 0, 0], [0; 60].as_slice()].concat());
        liar.put(mac, host_mac, 0x8100, &tagged);
        liar.put(mac, host_mac, 0x88a8, &tagged);
        liar.put(mac, [1, 0x80, 0xc2, 0, 0, 0x0e], 0x88cc, &packet);
        liar.put(mac, host_mac, 0x8863, &packet);
        liar.put(mac, host_mac, 0x0060, &packet);
        let nobody = [0; 6];
        let questions = [
            // Who has an address of the host's, or the neighbour's; as somebody else; or by somebody else's hands.
            arp(1, (mac, m.address), (nobody, Ipv4Addr::LOCALHOST)),
            arp(1, (mac, m.address), (nobody, c.address)),
            arp(1, (mac, c.address), (nobody, liar.gateway)),
            arp(1, (mac, Ipv4Addr::UNSPECIFIED), (nobody, liar.gateway)),
            arp(1, (naming::inner_mac(c.slot), m.address), (nobody, liar.gateway)),
            // I am the neighbour, and the gateway; asked by nobody.
            arp(2, (mac, c.address), (host_mac, liar.gateway)),
            arp(1, (mac, c.address), (nobody, c.address)),
            arp(2, (mac, liar.gateway), (everybody, liar.gateway)),
        ];
        for question in &questions {
            liar.put(mac, everybody, ARP, question);
        }
        let marker = liar.honest(c.address);
        assert_eq!(peer.numbers_upto(marker), BTreeSet::from([marker]));
        let link = host.frames();
        assert!(link.iter().any(|frame| number_in(frame) == Some(marker)));
        let strange: Vec<_> = link.iter().filter(|frame| frame[12..14] != [8, 0]).collect();
        assert!(strange.is_empty(), "{strange:x?}");
        let neighbours = ip(&["neigh", "show", "nud", "all"]);
        let of_link = |line: &&str| line.contains(&naming::link(node.net.config(), m.slot));
        assert!(neighbours.lines().filter(of_link).all(|line| line.contains("PERMANENT") || line.contains("NOARP")));

        // Who has the gateway is asked and answered.
        let answered = async || {
            liar.put(mac, everybody, ARP, &arp(1, (mac, m.address), (nobody, liar.gateway)));
            liar.heard().into_iter().find(|frame| frame[12..14] == ARP.to_be_bytes())
        };
        let answer = moat_testkit::wait_until(PATIENCE, "the gateway's answer", answered).await.unwrap();
        assert_eq!(answer[14..42], arp(2, (host_mac, liar.gateway), (mac, m.address)));
        for lease in [m, c, blue] {
            node.disconnect(&lease).await;
        }
        node.net.stop().await.unwrap();
    });
}

#[test]
fn limits_and_changes_hold_for_a_machine() {
    in_network_with_taps(|| async {
        let node = Node::start(0).await;
        let mut slow = machine(1);
        let (m, c, guide) =
            (node.connect(&slow).await, node.connect(&sandbox(2)).await, node.connect(&machine(3)).await);
        let peer = node.inside(&c, Watch::here);
        let mut liar = Liar::new(&node, &m);
        let mut guide = Liar { next: 1_000_000, ..Liar::new(&node, &guide) };

        liar.is_through(c.address, &peer).await;
        guide.is_through(c.address, &peer).await;

        // Packets: as many as the time that went by allows, and a burst.
        slow.spec.limits = NetworkLimits { up_packets_per_sec: Some(2), ..NetworkLimits::default() };
        node.net.change(&m, &slow).await.unwrap();
        let begin = Instant::now();
        for _ in 0..500 {
            liar.honest(c.address);
        }
        let time = begin.elapsed();
        let marker = guide.honest(c.address);
        let passed = peer.numbers_upto(marker).len() - 1;
        assert!(passed >= 1 && passed <= 10 + 3 * (1 + time.as_secs() as usize), "{passed} in {time:?}");

        // Bits: frames of a machine wait in the same bucket.
        slow.spec.limits = NetworkLimits { up_bits_per_sec: Some(80_000), ..NetworkLimits::default() };
        node.net.change(&m, &slow).await.unwrap();
        let begin = Instant::now();
        for _ in 0..2000 {
            liar.honest(c.address);
        }
        let marker = guide.honest(c.address);
        let passed = peer.numbers_upto(marker).len() - 1;
        let time = begin.elapsed();
        // A bucket is below 50,000 bytes, 10,000 come each second, and none of these frames is below 54.
        assert!(passed >= 1 && passed <= 1000 + 200 * (1 + time.as_secs() as usize), "{passed} in {time:?}");

        // Another policy: nothing passes, and what stands is cut.
        slow.spec.limits = NetworkLimits::default();
        node.net.change(&m, &slow).await.unwrap();
        drop(liar);
        let guest = Guest::boot(&node, &m);
        let listener = node.inside(&c, || std::net::TcpListener::bind((c.address, 81))).unwrap();
        let mut stream = guest.inside(|| TcpStream::connect((c.address, 81))).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        stream.write_all(b"before").unwrap();
        accepted.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = [0; 6];
        std::io::Read::read_exact(&mut accepted, &mut said).unwrap();
        let to = Destination::Cidr(format!("{}/32", c.address).parse().unwrap());
        let rule = EgressRule { action: Action::Deny, to, ports: Vec::new(), protocol: None };
        slow.spec.egress = EgressPolicy { default: Action::Allow, rules: vec![rule] };
        node.net.change(&m, &slow).await.unwrap();
        stream.write_all(b"after").unwrap();
        drop(guest);
        let mut liar = Liar { next: 10_000, ..Liar::new(&node, &m) };
        let late = liar.honest(c.address);
        let marker = guide.honest(c.address);
        assert!(!peer.numbers_upto(marker).contains(&late));
        accepted.set_nonblocking(true).unwrap();
        match std::io::Read::read(&mut accepted, &mut said) {
            Ok(0) => {}
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::ConnectionReset) => {}
            other => assert!(other.is_err(), "{other:?}: {said:?}"),
        }
        for lease in [m, c, guide.lease] {
            node.disconnect(&lease).await;
        }
        node.net.stop().await.unwrap();
    });
}

/// What a slot's namespace has, numbers that go on left out.
fn furniture(node: &Node, lease: &NetworkLease) -> String {
    let show = "ip link; ip addr; ip route; ip neigh show nud permanent; for l in eth0 tap0; do tc qdisc show dev $l; \
                tc filter show dev $l ingress | grep -v installed; done";
    node.inside(lease, || {
        let out = std::process::Command::new("sh").args(["-c", show]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    })
}

#[test]
fn a_machine_and_its_place_outlive_the_daemon() {
    in_network_with_taps(|| async {
        let node = Node::start(0).await;
        let mut limited = machine(1);
        limited.spec.limits.up_bits_per_sec = Some(1_000_000_000);
        let (m, c) = (node.connect(&limited).await, node.connect(&sandbox(2)).await);
        let mut living = super::kill::live_in(&node.net.place(&c).netns);
        let mut monitor = super::kill::live_in(&node.net.place(&m).netns);
        for child in [&living, &monitor] {
            let there = async || {
                let comm = fs::read_to_string(format!("/proc/{}/comm", child.id())).ok()?;
                (comm.trim() == "sleep").then_some(())
            };
            moat_testkit::wait_until(PATIENCE, "somebody who lives there", there).await.unwrap();
        }
        let guest = Guest::boot(&node, &m);
        guest.inside(|| serve(Ipv4Addr::UNSPECIFIED, 80));
        node.inside(&c, || serve(Ipv4Addr::UNSPECIFIED, 80));
        let furnished = furniture(&node, &m);
        assert!(furnished.contains("tap0") && furnished.matches("mirred").count() == 4, "{furnished}");
        assert!(!furnished.contains(&m.address.to_string()), "the guest alone has the address:\n{furnished}");
        let place = node.net.place(&m);

        // Another daemon, while the machine runs: what it finds is what was, and connections stand.
        let held = vec![(m, limited.clone()), (c, sandbox(2))];
        let node = again(node, held.clone()).await;
        assert_eq!(furniture(&node, &m), furnished);
        assert_eq!(node.net.place(&m), place);
        assert_eq!(node.inside(&c, || ask(m.address, 80)).unwrap(), c.address.to_string());
        assert_eq!(guest.inside(|| ask(c.address, 80)).unwrap(), m.address.to_string());

        // The machine lies on disk: its namespace goes with the daemon, and is there again, the same, for the next.
        drop(guest);
        monitor.kill().unwrap();
        monitor.wait().unwrap();
        let node = again(node, held).await;
        assert_eq!(node.net.place(&m), place);
        let guest = Guest::boot(&node, &m);
        guest.inside(|| serve(Ipv4Addr::UNSPECIFIED, 80));
        assert_eq!(node.inside(&c, || ask(m.address, 80)).unwrap(), c.address.to_string());
        assert_eq!(guest.inside(|| ask(c.address, 80)).unwrap(), m.address.to_string());
        assert_eq!(furniture(&node, &m).lines().count(), furnished.lines().count());
        drop(guest);
        living.kill().unwrap();
        living.wait().unwrap();
        for lease in [m, c] {
            node.disconnect(&lease).await;
        }
        node.net.stop().await.unwrap();
        assert_eq!(ip(&["-o", "link"]).lines().count(), 1, "the loopback alone");
    });
}

/// Another daemon in the place of one that is gone.
async fn again(node: Node, held: Vec<(NetworkLease, Attachment)>) -> Node {
    let Node { net, dir } = node;
    let config: NetConfig = net.config().clone();
    let gone = Arc::downgrade(&net);
    drop(net);
    assert!(gone.upgrade().is_none());
    // Until the sockets of the one before are closed.
    let start = async || {
        let net = Net::start(config.clone()).await.ok()?;
        net.restore(held.clone()).await.ok().map(|()| net)
    };
    let net = moat_testkit::wait_until(PATIENCE, "another daemon", start).await.unwrap();
    Node { net, dir }
}
