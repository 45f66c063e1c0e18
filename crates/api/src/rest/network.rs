//! Networks of sandboxes.

use std::fmt;
use std::net::Ipv4Addr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// The network asked for: a mode alone, or everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum NetworkWish {
    /// `isolated`, `internal`, `internet`, or for isolation `process` `host`.
    Mode(String),
    /// Everything.
    Options(Box<NetworkOptions>),
}

impl NetworkWish {
    /// Everything it says.
    pub fn into_options(self) -> NetworkOptions {
        match self {
            Self::Mode(mode) => NetworkOptions { mode: Some(mode), ..NetworkOptions::default() },
            Self::Options(options) => *options,
        }
    }
}

/// By hand: what serde makes of an untagged enum says only that no variant fits, and neither which member nor why.
impl<'de> Deserialize<'de> for NetworkWish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WishVisitor)
    }
}

struct WishVisitor;

impl<'de> Visitor<'de> for WishVisitor {
    type Value = NetworkWish;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mode such as \"internet\", or an object with mode, name, egress, publish and limits")
    }

    fn visit_str<E>(self, mode: &str) -> Result<NetworkWish, E> {
        Ok(NetworkWish::Mode(mode.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<NetworkWish, A::Error> {
        NetworkOptions::deserialize(MapAccessDeserializer::new(members)).map(|o| NetworkWish::Options(Box::new(o)))
    }
}

/// The network asked for. Unknown members are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkOptions {
    /// `isolated` (the default: loopback only), `internal` (sandboxes of the same namespace) or `internet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// An address of its own choosing, any that is nobody's on this node; absent: one from the node's subnet. Cannot be
    /// changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// The name other sandboxes of the namespace find it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it may talk to, of what the mode lets it reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// Bounds on its traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<TrafficLimits>,
}

/// What a sandbox may talk to: the first rule that fits decides, then the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// `allow` (if absent) or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// In order; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// One rule. At most one of `cidr`, `domain`, `domain_suffix` and `group` says where to; without any it is anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `allow` or `deny`.
    pub action: String,
    /// A range of addresses, or one address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// One name: the addresses the node's resolver answered this sandbox for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Every name below this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_suffix: Option<String>,
    /// `public`, `private`, `link_local`, `metadata`, `multicast` or `namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Ports: `443` or `8000-8100`. None: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// `tcp`, `udp` or `icmp`. Absent: all; with ports, TCP and UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// A port of the host, or a range, that leads to a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Port of the sandbox.
    pub port: u16,
    /// Port of the host; absent or 0: one the node chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Address of the host; absent: the node's default, which is 127.0.0.1 unless its operator says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub host_address: Option<Ipv4Addr>,
    /// `tcp` (if absent) or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// How many ports from there on; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u16>,
}

/// Bounds on the traffic of a sandbox. Up is from it, down is to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrafficLimits {
    /// Bits per second up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_bits_per_sec: Option<u64>,
    /// Bits per second down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_bits_per_sec: Option<u64>,
    /// Packets per second up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_packets_per_sec: Option<u32>,
    /// Packets per second down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_packets_per_sec: Option<u32>,
    /// Connections it may have open to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// The network a sandbox has: everything that holds, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// `isolated`, `internal`, `internet` or `host`.
    pub mode: String,
    /// Its address; null without a network.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// Next hop and resolver; null without a network.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// Its own name.
    pub name: Option<String>,
    /// Names it is found by within its namespace, in full.
    pub names: Vec<String>,
    /// What it may talk to.
    pub egress: Egress,
    /// Ranges nobody on this node reaches, whatever their rules say, with what the operator allows of them.
    pub refused: RefusedRanges,
    /// Ports of the host that lead to it, the host's filled in.
    pub publish: Vec<Publish>,
    /// Bounds in force.
    pub limits: TrafficLimits,
}

/// What the operator decides for every sandbox of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedRanges {
    /// Refused to all.
    pub refused: Vec<String>,
    /// Parts of them that are allowed.
    pub allowed: Vec<String>,
}

/// Asks whether destinations would be reached. Nothing is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestNetwork {
    /// Instead of the sandbox's own: what if it had this? Without a sandbox it must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkWish>,
    /// `address`, `name`, `address:port`, `name:port`, or the same after `tcp://`, `udp://` or `icmp://`; at most 100.
    pub destinations: Vec<String>,
}

/// What would become of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkTest {
    /// In the order asked.
    pub results: Vec<TestedDestination>,
}

/// What would become of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestedDestination {
    /// As asked.
    pub destination: String,
    /// The address it was decided by; a name is looked up as the sandbox would.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// Whether it would be reached.
    pub allowed: bool,
    /// Which rule decides: `mode`, `resolver`, `host`, `namespace`, `ceiling`, `rule`, `default`, or `name` for a name that
    /// is not resolved for it.
    pub by: String,
    /// Which of the sandbox's rules, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// The same for people.
    pub why: String,
}

/// The network of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeNetwork {
    /// Whether it gives any but `isolated`.
    pub enabled: bool,
    /// Why not, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Addresses are leased from it.
    pub subnet: Option<String>,
    /// Next hop and resolver.
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// Domain of sandboxes' names.
    pub domain: Option<String>,
    /// Ranges refused to all.
    pub refused: RefusedRanges,
    /// Where names that are nobody's here are asked for.
    pub upstreams: Vec<String>,
    /// Places taken by sandboxes.
    pub attached: usize,
    /// Places that stand ready.
    pub ready: usize,
    /// Address sandboxes' ports are reached at through the node's reverse proxy, if it runs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Who is attached, of the caller's namespace.
    pub sandboxes: Vec<AttachedSandbox>,
}

/// A sandbox at its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttachedSandbox {
    /// Which one.
    pub id: String,
    /// Its address.
    #[schema(value_type = String)]
    pub address: Ipv4Addr,
    /// Its name.
    pub name: Option<String>,
    /// Its mode.
    pub mode: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_word_or_an_object() {
        let read = |text: &str| serde_json::from_str::<NetworkWish>(text);
        assert_eq!(read(r#""internet""#).unwrap().into_options().mode.as_deref(), Some("internet"));
        let all = r#"{"mode":"internal","name":"web","egress":{"default":"deny","rules":[{"action":"allow","ports":["443"]}]},
            "publish":[{"port":80,"host_port":8080}],"limits":{"up_bits_per_sec":1000}}"#;
        let options = read(all).unwrap().into_options();
        assert_eq!((options.name.as_deref(), options.publish[0].host_port), (Some("web"), Some(8080)));
        let again = serde_json::to_string(&NetworkWish::Options(Box::new(options.clone()))).unwrap();
        assert_eq!(read(&again).unwrap().into_options(), options);
    }

    #[test]
    fn what_is_not_known_is_refused_and_named() {
        for (text, named) in [
            (r#"{"allow_internet_access":true}"#, "allow_internet_access"),
            (r#"{"egress":{"rules":[{"action":"allow","ip":"1.1.1.1"}]}}"#, "`ip`"),
            (r#"{"egress":{"allow":[]}}"#, "`allow`"),
            (r#"{"publish":[{"port":1,"hostPort":2}]}"#, "hostPort"),
            (r#"{"publish":[{"port":70000}]}"#, "70000"),
            (r#"{"limits":{"bandwidth":1}}"#, "bandwidth"),
            (r#"{"address":"fe80::1"}"#, "IPv4"),
            ("true", "a mode such as"),
            ("[]", "a mode such as"),
        ] {
            let why = serde_json::from_str::<NetworkWish>(text).unwrap_err().to_string();
            assert!(why.contains(named), "{text}: {why}");
        }
    }
}
