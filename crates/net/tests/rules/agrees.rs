//! The kernel's rules and `decide()` say the same of every packet.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use moat_model::network::{
    Action, Ceiling, Destination, Domain, EgressPolicy, EgressRule, Flow, Group, NetworkMode, NetworkSpec, Peer,
    PortRange, Protocol, decide,
};
use moat_net::NetConfig;
use moat_net::resolver::Pinner;
use moat_net::rules::Rules;
use moat_net::table::Attached;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::bed::{Bed, NODE, Place};
use crate::in_spaces;
use crate::packet::Packet;

const CASES: usize = 200;
const NAMES: [&str; 4] = ["one.example", "www.one.example", "two.example", "a.b.two.example"];
/// Of every group; two that the operator's ceiling moves; sandboxes; the gateway.
const ADDRESSES: [&str; 16] = [
    "8.8.8.8",
    "8.8.4.4",
    "1.1.1.1",
    "151.101.0.223",
    "10.1.2.3",
    "10.2.2.3",
    "172.16.5.5",
    "100.64.3.3",
    "169.254.169.254",
    "169.254.7.7",
    "100.100.100.200",
    "10.100.0.1",
    "10.100.0.2",
    "10.100.0.3",
    "10.100.0.4",
    "169.254.1.1",
];
const RANGES: [&str; 8] = [
    "0.0.0.0/0",
    "8.8.8.8/32",
    "8.0.0.0/6",
    "10.0.0.0/8",
    "10.100.0.2/31",
    "10.1.0.0/16",
    "128.0.0.0/1",
    "169.254.0.0/16",
];
const PORTS: [u16; 6] = [1, 53, 80, 443, 8080, 65_535];

/// One policy, names that were resolved, and packets.
type Case = (NetworkSpec, Vec<(Domain, Ipv4Addr)>, Vec<(Ipv4Addr, Protocol, u16)>);

fn address() -> impl Strategy<Value = Ipv4Addr> {
    select(ADDRESSES.to_vec()).prop_map(|text| text.parse().unwrap())
}

fn name() -> impl Strategy<Value = Domain> {
    select(NAMES.to_vec()).prop_map(|text| Domain::parse(text).unwrap())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Icmp])
}

fn action() -> impl Strategy<Value = Action> {
    select(vec![Action::Allow, Action::Deny])
}

fn rule() -> impl Strategy<Value = EgressRule> {
    let groups = [Group::Public, Group::Private, Group::LinkLocal, Group::Metadata, Group::Multicast, Group::Namespace];
    let to = prop_oneof![
        1 => Just(Destination::Any),
        3 => select(RANGES.to_vec()).prop_map(|text| Destination::Cidr(text.parse().unwrap())),
        2 => name().prop_map(Destination::Domain),
        2 => name().prop_map(Destination::DomainSuffix),
        3 => select(groups.to_vec()).prop_map(Destination::Group),
    ];
    let range = (select(PORTS.to_vec()), select(PORTS.to_vec())).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)));
    let ports = prop_oneof![Just(Vec::new()), vec(range.prop_map(Option::unwrap), 1..4)];
    (action(), to, ports, option::of(protocol())).prop_map(|(action, to, ports, protocol)| EgressRule {
        action,
        to,
        ports,
        protocol,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let mode = select(vec![NetworkMode::Internet, NetworkMode::Internet, NetworkMode::Internal]);
    let spec = (mode, action(), vec(rule(), 0..6)).prop_map(|(mode, default, rules)| NetworkSpec {
        egress: EgressPolicy { default, rules },
        ..NetworkSpec::new(mode)
    });
    (spec, vec((name(), address()), 0..5), vec((address(), protocol(), select(PORTS.to_vec())), 16))
}

/// What the resolver does with an answer.
async fn resolve(rules: &Rules, red: &Attached, name: &Domain, address: Ipv4Addr) {
    let named = |rule: &EgressRule| match &rule.to {
        Destination::Domain(domain) => domain == name,
        Destination::DomainSuffix(domain) => domain.is_above(name),
        _ => false,
    };
    let fitting = red.attachment.spec.egress.rules.iter().enumerate().filter(|(_, rule)| named(rule));
    let fitting: Vec<usize> = fitting.map(|(at, _)| at).collect();
    if !fitting.is_empty() {
        rules.pin(red, &fitting, &[address], Duration::from_secs(600)).await.unwrap();
    }
}

/// Where a packet should arrive.
fn expected(
    bed: &Bed,
    spec: &NetworkSpec,
    names: &[Domain],
    (address, protocol, port): (Ipv4Addr, Protocol, u16),
) -> BTreeSet<Place> {
    let place = bed.sandboxes.iter().find(|(_, sandbox)| sandbox.attached.lease.address == address);
    let port = (protocol != Protocol::Icmp).then_some(port);
    let peer = match place.map(|(name, _)| *name) {
        _ if address == bed.config.gateway && matches!(port, None | Some(53)) => Peer::Resolver,
        _ if address == bed.config.gateway || address == NODE => Peer::Host,
        None => Peer::None,
        Some("guide" | "friend") => Peer::SameNamespace,
        Some(_) => Peer::OtherNamespace,
    };
    let flow = Flow { address, protocol, port, peer, names };
    match (decide(spec, &bed.config.ceiling, &flow).action, peer) {
        (Action::Deny, _) => BTreeSet::new(),
        (Action::Allow, Peer::None) => BTreeSet::from(["outside"]),
        (Action::Allow, Peer::Resolver) => BTreeSet::from(["node"]),
        (Action::Allow, _) => place.map(|(name, _)| *name).into_iter().collect(),
    }
}

#[test]
fn kernel_and_model_agree() {
    in_spaces(async || {
        let net = |text: &str| text.parse().unwrap();
        let ceiling = Ceiling {
            allow: vec![net("10.1.0.0/16"), net("100.64.0.0/10")],
            deny: vec![net("1.1.0.0/16"), net("10.1.2.128/25")],
        };
        let mut bed = Bed::new(NetConfig { ceiling, ..NetConfig::new("/run/moat/net") });
        let open = NetworkSpec::new(NetworkMode::Internet);
        let mut red = bed.wire("red", 5, "red", false, open.clone());
        let others = [
            bed.wire("guide", 1, "red", false, open.clone()),
            bed.wire("friend", 2, "red", false, open.clone()),
            bed.wire("blue", 3, "blue", false, open.clone()),
            bed.wire("pool", 4, "red", true, open),
        ];
        let rules = Rules::install(&bed.config, false, &[]).await.unwrap();
        for attached in others.iter().chain([&red]) {
            rules.attach(attached).await.unwrap();
        }
        let mut runner = TestRunner::deterministic();
        let (mut allowed, mut denied) = (0, 0);
        for _ in 0..CASES {
            let (spec, resolved, packets) = case().new_tree(&mut runner).unwrap().current();
            // By way of no rules at all: names of rules that stay are remembered.
            for spec in [NetworkSpec::new(NetworkMode::Internet), spec.clone()] {
                let old = red.clone();
                red.attachment.spec = spec;
                rules.change(&old, &red).await.unwrap();
            }
            for (name, address) in &resolved {
                resolve(&rules, &red, name, *address).await;
            }
            let send = |(to, protocol, port): &(Ipv4Addr, Protocol, u16)| {
                let number = match protocol {
                    Protocol::Tcp => 6,
                    Protocol::Udp => 17,
                    Protocol::Icmp => 1,
                };
                bed.send("red", &Packet::new(red.lease.address, *to, number, *port))
            };
            let numbers: Vec<u32> = packets.iter().map(send).collect();
            let arrived = bed.arrived("guide", &numbers);
            for (packet, number) in packets.iter().zip(&numbers) {
                let of = |(_, address): &&(Domain, Ipv4Addr)| *address == packet.0;
                let names: Vec<Domain> = resolved.iter().filter(of).map(|(name, _)| name.clone()).collect();
                let mut places = arrived[number].clone();
                places.remove("red");
                let should = expected(&bed, &spec, &names, *packet);
                assert_eq!(places, should, "{packet:?} under {spec:#?} with {resolved:?}");
                if should.is_empty() { denied += 1 } else { allowed += 1 }
            }
        }
        assert!(allowed > CASES && denied > CASES, "{allowed} allowed, {denied} denied: the cases say little");
    });
}
