//! Options that say what network a sandbox has, and what they mean for one that has a network already.

mod rules;
pub mod shown;
mod values;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use moat_api::rest::network::{Egress, NetworkOptions, NetworkStatus, Publish, TrafficLimits};

use crate::failure::Failure;
use rules::RuleArgs;

/// What network it has. Whether the node can give it is the node's to say.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// What it can reach at all: isolated (its own loopback), internal (sandboxes of its namespace), internet, or with
    /// isolation process: host
    #[arg(long, value_name = "MODE", value_parser = ["isolated", "internal", "internet", "host"])]
    network: Option<String>,
    /// Name that other sandboxes of its namespace find it by
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Address of its own, any that is nobody's on the node [default: one of the node's subnet]
    #[arg(long, value_name = "ADDRESS", value_parser = values::address)]
    address: Option<Ipv4Addr>,
    /// What holds where no --allow or --deny fits [default: allow]
    #[arg(long, value_name = "WHAT")]
    egress_default: Option<EgressDefault>,
    #[command(flatten)]
    rules: RuleArgs,
    /// Port of the host that leads to one of the sandbox: 8080:80, 0.0.0.0:8080:80, 5353:53/udp, 8000-8009:9000-9009, or
    /// :80 for a port the node chooses; may be given several times
    #[arg(long, value_name = "[ADDRESS:]PORT:PORT", value_parser = values::publish)]
    publish: Vec<Publish>,
    /// Most bits per second from it, such as 10mbit
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    bandwidth_up: Option<u64>,
    /// Most bits per second to it
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    bandwidth_down: Option<u64>,
    /// Most packets per second from it
    #[arg(long, value_name = "COUNT")]
    packets_up: Option<u32>,
    /// Most packets per second to it
    #[arg(long, value_name = "COUNT")]
    packets_down: Option<u32>,
    /// Most connections to others at once
    #[arg(long, value_name = "COUNT")]
    connections: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EgressDefault {
    Allow,
    Deny,
}

impl NetworkArgs {
    /// Whether any of them was given.
    pub fn is_given(&self) -> bool {
        self.over(NetworkOptions::default()) != NetworkOptions::default()
    }

    /// The network asked for; none without a word about it.
    pub fn wish(&self) -> Option<NetworkOptions> {
        self.is_given().then(|| self.over(NetworkOptions::default()))
    }

    /// What they make of a network: what they name is replaced, everything else stays. Rules and ports are replaced as a
    /// whole.
    pub fn over(&self, base: NetworkOptions) -> NetworkOptions {
        NetworkOptions {
            mode: self.network.clone().or(base.mode),
            address: self.address.or(base.address),
            name: self.name.clone().or(base.name),
            egress: self.egress().or(base.egress),
            publish: if self.publish.is_empty() { base.publish } else { self.publish.clone() },
            limits: self.limits(base.limits),
        }
    }

    fn egress(&self) -> Option<Egress> {
        let default = self.egress_default.map(|default| match default {
            EgressDefault::Allow => "allow".to_owned(),
            EgressDefault::Deny => "deny".to_owned(),
        });
        let egress = Egress { default, rules: self.rules.in_order().to_vec() };
        (egress != Egress::default()).then_some(egress)
    }

    fn limits(&self, base: Option<TrafficLimits>) -> Option<TrafficLimits> {
        let had = base.unwrap_or_default();
        let limits = TrafficLimits {
            up_bits_per_sec: self.bandwidth_up.or(had.up_bits_per_sec),
            down_bits_per_sec: self.bandwidth_down.or(had.down_bits_per_sec),
            up_packets_per_sec: self.packets_up.or(had.up_packets_per_sec),
            down_packets_per_sec: self.packets_down.or(had.down_packets_per_sec),
            connections: self.connections.or(had.connections),
        };
        if limits == TrafficLimits::default() { base } else { Some(limits) }
    }
}

/// The network a sandbox has, as somebody would ask for it. Its address stays whatever is asked.
pub fn asked_for(status: NetworkStatus) -> NetworkOptions {
    NetworkOptions {
        mode: Some(status.mode),
        address: None,
        name: status.name,
        egress: Some(status.egress),
        publish: status.publish,
        limits: Some(status.limits),
    }
}

/// Reads a whole network from a JSON file; `-` is standard input.
pub fn from_file(path: &PathBuf) -> Result<NetworkOptions, Failure> {
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).map_err(|e| Failure::internal("read standard input", e))?
    } else {
        std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?
    };
    serde_json::from_str(&text).map_err(|e| {
        Failure::invalid(format!("--file {}: {e}", path.display()))
            .with_hint(r#"for one: {"mode": "internet", "egress": {"default": "deny", "rules": [...]}}"#)
    })
}
