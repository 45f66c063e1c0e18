//! A network without a kernel. Like everything else in the [`FakeWorld`](super::FakeWorld), what is attached outlives the
//! daemon; which places are taken does not, and is found again by `restore`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use async_trait::async_trait;
use moat_model::network::{NetworkLease, NetworkSpec};
use moat_model::{ErrorKind, SandboxId};

use super::FakeStep;
use super::world::{Link, WorldState};
use crate::driver::Requirement;
use crate::error::{Error, Result};
use crate::fabric::{Attachment, Fabric, NetworkPlace};

/// Addresses are given from here up.
const SUBNET: u32 = u32::from_be_bytes([10, 100, 0, 0]);
/// Places there are.
const SLOTS: u32 = 1024;

/// What the world holds of networks.
#[derive(Debug, Default)]
pub(super) struct FakeNet {
    /// What exists, by slot.
    pub attached: BTreeMap<u32, (NetworkLease, Attachment)>,
    /// Rules that were in force at some time, in order.
    pub seen: Vec<Attachment>,
    /// What a network must never be made to do, and was.
    pub wrongs: Vec<String>,
    /// The bookkeeping of the daemon that lives: places that are taken, by slot.
    pub places: BTreeMap<u32, (NetworkLease, Attachment)>,
    given: u32,
}

impl FakeNet {
    fn wrong(&mut self, what: String) {
        self.wrongs.push(what);
    }

    fn put(&mut self, lease: NetworkLease, attachment: &Attachment) {
        let same = |(slot, (held, _)): (&u32, &(NetworkLease, Attachment))| {
            *slot != lease.slot && held.address == lease.address
        };
        if self.attached.iter().any(same) {
            self.wrong(format!("{} has two holders", lease.address));
        }
        if let Some((_, before)) = self.attached.get(&lease.slot)
            && before.id != attachment.id
        {
            self.wrong(format!("slot {} has two holders", lease.slot));
        }
        if let Some((_, before)) = self.attached.get(&lease.slot)
            && before.tap_owner != attachment.tap_owner
        {
            self.wrong(format!("the tap in slot {} changes its owner", lease.slot));
        }
        self.seen.push(attachment.clone());
        self.attached.insert(lease.slot, (lease, attachment.clone()));
    }

    /// Whether the name asked for is another's.
    fn name_is_free(&self, slot: u32, attachment: &Attachment) -> Result<()> {
        let Some(name) = &attachment.spec.name else { return Ok(()) };
        let same = |(at, (_, other)): (&u32, &(NetworkLease, Attachment))| {
            *at != slot
                && !other.pooled
                && other.namespace == attachment.namespace
                && other.spec.name.as_ref() == Some(name)
        };
        if self.places.iter().any(same) {
            return Err(Error::new(ErrorKind::Conflict, format!("network.name: {name} is taken")));
        }
        Ok(())
    }

    fn reserve(&mut self, attachment: &Attachment) -> Result<NetworkLease> {
        self.name_is_free(0, attachment)?;
        // In turn, as addresses are given for real.
        let slot = (0..SLOTS)
            .map(|n| 1 + (self.given + n) % SLOTS)
            .find(|slot| !self.places.contains_key(slot))
            .ok_or_else(|| Error::new(ErrorKind::Exhausted, "network: no place is left"))?;
        let lease = NetworkLease { slot, address: attachment.spec.address.unwrap_or(Ipv4Addr::from(SUBNET + slot)) };
        if self.places.values().any(|(held, _)| held.address == lease.address) {
            return Err(Error::new(ErrorKind::Conflict, format!("network.address: {} is taken", lease.address)));
        }
        if self.attached.values().any(|(held, _)| held.slot == lease.slot || held.address == lease.address) {
            self.wrong(format!("{lease:?} is given while it is in use"));
        }
        self.given = slot;
        self.places.insert(slot, (lease, attachment.clone()));
        Ok(lease)
    }

    fn free(&mut self, lease: &NetworkLease) {
        match self.places.remove(&lease.slot) {
            Some((held, _)) if held == *lease => {}
            other => self.wrong(format!("{lease:?} is given back, and {other:?} was taken")),
        }
        if self.attached.contains_key(&lease.slot) {
            self.wrong(format!("{lease:?} is given back and still there"));
        }
    }

    fn restore(&mut self, held: Vec<(NetworkLease, Attachment)>) -> Result<()> {
        self.places = held.iter().map(|(lease, attachment)| (lease.slot, (*lease, attachment.clone()))).collect();
        if self.places.len() < held.len() {
            self.wrong(format!("two records hold one slot: {held:?}"));
        }
        self.attached.retain(|slot, _| held.iter().any(|(lease, _)| lease.slot == *slot));
        for (lease, attachment) in &held {
            if !attachment.pooled {
                self.name_is_free(lease.slot, attachment)?;
            }
            self.put(*lease, attachment);
        }
        Ok(())
    }
}

/// The network of a daemon in a [`FakeWorld`](super::FakeWorld).
#[derive(Debug)]
pub struct FakeFabric {
    link: Link,
}

impl FakeFabric {
    pub(super) fn new(link: Link) -> Self {
        Self { link }
    }

    async fn hangs_at(&self, step: FakeStep) {
        if self.link.look(|world| world.config.hang_at).await == Some(step) {
            std::future::pending::<()>().await;
        }
    }
}

fn scripted(doing: &str, error: Option<&String>) -> Result<()> {
    error.map_or(Ok(()), |error| Err(Error::new(ErrorKind::Unavailable, format!("{doing}: {error}"))))
}

/// What a change comes to: whether it is never answered, though it is in force.
fn change(world: &mut WorldState, lease: &NetworkLease, to: &Attachment) -> Result<bool> {
    scripted("change", world.config.change_error.as_ref())?;
    let net = &mut world.net;
    net.name_is_free(lease.slot, to)?;
    match net.attached.get(&lease.slot) {
        Some((held, before)) if held == lease && before.id == to.id => {}
        other => net.wrong(format!("{lease:?} of {} is changed, and there is {other:?}", to.id)),
    }
    net.put(*lease, to);
    net.places.insert(lease.slot, (*lease, to.clone()));
    let hangs = world.config.change_hangs > 0;
    world.config.change_hangs = world.config.change_hangs.saturating_sub(1);
    Ok(hangs)
}

fn detach(world: &mut WorldState, lease: &NetworkLease) -> Result<()> {
    let Some((_, attachment)) = world.net.attached.get(&lease.slot) else { return Ok(()) };
    let id = attachment.id.clone();
    if let Some((_, place)) = world.net.places.get_mut(&lease.slot) {
        // Nobody finds it any more, so another may have its name.
        place.spec.name = None;
    }
    let refused = world.refusals.entry(format!("detach {id}")).or_default();
    if *refused < world.config.detach_failures {
        *refused += 1;
        return Err(Error::new(ErrorKind::Unavailable, "detach: busy"));
    }
    if world.sandboxes.get(&id).is_some_and(|sandbox| sandbox.agent_alive) {
        world.net.wrong(format!("{id} lives, and its network is taken away"));
    }
    world.net.attached.remove(&lease.slot);
    Ok(())
}

#[async_trait]
impl Fabric for FakeFabric {
    fn probe(&self) -> Vec<Requirement> {
        Vec::new()
    }

    fn validate(&self, spec: &NetworkSpec) -> Result<()> {
        if spec.limits.connections_max == Some(0) {
            return Err(Error::invalid("network.limits.connections_max", "must be at least 1"));
        }
        Ok(())
    }

    fn reserve(&self, attachment: &Attachment) -> Result<NetworkLease> {
        self.link.now(|world| world.net.reserve(attachment)).unwrap_or_else(|| {
            let what = "network: the daemon has died";
            Err(Error::new(ErrorKind::Unavailable, what))
        })
    }

    fn place(&self, lease: &NetworkLease) -> NetworkPlace {
        NetworkPlace {
            netns: PathBuf::from(format!("/run/moat/net/ns/{}", lease.slot)),
            address: lease.address,
            gateway: Ipv4Addr::new(169, 254, 1, 1),
            search: "moat.internal".to_owned(),
            mac: [2, 0x10, 0, 0, 0, 1],
            gateway_mac: [2, 0x20, 0, 0, 0, 1],
            tap: "tap0".to_owned(),
        }
    }

    async fn attach(&self, lease: &NetworkLease, attachment: &Attachment) -> Result<()> {
        // In two halves, so that a crash can fall between them: first with rules that let nothing pass.
        let closed = Attachment { pooled: true, ..attachment.clone() };
        self.link.act(|world| world.net.put(*lease, &closed)).await;
        self.hangs_at(FakeStep::Attach).await;
        self.link
            .act(|world| {
                scripted("attach", world.config.attach_error.as_ref())?;
                world.net.put(*lease, attachment);
                Ok(())
            })
            .await
    }

    async fn change(&self, lease: &NetworkLease, attachment: &Attachment) -> Result<()> {
        self.hangs_at(FakeStep::Change).await;
        tokio::time::sleep(self.link.look(|world| world.config.change_takes).await).await;
        if self.link.act(|world| change(world, lease, attachment)).await? {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn detach(&self, lease: &NetworkLease) -> Result<()> {
        self.hangs_at(FakeStep::Detach).await;
        self.link.act(|world| detach(world, lease)).await
    }

    fn free(&self, lease: &NetworkLease) {
        self.link.now(|world| world.net.free(lease));
    }

    async fn restore(&self, held: Vec<(NetworkLease, Attachment)>) -> Result<()> {
        self.link
            .act(|world| {
                scripted("restore", world.config.restore_error.as_ref())?;
                world.net.restore(held)
            })
            .await
    }
}

impl super::FakeWorld {
    /// What is attached to the network, with the rules in force.
    pub fn attached(&self) -> Vec<(NetworkLease, Attachment)> {
        self.lock().net.attached.values().cloned().collect()
    }

    /// The rules in force of one sandbox.
    pub fn rules(&self, id: &SandboxId) -> Option<Attachment> {
        self.lock().net.attached.values().find(|(_, attachment)| attachment.id == *id).map(|(_, rules)| rules.clone())
    }

    /// Rules of one sandbox that were in force at some time, in order.
    pub fn rules_seen(&self, id: &SandboxId) -> Vec<Attachment> {
        self.lock().net.seen.iter().filter(|attachment| attachment.id == *id).cloned().collect()
    }

    /// Places in the network that the daemon counts as taken.
    pub fn places(&self) -> Vec<NetworkLease> {
        self.lock().net.places.values().map(|(lease, _)| *lease).collect()
    }

    /// What was done to the network that must never be done.
    pub fn network_wrongs(&self) -> Vec<String> {
        self.lock().net.wrongs.clone()
    }
}
