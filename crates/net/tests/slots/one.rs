//! One or two slots, looked at closely.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use moat_engine::fabric::Fabric;
use moat_model::ErrorKind;
use moat_model::network::NetworkLimits;
use moat_net::slots::naming;

use super::harness::*;

#[test]
fn two_of_a_namespace_and_the_host_talk_over_tcp() {
    in_own_network(|| async {
        let node = Node::start(0).await;
        let before = audit(&node);
        let (a, b) = (node.connect(&sandbox(1)).await, node.connect(&at(2, "10.0.0.1")).await);
        assert_eq!((a.address, b.address), (Ipv4Addr::new(10, 100, 0, 1), Ipv4Addr::new(10, 0, 0, 1)));
        node.inside(&b, || serve(Ipv4Addr::UNSPECIFIED, 80));
        assert_eq!(node.inside(&a, || ask(b.address, 80)).unwrap(), a.address.to_string());
        assert_eq!(ask(b.address, 80).unwrap(), node.net.config().gateway.to_string(), "the host comes as the gateway");
        node.disconnect(&a).await;
        node.disconnect(&b).await;
        is_again(&node, &before).await;
        node.net.stop().await.unwrap();
        assert!(!ip(&["addr"]).contains("169.254.1.1"));
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0", "as it was");
    });
}

#[test]
fn inside_is_what_was_promised() {
    in_own_network(|| async {
        let node = Node::start(1).await;
        let lease = node.connect(&sandbox(1)).await;
        node.inside(&lease, || {
            let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap();
            assert_eq!(setting("ipv6/conf/all/disable_ipv6").trim(), "1");
            assert_eq!(setting("ipv4/ip_unprivileged_port_start").trim(), "0");
            assert_eq!(setting("ipv4/ping_group_range").split_whitespace().collect::<Vec<_>>(), ["0", "2147483647"]);
            assert_eq!(fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap(), "", "no address of IPv6");
            let links = ip(&["-o", "link"]);
            assert_eq!(links.lines().count(), 2, "{links}");
            assert!(links.contains("lo: <LOOPBACK,UP") && links.contains("eth0@"), "{links}");
            let routes = ip(&["route"]);
            assert_eq!(routes.lines().count(), 2, "{routes}");
            assert!(routes.contains("default via 169.254.1.1 dev eth0") && routes.contains("\n169.254.1.1 dev eth0"));
            let neighbours = ip(&["neigh"]);
            assert!(
                neighbours.contains("169.254.1.1 dev eth0 lladdr 02:20:00:00:00:") && neighbours.contains("PERMANENT")
            );
            assert!(ip(&["-o", "-4", "addr"]).contains(&format!("{}/32", lease.address)));
        });
        let link = naming::link(node.net.config(), lease.slot);
        let outside = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/{name}")).unwrap();
        assert_eq!(outside("rp_filter").trim(), "1");
        assert_eq!(outside("route_localnet").trim(), "1");
        assert!(ip(&["neigh"]).contains(&format!("{} dev {link} lladdr 02:10:00:00:00:", lease.address)));
        assert!(
            ip(&["route"]).contains(&format!("{} dev {link} proto static scope link src 169.254.1.1", lease.address))
        );
        node.disconnect(&lease).await;
        node.net.stop().await.unwrap();
    });
}

#[test]
fn ready_slots_are_given_and_made_anew() {
    in_own_network(|| async {
        let node = Node::start(3).await;
        node.is_full().await;
        let before = audit(&node);
        let natural = node.connect(&sandbox(1)).await;
        let chosen = node.connect(&at(2, "192.168.9.9")).await;
        assert!(natural.slot <= 3 && chosen.slot <= 3, "both were ready");
        node.inside(&chosen, || {
            let addresses = ip(&["-o", "-4", "addr", "show", "eth0"]);
            assert!(addresses.contains("192.168.9.9/32") && addresses.lines().count() == 1, "{addresses}");
            serve(chosen.address, 80);
        });
        assert_eq!(node.inside(&natural, || ask(chosen.address, 80)).unwrap(), natural.address.to_string());
        node.is_full().await;
        assert_eq!(node.net.status().await.attached, 2);
        // The address of one that stands ready is that one.
        let ready = format!("10.100.0.{}", natural.slot.max(chosen.slot) + 1);
        let same = node.connect(&at(3, &ready)).await;
        assert_eq!(same.address.to_string(), ready);
        for lease in [natural, chosen, same] {
            node.disconnect(&lease).await;
        }
        node.is_full().await;
        let after = audit(&node);
        assert_eq!(before.lines().count(), after.lines().count(), "as many of everything:\n{before}\n{after}");
        node.net.stop().await.unwrap();
        assert_eq!(ip(&["-o", "link"]).lines().count(), 1, "the loopback alone");
    });
}

#[test]
fn addresses_that_are_somebodys_are_refused_by_name() {
    in_own_network(|| async {
        let node = Node::start(1).await;
        node.is_full().await;
        let held = node.connect(&at(1, "10.0.0.1")).await;
        ip(&["link", "add", "wan0", "type", "veth", "peer", "name", "wan1"]);
        ip(&["addr", "add", "10.7.0.5/24", "dev", "wan0"]);
        ip(&["link", "set", "wan0", "up"]);
        ip(&["link", "set", "wan1", "up"]);
        ip(&["route", "add", "10.8.0.0/16", "via", "10.7.0.1"]);
        ip(&["route", "add", "default", "via", "10.7.0.1"]);
        let bad = [("10.7.0.5", "this host has"), ("10.7.0.77", "this host has"), ("10.8.3.3", "this host has")];
        for (address, why) in bad {
            let error = node.net.reserve(&at(2, address)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidSpec, "{error:?}");
            assert!(error.doing.starts_with("network.address: ") && error.doing.contains(why), "{}", error.doing);
        }
        let twice = node.net.reserve(&at(2, "10.0.0.1")).unwrap_err();
        assert_eq!(twice.kind, ErrorKind::Conflict, "{twice:?}");
        assert!(node.net.validate(&at(2, "8.8.8.8").spec).is_err());
        let good = node.connect(&at(2, "10.9.0.1")).await;
        node.disconnect(&good).await;
        node.is_full().await;
        let overlapping = moat_net::NetConfig {
            subnet: "10.7.0.0/16".parse().unwrap(),
            ..moat_net::NetConfig::new(node.dir.path().join("other"))
        };
        let error = moat_net::Net::start(overlapping).await.unwrap_err();
        assert!(error.doing.starts_with("network.subnet: 10.7.0.0/16 overlaps 10.7.0.5/24"), "{}", error.doing);
        node.disconnect(&held).await;
        node.net.stop().await.unwrap();
    });
}

#[test]
fn what_was_reserved_and_never_attached_leaves_nothing() {
    in_own_network(|| async {
        let node = Node::start(0).await;
        let before = audit(&node);
        let lease = node.net.reserve(&named(1, "web")).unwrap();
        let taken = node.net.reserve(&named(2, "web")).unwrap_err();
        assert_eq!(taken.kind, ErrorKind::Conflict);
        node.net.free(&lease);
        assert!(node.net.table().is_empty());
        // Detached without having been attached, twice.
        let lease = node.net.reserve(&named(2, "web")).unwrap();
        node.net.detach(&lease).await.unwrap();
        node.disconnect(&lease).await;
        assert_eq!(audit(&node), before);
        node.net.stop().await.unwrap();
    });
}

/// Bytes that arrive in about this long, from the first on.
fn receive_for(address: Ipv4Addr, port: u16, time: Duration) -> f64 {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect((address, port)).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut all = 0;
    let begin = Instant::now();
    while begin.elapsed() < time {
        all += stream.read(&mut buffer).unwrap();
    }
    all as f64 * 8.0 / begin.elapsed().as_secs_f64()
}

fn flood(address: Ipv4Addr, port: u16) {
    use std::io::Write;
    let listener = std::net::TcpListener::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            while stream.write_all(&[7; 64 * 1024]).is_ok() {}
        }
    });
}

/// Coarse: the bench measures it.
#[test]
fn bandwidth_is_bounded_both_ways_and_changes_while_it_lives() {
    in_own_network(|| async {
        let node = Node::start(0).await;
        let mut slow = sandbox(1);
        slow.spec.limits = NetworkLimits { up_bits_per_sec: Some(20_000_000), ..NetworkLimits::default() };
        let (a, b) = (node.connect(&slow).await, node.connect(&sandbox(2)).await);
        node.inside(&a, || flood(Ipv4Addr::UNSPECIFIED, 81));
        node.inside(&b, || flood(Ipv4Addr::UNSPECIFIED, 81));
        let time = Duration::from_secs(2);
        let up = node.inside(&b, || receive_for(a.address, 81, time));
        assert!(up < 24e6, "up at {up} bits per second");
        slow.spec.limits = NetworkLimits { down_bits_per_sec: Some(10_000_000), ..NetworkLimits::default() };
        node.net.change(&a, &slow).await.unwrap();
        let down = node.inside(&a, || receive_for(b.address, 81, time));
        assert!(down < 12e6, "down at {down} bits per second");
        node.inside(&a, || {
            assert!(ip(&["-o", "link"]).contains("qdisc noqueue"), "no bound on what it sends any more")
        });
        slow.spec.limits = NetworkLimits::default();
        node.net.change(&a, &slow).await.unwrap();
        assert!(!ip(&["-o", "link"]).contains("tbf"));
        println!("20 Mbit/s up: {up:.0}, 10 Mbit/s down: {down:.0}");
        node.disconnect(&a).await;
        node.disconnect(&b).await;
        node.net.stop().await.unwrap();
    });
}

#[test]
fn a_change_that_cannot_be_leaves_what_was() {
    in_own_network(|| async {
        let node = Node::start(0).await;
        let (web, other) = (node.connect(&named(1, "web")).await, node.connect(&sandbox(2)).await);
        let mut greedy = named(2, "web");
        greedy.spec.limits.down_bits_per_sec = Some(1_000_000);
        assert_eq!(node.net.change(&other, &greedy).await.unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(node.net.table().at(other.slot).unwrap().attachment, sandbox(2));
        assert!(!ip(&["-o", "link"]).contains("tbf"));
        let moved = node.net.change(&other, &at(2, "10.0.0.9")).await.unwrap_err();
        assert!(moved.doing.starts_with("network.address: "), "{}", moved.doing);
        node.disconnect(&web).await;
        node.net.change(&other, &greedy).await.unwrap();
        assert!(ip(&["-o", "link"]).contains("tbf"));
        node.disconnect(&other).await;
        node.net.stop().await.unwrap();
    });
}

#[test]
fn what_a_host_must_have_is_tried_and_leaves_nothing() {
    in_own_network(|| async {
        let before = ip(&["-o", "link"]);
        let all = moat_net::slots::requirements(&moat_net::NetConfig::new("/run/moat/net"));
        for requirement in &all {
            assert!(requirement.met, "{requirement:?}");
        }
        assert_eq!(ip(&["-o", "link"]), before);
    });
}
