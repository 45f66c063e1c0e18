//! What has to happen before an answer leaves.

use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use moat_engine::error::Result;

use crate::table::Attached;

/// Opens addresses to the rules that name them. An answer leaves only after this was done, so that the first packet to an
/// address that was just learnt finds its rule.
#[async_trait]
pub trait Pinner: Send + Sync + std::fmt::Debug {
    /// For these rules of the policy of `asker`, counted from 0 as in [`moat_model::network::EgressPolicy`], these addresses
    /// are the name's for this long from now; what is remembered already is remembered at least as long. Never called with
    /// no rule or no address.
    ///
    /// `asker` is what the resolver looked at when it chose the rules. Fails if the slot holds something else by now: numbers
    /// of rules mean nothing in another policy. Whoever asked then gets no answer and asks again.
    async fn pin(&self, asker: &Attached, rules: &[usize], addresses: &[Ipv4Addr], ttl: Duration) -> Result<()>;
}
