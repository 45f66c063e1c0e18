//! Every mode against every destination, and every trick. Counted on the wire: zero packets to what is forbidden.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use moat_model::network::{
    Action, Destination, EgressPolicy, EgressRule, Group, NetworkMode, NetworkSpec, Protocol, PublishSpec,
};
use moat_net::NetConfig;
use moat_net::rules::Rules;

use crate::bed::{Bed, NODE, PUBLIC, Place};
use crate::in_spaces;
use crate::packet::Packet;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Addresses nobody may reach, in any mode: private, link-local, metadata, carrier, reserved, loopback, broadcast, multicast.
const FORBIDDEN: [&str; 26] = [
    "10.1.2.3",
    "10.100.0.0",
    "10.100.255.255",
    "172.16.5.5",
    "192.168.5.5",
    "192.168.77.1",
    "192.168.77.255",
    "100.64.3.3",
    "169.254.169.254",
    "169.254.7.7",
    "100.100.100.200",
    "192.0.0.192",
    "198.18.5.5",
    "192.0.2.7",
    "203.0.113.9",
    "198.51.100.9",
    "240.1.1.1",
    "127.0.0.1",
    "127.0.0.53",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "255.255.255.255",
    "224.0.0.1",
    "224.0.0.251",
    "239.255.255.250",
];
const ALLOWED: [&str; 3] = ["8.8.8.8", "1.1.1.1", "151.101.0.223"];

fn config() -> NetConfig {
    NetConfig::new("/run/moat/net")
}

fn spec(mode: NetworkMode) -> NetworkSpec {
    NetworkSpec::new(mode)
}

/// `guide` and `red` and `friend` are of one namespace, `blue` of another, `pool` is nobody's.
async fn bed(red: NetworkSpec) -> (Bed, Rules) {
    let mut bed = Bed::new(config());
    let published = PublishSpec { host_address: NODE, host_port: 2080, port: 80, count: 1, protocol: Protocol::Tcp };
    let anywhere =
        PublishSpec { host_address: Ipv4Addr::UNSPECIFIED, host_port: 2081, protocol: Protocol::Udp, ..published };
    let blue = NetworkSpec { publish: vec![published, anywhere], ..spec(NetworkMode::Internet) };
    let all = [
        bed.wire("guide", 1, "red", false, spec(NetworkMode::Internet)),
        bed.wire("friend", 2, "red", false, spec(NetworkMode::Internal)),
        bed.wire("blue", 3, "blue", false, blue),
        bed.wire("pool", 4, "red", true, spec(NetworkMode::Internet)),
        bed.wire("red", 5, "red", false, red),
    ];
    let rules = Rules::install(&bed.config, false, &[]).await.unwrap();
    for attached in &all {
        rules.attach(attached).await.unwrap();
    }
    (bed, rules)
}

/// Where packets of every protocol from `name` to an address arrive.
fn reached(bed: &mut Bed, name: Place, to: Ipv4Addr) -> BTreeSet<Place> {
    let from = bed.address(name);
    let mut numbers = Vec::new();
    for protocol in [TCP, UDP, ICMP] {
        for port in [53, 80, 443, 2080, 2081] {
            numbers.push(bed.send(name, &Packet::new(from, to, protocol, port)));
        }
    }
    let mut places: BTreeSet<Place> = bed.arrived("guide", &numbers).into_values().flatten().collect();
    places.remove(name);
    places
}

fn all_forbidden(bed: &mut Bed, name: Place) {
    for address in FORBIDDEN {
        assert_eq!(reached(bed, name, address.parse().unwrap()), BTreeSet::new(), "{name} to {address}");
    }
    for own in [NODE, bed.address("blue"), bed.address("pool")] {
        assert_eq!(reached(bed, name, own), BTreeSet::new(), "{name} to {own}");
    }
}

#[test]
fn internet_reaches_what_is_public_and_its_own_namespace() {
    in_spaces(async || {
        let (mut bed, rules) = bed(spec(NetworkMode::Internet)).await;
        for address in ALLOWED {
            assert_eq!(reached(&mut bed, "red", address.parse().unwrap()), BTreeSet::from(["outside"]), "{address}");
        }
        all_forbidden(&mut bed, "red");
        let friend = bed.address("friend");
        assert_eq!(reached(&mut bed, "red", friend), BTreeSet::from(["friend"]));
        assert!(rules.drops().await.unwrap() > 0);
    });
}

#[test]
fn internal_reaches_its_own_namespace_only() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internal)).await;
        for address in ALLOWED {
            assert_eq!(reached(&mut bed, "red", address.parse().unwrap()), BTreeSet::new(), "{address}");
        }
        all_forbidden(&mut bed, "red");
        let (friend, red) = (bed.address("friend"), bed.address("red"));
        assert_eq!(reached(&mut bed, "red", friend), BTreeSet::from(["friend"]));
        assert_eq!(reached(&mut bed, "friend", red), BTreeSet::from(["red"]));
        assert_eq!(reached(&mut bed, "blue", red), BTreeSet::new());
    });
}

#[test]
fn members_of_pools_reach_nobody_and_nobody_them() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internet)).await;
        let gateway = bed.config.gateway;
        let red = bed.address("red");
        for to in [PUBLIC, gateway, red] {
            assert_eq!(reached(&mut bed, "pool", to), BTreeSet::new(), "{to}");
        }
        all_forbidden(&mut bed, "pool");
        // Nor does the host itself.
        let pool = bed.address("pool");
        let ping = bed.node.output(&format!("ping -c 1 -W 1 {pool} >/dev/null 2>&1 && echo answered || echo silent"));
        assert_eq!(ping, "silent\n");
    });
}

#[test]
fn of_the_node_only_names_and_echoes_are_there() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internal)).await;
        let (from, gateway) = (bed.address("red"), bed.config.gateway);
        for (protocol, port, answered) in
            [(UDP, 53, true), (TCP, 53, true), (ICMP, 0, true), (UDP, 123, false), (TCP, 22, false), (TCP, 2080, false)]
        {
            let places = bed.reaches("red", "guide", &Packet::new(from, gateway, protocol, port));
            let expected = if answered { BTreeSet::from(["node"]) } else { BTreeSet::new() };
            assert_eq!(places, expected, "{protocol} {port}");
        }
        // From outside the gateway is nobody.
        bed.outside.run(&format!("ip route add {gateway} via {NODE}"));
        let asked =
            bed.outside.output(&format!("ping -c 1 -W 1 {gateway} >/dev/null 2>&1 && echo answered || echo silent"));
        assert_eq!(asked, "silent\n");
    });
}

/// What root could try who entered the sandbox's namespace: inside, nobody has the right to open such a socket.
#[test]
fn raw_packets_gain_nothing() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internet)).await;
        let (red, friend, blue) = (bed.address("red"), bed.address("friend"), bed.address("blue"));
        let nowhere = BTreeSet::new();
        // 0.0.0.0 is not among them: the kernel writes the true one in its place.
        let sources = [friend, blue, NODE, bed.config.gateway, PUBLIC, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST];
        for source in sources {
            for to in [PUBLIC, friend, blue, bed.config.gateway, NODE, "10.1.2.3".parse().unwrap()] {
                for protocol in [TCP, UDP, ICMP] {
                    let packet = Packet::new(source, to, protocol, 53);
                    assert_eq!(bed.reaches("red", "guide", &packet), nowhere, "{source} to {to}");
                }
            }
        }
        // Loose and strict source routes by way of a public address; record route; router alert.
        let via = |kind: u8, to: Ipv4Addr| [&[1, kind, 7, 4][..], &to.octets()].concat();
        let metadata: Ipv4Addr = "169.254.169.254".parse().unwrap();
        for options in [via(131, metadata), via(137, blue), via(7, Ipv4Addr::UNSPECIFIED), vec![148, 4, 0, 0]] {
            let packet = Packet { options, ..Packet::udp(red, PUBLIC, 80) };
            assert_eq!(bed.reaches("red", "guide", &packet), nowhere, "options");
        }
        // In pieces they are put together and judged as a whole.
        let pieces = |to| Packet { pieces: true, ..Packet::udp(red, to, 80) };
        assert_eq!(bed.reaches("red", "guide", &pieces(PUBLIC)), BTreeSet::from(["outside"]));
        for to in [metadata, blue, NODE] {
            assert_eq!(bed.reaches("red", "guide", &pieces(to)), nowhere, "pieces to {to}");
        }
        // Protocols that could wrap another packet, or that nobody asked for: IPIP, IGMP, GRE, ESP, SCTP, UDP-Lite, 6in4.
        for protocol in [4, 2, 47, 50, 132, 136, 41, 255] {
            for to in [PUBLIC, friend, NODE, bed.config.gateway] {
                let packet = Packet::new(red, to, protocol, 80);
                assert_eq!(bed.reaches("red", "guide", &packet), nowhere, "protocol {protocol} to {to}");
            }
        }
    });
}

#[test]
fn another_hardware_address_or_neighbour_gains_nothing() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internet)).await;
        let (red, friend) = (bed.address("red"), bed.address("friend"));
        // It says it is its friend: by an address of its own, by ARP for it, by the friend's hardware address.
        let space = &bed.sandboxes["red"].space;
        space.run(&format!("sysctl -qw net.ipv4.conf.all.arp_notify=1; ip addr add {friend}/32 dev eth0"));
        space.run("ip link set eth0 down; ip link set eth0 address 02:10:00:00:00:02; ip link set eth0 up");
        let gateway = bed.config.gateway;
        let host = "02:20:00:00:00:05";
        space.run(&format!(
            "ip neigh replace {gateway} lladdr {host} dev eth0 nud permanent
             ip route replace {gateway} dev eth0 scope link; ip route replace default via {gateway}"
        ));
        for source in [red, friend] {
            for to in [PUBLIC, gateway, friend] {
                assert_eq!(bed.reaches("red", "guide", &Packet::udp(source, to, 53)), BTreeSet::new(), "{source} {to}");
            }
        }
        // What is for the friend still goes to the friend.
        let number = bed.send_to("guide", friend, 80);
        let places = bed.arrived("guide", &[number]).remove(&number).unwrap();
        assert_eq!(places, BTreeSet::from(["friend", "guide"]));
    });
}

#[test]
fn ipv6_goes_nowhere() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internet)).await;
        // Root who entered the namespace switches it on, takes addresses, a route, and says he is the router.
        bed.node.run("sysctl -qw net.ipv6.conf.moat5.disable_ipv6=0; ip -6 addr add fd00:5::1/64 dev moat5 nodad");
        let space = &bed.sandboxes["red"].space;
        space.run(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.ndisc_notify=1
             ip -6 addr add fd00:5::5/64 dev eth0 nodad; ip -6 addr add fd77::2/128 dev eth0 nodad
             ip -6 neigh replace fd00:5::1 lladdr 02:20:00:00:00:05 dev eth0 nud permanent
             ip -6 route add default via fd00:5::1 dev eth0",
        );
        let sent = space.within(|| {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            let to = ["fd77::1", "fd77::2", "fd00:5::1", "2001:4860:4860::8888", "64:ff9b::a9fe:a9fe", "ff0e::1"];
            to.map(|to| {
                socket.send_to(&[b"moat-pkt".as_slice(), &0xffff_0001_u32.to_be_bytes()].concat(), (to, 53)).is_ok()
            })
        });
        assert!(sent.iter().filter(|sent| **sent).count() >= 4, "{sent:?}");
        let places = bed.arrived("guide", &[0xffff_0001]).remove(&0xffff_0001).unwrap();
        assert_eq!(places, BTreeSet::from(["red"]));
    });
}

/// What a program writes for an address becomes an address before it is a packet.
#[test]
fn other_spellings_are_the_same_addresses() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internet)).await;
        let spellings = [
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "0xa9.0xfe.0xa9.0xfe",
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::ffff:10.1.2.3",
            "0",
            "0x7f.1",
            "127.1",
            "10.66051",
            "012.1.2.3",
        ];
        let from = 0xfff0_0000_u32;
        let numbers: Vec<u32> = (from..).zip(spellings).map(|(number, _)| number).collect();
        bed.sandboxes["red"].space.within(|| {
            for (number, spelling) in numbers.iter().zip(spellings) {
                let data = [b"moat-pkt".as_slice(), &number.to_be_bytes()].concat();
                // The C library reads them as it does for most programs.
                for to in (spelling, 80).to_socket_addrs().into_iter().flatten() {
                    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
                    let _ = socket.send_to(&data, to);
                }
            }
        });
        for (number, mut places) in bed.arrived("guide", &numbers) {
            places.remove("red");
            assert_eq!(places, BTreeSet::new(), "{}", spellings[(number - from) as usize]);
        }
    });
}

/// An own rule can only take away.
#[test]
fn own_rules_open_nothing_that_is_forbidden() {
    in_spaces(async || {
        let everything = |to| EgressRule { action: Action::Allow, to, ports: Vec::new(), protocol: None };
        let groups = [Group::Private, Group::LinkLocal, Group::Metadata, Group::Multicast, Group::Namespace];
        let mut rules: Vec<_> = groups.map(|group| everything(Destination::Group(group))).into();
        rules.extend(
            FORBIDDEN.map(|address| everything(Destination::Cidr(address.parse::<Ipv4Addr>().unwrap().into()))),
        );
        rules.push(everything(Destination::Any));
        let egress = EgressPolicy { default: Action::Allow, rules };
        let (mut bed, _rules) = bed(NetworkSpec { egress, ..spec(NetworkMode::Internet) }).await;
        all_forbidden(&mut bed, "red");
        assert_eq!(reached(&mut bed, "red", PUBLIC), BTreeSet::from(["outside"]));
    });
}

/// A public server that sends its clients to the metadata service, and one whose name was one address and is another now.
#[test]
fn being_sent_on_leads_nowhere() {
    in_spaces(async || {
        let (mut bed, _rules) = bed(spec(NetworkMode::Internet)).await;
        let metadata: Ipv4Addr = "169.254.169.254".parse().unwrap();
        let listen = |address: Ipv4Addr| bed.outside.within(|| TcpListener::bind((address, 80)).unwrap());
        let traps: Vec<TcpListener> = [metadata, "10.1.2.3".parse().unwrap()].map(listen).into();
        let server = listen(PUBLIC);
        std::thread::spawn(move || {
            for (mut client, to) in server.incoming().flatten().zip(["169.254.169.254", "10.1.2.3"]) {
                let _ =
                    write!(client, "HTTP/1.1 302 Found\r\nLocation: http://{to}/latest\r\nConnection: close\r\n\r\n");
            }
        });
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let said = bed.sandboxes["red"].space.within(|| {
                let mut said = String::new();
                let mut stream = TcpStream::connect_timeout(&(PUBLIC, 80).into(), Duration::from_secs(60)).unwrap();
                stream.read_to_string(&mut said).unwrap();
                said
            });
            let to = said.split("http://").nth(1).unwrap().split('/').next().unwrap().parse::<Ipv4Addr>().unwrap();
            // What follows the reply as a browser would, and what probes by itself.
            let connect = || TcpStream::connect_timeout(&(to, 80).into(), Duration::from_millis(300)).is_err();
            assert!(bed.sandboxes["red"].space.within(connect), "{to}");
            let from = bed.address("red");
            numbers.push(bed.send("red", &Packet::new(from, to, TCP, 80)));
        }
        for (_, mut places) in bed.arrived("guide", &numbers) {
            places.remove("red");
            assert_eq!(places, BTreeSet::new());
        }
        for trap in traps {
            trap.set_nonblocking(true).unwrap();
            assert!(trap.accept().is_err(), "somebody came");
        }
    });
}
