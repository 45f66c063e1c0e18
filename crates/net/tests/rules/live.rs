//! Rules that change while connections stand, and what is left behind.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use moat_model::network::{
    Action, Destination, Domain, EgressPolicy, EgressRule, NetworkLimits, NetworkMode, NetworkSpec, PortRange,
};
use moat_net::NetConfig;
use moat_net::resolver::Pinner;
use moat_net::rules::Rules;
use moat_net::table::Attached;
use moat_testkit::wait_until;

use crate::bed::{Bed, PUBLIC, Space};
use crate::in_spaces;
use crate::packet::Packet;

const PATIENCE: Duration = Duration::from_secs(60);
const OTHER: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// Both ends of a connection.
struct Pair {
    inside: TcpStream,
    outside: TcpStream,
}

impl Pair {
    fn open(from: &Space, to: &Space, address: Ipv4Addr) -> Self {
        let listener = to.within(|| TcpListener::bind((address, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let inside = from.within(|| TcpStream::connect_timeout(&(address, port).into(), PATIENCE).unwrap());
        let (outside, _) = listener.accept().unwrap();
        for end in [&inside, &outside] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self { inside, outside }
    }

    /// Both ways.
    fn works(&self) {
        for (mut from, mut to) in [(&self.inside, &self.outside), (&self.outside, &self.inside)] {
            from.write_all(b"ping").unwrap();
            let mut data = [0; 4];
            to.read_exact(&mut data).unwrap();
            assert_eq!(&data, b"ping");
        }
    }

    fn write_both(&mut self) {
        let _ = self.inside.write(b"late");
        let _ = self.outside.write(b"late");
    }

    /// Nothing came at either end.
    fn is_silent(&mut self) {
        for end in [&mut self.inside, &mut self.outside] {
            end.set_nonblocking(true).unwrap();
            let mut data = [0; 4];
            match end.read(&mut data) {
                Ok(0) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset) => {}
                other => panic!("{other:?} {data:?}"),
            }
        }
    }
}

fn rule(action: Action, to: Destination) -> EgressRule {
    EgressRule { action, to, ports: Vec::new(), protocol: None }
}

fn policy(default: Action, rules: Vec<EgressRule>) -> NetworkSpec {
    NetworkSpec { egress: EgressPolicy { default, rules }, ..NetworkSpec::new(NetworkMode::Internet) }
}

fn named(name: &str) -> EgressRule {
    rule(Action::Allow, Destination::Domain(Domain::parse(name).unwrap()))
}

struct Live {
    bed: Bed,
    rules: Rules,
    red: Attached,
}

impl Live {
    async fn new(spec: NetworkSpec) -> Self {
        let mut bed = Bed::new(NetConfig::new("/run/moat/net"));
        let guide = bed.wire("guide", 1, "red", false, NetworkSpec::new(NetworkMode::Internet));
        let red = bed.wire("red", 2, "red", false, spec);
        let rules = Rules::install(&bed.config, false, &[Arc::new(guide)]).await.unwrap();
        rules.attach(&red).await.unwrap();
        Self { bed, rules, red }
    }

    async fn change(&mut self, spec: NetworkSpec) {
        let old = self.red.clone();
        self.red.attachment.spec = spec;
        self.rules.change(&old, &self.red).await.unwrap();
    }

    fn open(&self, to: Ipv4Addr) -> Pair {
        Pair::open(&self.bed.sandboxes["red"].space, &self.bed.outside, to)
    }

    fn goes(&mut self, to: Ipv4Addr) -> bool {
        let packet = Packet::udp(self.red.lease.address, to, 80);
        !self.bed.reaches("red", "guide", &packet).is_empty()
    }

    async fn pin(&self, rule: usize, to: Ipv4Addr, ttl: Duration) {
        self.rules.pin(&self.red, &[rule], &[to], ttl).await.unwrap();
    }

    fn table(&self) -> String {
        self.bed.node.output("nft -s list table inet moat")
    }
}

#[test]
fn a_connection_that_is_forbidden_now_ends_and_others_go_on() {
    in_spaces(async || {
        let mut live = Live::new(NetworkSpec::new(NetworkMode::Internet)).await;
        let (mut gone, mut stays) = (live.open(PUBLIC), live.open(OTHER));
        gone.works();
        stays.works();
        live.change(policy(Action::Allow, vec![rule(Action::Deny, Destination::Cidr(PUBLIC.into()))])).await;
        gone.write_both();
        stays.works();
        // Sent after it through the same queues: what did not come with it was not let through.
        assert!(!live.goes(PUBLIC));
        gone.is_silent();
        // And so for every mode.
        live.change(NetworkSpec::new(NetworkMode::Internal)).await;
        stays.write_both();
        assert!(!live.goes(OTHER));
        stays.is_silent();
        let known = live.bed.node.output("cat /proc/net/nf_conntrack || true");
        let lines: Vec<&str> = known.lines().filter(|line| line.contains("tcp")).collect();
        assert!(lines.is_empty(), "{lines:?}");
    });
}

#[test]
fn what_a_name_let_begin_goes_on_as_long_as_its_rule_is_there() {
    in_spaces(async || {
        let mut live = Live::new(policy(Action::Deny, vec![named("one.example")])).await;
        assert!(!live.goes(PUBLIC));
        live.pin(0, PUBLIC, Duration::from_secs(600)).await;
        assert!(live.goes(PUBLIC) && !live.goes(OTHER));
        // Another daemon finds what this one pinned; it writes the whole table anew.
        let guide = Arc::new(live.bed.sandboxes["guide"].attached.clone());
        let mut standing = live.open(PUBLIC);
        live.rules = Rules::install(&live.bed.config, false, &[guide, Arc::new(live.red.clone())]).await.unwrap();
        standing.works();
        assert!(live.goes(PUBLIC));
        // Rules are numbered otherwise now, and know the address all the same.
        let other = rule(Action::Deny, Destination::Cidr(OTHER.into()));
        live.change(policy(Action::Deny, vec![other.clone(), named("one.example")])).await;
        standing.works();
        assert!(live.goes(PUBLIC));
        // The name is forgotten: nothing new begins, what stands goes on, under another rule beside it too.
        live.change(policy(Action::Deny, vec![named("two.example")])).await;
        assert!(!live.goes(PUBLIC));
        standing.write_both();
        live.change(policy(Action::Deny, vec![named("one.example")])).await;
        assert!(!live.goes(PUBLIC), "pins of a rule that was away are gone");
        let mut marked = live.open_pinned().await;
        let ended = async || (!live.table().contains(&OTHER.to_string())).then_some(());
        wait_until(PATIENCE, "the pin to end", ended).await.unwrap();
        assert!(!live.goes(OTHER));
        marked.works();
        live.change(policy(Action::Deny, vec![named("one.example"), other])).await;
        marked.works();
        live.change(policy(Action::Deny, vec![])).await;
        marked.write_both();
        assert!(!live.goes(OTHER));
        marked.is_silent();
    });
}

impl Live {
    /// A connection to the other address, however long it takes on a busy machine: it is pinned again until one stands.
    async fn open_pinned(&self) -> Pair {
        let listener = self.bed.outside.within(|| TcpListener::bind((OTHER, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let connect = || TcpStream::connect_timeout(&(OTHER, port).into(), Duration::from_millis(500));
        let inside = wait_until(PATIENCE, "a connection", async || {
            self.pin(0, OTHER, Duration::from_millis(700)).await;
            self.bed.sandboxes["red"].space.within(connect).ok()
        });
        let inside = inside.await.unwrap();
        let (outside, _) = listener.accept().unwrap();
        Pair { inside, outside }
    }
}

#[test]
fn a_pin_for_a_policy_that_was_changed_is_refused() {
    in_spaces(async || {
        let mut live = Live::new(policy(Action::Deny, vec![named("one.example")])).await;
        let before = live.red.clone();
        live.change(policy(Action::Deny, vec![named("two.example")])).await;
        let refused = live.rules.pin(&before, &[0], &[PUBLIC], Duration::from_secs(9)).await.unwrap_err();
        assert_eq!(refused.kind, moat_model::ErrorKind::Conflict);
        assert!(!live.goes(PUBLIC));
    });
}

#[test]
fn connections_and_packets_are_limited() {
    in_spaces(async || {
        let limits = NetworkLimits { connections_max: Some(3), ..NetworkLimits::default() };
        let mut live = Live::new(NetworkSpec { limits, ..NetworkSpec::new(NetworkMode::Internet) }).await;
        let sent = |live: &mut Live, count: u16| {
            let numbers: Vec<u32> = (0..count).map(|port| live.bed.send_to("red", PUBLIC, 1000 + port)).collect();
            let outside = |places: &BTreeSet<_>| places.contains("outside");
            live.bed.arrived("guide", &numbers).values().filter(|places| outside(places)).count()
        };
        assert_eq!(sent(&mut live, 10), 3);
        let limits = NetworkLimits { up_packets_per_sec: Some(50), ..NetworkLimits::default() };
        live.change(NetworkSpec { limits, ..NetworkSpec::new(NetworkMode::Internet) }).await;
        let begin = std::time::Instant::now();
        let came = sent(&mut live, 400);
        let most = 6.0 + 50.0 * begin.elapsed().as_secs_f64();
        assert!(came >= 5 && came as f64 <= most.min(400.0), "{came} of at most {most}");
        live.change(NetworkSpec::new(NetworkMode::Internet)).await;
        assert_eq!(sent(&mut live, 100), 100);
    });
}

#[test]
fn nothing_is_left() {
    in_spaces(async || {
        let mut live = Live::new(NetworkSpec::new(NetworkMode::Internet)).await;
        live.rules.detach(&live.red.lease).await.unwrap();
        let before = live.table();
        let ports = vec![PortRange::new(443, 443).unwrap(), PortRange::new(8000, 8100).unwrap()];
        let https = EgressRule { ports, ..named("one.example") };
        let limits = NetworkLimits {
            up_packets_per_sec: Some(1000),
            down_packets_per_sec: Some(1000),
            connections_max: Some(10),
            ..NetworkLimits::default()
        };
        live.red.attachment.spec = NetworkSpec { limits, ..policy(Action::Allow, vec![https]) };
        live.rules.attach(&live.red).await.unwrap();
        live.pin(0, PUBLIC, Duration::from_secs(600)).await;
        let mut stands = live.open(PUBLIC);
        stands.works();
        assert_ne!(live.table(), before);
        live.rules.detach(&live.red.lease).await.unwrap();
        live.rules.detach(&live.red.lease).await.unwrap();
        assert_eq!(live.table(), before);
        stands.write_both();
        assert!(!live.goes(PUBLIC));
        stands.is_silent();
        let address = live.red.lease.address.to_string();
        let known = live.bed.node.output("cat /proc/net/nf_conntrack || true");
        assert!(!known.contains(&format!("={address} ")), "{known}");
        Rules::remove(&live.bed.config).await.unwrap();
        Rules::remove(&live.bed.config).await.unwrap();
        assert_eq!(live.bed.node.output("nft list tables"), "");
    });
}
