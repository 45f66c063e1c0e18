//! The fabric: who is called, and in which order.
//!
//! At start, [`Net::start`] makes what all sandboxes share, and touches nothing that a living one stands on: the gateway's
//! address, the directory of namespaces. Then the engine calls [`Fabric::restore`], which
//!
//! 1. fills the table with what recorded sandboxes hold, and holds their ports;
//! 2. removes links, routes and neighbours that bear our name and are nobody's, and repairs those that are somebody's;
//! 3. writes the whole table of rules, in place of the old one, in one step;
//! 4. switches forwarding on, if it was off: by then the rules guard it;
//! 5. has names answered;
//! 6. begins to prepare slots.
//!
//! Attach makes the link, then its elements in the rules: a link without elements passes nothing. Detach removes the elements
//! first: as long as the rules let others send to an address, it must not be without a link, or packets went elsewhere.
//!
//! Whatever is begun for a slot is finished, also if the future that waits for it is dropped, and the next waits for that.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use moat_engine::driver::Requirement;
use moat_engine::error::{Error, Result};
use moat_engine::fabric::{Attachment, Fabric, NetworkPlace};
use moat_model::ErrorKind;
use moat_model::network::{NetworkLease, NetworkLimits, NetworkSpec, Protocol};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as Lane, Notify};

use crate::NetConfig;
use crate::filler::Filler;
use crate::publish::Published;
use crate::resolver::Resolver;
use crate::rules::Rules;
use crate::slots::{Held, Slots, host, naming, requirements};
use crate::table::{Attached, Table, Taken};

/// Slots share lanes by their number: two sandboxes rarely wait for each other, and nothing grows.
const LANES: usize = 64;

/// The network of a node.
#[derive(Debug)]
pub struct Net {
    inner: Arc<Inner>,
    filler: Mutex<Option<Filler>>,
}

#[derive(Debug)]
struct Inner {
    config: NetConfig,
    /// The rules have to see that the host forwards for nobody but sandboxes.
    guard: bool,
    slots: Arc<Slots>,
    table: Table,
    published: Published,
    rules: OnceLock<Arc<Rules>>,
    resolver: Mutex<Option<Arc<Resolver>>>,
    /// Work on a slot goes one after the other.
    lanes: Vec<Arc<Lane<()>>>,
    wanted: Arc<Notify>,
    runtime: Handle,
}

/// What a node tells of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetStatus {
    /// Sandboxes that have a place.
    pub attached: usize,
    /// Slots that stand prepared.
    pub ready: usize,
    /// Why the last slot could not be prepared.
    pub problem: Option<String>,
    /// Packets dropped by the rules since they were written; absent if it could not be asked.
    pub drops: Option<u64>,
}

impl Net {
    /// Makes what all sandboxes share. Only one may be started for a name and run directory at a time.
    pub async fn start(config: NetConfig) -> Result<Arc<Self>> {
        config.check().map_err(|why| Error::new(ErrorKind::InvalidSpec, why))?;
        let of_host = config.clone();
        let guard = blocking(move || host::prepare(&of_host)).await?;
        let inner = Inner {
            guard,
            slots: Arc::new(Slots::new(config.clone())),
            table: Table::default(),
            published: Published::new(&config),
            rules: OnceLock::new(),
            resolver: Mutex::default(),
            lanes: (0..LANES).map(|_| Arc::default()).collect(),
            wanted: Arc::default(),
            runtime: Handle::current(),
            config,
        };
        Ok(Arc::new(Self { inner: Arc::new(inner), filler: Mutex::default() }))
    }

    /// What it was started with.
    pub fn config(&self) -> &NetConfig {
        &self.inner.config
    }

    /// Who is where.
    pub fn table(&self) -> &Table {
        &self.inner.table
    }

    /// A port of the host, for a caller who left it open: the first of so many in a row that are free at this address now.
    pub fn choose_port(&self, address: Ipv4Addr, protocol: Protocol, count: u16) -> Result<u16> {
        self.inner.published.choose_port(address, protocol, count)
    }

    /// Who answers names; absent before what sandboxes hold was restored.
    pub fn resolver(&self) -> Option<Arc<Resolver>> {
        self.inner.resolver().clone()
    }

    /// How it stands.
    pub async fn status(&self) -> NetStatus {
        let drops = match self.inner.rules.get() {
            // Not counted is shown as not known; a table that cannot be read is told by whatever changes it next.
            Some(rules) => rules.drops().await.ok(),
            None => None,
        };
        let problem = self.filler().as_ref().and_then(Filler::problem);
        NetStatus { attached: self.inner.table.len(), ready: self.inner.slots.ready(), problem, drops }
    }

    /// Leaves nothing behind: for a node that goes, with no sandbox left.
    pub async fn stop(&self) -> Result<()> {
        if !self.inner.table.is_empty() {
            let why = format!("network: {} sandboxes still have a place in it", self.inner.table.len());
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        let filler = self.filler().take();
        if let Some(filler) = filler {
            filler.stop().await;
        }
        *self.inner.resolver() = None;
        let (slots, config) = (Arc::clone(&self.inner.slots), self.inner.config.clone());
        blocking(move || slots.drain()).await?;
        Rules::remove(&config).await?;
        blocking(move || host::remove(&config)).await
    }

    fn filler(&self) -> std::sync::MutexGuard<'_, Option<Filler>> {
        self.filler.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn rules(&self) -> Result<Arc<Rules>> {
        let early = || Error::new(ErrorKind::Unavailable, "network: what sandboxes hold is not restored yet");
        self.rules.get().cloned().ok_or_else(early)
    }

    fn resolver(&self) -> std::sync::MutexGuard<'_, Option<Arc<Resolver>>> {
        self.resolver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a job on a slot to its end, whoever stops waiting, after all that were begun on it before.
    async fn finish<F>(&self, slot: u32, job: F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let lane = self.lanes.get(slot as usize % LANES).cloned().unwrap_or_default();
        let turn = lane.lock_owned().await;
        let work = self.runtime.spawn(async move {
            let _turn = turn;
            job.await
        });
        work.await.unwrap_or_else(|e| Err(Error::caused_by(ErrorKind::Internal, "network: a job ended early", e)))
    }

    async fn attach(self: Arc<Self>, lease: NetworkLease, attachment: Attachment) -> Result<()> {
        let rules = self.rules()?;
        self.table.put(lease, attachment.clone()).map_err(taken)?;
        let slots = Arc::clone(&self.slots);
        let held = held(lease, &attachment);
        blocking(move || slots.attach(&held)).await?;
        rules.attach(&Attached { lease, attachment }).await
    }

    async fn change(self: Arc<Self>, lease: NetworkLease, attachment: Attachment) -> Result<()> {
        let rules = self.rules()?;
        let old = self.table.at(lease.slot).filter(|old| old.lease == lease).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("network slot {:x} holds no sandbox", lease.slot))
        })?;
        if attachment.spec.address.is_some_and(|wanted| wanted != lease.address) {
            let why = format!("it is {} as long as the sandbox lives", lease.address);
            return Err(Error::invalid("network.address", why));
        }
        let new = Attached { lease, attachment };
        // Whatever fails leaves the old ones: names and ports, then limits, then rules, and back.
        self.published.reserve(lease.slot, &new.attachment.spec.publish)?;
        if let Err(error) = self.apply(&rules, &old, &new).await {
            self.published.keep(lease.slot, &old.attachment.spec.publish);
            return Err(error);
        }
        self.published.keep(lease.slot, &new.attachment.spec.publish);
        Ok(())
    }

    async fn apply(&self, rules: &Rules, old: &Attached, new: &Attached) -> Result<()> {
        self.table.put(new.lease, new.attachment.clone()).map_err(taken)?;
        let (before, after) = (old.attachment.spec.limits, new.attachment.spec.limits);
        let mut outcome = self.limit(new.lease, before, after).await;
        if outcome.is_ok() {
            outcome = rules.change(old, new).await;
        }
        if outcome.is_err() {
            if let Err(error) = self.limit(new.lease, after, before).await {
                tracing::warn!(slot = new.lease.slot, error = error.chain(), "old limits could not be set again");
            }
            // It was there a moment ago, and its lane is ours: nobody can have taken its name but another slot.
            if let Err(error) = self.table.put(old.lease, old.attachment.clone()) {
                tracing::warn!(slot = new.lease.slot, %error, "an old name could not be given back");
            }
        }
        outcome
    }

    async fn limit(&self, lease: NetworkLease, old: NetworkLimits, new: NetworkLimits) -> Result<()> {
        let slots = Arc::clone(&self.slots);
        blocking(move || slots.limit(&lease, &old, &new)).await
    }

    async fn detach(self: Arc<Self>, lease: NetworkLease) -> Result<()> {
        let rules = self.rules()?;
        self.forget(&lease);
        rules.detach(&lease).await?;
        let slots = Arc::clone(&self.slots);
        blocking(move || slots.detach(&lease)).await
    }

    /// Names no longer lead to it, and its ports are anybody's.
    fn forget(&self, lease: &NetworkLease) {
        if self.table.at(lease.slot).is_some_and(|held| held.lease == *lease) {
            self.table.remove(lease.slot);
        }
        self.published.keep(lease.slot, &[]);
    }

    /// Taken, and never attached: what was prepared for it goes before its number does.
    async fn discard(self: Arc<Self>, lease: NetworkLease) -> Result<()> {
        let slots = Arc::clone(&self.slots);
        blocking(move || slots.detach(&lease)).await?;
        self.slots.free(&lease);
        self.wanted.notify_one();
        Ok(())
    }

    async fn restore(self: Arc<Self>, held: Vec<(NetworkLease, Attachment)>) -> Result<()> {
        if self.rules.get().is_some() {
            return Err(Error::new(ErrorKind::Internal, "network: restored twice"));
        }
        let places: Vec<_> = held.iter().map(|(lease, attachment)| self::held(*lease, attachment)).collect();
        for (lease, attachment) in held {
            self.slots.hold(lease);
            if let Err(error) = self.published.reserve(lease.slot, &attachment.spec.publish) {
                // The kernel's rules lead there all the same; only another program may take the port meanwhile.
                tracing::warn!(id = %attachment.id, error = error.chain(), "a published port is not held");
            }
            self.table.put(lease, attachment).map_err(taken)?;
        }
        let slots = Arc::clone(&self.slots);
        blocking(move || slots.restore(&places)).await?;
        let rules = Arc::new(Rules::install(&self.config, self.guard, &self.table.all()).await?);
        blocking(host::forward).await?;
        let resolver = Resolver::start(&self.config, self.table.clone(), rules.clone())?;
        *self.resolver() = Some(Arc::new(resolver));
        self.rules.set(rules).map_err(|_| Error::new(ErrorKind::Internal, "network: restored twice"))
    }
}

#[async_trait]
impl Fabric for Net {
    fn probe(&self) -> Vec<Requirement> {
        requirements(&self.inner.config)
    }

    fn validate(&self, spec: &NetworkSpec) -> Result<()> {
        if let Some(address) = spec.address {
            self.inner.slots.check_chosen(address)?;
        }
        let limits = spec.limits;
        let none = [
            ("up_bits_per_sec", limits.up_bits_per_sec == Some(0)),
            ("down_bits_per_sec", limits.down_bits_per_sec == Some(0)),
            ("up_packets_per_sec", limits.up_packets_per_sec == Some(0)),
            ("down_packets_per_sec", limits.down_packets_per_sec == Some(0)),
        ];
        match none.iter().find(|(_, zero)| *zero) {
            Some((field, _)) => {
                Err(Error::invalid(&format!("network.limits.{field}"), "0 lets nothing pass; isolated is for that"))
            }
            None => Ok(()),
        }
    }

    fn reserve(&self, attachment: &Attachment) -> Result<NetworkLease> {
        let inner = &self.inner;
        inner.rules()?;
        self.validate(&attachment.spec)?;
        let lease = inner.slots.take(attachment.spec.address)?;
        let taken = inner
            .published
            .reserve(lease.slot, &attachment.spec.publish)
            .and_then(|()| inner.table.put(lease, attachment.clone()).map_err(taken));
        match taken {
            Ok(()) => {
                inner.wanted.notify_one();
                Ok(lease)
            }
            Err(error) => {
                self.free(&lease);
                Err(error)
            }
        }
    }

    fn place(&self, lease: &NetworkLease) -> NetworkPlace {
        NetworkPlace {
            netns: naming::way(&self.inner.config, lease.slot),
            address: lease.address,
            gateway: self.inner.config.gateway,
            search: self.inner.config.domain.clone(),
            mac: naming::inner_mac(lease.slot),
            gateway_mac: naming::host_mac(lease.slot),
            tap: naming::TAP.to_owned(),
        }
    }

    async fn attach(&self, lease: &NetworkLease, attachment: &Attachment) -> Result<()> {
        let job = Arc::clone(&self.inner).attach(*lease, attachment.clone());
        self.inner.finish(lease.slot, job).await
    }

    async fn change(&self, lease: &NetworkLease, attachment: &Attachment) -> Result<()> {
        let job = Arc::clone(&self.inner).change(*lease, attachment.clone());
        self.inner.finish(lease.slot, job).await
    }

    async fn detach(&self, lease: &NetworkLease) -> Result<()> {
        let job = Arc::clone(&self.inner).detach(*lease);
        self.inner.finish(lease.slot, job).await
    }

    fn free(&self, lease: &NetworkLease) {
        self.inner.forget(lease);
        if !self.inner.slots.exists(lease.slot) {
            self.inner.slots.free(lease);
            self.inner.wanted.notify_one();
            return;
        }
        let (inner, lease) = (Arc::clone(&self.inner), *lease);
        self.inner.runtime.spawn(async move {
            let job = Arc::clone(&inner).discard(lease);
            if let Err(error) = inner.finish(lease.slot, job).await {
                tracing::warn!(
                    slot = lease.slot,
                    error = error.chain(),
                    "a slot nobody used stays until the next start"
                );
            }
        });
    }

    async fn restore(&self, held: Vec<(NetworkLease, Attachment)>) -> Result<()> {
        let job = Arc::clone(&self.inner).restore(held);
        self.inner.finish(0, job).await?;
        let filler = Filler::start(Arc::clone(&self.inner.slots), Arc::clone(&self.inner.wanted));
        *self.filler() = Some(filler);
        Ok(())
    }
}

fn held(lease: NetworkLease, attachment: &Attachment) -> Held {
    Held { lease, limits: attachment.spec.limits, tap_owner: attachment.tap_owner }
}

fn taken(taken: Taken) -> Error {
    Error::new(ErrorKind::Conflict, taken.to_string())
}

/// Runs what blocks where that is allowed.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(job)
        .await
        .unwrap_or_else(|e| Err(Error::caused_by(ErrorKind::Internal, "network: a job ended early", e)))
}
