//! Who is where: every attachment, found by slot, address, name or label.
//!
//! The one picture that addresses are leased by, names answered from and rules made of. It is not the truth about what the
//! kernel holds; it is what that is to become.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use moat_engine::fabric::Attachment;
use moat_model::network::{NetworkLease, Peer};
use moat_model::{Namespace, SandboxId};

/// An attachment at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Where.
    pub lease: NetworkLease,
    /// What was asked.
    pub attachment: Attachment,
}

/// All of them. Clones are the same table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    by_slot: BTreeMap<u32, Arc<Attached>>,
    by_address: BTreeMap<Ipv4Addr, u32>,
    /// Names and ids, those of pool members left out: every question of a sandbox looks here.
    by_name: BTreeMap<(Namespace, String), u32>,
}

/// Why a place cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Taken {
    /// The address is another's.
    #[error("network.address: {0} is the address of {1}")]
    Address(Ipv4Addr, SandboxId),
    /// The name is another's in that namespace.
    #[error("network.name: {0:?} is the name of {1} in this namespace")]
    Name(String, SandboxId),
}

impl Table {
    /// Puts an attachment at its place, in place of what the same slot held.
    pub fn put(&self, lease: NetworkLease, attachment: Attachment) -> Result<(), Taken> {
        let mut inner = self.write();
        inner.check(&lease, &attachment)?;
        inner.take(lease.slot);
        inner.by_address.insert(lease.address, lease.slot);
        for name in names(&attachment) {
            inner.by_name.insert((attachment.namespace.clone(), name.to_owned()), lease.slot);
        }
        inner.by_slot.insert(lease.slot, Arc::new(Attached { lease, attachment }));
        Ok(())
    }

    /// Takes it away. Idempotent.
    pub fn remove(&self, slot: u32) -> Option<Arc<Attached>> {
        self.write().take(slot)
    }

    /// What a slot holds.
    pub fn at(&self, slot: u32) -> Option<Arc<Attached>> {
        self.read().by_slot.get(&slot).cloned()
    }

    /// Whose an address is.
    pub fn with_address(&self, address: Ipv4Addr) -> Option<Arc<Attached>> {
        let inner = self.read();
        inner.by_slot.get(inner.by_address.get(&address)?).cloned()
    }

    /// The one of this name, or this id, in a namespace. Members of pools are nobody's.
    pub fn named(&self, namespace: &Namespace, name: &str) -> Option<Arc<Attached>> {
        let inner = self.read();
        let slot = inner.by_name.get(&(namespace.clone(), name.to_owned()))?;
        inner.by_slot.get(slot).cloned()
    }

    /// Those of a namespace with this label.
    pub fn labelled(&self, namespace: &Namespace, key: &str, value: &str) -> Vec<Arc<Attached>> {
        let fits =
            |a: &Attachment| a.labels.iter().any(|(k, v)| k.eq_ignore_ascii_case(key) && v.eq_ignore_ascii_case(value));
        self.read().of(namespace).filter(|attached| fits(&attached.attachment)).cloned().collect()
    }

    /// Whose an address is, as seen by somebody of `namespace`.
    pub fn peer(&self, namespace: &Namespace, address: Ipv4Addr) -> Peer {
        match self.with_address(address) {
            None => Peer::None,
            Some(one) if one.attachment.pooled => Peer::OtherNamespace,
            Some(one) if one.attachment.namespace == *namespace => Peer::SameNamespace,
            Some(_) => Peer::OtherNamespace,
        }
    }

    /// All of them, by slot.
    pub fn all(&self) -> Vec<Arc<Attached>> {
        self.read().by_slot.values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().by_slot.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // Entries are put and removed whole, so a panic elsewhere cannot have left the table half changed.

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn of(&self, namespace: &Namespace) -> impl Iterator<Item = &Arc<Attached>> {
        self.by_slot.values().filter(move |a| !a.attachment.pooled && a.attachment.namespace == *namespace)
    }

    fn check(&self, lease: &NetworkLease, attachment: &Attachment) -> Result<(), Taken> {
        if let Some(slot) = self.by_address.get(&lease.address)
            && *slot != lease.slot
            && let Some(holder) = self.by_slot.get(slot)
        {
            return Err(Taken::Address(lease.address, holder.attachment.id.clone()));
        }
        let Some(name) = attachment.spec.name.as_ref().filter(|_| !attachment.pooled) else { return Ok(()) };
        let holder = self.by_name.get(&(attachment.namespace.clone(), name.to_string()));
        match holder.filter(|slot| **slot != lease.slot).and_then(|slot| self.by_slot.get(slot)) {
            Some(holder) => Err(Taken::Name(name.to_string(), holder.attachment.id.clone())),
            None => Ok(()),
        }
    }

    fn take(&mut self, slot: u32) -> Option<Arc<Attached>> {
        let gone = self.by_slot.remove(&slot)?;
        self.by_address.remove(&gone.lease.address);
        for name in names(&gone.attachment) {
            self.by_name.remove(&(gone.attachment.namespace.clone(), name.to_owned()));
        }
        Some(gone)
    }
}

/// What one is found by.
fn names(attachment: &Attachment) -> impl Iterator<Item = &str> {
    let name = attachment.spec.name.as_ref().map(|name| name.as_str());
    name.into_iter().chain([attachment.id.as_str()]).filter(|_| !attachment.pooled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_model::Timestamp;
    use moat_model::network::{HostLabel, NetworkMode, NetworkSpec};

    fn attachment(n: u8, namespace: &str, name: Option<&str>) -> Attachment {
        Attachment {
            id: SandboxId::from_parts(Timestamp::from_millis(1), [n; 10]),
            namespace: Namespace::parse(namespace).unwrap(),
            labels: BTreeMap::from([("app".to_owned(), "Web".to_owned())]),
            pooled: false,
            tap_owner: None,
            spec: NetworkSpec {
                name: name.map(|n| HostLabel::parse(n).unwrap()),
                ..NetworkSpec::new(NetworkMode::Internal)
            },
        }
    }

    fn lease(slot: u32) -> NetworkLease {
        NetworkLease { slot, address: Ipv4Addr::from(0x0a64_0000 + slot) }
    }

    #[test]
    fn names_and_addresses_are_one_holders() {
        let table = Table::default();
        let (red, blue) = (Namespace::parse("red").unwrap(), Namespace::parse("blue").unwrap());
        table.put(lease(1), attachment(1, "red", Some("web"))).unwrap();
        table.put(lease(2), attachment(2, "blue", Some("web"))).unwrap();
        let again = table.put(lease(3), attachment(3, "red", Some("web")));
        assert!(matches!(again, Err(Taken::Name(..))), "{again:?}");
        let same = table.put(NetworkLease { slot: 3, ..lease(1) }, attachment(3, "red", None));
        assert!(matches!(same, Err(Taken::Address(..))), "{same:?}");
        assert_eq!(table.named(&red, "web").unwrap().lease.slot, 1);
        assert_eq!(table.labelled(&red, "APP", "web").len(), 1);
        assert_eq!(table.peer(&red, lease(1).address), Peer::SameNamespace);
        assert_eq!(table.peer(&blue, lease(1).address), Peer::OtherNamespace);
        assert_eq!(table.peer(&blue, lease(9).address), Peer::None);
        table.put(lease(1), Attachment { pooled: true, ..attachment(1, "red", Some("web")) }).unwrap();
        assert!(table.named(&red, "web").is_none());
        assert_eq!(table.peer(&red, lease(1).address), Peer::OtherNamespace);
        table.put(lease(3), attachment(3, "red", Some("web"))).unwrap();
        assert!(table.put(lease(1), attachment(1, "red", Some("web"))).is_err(), "given to another meanwhile");
        table.put(lease(3), attachment(3, "red", Some("new"))).unwrap();
        assert!(table.named(&red, "web").is_none() && table.named(&red, "new").unwrap().lease.slot == 3);
        assert_eq!(table.named(&red, attachment(3, "red", None).id.as_str()).unwrap().lease.slot, 3);
        assert!(table.remove(1).is_some() && table.remove(1).is_none());
        table.remove(3);
        assert!(table.named(&red, "new").is_none());
        assert_eq!(table.len(), 1);
    }
}
