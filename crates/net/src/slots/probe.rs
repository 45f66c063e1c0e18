//! What a host must have. Tried in a namespace that is thrown away, so nothing of the host's changes.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use moat_engine::driver::{Need, Requirement};

use super::make::set;
use super::requests::{self, End};
use super::{host, namespace, shape, tap};
use crate::NetConfig;
use crate::netlink::Netlink;

/// Looks at everything; names what is missing.
pub fn requirements(config: &NetConfig) -> Vec<Requirement> {
    vec![links(), limits(), taps(), subnet(config), forwarding()]
}

fn requirement(name: &str, need: Need, outcome: io::Result<String>, fix: &str) -> Requirement {
    let met = outcome.is_ok();
    let fact = outcome.unwrap_or_else(|e| e.to_string());
    Requirement { name: name.to_owned(), need, met, fact, fix: (!met).then(|| fix.to_owned()) }
}

/// A pair of links from one new namespace into another, and settings there.
fn pair() -> io::Result<()> {
    namespace::fresh(|outer| {
        set("net/ipv4/ping_group_range", "0 2147483647")?;
        let here = End { name: "probe0", mac: [2, 0, 0, 0, 0, 1] };
        let there = End { name: "probe1", mac: [2, 0, 0, 0, 0, 2] };
        Netlink::route()?.ask(requests::new_pair(here, there, outer.as_fd(), 9))
    })
}

fn links() -> Requirement {
    let outcome = pair().map(|()| "a namespace with a pair of links was made".to_owned());
    let fix = "run the daemon as root (CAP_NET_ADMIN, CAP_SYS_ADMIN) with /proc/sys writable, and modprobe veth";
    requirement("network links", Need::Required, outcome, fix)
}

fn limits() -> Requirement {
    let tried = namespace::fresh(|_| shape::set(&mut Netlink::route()?, 1, Some(1_000_000)));
    let outcome = tried.map(|()| "a token bucket was set".to_owned());
    requirement("network bandwidth limits", Need::Optional, outcome, "modprobe sch_tbf")
}

fn taps() -> Requirement {
    let tried = namespace::fresh(|_| tap::attempt());
    let outcome = tried.map(|()| "frames of a tap were led to another link".to_owned());
    let fix = "for machines with a network: modprobe tun sch_ingress cls_u32 act_mirred";
    requirement("network taps", Need::Optional, outcome, fix)
}

fn subnet(config: &NetConfig) -> Requirement {
    let outcome = host::overlap(config).and_then(|overlap| match overlap {
        None => Ok(format!("{} is in no net of this host", config.subnet)),
        Some(net) => Err(io::Error::other(format!("{} overlaps {net} of this host", config.subnet))),
    });
    requirement("network subnet", Need::Required, outcome, "set network.subnet to a range nobody here uses")
}

fn forwarding() -> Requirement {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let outcome = fs::read_to_string(path).and_then(|now| {
        fs::OpenOptions::new().write(true).open(path)?;
        Ok(if now.trim() == "0" {
            "off; the daemon switches it on, with a guard so that nobody else's packets are forwarded".to_owned()
        } else {
            "on already".to_owned()
        })
    });
    requirement("network forwarding", Need::Required, outcome, "have /proc/sys/net writable for the daemon")
}
