//! Slots: a network namespace each, with a link to the host, addresses, routes and neighbours.
//!
//! | module | holds |
//! |---|---|
//! | [`naming`] | what things are called |
//! | `places` | which numbers and addresses are taken |
//! | `chosen` | addresses callers may choose |
//! | `make` | the kernel's things of one slot: made, changed, removed |
//! | [`namespace`] | threads that are inside one |
//! | [`tap`] | what a slot of a machine has instead of an address |
//! | `requests`, `shape` | what is asked of the kernel, in its words |
//! | [`host`] | what all slots share |
//! | `sweep` | after a restart: what is kept, what is removed |
//! | `probe` | what a host must have |
//!
//! A namespace is held open by this process, and by whoever lives in it; `<run_dir>/ns/<slot>` leads there. There are no
//! mounts: every launcher would have to copy them all. One that nobody lives in ends with the daemon, and its link with it.

mod chosen;
pub mod host;
mod make;
pub mod namespace;
pub mod naming;
mod places;
mod probe;
mod requests;
mod shape;
mod sweep;
pub mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::network::{NetworkLease, NetworkLimits};

use crate::NetConfig;
use make::Made;
use places::Places;
pub use probe::requirements;

/// A place that is somebody's, as it was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub lease: NetworkLease,
    /// How fast.
    pub limits: NetworkLimits,
    /// It is a machine's: the host's user that opens its tap.
    pub tap_owner: Option<u32>,
}

/// All slots of a node. What it does to the kernel blocks: call it where that is allowed.
#[derive(Debug)]
pub struct Slots {
    config: NetConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    places: Places,
    /// Made, and nobody's.
    ready: VecDeque<NetworkLease>,
    made: BTreeMap<u32, Arc<Made>>,
}

impl Slots {
    /// None yet.
    pub fn new(config: NetConfig) -> Self {
        let places = Places::new(&config);
        Self { config, state: Mutex::new(State { places, ready: VecDeque::new(), made: BTreeMap::new() }) }
    }

    /// Whether callers may choose this address at all.
    pub fn check_chosen(&self, address: Ipv4Addr) -> Result<()> {
        chosen::check(&self.config, address)
    }

    /// Takes a place: a prepared one if there is one.
    pub fn take(&self, chosen: Option<Ipv4Addr>) -> Result<NetworkLease> {
        let Some(address) = chosen else {
            let mut state = self.lock();
            return state.ready.pop_front().map_or_else(|| state.places.take(), Ok);
        };
        self.check_chosen(address)?;
        let mut state = self.lock();
        if let Some(at) = state.ready.iter().position(|lease| lease.address == address) {
            return state.ready.remove(at).ok_or_else(|| Error::new(ErrorKind::Internal, "a ready slot is gone"));
        }
        state.places.is_free(address)?;
        chosen::free_at_host(address)?;
        let lease = match state.ready.pop_front() {
            Some(lease) => lease,
            None => state.places.take()?,
        };
        let lease = NetworkLease { address, ..lease };
        state.places.hold(lease);
        Ok(lease)
    }

    /// Marks a recorded place as taken.
    pub fn hold(&self, lease: NetworkLease) {
        self.lock().places.hold(lease);
    }

    /// Gives a place back. Nothing of it may exist any more.
    pub fn free(&self, lease: &NetworkLease) {
        self.lock().places.free(lease.slot);
    }

    /// Whether anything was made of a slot.
    pub fn exists(&self, slot: u32) -> bool {
        self.lock().made.contains_key(&slot)
    }

    /// How many stand ready.
    pub fn ready(&self) -> usize {
        self.lock().ready.len()
    }

    /// Makes one more ready slot, if fewer stand ready than are wanted. Says whether it did.
    pub fn prepare(&self) -> Result<bool> {
        let lease = {
            let mut state = self.lock();
            if state.ready.len() >= self.config.ready || !state.places.has_room() {
                return Ok(false);
            }
            state.places.take()?
        };
        match self.make(&lease) {
            Ok(_) => {
                self.lock().ready.push_back(lease);
                Ok(true)
            }
            Err(error) => {
                // What is left of it, if that can be removed; otherwise its number stays taken.
                if self.detach(&lease).is_ok() {
                    self.free(&lease);
                }
                Err(error)
            }
        }
    }

    /// Makes a place real, with its limits on bandwidth, and a tap if it is a machine's.
    pub fn attach(&self, held: &Held) -> Result<()> {
        let Held { lease, limits, tap_owner } = held;
        let made = self.lock().made.get(&lease.slot).cloned();
        let made = match made {
            Some(made) if made.address == lease.address => made,
            Some(made) => self.put(lease.slot, make::readdress(&self.config, lease, &made)?),
            None => self.make(lease)?,
        };
        if let Some(owner) = tap_owner {
            make::give_tap(&self.config, lease, &made, *owner)?;
        }
        shape::apply(&made, &NetworkLimits::default(), limits)
    }

    /// Other limits on bandwidth.
    pub fn limit(&self, lease: &NetworkLease, old: &NetworkLimits, new: &NetworkLimits) -> Result<()> {
        let made = self.lock().made.get(&lease.slot).cloned();
        let gone = || Error::new(ErrorKind::Unavailable, format!("network slot {:x} does not exist", lease.slot));
        shape::apply(made.ok_or_else(gone)?.as_ref(), old, new)
    }

    /// Removes everything of a slot, whatever there is.
    pub fn detach(&self, lease: &NetworkLease) -> Result<()> {
        make::remove(&self.config, lease.slot)?;
        self.lock().made.remove(&lease.slot);
        Ok(())
    }

    /// Removes what stands ready: for a node that goes.
    pub fn drain(&self) -> Result<()> {
        loop {
            let Some(lease) = self.lock().ready.pop_front() else { return Ok(()) };
            self.detach(&lease)?;
            self.free(&lease);
        }
    }

    /// After a restart: these live, with these limits; everything else goes.
    pub fn restore(&self, held: &[Held]) -> Result<()> {
        let found = sweep::restore(&self.config, held)?;
        let mut state = self.lock();
        state.made.extend(found);
        state.places.go_on();
        Ok(())
    }

    fn make(&self, lease: &NetworkLease) -> Result<Arc<Made>> {
        Ok(self.put(lease.slot, make::make(&self.config, lease)?))
    }

    fn put(&self, slot: u32, made: Made) -> Arc<Made> {
        let made = Arc::new(made);
        self.lock().made.insert(slot, Arc::clone(&made));
        made
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Entries go in and out whole, so a panic elsewhere cannot have left them half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
