//! What may pass: one nftables table.
//!
//! Written whole, in one transaction, when a daemon starts; after that a sandbox is elements of its sets and maps, sent over
//! netlink. Only one with egress rules or packet limits of its own has chains of its own. They are in force without us.
//!
//! | module | holds |
//! |---|---|
//! | `ground` | the table without any sandbox |
//! | `policy` | what a sandbox is made into |
//! | `element`, `script`, `kernel` | elements and chains, as `nft` and as the kernel read them |
//! | `verdict` | which connections go on when rules change |
//! | `conntrack` | the kernel's picture of connections |

mod conntrack;
mod element;
mod ground;
mod kernel;
mod policy;
mod script;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use moat_engine::error::{Error, Result};
use moat_model::network::NetworkLease;
use moat_model::{ErrorKind, Namespace};
use tokio::sync::OwnedMutexGuard;

use crate::NetConfig;
use crate::resolver::Pinner;
use crate::table::Attached;
use conntrack::Conntrack;
use kernel::Kernel;
use policy::{Built, PINS_MAX};

/// The table of one node.
#[derive(Debug)]
pub struct Rules {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetConfig,
    kernel: Mutex<Kernel>,
    conntrack: Mutex<Conntrack>,
    leaving: Mutex<Leaving>,
    index: Mutex<Index>,
}

/// Addresses whose connections are to be forgotten. Whoever comes first does it for all who wait.
#[derive(Debug, Default)]
struct Leaving {
    last: u64,
    waiting: BTreeMap<u64, Ipv4Addr>,
}

/// What is in the table, by slot and by address.
#[derive(Debug, Default)]
struct Index {
    slots: HashMap<u32, Arc<tokio::sync::Mutex<Slot>>>,
    addresses: HashMap<Ipv4Addr, Arc<Attached>>,
    marks: HashMap<Namespace, u32>,
}

/// One slot's part of the table. Locked for as long as it is being changed, even if nobody waits for that any more.
#[derive(Debug, Default)]
struct Slot {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    attached: Arc<Attached>,
    built: Built,
    pins: Pins,
}

/// Addresses in sets of the kernel's, and when they leave them.
type Pins = HashMap<String, HashMap<Ipv4Addr, Instant>>;

impl Rules {
    /// Writes the whole table at once, in place of what stood there. `guard`: the host did not forward packets before this
    /// node had it do so, and is to forward none but sandboxes'.
    pub async fn install(config: &NetConfig, guard: bool, held: &[Arc<Attached>]) -> Result<Self> {
        let (config, held) = (config.clone(), held.to_vec());
        let inner = blocking(move || Inner::install(config, guard, &held)).await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Lets pass what this one may. Whatever is not in the table is dropped.
    pub async fn attach(&self, attached: &Attached) -> Result<()> {
        self.put(attached).await
    }

    /// Other rules, in one step; connections that are forbidden now are cut, others go on.
    pub async fn change(&self, _old: &Attached, new: &Attached) -> Result<()> {
        // What the table has of the slot is known here, and is what is replaced.
        self.put(new).await
    }

    /// Nothing of it is left: elements, chains, pins, tracked connections. Idempotent, from the lease alone.
    pub async fn detach(&self, lease: &NetworkLease) -> Result<()> {
        let (inner, lease) = (Arc::clone(&self.inner), *lease);
        let slot = inner.slot(lease.slot).await;
        blocking(move || inner.clear(slot, &lease)).await
    }

    /// Removes the table, if there is one.
    pub async fn remove(config: &NetConfig) -> Result<()> {
        let name = config.name.clone();
        let remove = move || Kernel::open(&name).and_then(|mut kernel| kernel.remove_table());
        blocking(move || remove().map_err(|error| refused("removing the table", error))).await
    }

    /// Packets dropped since the table was written.
    pub async fn drops(&self) -> Result<u64> {
        let inner = Arc::clone(&self.inner);
        blocking(move || lock(&inner.kernel).counted("drops").map_err(|error| refused("counting drops", error))).await
    }

    async fn put(&self, attached: &Attached) -> Result<()> {
        let (inner, attached) = (Arc::clone(&self.inner), Arc::new(attached.clone()));
        let slot = inner.slot(attached.lease.slot).await;
        blocking(move || inner.put(slot, attached)).await
    }
}

#[async_trait]
impl Pinner for Rules {
    async fn pin(&self, asker: &Attached, rules: &[usize], addresses: &[Ipv4Addr], ttl: Duration) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let slot = inner.slot(asker.lease.slot).await;
        let (asker, rules, addresses) = (asker.clone(), rules.to_vec(), addresses.to_vec());
        blocking(move || inner.pin(slot, &asker, &rules, &addresses, ttl)).await
    }
}

impl Inner {
    fn install(config: NetConfig, guard: bool, held: &[Arc<Attached>]) -> Result<Self> {
        let mut kernel = Kernel::open(&config.name).map_err(|error| refused("opening netlink", error))?;
        let mut conntrack = Conntrack::open().map_err(|error| refused("opening conntrack", error))?;
        let (mut text, mut index) = (ground::text(&config, guard), Index::default());
        for attached in held {
            let mark = index.mark(&attached.attachment.namespace);
            let built = policy::build(&config, attached, mark);
            let mut pins = Pins::new();
            for set in &built.pinned {
                let found = kernel.pinned(set).map_err(|error| refused("reading pinned addresses", error))?;
                pins.insert(
                    set.clone(),
                    found.into_iter().map(|(address, left)| (address, Instant::now() + left)).collect(),
                );
            }
            text.push_str(&script::change(&config.name, &Built::default(), &built));
            text.push_str(&script::pins(&config.name, &pins));
            index.addresses.insert(attached.lease.address, Arc::clone(attached));
            let held = Held { attached: Arc::clone(attached), built, pins };
            index.slots.insert(attached.lease.slot, Arc::new(tokio::sync::Mutex::new(Slot { held: Some(held) })));
        }
        script::run(&text)?;
        forget_the_forbidden(&config, &mut conntrack, &index)?;
        Ok(Self {
            config,
            kernel: Mutex::new(kernel),
            conntrack: Mutex::new(conntrack),
            leaving: Mutex::default(),
            index: Mutex::new(index),
        })
    }

    /// The part of a slot, once nobody else changes it.
    async fn slot(&self, slot: u32) -> OwnedMutexGuard<Slot> {
        let part = Arc::clone(lock(&self.index).slots.entry(slot).or_default());
        part.lock_owned().await
    }

    fn put(&self, mut slot: OwnedMutexGuard<Slot>, attached: Arc<Attached>) -> Result<()> {
        let mark = lock(&self.index).mark(&attached.attachment.namespace);
        let new = policy::build(&self.config, &attached, mark);
        let empty = Built::default();
        let (old, before) = match &slot.held {
            Some(held) => (&held.built, Some(Arc::clone(&held.attached))),
            None => (&empty, None),
        };
        if old.chains == new.chains && old.pinned == new.pinned {
            let (gone, come) = (old.elements.difference(&new.elements), new.elements.difference(&old.elements));
            let exchanged = lock(&self.kernel).exchange(gone, come);
            if let (Err(_), None) = (&exchanged, &before) {
                // Should an answer have been lost, it may be there; nobody would look for it.
                let _ = lock(&self.kernel).clear(&new);
            }
            exchanged.map_err(|error| refused("changing elements", error))?;
        } else {
            script::run(&script::change(&self.config.name, old, &new))?;
        }
        // A member of a pool had no connections, and what was only added to cuts none.
        let was_open = before.as_ref().is_some_and(|before| !before.attachment.pooled);
        let narrower = old.chains != new.chains || !old.elements.is_subset(&new.elements);
        let mut pins = slot.held.take().map(|held| held.pins).unwrap_or_default();
        pins.retain(|set, _| new.pinned.contains(set));
        {
            let mut index = lock(&self.index);
            if let Some(before) = &before {
                index.addresses.remove(&before.lease.address);
            }
            index.addresses.insert(attached.lease.address, Arc::clone(&attached));
        }
        let held = slot.held.insert(Held { attached, built: new, pins });
        if was_open && narrower { self.cut(held) } else { Ok(()) }
    }

    /// Forgets connections that its rules forbid now.
    fn cut(&self, held: &Held) -> Result<()> {
        let address = held.attached.lease.address;
        let mut conntrack = lock(&self.conntrack);
        let known = conntrack.of(&[address]).map_err(|error| refused("reading connections", error))?;
        let index = lock(&self.index);
        let who = |address| index.addresses.get(&address).map(|attached| &**attached);
        let forbidden = |c: &conntrack::Connection| !verdict::goes_on(&self.config, &who, held, c);
        let gone: Vec<_> = known.into_iter().filter(forbidden).collect();
        drop(index);
        conntrack.delete(&gone).map_err(|error| refused("forgetting connections", error))
    }

    fn clear(&self, mut slot: OwnedMutexGuard<Slot>, lease: &NetworkLease) -> Result<()> {
        if let Some(held) = &slot.held {
            lock(&self.kernel).clear(&held.built).map_err(|error| refused("removing elements", error))?;
            lock(&self.index).addresses.remove(&held.attached.lease.address);
        }
        slot.held = None;
        self.forget(lease.address).map_err(|error| refused("forgetting connections", error))?;
        // Somebody who waits for it already finds it empty, and puts it back if they fill it.
        drop(slot);
        lock(&self.index).forget_slot(lease.slot);
        Ok(())
    }

    /// Forgets every connection of an address. Many at once cost what one does.
    fn forget(&self, address: Ipv4Addr) -> std::io::Result<()> {
        let ticket = {
            let mut leaving = lock(&self.leaving);
            leaving.last += 1;
            let ticket = leaving.last;
            leaving.waiting.insert(ticket, address);
            ticket
        };
        let mut conntrack = lock(&self.conntrack);
        let waiting = lock(&self.leaving).waiting.clone();
        if !waiting.contains_key(&ticket) {
            return Ok(());
        }
        let addresses: Vec<Ipv4Addr> = waiting.values().copied().collect();
        let done = conntrack.of(&addresses).and_then(|known| conntrack.delete(&known));
        let mut leaving = lock(&self.leaving);
        match &done {
            Ok(()) => leaving.waiting.retain(|other, _| !waiting.contains_key(other)),
            // The others try themselves, and learn why.
            Err(_) => drop(leaving.waiting.remove(&ticket)),
        }
        done
    }

    fn pin(
        &self,
        mut slot: OwnedMutexGuard<Slot>,
        asker: &Attached,
        rules: &[usize],
        addresses: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<()> {
        let same = |held: &&mut Held| {
            let (now, then) = (&held.attached.attachment, &asker.attachment);
            now.id == then.id && now.spec.egress == then.spec.egress
        };
        let changed = || Error::new(ErrorKind::Conflict, "pinning addresses: the policy was changed meanwhile");
        let held = slot.held.as_mut().filter(same).ok_or_else(changed)?;
        let now = Instant::now();
        let until = now + ttl;
        let sets = policy::pin_sets(&held.attached.lease, &held.attached.attachment);
        let mut new: BTreeMap<String, Vec<kernel::Pin>> = BTreeMap::new();
        for set in rules.iter().filter_map(|rule| sets.get(*rule).cloned().flatten()) {
            let pins = held.pins.entry(set.clone()).or_default();
            pins.retain(|_, end| *end > now);
            let come = addresses.iter().filter(|address| pins.get(*address).is_none_or(|end| *end < until));
            let come: BTreeMap<_, _> = come.map(|address| (*address, ttl)).collect();
            if pins.len() + come.keys().filter(|address| !pins.contains_key(address)).count() > PINS_MAX {
                let why = format!("network.egress: {PINS_MAX} addresses are remembered for one rule already");
                return Err(Error::new(ErrorKind::Exhausted, why));
            }
            if !come.is_empty() {
                new.insert(set, come.into_iter().collect());
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        lock(&self.kernel).pin(&new).map_err(|error| refused("pinning addresses", error))?;
        for (set, come) in new {
            held.pins.entry(set).or_default().extend(come.into_iter().map(|(address, _)| (address, until)));
        }
        Ok(())
    }
}

/// Connections of a daemon before this one, of sandboxes that are gone or whose rules were changed when it died.
fn forget_the_forbidden(config: &NetConfig, conntrack: &mut Conntrack, index: &Index) -> Result<()> {
    let known = conntrack.all().map_err(|error| refused("reading connections", error))?;
    let who = |address| index.addresses.get(&address).map(|attached| &**attached);
    let goes_on = |c: &conntrack::Connection| {
        let ours = [c.from, c.answers].into_iter().filter_map(|address| index.addresses.get(&address));
        let mut parts = ours.filter_map(|attached| index.slots.get(&attached.lease.slot)?.try_lock().ok()).peekable();
        if parts.peek().is_none() {
            return !config.subnet.contains(&c.from) && !config.subnet.contains(&c.answers);
        }
        parts.all(|slot| slot.held.as_ref().is_none_or(|held| verdict::goes_on(config, &who, held, c)))
    };
    let gone: Vec<_> = known.into_iter().filter(|c| !goes_on(c)).collect();
    conntrack.delete(&gone).map_err(|error| refused("forgetting connections", error))
}

impl Index {
    /// The number of a namespace in this table.
    fn mark(&mut self, namespace: &Namespace) -> u32 {
        if let Some(mark) = self.marks.get(namespace) {
            return *mark;
        }
        // 0 is what packets bear that nobody marked. Never another's again: there are not many namespaces, and a number that
        // two share for a moment would let one into the other.
        let mark = u32::try_from(self.marks.len()).unwrap_or(u32::MAX).saturating_add(1);
        self.marks.insert(namespace.clone(), mark);
        mark
    }

    fn forget_slot(&mut self, slot: u32) {
        let unused = |part: &Arc<tokio::sync::Mutex<Slot>>| {
            // Who waits for it holds it too.
            Arc::strong_count(part) == 1 && part.try_lock().is_ok_and(|slot| slot.held.is_none())
        };
        if self.slots.get(&slot).is_some_and(unused) {
            self.slots.remove(&slot);
        }
    }
}

/// Runs what blocks elsewhere. It is run to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::caused_by(ErrorKind::Internal, "changing network rules", error))?
}

fn refused(doing: &str, error: std::io::Error) -> Error {
    Error::caused_by(ErrorKind::Internal, format!("network rules: {doing}"), error)
}

// Everything below these locks is changed by whole entries: a panic elsewhere cannot have left it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
