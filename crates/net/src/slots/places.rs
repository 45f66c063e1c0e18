//! Which numbers and addresses are taken. Both are given in turn, so that one that was freed rests as long as it can.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::network::NetworkLease;

use crate::NetConfig;

/// Those of one node.
#[derive(Debug)]
pub struct Places {
    /// The address of number 0, which nobody gets: the subnet's own.
    base: u32,
    /// The last number; the one after it would be the subnet's broadcast address.
    last: u32,
    most: usize,
    next: u32,
    slots: BTreeMap<u32, Ipv4Addr>,
    addresses: BTreeMap<Ipv4Addr, u32>,
}

impl Places {
    /// All free.
    pub fn new(config: &NetConfig) -> Self {
        let base = u32::from(config.subnet.network());
        let last = u32::from(config.subnet.broadcast()).saturating_sub(base).saturating_sub(1);
        let most = usize::try_from(config.slots_max).unwrap_or(usize::MAX);
        Self { base, last, most, next: 1, slots: BTreeMap::new(), addresses: BTreeMap::new() }
    }

    /// Whether another could be taken.
    pub fn has_room(&self) -> bool {
        self.slots.len() < self.most && self.slots.len() < self.last as usize
    }

    /// The next number whose address is free.
    pub fn take(&mut self) -> Result<NetworkLease> {
        let tries = if self.has_room() { self.slots.len() + self.addresses.len() + 1 } else { 0 };
        for _ in 0..tries {
            let slot = self.next;
            self.next = if slot >= self.last { 1 } else { slot + 1 };
            let lease = NetworkLease { slot, address: Ipv4Addr::from(self.base + slot) };
            if !self.slots.contains_key(&slot) && !self.addresses.contains_key(&lease.address) {
                self.hold(lease);
                return Ok(lease);
            }
        }
        let why = format!(
            "network: all {} places of this node are taken; fewer sandboxes, or a larger network.subnet or network.slots_max",
            self.slots.len()
        );
        Err(Error::new(ErrorKind::Exhausted, why))
    }

    /// Whether nobody has an address.
    pub fn is_free(&self, address: Ipv4Addr) -> Result<()> {
        if !self.addresses.contains_key(&address) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, format!("network.address: {address} is another sandbox's on this node")))
    }

    /// This number has this address from now on.
    pub fn hold(&mut self, lease: NetworkLease) {
        if let Some(old) = self.slots.insert(lease.slot, lease.address) {
            self.addresses.remove(&old);
        }
        self.addresses.insert(lease.address, lease.slot);
    }

    /// Recorded ones are taken; go on after the highest.
    pub fn go_on(&mut self) {
        let highest = self.slots.keys().next_back().copied().unwrap_or(0);
        self.next = if highest >= self.last { 1 } else { highest + 1 };
    }

    /// Gives it back. One that is not taken is free already.
    pub fn free(&mut self, slot: u32) {
        if let Some(address) = self.slots.remove(&slot) {
            self.addresses.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places(subnet: &str, slots_max: u32) -> Places {
        Places::new(&NetConfig { subnet: subnet.parse().unwrap(), slots_max, ..NetConfig::new("/run/moat/net") })
    }

    #[test]
    fn in_turn_and_never_the_first_or_last_of_the_subnet() {
        let mut all = places("10.9.0.0/29", 100);
        let taken: Vec<_> = (0..6).map(|_| all.take().unwrap()).collect();
        assert_eq!(taken[0].address, Ipv4Addr::new(10, 9, 0, 1));
        assert_eq!(taken[5].address, Ipv4Addr::new(10, 9, 0, 6));
        assert_eq!(all.take().unwrap_err().kind, ErrorKind::Exhausted);
        all.free(2);
        all.free(5);
        assert_eq!(all.take().unwrap().slot, 2);
        all.free(2);
        assert_eq!(all.take().unwrap().slot, 5, "the one that rested longest");
    }

    #[test]
    fn a_chosen_address_keeps_its_number_from_nobody_else() {
        let mut all = places("10.9.0.0/24", 3);
        let lease = all.take().unwrap();
        let chosen = NetworkLease { address: Ipv4Addr::new(10, 9, 0, 2), ..lease };
        all.hold(chosen);
        assert!(all.is_free(chosen.address).is_err() && all.is_free(lease.address).is_ok());
        assert_eq!(all.take().unwrap().slot, 3, "the address of number 2 is taken");
        assert!(all.take().is_ok() && all.take().is_err(), "three at most");
        all.go_on();
        all.free(1);
        assert_eq!(all.take().unwrap().slot, 5, "after the highest");
    }

    proptest! {
        #[test]
        fn nothing_is_given_twice(steps in proptest::collection::vec(0u32..20, 0..200)) {
            let mut all = places("10.9.0.0/28", 12);
            let mut held: Vec<NetworkLease> = Vec::new();
            for step in steps {
                if step < 12 {
                    match all.take() {
                        Ok(lease) => {
                            prop_assert!(held.iter().all(|h| h.slot != lease.slot && h.address != lease.address));
                            held.push(lease);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 12),
                    }
                } else if !held.is_empty() {
                    all.free(held.remove(step as usize % held.len()).slot);
                }
            }
        }
    }
}
