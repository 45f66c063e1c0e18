//! Published ports as they are asked for.

use std::net::Ipv4Addr;

use moat_api::rest::network::Publish;
use moat_model::ErrorKind;
use moat_model::network::{NetworkSpec, PUBLISHED_MAX, Protocol, PublishSpec};

use crate::error::{Error, Result};

use super::read::cut;
use super::{Networks, own};

/// Ports below are those of the host's own services.
const FIRST_PORT: u16 = 1024;

impl Networks {
    pub(super) fn publish(&self, asked: &[Publish], now: Option<&NetworkSpec>) -> Result<Vec<PublishSpec>> {
        // Counted before anything is chosen: each port is an element of a kernel map.
        let ports: usize = asked.iter().map(|one| usize::from(one.count.unwrap_or(1))).sum();
        if ports > PUBLISHED_MAX {
            return Err(Error::invalid("network.publish", format!("{ports} ports; at most {PUBLISHED_MAX} together")));
        }
        let mut published: Vec<PublishSpec> = Vec::with_capacity(asked.len());
        for (index, one) in asked.iter().enumerate() {
            let at = format!("network.publish[{index}]");
            let wanted = self.one(&at, one)?;
            let given = self.with_port(&at, wanted, now, &published)?;
            if let Some(other) = published.iter().position(|other| overlap(other, &given)) {
                let why = format!("{} is given to network.publish[{other}] already", given.host_port);
                return Err(Error::invalid(&format!("{at}.host_port"), why));
            }
            published.push(given);
        }
        Ok(published)
    }

    /// Everything but a port of the host that was left open, which is 0.
    fn one(&self, at: &str, asked: &Publish) -> Result<PublishSpec> {
        let refuse = |field: &str, why: String| Err(Error::invalid(&format!("{at}.{field}"), why));
        let count = asked.count.unwrap_or(1);
        if count == 0 {
            return refuse("count", "0: must be at least 1".to_owned());
        }
        let last = |first: u16| first.checked_add(count - 1);
        if asked.port == 0 || last(asked.port).is_none() {
            return refuse("port", format!("{} and {} after it: ports are 1 to 65535", asked.port, count - 1));
        }
        let host_port = asked.host_port.unwrap_or(0);
        if last(host_port).is_none() {
            return refuse("host_port", format!("{host_port} and {} after it: ports are 1 to 65535", count - 1));
        }
        let protocol = match asked.protocol.as_deref() {
            None | Some("tcp") => Protocol::Tcp,
            Some("udp") => Protocol::Udp,
            Some(other) => return refuse("protocol", format!("{:?} is none of tcp, udp", cut(other))),
        };
        let host_address = asked.host_address.unwrap_or(self.terms.net.publish_address);
        self.may_publish(at, host_address, host_port)?;
        Ok(PublishSpec { host_address, host_port, port: asked.port, count, protocol })
    }

    /// Whether the operator lets callers have this port of the host.
    fn may_publish(&self, at: &str, address: Ipv4Addr, port: u16) -> Result<()> {
        let (terms, net) = (&self.terms, &self.terms.net);
        let field = format!("{at}.host_address");
        let meant = address.is_loopback() || address == net.publish_address || terms.publish_public;
        if !meant {
            let what = format!(
                "{field}: {address} is not {}, and this node publishes nowhere else; its operator can allow it with \
                 network.publish_public",
                net.publish_address
            );
            return Err(Error::new(ErrorKind::Denied, what));
        }
        if address == net.gateway || !(address.is_unspecified() || own::is_own(address)) {
            return Err(Error::invalid(&field, format!("{address} is not an address of this host")));
        }
        if (1..FIRST_PORT).contains(&port) && !terms.publish_public {
            let what = format!(
                "{at}.host_port: {port} is below {FIRST_PORT}, where the host's own services are; its operator can allow \
                 it with network.publish_public"
            );
            return Err(Error::new(ErrorKind::Denied, what));
        }
        Ok(())
    }

    /// Fills in a port of the host that was left open: the one it has, else one that is free.
    fn with_port(
        &self,
        at: &str,
        wanted: PublishSpec,
        now: Option<&NetworkSpec>,
        before: &[PublishSpec],
    ) -> Result<PublishSpec> {
        if wanted.host_port != 0 {
            return Ok(wanted);
        }
        let same = |has: &&PublishSpec| {
            PublishSpec { host_port: 0, ..**has } == wanted && !before.iter().any(|other| overlap(other, has))
        };
        if let Some(has) = now.and_then(|spec| spec.publish.iter().find(same)) {
            return Ok(*has);
        }
        let wires = self.wires().ok_or_else(|| self.none_here())?;
        let chosen = wires.choose_port(wanted.host_address, wanted.protocol, wanted.count);
        let host_port = chosen.map_err(|e| Error::caused_by(e.kind, format!("{at}.host_port"), e))?;
        Ok(PublishSpec { host_port, ..wanted })
    }
}

/// Whether two want the same port of the host.
fn overlap(a: &PublishSpec, b: &PublishSpec) -> bool {
    let address =
        a.host_address == b.host_address || a.host_address.is_unspecified() || b.host_address.is_unspecified();
    let before =
        |a: &PublishSpec, b: &PublishSpec| u32::from(a.host_port) + u32::from(a.count) <= u32::from(b.host_port);
    a.protocol == b.protocol && address && !before(a, b) && !before(b, a)
}
