//! From the network asked for to what the engine is asked for, each refusal with its field.

use std::net::Ipv4Addr;

use moat_api::rest::network::{NetworkOptions, TrafficLimits};
use moat_model::network::{EgressPolicy, HostLabel, NetworkLimits, NetworkMode, NetworkSpec};
use moat_model::{ErrorKind, Isolation};

use crate::error::{Error, Result};

use super::{Networks, own};

/// Less than a kilobyte in a second is a mistake in the unit; no link is faster than a terabit.
const BITS: (u64, u64) = (8_000, 1_000_000_000_000);
/// A hundred million: more than any link of a host carries.
const PACKETS_MAX: u64 = 100_000_000;
/// A million connections fill a host's table of them.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// Text of a caller in a message, cut.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

impl Networks {
    /// Checks all of it. `now` is what it replaces.
    pub(super) fn read(
        &self,
        asked: &NetworkOptions,
        isolation: Isolation,
        now: Option<&NetworkSpec>,
    ) -> Result<NetworkSpec> {
        let mode = mode(asked.mode.as_deref(), isolation)?;
        let spec = NetworkSpec::new(mode);
        if !spec.is_wired() {
            return plain(asked, mode).map(|()| spec);
        }
        Ok(NetworkSpec {
            address: asked.address.map(|address| self.address(address)).transpose()?,
            name: asked.name.as_deref().map(name).transpose()?,
            egress: match &asked.egress {
                Some(egress) => self.egress(egress)?,
                None => EgressPolicy::default(),
            },
            publish: self.publish(&asked.publish, now)?,
            limits: limits(asked.limits.unwrap_or_default())?,
            ..spec
        })
    }

    /// An address of a caller's choosing. The host itself sends to it, so nobody may take one that is somebody's already;
    /// what this host knows of that the fabric refuses, the operator may refuse more.
    fn address(&self, address: Ipv4Addr) -> Result<Ipv4Addr> {
        let net = &self.terms.net;
        let refuse = |why: String| Err(Error::invalid("network.address", format!("{address} {why}")));
        if address == net.subnet.network() || address == net.subnet.broadcast() {
            return refuse(format!("is the first or last of the subnet {}; take one between", net.subnet));
        }
        if address == net.gateway {
            return refuse("is the gateway of all sandboxes".to_owned());
        }
        let withheld =
            self.terms.choose_from.as_ref().is_some_and(|ranges| !ranges.iter().any(|range| range.contains(&address)));
        if !net.subnet.contains(&address) && withheld {
            return refuse(format!(
                "is neither in the node's subnet {} nor in the other ranges its operator lets callers choose from (network.choose_from)",
                net.subnet
            ));
        }
        if own::is_own(address) {
            return refuse("is the host's own".to_owned());
        }
        Ok(address)
    }
}

fn mode(asked: Option<&str>, isolation: Isolation) -> Result<NetworkMode> {
    let process = isolation == Isolation::Process;
    match asked {
        None | Some("host") if process => Ok(NetworkMode::Host),
        Some(word @ ("isolated" | "internal" | "internet")) if process => Err(Error::new(
            ErrorKind::Unsupported,
            format!("network.mode: {word} cannot be given: isolation process has only the host's network, host"),
        )),
        None | Some("isolated") => Ok(NetworkMode::Isolated),
        Some("internal") => Ok(NetworkMode::Internal),
        Some("internet") => Ok(NetworkMode::Internet),
        Some("host") => {
            Err(Error::invalid("network.mode", "host is the host's own network, which only isolation process has"))
        }
        Some(other) => {
            Err(Error::invalid("network.mode", format!("{:?} is none of isolated, internal, internet", cut(other))))
        }
    }
}

/// What has no network has nothing to be said about it.
fn plain(asked: &NetworkOptions, mode: NetworkMode) -> Result<()> {
    let said = [
        ("address", asked.address.is_some()),
        ("name", asked.name.is_some()),
        ("egress", asked.egress.as_ref().is_some_and(|e| *e != Default::default())),
        ("publish", !asked.publish.is_empty()),
        ("limits", asked.limits.is_some_and(|l| l != Default::default())),
    ];
    match said.into_iter().find(|(_, said)| *said) {
        None => Ok(()),
        Some((field, _)) => {
            let why = match mode {
                NetworkMode::Host => "nothing of the host's network is a sandbox's to set; leave it out".to_owned(),
                _ => format!("mode {mode} has loopback only; it needs mode internal or internet"),
            };
            Err(Error::invalid(&format!("network.{field}"), why))
        }
    }
}

fn name(text: &str) -> Result<HostLabel> {
    let label = HostLabel::parse(text).map_err(|e| Error::invalid("network.name", e))?;
    if label.as_str() == "label" || label.as_str().starts_with("sb-") {
        let why = format!("{label} would be mistaken for others' names: not \"label\", and not beginning with \"sb-\"");
        return Err(Error::invalid("network.name", why));
    }
    Ok(label)
}

fn limits(asked: TrafficLimits) -> Result<NetworkLimits> {
    let check = |field: &str, given: Option<u64>, (least, most): (u64, u64)| match given {
        Some(given) if !(least..=most).contains(&given) => Err(Error::invalid(
            &format!("network.limits.{field}"),
            format!("{given}: must lie within {least} and {most}; leave it out for none"),
        )),
        _ => Ok(()),
    };
    check("up_bits_per_sec", asked.up_bits_per_sec, BITS)?;
    check("down_bits_per_sec", asked.down_bits_per_sec, BITS)?;
    check("up_packets_per_sec", asked.up_packets_per_sec.map(u64::from), (1, PACKETS_MAX))?;
    check("down_packets_per_sec", asked.down_packets_per_sec.map(u64::from), (1, PACKETS_MAX))?;
    check("connections", asked.connections.map(u64::from), (1, CONNECTIONS_MAX))?;
    Ok(NetworkLimits {
        up_bits_per_sec: asked.up_bits_per_sec,
        down_bits_per_sec: asked.down_bits_per_sec,
        up_packets_per_sec: asked.up_packets_per_sec,
        down_packets_per_sec: asked.down_packets_per_sec,
        connections_max: asked.connections,
    })
}
