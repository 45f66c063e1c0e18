//! What is asked for, refused, shown and tried out, without a kernel.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};

use moat_api::rest::network::{NetworkOptions, TestedDestination};
use moat_model::Namespace;
use moat_model::network::{PUBLISHED_MAX, RULES_MAX, Reason};
use moat_net::resolver::Outcome;
use serde_json::json;

use super::*;

/// Wires that lead nowhere: ports are given in turn, and names are a table.
#[derive(Debug, Default)]
pub(crate) struct FakeWires {
    next: AtomicU16,
    pub names: BTreeMap<String, Ipv4Addr>,
}

#[async_trait]
impl Wires for FakeWires {
    fn choose_port(&self, _: Ipv4Addr, _: Protocol, count: u16) -> Result<u16> {
        Ok(20_000 + self.next.fetch_add(count, Ordering::Relaxed))
    }

    fn place_of(&self, _: &SandboxId) -> Option<NetworkLease> {
        None
    }

    async fn look_up(&self, asker: &Attached, name: &Domain) -> Option<Lookup> {
        let outcome = match self.names.get(name.as_str()) {
            Some(address) => Outcome::Addresses { told: vec![*address], withheld: Vec::new() },
            None if asker.attachment.spec.mode == NetworkMode::Internal => Outcome::Refused(Reason::Mode),
            None => Outcome::Nobody,
        };
        Some(Lookup { name: name.clone(), outcome })
    }

    fn names_of(&self, _: &Attached, _: Ipv4Addr) -> Vec<Domain> {
        Vec::new()
    }

    async fn status(&self) -> NetStatus {
        NetStatus { attached: 0, ready: 3, problem: None, drops: Some(0) }
    }

    async fn stop(&self) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn terms() -> Terms {
    Terms { net: NetConfig::new("/run/moat/net"), publish_public: false, choose_from: None }
}

/// A network for tests.
pub(crate) fn on() -> Networks {
    let names = BTreeMap::from([
        ("pypi.org".to_owned(), Ipv4Addr::new(151, 101, 0, 223)),
        ("web".to_owned(), Ipv4Addr::new(10, 100, 0, 9)),
    ]);
    Networks::on(terms(), Arc::new(FakeWires { names, ..FakeWires::default() }))
}

/// None.
pub(crate) fn off() -> Networks {
    Networks::off(terms(), "the test has none")
}

fn wish(value: serde_json::Value) -> NetworkWish {
    serde_json::from_value(value).unwrap()
}

fn plan(networks: &Networks, value: serde_json::Value) -> Result<NetworkSpec> {
    networks.plan(Some(&wish(value)), Isolation::Container)
}

fn refusal(networks: &Networks, value: serde_json::Value) -> Error {
    plan(networks, value.clone()).map_or_else(|e| e, |spec| panic!("{value} is taken: {spec:?}"))
}

#[test]
fn what_nobody_asks_for_is_isolated_or_the_hosts() {
    let on = on();
    assert_eq!(on.plan(None, Isolation::Container).unwrap(), NetworkSpec::default());
    assert_eq!(on.plan(None, Isolation::Process).unwrap().mode, NetworkMode::Host);
    assert_eq!(on.plan(Some(&wish(json!("host"))), Isolation::Process).unwrap().mode, NetworkMode::Host);
    for mode in ["isolated", "internal", "internet"] {
        let error = on.plan(Some(&wish(json!(mode))), Isolation::Process).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{}", error.chain());
    }
    let error = off().plan(Some(&wish(json!("internet"))), Isolation::Container).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.chain().contains("the test has none"), "{}", error.chain());
    assert!(off().plan(Some(&wish(json!({"mode": "isolated", "egress": {}}))), Isolation::Container).is_ok());
}

#[test]
fn what_cannot_be_given_is_refused_by_field() {
    let rule = |rule: serde_json::Value| json!({"mode": "internet", "egress": {"rules": [{"action": "allow"}, rule]}});
    let publish = |one: serde_json::Value| json!({"mode": "internal", "publish": [{"port": 1}, one]});
    let limits = |limits: serde_json::Value| json!({"mode": "internet", "limits": limits});
    let many = vec![json!({"action": "deny"}); RULES_MAX + 1];
    let cases = [
        (json!("none"), "network.mode: "),
        (json!("Internet"), "network.mode: "),
        (json!("host"), "network.mode: "),
        (json!({"name": "web"}), "network.name: mode isolated"),
        (json!({"mode": "isolated", "address": "10.100.0.7"}), "network.address: mode isolated"),
        (json!({"egress": {"default": "deny"}}), "network.egress: mode isolated"),
        (json!({"publish": [{"port": 80}]}), "network.publish: mode isolated"),
        (json!({"limits": {"connections": 1}}), "network.limits: mode isolated"),
        (json!({"mode": "internet", "address": "10.100.0.0"}), "network.address: "),
        (json!({"mode": "internet", "address": "10.100.255.255"}), "network.address: "),
        (json!({"mode": "internet", "address": "169.254.1.1"}), "network.address: "),
        (json!({"mode": "internet", "address": "127.0.0.1"}), "network.address: "),
        (json!({"mode": "internet", "name": "a.b"}), "network.name: "),
        (json!({"mode": "internet", "name": "label"}), "network.name: "),
        (json!({"mode": "internet", "name": "sb-x"}), "network.name: "),
        (json!({"mode": "internet", "egress": {"default": "drop"}}), "network.egress.default: "),
        (json!({"mode": "internet", "egress": {"rules": many}}), "network.egress.rules: "),
        (rule(json!({"action": "permit"})), "network.egress.rules[1].action: "),
        (rule(json!({"action": "deny", "cidr": "a"})), "network.egress.rules[1].cidr: "),
        (rule(json!({"action": "deny", "cidr": "10.0.0.1/8"})), "network.egress.rules[1].cidr: "),
        (rule(json!({"action": "deny", "cidr": "::/0"})), "network.egress.rules[1].cidr: "),
        (rule(json!({"action": "allow", "cidr": "192.168.0.0/16"})), "network.egress.rules[1].cidr: "),
        (rule(json!({"action": "allow", "cidr": "169.254.169.254"})), "network.egress.rules[1].cidr: "),
        (rule(json!({"action": "allow", "group": "private"})), "network.egress.rules[1].group: "),
        (rule(json!({"action": "allow", "group": "metadata"})), "network.egress.rules[1].group: "),
        (rule(json!({"action": "deny", "group": "host"})), "network.egress.rules[1].group: "),
        (rule(json!({"action": "deny", "group": "loopback"})), "network.egress.rules[1].group: "),
        (rule(json!({"action": "deny", "group": "Public"})), "network.egress.rules[1].group: "),
        (rule(json!({"action": "deny", "domain": "1.2.3.4"})), "network.egress.rules[1].domain: "),
        (rule(json!({"action": "deny", "domain_suffix": "a..b"})), "network.egress.rules[1].domain_suffix: "),
        (rule(json!({"action": "deny", "domain": "a.b", "cidr": "1.1.1.1"})), "network.egress.rules[1]: "),
        (rule(json!({"action": "deny", "ports": ["0"]})), "network.egress.rules[1].ports[0]: "),
        (rule(json!({"action": "deny", "ports": ["1", "9-8"]})), "network.egress.rules[1].ports[1]: "),
        (rule(json!({"action": "deny", "ports": vec!["1"; 65]})), "network.egress.rules[1].ports: "),
        (rule(json!({"action": "deny", "protocol": "sctp"})), "network.egress.rules[1].protocol: "),
        (rule(json!({"action": "deny", "protocol": "icmp", "ports": ["1"]})), "network.egress.rules[1].ports: "),
        (publish(json!({"port": 0})), "network.publish[1].port: "),
        (publish(json!({"port": 65535, "count": 2})), "network.publish[1].port: "),
        (publish(json!({"port": 1, "host_port": 65535, "count": 2})), "network.publish[1].host_port: "),
        (publish(json!({"port": 1, "count": 0})), "network.publish[1].count: "),
        (publish(json!({"port": 1, "protocol": "icmp"})), "network.publish[1].protocol: "),
        (publish(json!({"port": 1, "host_port": 20000})), "network.publish[1].host_port: "),
        (publish(json!({"port": 1, "count": PUBLISHED_MAX})), "network.publish: "),
        (publish(json!({"port": 1, "host_port": 80})), "network.publish[1].host_port: "),
        (publish(json!({"port": 1, "host_address": "0.0.0.0"})), "network.publish[1].host_address: "),
        (limits(json!({"up_bits_per_sec": 0})), "network.limits.up_bits_per_sec: "),
        (limits(json!({"down_bits_per_sec": u64::MAX})), "network.limits.down_bits_per_sec: "),
        (limits(json!({"up_packets_per_sec": 0})), "network.limits.up_packets_per_sec: "),
        (limits(json!({"down_packets_per_sec": 0})), "network.limits.down_packets_per_sec: "),
        (limits(json!({"connections": 0})), "network.limits.connections: "),
    ];
    for (value, field) in cases {
        // Each from the beginning: the first port the node chooses is 20000.
        let error = refusal(&on(), value.clone());
        let fits = matches!(error.kind, ErrorKind::InvalidSpec | ErrorKind::Denied);
        assert!(fits && error.chain().starts_with(field), "{value}: {:?} {}", error.kind, error.chain());
    }
}

#[test]
fn what_the_operator_allows_can_be_asked_for() {
    let mut terms = terms();
    terms.net.ceiling.allow = vec!["10.1.0.0/16".parse().unwrap()];
    terms.net.ceiling.deny = vec!["8.8.0.0/16".parse().unwrap()];
    terms.publish_public = true;
    terms.choose_from = Some(vec!["192.0.2.0/24".parse().unwrap()]);
    let on = Networks::on(terms, Arc::new(FakeWires::default()));
    let rule = |rule: serde_json::Value| json!({"mode": "internet", "egress": {"rules": [rule]}});
    for good in [
        rule(json!({"action": "allow", "cidr": "10.1.2.0/24"})),
        rule(json!({"action": "allow", "cidr": "10.0.0.0/8"})),
        rule(json!({"action": "allow", "group": "private"})),
        rule(json!({"action": "allow", "cidr": "10.100.0.9"})),
        rule(json!({"action": "allow", "cidr": "0.0.0.0/0"})),
        rule(json!({"action": "deny", "group": "metadata"})),
        json!({"mode": "internet", "publish": [{"port": 80, "host_port": 80, "host_address": "0.0.0.0"}]}),
        json!({"mode": "internet", "address": "192.0.2.7"}),
        json!({"mode": "internet", "address": "10.100.0.7"}),
    ] {
        plan(&on, good.clone()).unwrap_or_else(|e| panic!("{good}: {}", e.chain()));
    }
    for (bad, field) in [
        (rule(json!({"action": "allow", "cidr": "8.8.8.8"})), "network.egress.rules[0].cidr: "),
        (rule(json!({"action": "allow", "cidr": "172.16.0.0/12"})), "network.egress.rules[0].cidr: "),
        (json!({"mode": "internet", "address": "192.168.7.7"}), "network.address: "),
        (
            json!({"mode": "internal", "publish": [{"port": 80, "host_address": "192.0.2.1"}]}),
            "network.publish[0].host_address: ",
        ),
    ] {
        let error = refusal(&on, bad);
        assert!(error.chain().starts_with(field), "{}", error.chain());
    }
}

#[test]
fn everything_that_holds_is_shown_as_it_could_be_asked_for() {
    let on = on();
    let asked = json!({
        "mode": "internet", "name": "Web",
        "egress": {"default": "deny", "rules": [
            {"action": "allow", "domain": "PyPI.org.", "ports": ["443"], "protocol": "tcp"},
            {"action": "allow", "domain_suffix": "*.pythonhosted.org"},
            {"action": "deny", "cidr": "10.0.0.0/8"},
            {"action": "allow", "group": "namespace", "ports": ["80", "8000-8100"]},
        ]},
        "publish": [{"port": 80}, {"port": 53, "host_port": 5353, "protocol": "udp"}, {"port": 90, "count": 3}],
        "limits": {"up_bits_per_sec": 1_000_000, "connections": 10},
    });
    let spec = plan(&on, asked).unwrap();
    let id = SandboxId::from_parts(moat_model::Timestamp::from_millis(1), [7; 10]);
    let status = on.status(&id, &spec, Some(Ipv4Addr::new(10, 100, 0, 7)));
    assert_eq!((status.mode.as_str(), status.name.as_deref()), ("internet", Some("web")));
    assert_eq!(status.names, ["web.moat.internal".to_owned(), format!("{id}.moat.internal")]);
    assert_eq!((status.gateway, status.address), (Some(on.terms.net.gateway), Some(Ipv4Addr::new(10, 100, 0, 7))));
    assert_eq!(status.egress.rules[0].domain.as_deref(), Some("pypi.org"));
    assert_eq!(status.egress.rules[1].domain_suffix.as_deref(), Some("pythonhosted.org"));
    let ports: Vec<_> = status.publish.iter().map(|p| (p.host_port.unwrap(), p.count.unwrap())).collect();
    assert_eq!(ports, [(20_000, 1), (5353, 1), (20_001, 3)]);
    assert!(status.refused.refused.contains(&"169.254.169.254/32".to_owned()));
    let again = NetworkOptions {
        mode: Some(status.mode.clone()),
        address: None,
        name: status.name.clone(),
        egress: Some(status.egress.clone()),
        publish: status.publish.clone(),
        limits: Some(status.limits),
    };
    assert_eq!(plan(&on, serde_json::to_value(again).unwrap()).unwrap(), spec);
    let none = on.status(&id, &NetworkSpec::default(), None);
    assert_eq!((none.address, none.gateway, none.names.len(), none.refused.refused.len()), (None, None, 0, 0));
}

#[test]
fn one_that_lives_keeps_what_cannot_change() {
    let on = on();
    let now = plan(&on, json!({"mode": "internet", "address": "10.100.0.7", "publish": [{"port": 80}]})).unwrap();
    let next = |value| on.replan(wish(value), Isolation::Container, &now);
    let other = next(json!({"name": "db", "publish": [{"port": 80}, {"port": 81}]})).unwrap();
    assert_eq!((other.mode, other.address), (NetworkMode::Internet, now.address));
    assert_eq!(other.publish[0], now.publish[0]);
    assert_ne!(other.publish[1].host_port, now.publish[0].host_port);
    assert_eq!(next(json!("internal")).unwrap().mode, NetworkMode::Internal);
    assert!(next(json!({})).unwrap().publish.is_empty());
    for (bad, field) in
        [(json!("isolated"), "network.mode"), (json!({"mode": "internet", "address": "10.100.0.8"}), "network.address")]
    {
        let error = next(bad).unwrap_err();
        assert!(error.kind == ErrorKind::Conflict && error.chain().starts_with(field), "{}", error.chain());
    }
}

async fn tried(networks: &Networks, network: serde_json::Value, destination: &str) -> TestedDestination {
    let spec = networks.try_out(wish(network), Isolation::Container, None).unwrap();
    let id = SandboxId::from_parts(moat_model::Timestamp::from_millis(1), [7; 10]);
    let namespace = Namespace::default_namespace();
    let asker = Asker { id, namespace: namespace.clone(), labels: BTreeMap::new(), spec };
    let other = Namespace::parse("other").unwrap();
    let neighbours = Neighbours::known([
        (Ipv4Addr::new(10, 100, 0, 9), namespace.clone(), false),
        (Ipv4Addr::new(10, 100, 0, 10), other, false),
        (Ipv4Addr::new(10, 100, 0, 11), namespace, true),
    ]);
    let test = networks.trial(&asker, &[destination.to_owned()], &neighbours).await.unwrap();
    test.results.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_by_which_rule() {
    let on = on();
    let pypi = || {
        json!({"mode": "internet", "egress": {"default": "deny", "rules": [
            {"action": "allow", "domain": "pypi.org", "ports": ["443"]}]}})
    };
    let cases = [
        (json!("isolated"), "8.8.8.8", false, "mode"),
        (json!("isolated"), "pypi.org", false, "mode"),
        (json!("internal"), "8.8.8.8", false, "mode"),
        (json!("internal"), "web:80", true, "default"),
        (json!("internal"), "pypi.org", true, "default"),
        (json!("internal"), "nobody.org", false, "name"),
        (json!("internal"), "10.100.0.9", true, "default"),
        (json!("internal"), "10.100.0.10", false, "namespace"),
        (json!("internal"), "10.100.0.11", false, "namespace"),
        (json!("internal"), "udp://169.254.1.1:53", true, "resolver"),
        (json!("internet"), "169.254.1.1:80", false, "host"),
        (json!("internet"), "8.8.8.8", true, "default"),
        (json!("internet"), "169.254.169.254:80", false, "ceiling"),
        (json!("internet"), "2852039166", false, "ceiling"),
        (json!("internet"), "[::ffff:10.0.0.1]:80", false, "ceiling"),
        (json!("internet"), "[2606:4700::1111]:443", false, "mode"),
        (json!("internet"), "0.0.0.0", false, "ceiling"),
        (json!("internet"), "nobody.org", false, "name"),
        (pypi(), "pypi.org:443", true, "rule"),
        (pypi(), "pypi.org:80", false, "default"),
        (pypi(), "151.101.0.223:443", false, "default"),
    ];
    for (network, destination, allowed, by) in cases {
        // A name that leads out is told to be so by the table of the test, whatever the mode.
        let (network, allowed, by) = match (network.as_str(), destination) {
            (Some("internal"), "pypi.org") => (network, false, "mode"),
            _ => (network, allowed, by),
        };
        let result = tried(&on, network.clone(), destination).await;
        assert_eq!((result.allowed, result.by.as_str()), (allowed, by), "{network} {destination}: {result:?}");
        assert!(!result.why.is_empty());
    }
    assert_eq!(tried(&on, pypi(), "pypi.org:443").await.rule, Some(0));
    let neighbours = Neighbours::default();
    let id = SandboxId::from_parts(moat_model::Timestamp::from_millis(1), [7; 10]);
    let asker =
        Asker { id, namespace: Namespace::default_namespace(), labels: BTreeMap::new(), spec: NetworkSpec::default() };
    for bad in [vec![], vec!["8.8.8.8".to_owned(); 101], vec!["a b".to_owned()]] {
        assert!(on.trial(&asker, &bad, &neighbours).await.unwrap_err().chain().starts_with("destinations"));
    }
}
