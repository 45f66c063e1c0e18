//! Addresses callers may choose: their own ranges, if nothing the host talks to stands there.
//!
//! A place is a route of the host's. One to an address that is somebody's would take it from the host and from everybody
//! behind it: so no public ones, and none the host has a way to that is not its default route.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::network::{Group, is_forbidden, ranges_of};

use super::requests;
use crate::NetConfig;
use crate::netlink::{Netlink, attributes, number32};

const ZERO: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8);
const RESERVED: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4);

/// What can be said without looking at the host.
pub fn check(config: &NetConfig, address: Ipv4Addr) -> Result<()> {
    let no = |why: &str| Err(Error::invalid("network.address", format!("{address} {why}")));
    if ZERO.contains(&address) || RESERVED.contains(&address) {
        return no("is no address of one host");
    }
    if address.is_loopback() {
        return no("is loopback's");
    }
    if address.is_multicast() {
        return no("is a multicast group");
    }
    if address == config.gateway {
        return no("is the gateway of every sandbox");
    }
    if address.is_link_local() || ranges_of(Group::Metadata).iter().any(|range| range.contains(&address)) {
        return no("is in a range of gateways and metadata services");
    }
    if address == config.subnet.network() || address == config.subnet.broadcast() {
        return no("is the first or last of network.subnet");
    }
    if config.upstreams.iter().any(|upstream| upstream.ip() == address) || address == config.publish_address {
        return no("is one this node itself uses");
    }
    if !is_forbidden(address) {
        return no("is public, so it is somebody's; choose a private one, such as 10.0.0.1");
    }
    Ok(())
}

/// Whether the host has no way to this address but its default route.
pub fn free_at_host(address: Ipv4Addr) -> Result<()> {
    let failed = |e| Error::caused_by(ErrorKind::Internal, format!("network: ask the host's route to {address}"), e);
    let answer = Netlink::route().and_then(|mut netlink| netlink.get(requests::route_to(address)));
    let (_, payload) = match answer {
        Ok(answer) => answer,
        // It has no way there at all: neither a default route.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let length = payload.get(1).copied().unwrap_or(32);
    if length == 0 {
        return Ok(());
    }
    let rest = payload.get(requests::ROUTE_HEADER..).unwrap_or_default();
    let link = attributes(rest).find(|(kind, _)| *kind == requests::ROUTE_LINK).map_or(0, |(_, v)| number32(v, 0));
    let why = format!("{address} is one this host has or reaches itself: by its route to a /{length} over link {link}");
    Err(Error::invalid("network.address", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_ones_may_be_chosen_and_others_are_refused_with_the_reason() {
        let config = NetConfig { upstreams: vec!["10.5.5.5:53".parse().unwrap()], ..NetConfig::new("/run/moat/net") };
        for good in ["10.0.0.1", "172.30.0.5", "192.168.77.255", "10.100.7.7", "100.64.0.1", "203.0.113.9"] {
            assert!(check(&config, good.parse().unwrap()).is_ok(), "{good}");
        }
        let bad = [
            ("0.0.0.0", "no address of one host"),
            ("0.1.2.3", "no address of one host"),
            ("255.255.255.255", "no address of one host"),
            ("240.0.0.1", "no address of one host"),
            ("127.0.0.1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("169.254.1.1", "the gateway"),
            ("169.254.169.254", "metadata"),
            ("100.100.100.200", "metadata"),
            ("10.100.0.0", "first or last"),
            ("10.100.255.255", "first or last"),
            ("10.5.5.5", "this node itself uses"),
            ("8.8.8.8", "public"),
        ];
        for (address, why) in bad {
            let error = check(&config, address.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidSpec);
            assert!(
                error.doing.starts_with("network.address: ") && error.doing.contains(why),
                "{address}: {}",
                error.doing
            );
        }
    }
}
