//! What has to happen before an answer leaves.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use moat_engine::error::Result;
use moat_model::SandboxId;
use moat_model::network::Domain;

use crate::table::Attached;

/// How much longer than its answer an address stays a name's: programs look up, then try one address after the other.
pub(super) const PIN_EXTRA: Duration = Duration::from_secs(30);
/// Pairs of name and address remembered for one sandbox.
const REMEMBERED_MAX: usize = 1024;

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

/// Which names an address was given for: what a dry run by address needs to know. The truth is the kernel's; a daemon that
/// was started again has forgotten, and the dry run then says less than the rules allow.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    inner: Mutex<HashMap<u32, Of>>,
}

#[derive(Debug)]
struct Of {
    sandbox: SandboxId,
    given: Vec<(Ipv4Addr, Domain, Instant)>,
}

impl Remembered {
    /// These addresses were given for this name.
    pub fn put(&self, asker: &Attached, name: &Domain, addresses: &[Ipv4Addr], ttl: Duration, now: Instant) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let sandbox = asker.attachment.id.clone();
        let of = inner.entry(asker.lease.slot).or_insert_with(|| Of { sandbox: sandbox.clone(), given: Vec::new() });
        if of.sandbox != sandbox {
            *of = Of { sandbox, given: Vec::new() };
        }
        of.given.retain(|(address, of, until)| *until > now && !(of == name && addresses.contains(address)));
        of.given.extend(addresses.iter().map(|address| (*address, name.clone(), now + ttl)));
        let over = of.given.len().saturating_sub(REMEMBERED_MAX);
        of.given.drain(..over);
    }

    /// The names this sandbox was given an address for.
    pub fn names(&self, asker: &Attached, address: Ipv4Addr, now: Instant) -> Vec<Domain> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of) = inner.get(&asker.lease.slot).filter(|of| of.sandbox == asker.attachment.id) else {
            return Vec::new();
        };
        let fits = |(of, _, until): &&(Ipv4Addr, Domain, Instant)| *of == address && *until > now;
        of.given.iter().filter(fits).map(|(_, name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::attached;
    use super::*;
    use moat_model::network::NetworkMode;

    #[test]
    fn names_are_forgotten_with_time_and_with_their_sandbox() {
        let (remembered, start) = (Remembered::default(), Instant::now());
        let asker = attached(1, "red", None, NetworkMode::Internet);
        let (name, address) = (Domain::parse("a.org").unwrap(), Ipv4Addr::new(8, 8, 8, 8));
        remembered.put(&asker, &name, &[address], Duration::from_secs(10), start);
        remembered.put(&asker, &name, &[address], Duration::from_secs(20), start);
        let at = |secs| remembered.names(&asker, address, start + Duration::from_secs(secs));
        assert_eq!((at(0), at(19), at(20)), (vec![name.clone()], vec![name.clone()], vec![]));
        let mut next = attached(2, "red", None, NetworkMode::Internet);
        next.lease = asker.lease;
        assert!(remembered.names(&next, address, start).is_empty());
        for n in 0..2000 {
            let name = Domain::parse(&format!("{n}.org")).unwrap();
            remembered.put(&asker, &name, &[address], Duration::from_secs(10), start);
        }
        assert_eq!(remembered.names(&asker, address, start).len(), REMEMBERED_MAX);
    }
}
