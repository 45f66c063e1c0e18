//! The network of a running node: whether there is one, and `moat-net` as the node asks it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use moat_engine::driver::{Need, Requirement};
use moat_engine::fabric::Fabric;
use moat_model::network::{Domain, NetworkLease, Protocol};
use moat_model::{ErrorKind, SandboxId};
use moat_net::net::NetStatus;
use moat_net::resolver::Lookup;
use moat_net::table::Attached;
use moat_net::{Net, NetConfig};

use crate::config::{NetworkConfig, NodeConfig};
use crate::error::{Error, Result};

use super::place::{self, Held};
use super::{Networks, Terms, Wires};

/// `moat-net`, and the place on the host that is this node's as long as it runs.
#[derive(Debug)]
struct Running {
    net: Arc<Net>,
    _held: Held,
}

#[async_trait]
impl Wires for Running {
    fn choose_port(&self, address: Ipv4Addr, protocol: Protocol, count: u16) -> Result<u16> {
        self.net.choose_port(address, protocol, count)
    }

    fn place_of(&self, id: &SandboxId) -> Option<NetworkLease> {
        self.net.table().all().into_iter().find(|one| one.attachment.id == *id).map(|one| one.lease)
    }

    async fn look_up(&self, asker: &Attached, name: &Domain) -> Option<Lookup> {
        Some(self.net.resolver()?.lookup(asker, name).await)
    }

    fn names_of(&self, asker: &Attached, address: Ipv4Addr) -> Vec<Domain> {
        self.net.resolver().map(|resolver| resolver.names_of(asker, address)).unwrap_or_default()
    }

    async fn status(&self) -> NetStatus {
        self.net.status().await
    }

    async fn stop(&self) -> Result<()> {
        self.net.stop().await
    }
}

/// What the operator decided, at this place.
pub(crate) fn terms(config: &NodeConfig, place: &place::Place) -> Terms {
    let NetworkConfig { net, publish_public, choose_from, .. } = &config.network;
    let net = NetConfig {
        name: place.name.clone(),
        subnet: place.subnet,
        gateway: place.gateway,
        run_dir: config.run_dir.join("net"),
        ..net.clone()
    };
    Terms { net, publish_public: *publish_public, choose_from: choose_from.clone() }
}

/// Starts the network of a node, before its engine is opened. Unless the operator asked for it, a host that cannot have one
/// makes a node without, which says why.
pub async fn open(config: &NodeConfig) -> Result<(Networks, Option<Arc<dyn Fabric>>)> {
    let wanted = config.network.wanted.clone();
    let off = |why: String| {
        let place = place::Place::candidate(&config.run_dir, &wanted, 0);
        Networks::off(terms(config, &place), why)
    };
    if config.network.enabled == Some(false) {
        return Ok((off("its operator disabled them (network.enabled)".to_owned()), None));
    }
    match started(config).await {
        Ok((terms, running)) => {
            let fabric: Arc<dyn Fabric> = Arc::clone(&running.net) as Arc<dyn Fabric>;
            tracing::info!(name = terms.net.name, subnet = %terms.net.subnet, "sandboxes can have networks");
            Ok((Networks::on(terms, Arc::new(running)), Some(fabric)))
        }
        Err(error) if config.network.enabled == Some(true) => Err(error),
        Err(error) => {
            tracing::warn!(error = %error.chain(), "no networks here: sandboxes have their loopback only");
            Ok((off(error.chain()), None))
        }
    }
}

async fn started(config: &NodeConfig) -> Result<(Terms, Running)> {
    let (run_dir, wanted) = (config.run_dir.clone(), config.network.wanted.clone());
    let taking = tokio::task::spawn_blocking(move || place::take(&run_dir, &run_dir.join("net"), &wanted));
    let held = taking.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "take a place for the network", e))??;
    let terms = terms(config, &held.place);
    let needs = terms.net.clone();
    let probed = tokio::task::spawn_blocking(move || moat_net::requirements(&needs));
    let needs = probed.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "examine the network", e))?;
    if let Some(why) = problem(&needs) {
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let net = Net::start(terms.net.clone()).await?;
    Ok((terms, Running { net, _held: held }))
}

/// What is missing of what networks need, with the fix.
pub fn problem(requirements: &[Requirement]) -> Option<String> {
    let missing = requirements.iter().filter(|r| !r.met && r.need == Need::Required);
    let said = |r: &Requirement| match &r.fix {
        Some(fix) => format!("{}: {} ({fix})", r.name, r.fact),
        None => format!("{}: {}", r.name, r.fact),
    };
    let all: Vec<String> = missing.map(said).collect();
    (!all.is_empty()).then(|| all.join("; "))
}
