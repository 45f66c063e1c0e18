//! Ports of the host: each is held by a bound socket, so that nobody else takes it.

use std::net::Ipv4Addr;

use moat_engine::error::Result;
use moat_model::network::{Protocol, PublishSpec};

use crate::NetConfig;

/// Those that are held.
#[derive(Debug)]
pub struct Published {}

impl Published {
    /// None yet.
    pub fn new(_: &NetConfig) -> Self {
        Self {}
    }

    /// A first port of so many in a row that are free at this address now.
    pub fn choose_port(&self, _address: Ipv4Addr, _protocol: Protocol, _count: u16) -> Result<u16> {
        Ok(0)
    }

    /// Holds these for a slot, beside what it holds already. All or none.
    pub fn reserve(&self, _slot: u32, _: &[PublishSpec]) -> Result<()> {
        Ok(())
    }

    /// Lets go what a slot holds, but these.
    pub fn keep(&self, _slot: u32, _: &[PublishSpec]) {}
}
