//! The network of a node, as its operator set it and as users ask for it.
//!
//! [`Networks`] turns what is asked over any wire into a [`NetworkSpec`], refusing by field what cannot be given
//! ([`read`], [`rules`], [`ports`]), shows what holds ([`show`]), and says what would become of a packet ([`trial`]). What
//! it takes to have a network at all – a name, a subnet and a gateway no other node of this host has – is in [`place`].
//! Making links and rules is `moat-net`'s, asked by the engine; what the node itself asks of it is [`Wires`].

mod own;
pub mod place;
mod ports;
mod read;
mod rules;
mod show;
#[cfg(test)]
pub(crate) mod tests;
mod trial;
mod wires;

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use moat_api::rest::network::NetworkWish;
use moat_model::network::{Domain, NetworkLease, NetworkMode, NetworkSpec, Protocol};
use moat_model::{ErrorKind, Isolation, SandboxId};
use moat_net::NetConfig;
use moat_net::net::NetStatus;
use moat_net::resolver::Lookup;
use moat_net::table::Attached;

use crate::error::{Error, Result};

pub(crate) use show::attached;
pub use trial::{Asker, Neighbours};
pub(crate) use wires::terms;
pub use wires::{open, problem};

/// What the node asks of its network, beside what the engine does.
#[async_trait]
pub trait Wires: Send + Sync + std::fmt::Debug {
    /// The first of a run of the host's ports that are free at this address.
    fn choose_port(&self, address: Ipv4Addr, protocol: Protocol, count: u16) -> Result<u16>;

    /// The place of a sandbox, if it has one.
    fn place_of(&self, id: &SandboxId) -> Option<NetworkLease>;

    /// What the resolver would answer this sandbox. It opens nothing to it; the outside may be asked.
    async fn look_up(&self, asker: &Attached, name: &Domain) -> Option<Lookup>;

    /// Names it was given an address for, as far as they are remembered.
    fn names_of(&self, asker: &Attached, address: Ipv4Addr) -> Vec<Domain>;

    /// What there is now, and what was counted.
    async fn status(&self) -> NetStatus;

    /// Leaves nothing behind: for a node that goes, with no sandbox left.
    async fn stop(&self) -> Result<()>;
}

/// What an operator decides about networks, as far as it is not `moat-net`'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Everything `moat-net` is told.
    pub net: NetConfig,
    /// Callers may publish at any address of the host, and below port 1024.
    pub publish_public: bool,
    /// Ranges beside the subnet from which callers may choose addresses; absent: private ones nobody is known to have.
    pub choose_from: Option<Vec<Ipv4Net>>,
}

/// The network of a node.
#[derive(Debug)]
pub struct Networks {
    terms: Terms,
    wires: Option<Arc<dyn Wires>>,
    problem: Option<String>,
}

impl Networks {
    /// A node that has one.
    pub fn on(terms: Terms, wires: Arc<dyn Wires>) -> Self {
        Self { terms, wires: Some(wires), problem: None }
    }

    /// Where ports are published that name no address of the host.
    pub fn publish_address(&self) -> Ipv4Addr {
        self.terms.net.publish_address
    }

    /// A node that has none, for this reason.
    pub fn off(terms: Terms, problem: impl Into<String>) -> Self {
        Self { terms, wires: None, problem: Some(problem.into()) }
    }

    /// What the operator decides.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What answers the node, if there is a network.
    pub fn wires(&self) -> Option<&Arc<dyn Wires>> {
        self.wires.as_ref()
    }

    /// The network of something new. Ports of the host that were left open are chosen.
    pub fn plan(&self, wish: Option<&NetworkWish>, isolation: Isolation) -> Result<NetworkSpec> {
        let spec = match wish {
            // Without a sandbox there is only the host's network: nobody is told otherwise.
            None if isolation == Isolation::Process => NetworkSpec::new(NetworkMode::Host),
            None => NetworkSpec::default(),
            Some(wish) => self.read(&wish.clone().into_options(), isolation, None)?,
        };
        if spec.is_wired() && self.wires.is_none() {
            return Err(self.none_here());
        }
        Ok(spec)
    }

    /// The same network for another, as one that was kept had it.
    pub fn again(&self, kept: &NetworkSpec) -> Result<NetworkSpec> {
        if kept.is_wired() && self.wires.is_none() {
            return Err(self.none_here());
        }
        Ok(kept.clone())
    }

    /// Another network for one that has `now`. Its address stays; so does its mode if none is named, and a chosen port of
    /// the host that leads to the same port.
    pub fn replan(&self, wish: NetworkWish, isolation: Isolation, now: &NetworkSpec) -> Result<NetworkSpec> {
        let mut options = wish.into_options();
        options.mode.get_or_insert_with(|| now.mode.to_string());
        let mut spec = self.read(&options, isolation, Some(now))?;
        if spec.is_wired() != now.is_wired() {
            let what = format!(
                "network.mode: {} cannot become {} while it runs: only internal and internet change into each other",
                now.mode, spec.mode
            );
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        if spec.address.is_some() && spec.address != now.address {
            return Err(Error::new(ErrorKind::Conflict, "network.address: it cannot change; leave it out"));
        }
        spec.address = now.address;
        Ok(spec)
    }

    /// A network to be tried out: as if the node had one, and no port of the host is taken for it.
    pub fn try_out(&self, wish: NetworkWish, isolation: Isolation, now: Option<&NetworkSpec>) -> Result<NetworkSpec> {
        let mut options = wish.into_options();
        if let Some(now) = now {
            options.mode.get_or_insert_with(|| now.mode.to_string());
        }
        for one in &mut options.publish {
            one.host_port = one.host_port.filter(|port| *port > 0).or(Some(one.port));
        }
        self.read(&options, isolation, now)
    }

    fn none_here(&self) -> Error {
        let why = self.problem.as_deref().unwrap_or("its operator has not enabled them");
        Error::new(ErrorKind::Unsupported, format!("network: this node gives none but isolated: {why}"))
    }
}
