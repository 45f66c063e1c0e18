//! The boundary to whatever connects sandboxes: addresses, links, rules.
//!
//! A fabric is asked by the engine alone, in this order:
//!
//! ```text
//! restore                    once, when the engine opens: what recorded sandboxes hold, and nothing else, is to exist
//! validate                   at admission; nothing exists yet
//! reserve                    takes a place: pure bookkeeping, quick; the lease is written down before attach
//! attach                     makes it real, before the driver's create; the driver is told by a NetworkPlace
//! change                     other rules for one that lives: a claim, or a new policy
//! detach                     nothing of it is left; after the driver released everything else, so nobody uses it any more
//! free                       the place may be given to another, once it is written down that nobody holds it
//! ```
//!
//! 1. `detach` is idempotent, succeeds if there is nothing, and fails rather than forgets. It works from the lease alone.
//! 2. `attach` and `change` either hold as a whole or leave what was; a packet never meets half of the new rules.
//! 3. Between `attach` and the sandbox's first process nothing can be sent from it or to it that its rules forbid.
//! 4. What it made works on without the daemon: rules and links belong to the kernel.
//! 5. Any of these futures may be dropped at any await; `detach` must still be possible, and complete. After a `change` that
//!    was dropped or failed, the engine asks for what was before; if that fails too, it ends the sandbox.
//! 6. A sandbox whose change was under way when a daemon died comes to `restore` as one of a pool, with what it had before:
//!    nothing passes until `change` is called for it, which is as soon as it is found. So does one that only has to be
//!    detached still.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use async_trait::async_trait;
use moat_model::lifecycle::{Phase, Rung, State};
use moat_model::network::{NetworkLease, NetworkSpec};
use moat_model::{ErrorKind, Isolation, Namespace, SandboxId, SandboxSpec};
use serde::{Deserialize, Serialize};

use crate::driver::{Place, Requirement, VMM_UID};
use crate::error::{Error, Result};

/// Whatever connects sandboxes. See the module for the contract.
#[async_trait]
pub trait Fabric: Send + Sync + std::fmt::Debug {
    /// Examines this host and returns every requirement, met or not. No side effects.
    fn probe(&self) -> Vec<Requirement>;

    /// Says which field of the network asked for cannot be given here, whoever asks.
    fn validate(&self, spec: &NetworkSpec) -> Result<()>;

    /// Takes a place for a sandbox whose spec is wired. Fails if the address or name asked for is taken, if a published port
    /// is not free, or if no place is left. Never given twice until it was freed.
    fn reserve(&self, attachment: &Attachment) -> Result<NetworkLease>;

    /// What a driver is told of a place. Pure.
    fn place(&self, lease: &NetworkLease) -> NetworkPlace;

    /// Makes it real, with these rules.
    async fn attach(&self, lease: &NetworkLease, attachment: &Attachment) -> Result<()>;

    /// Other rules, names, ports, limits; also of whom it belongs to. Connections that are forbidden now end within a second.
    /// Fails, and leaves what was, if something asked for cannot be given: a name that is taken, an address that changes.
    async fn change(&self, lease: &NetworkLease, attachment: &Attachment) -> Result<()>;

    /// Removes everything of it.
    async fn detach(&self, lease: &NetworkLease) -> Result<()>;

    /// The place may be given to another.
    fn free(&self, lease: &NetworkLease);

    /// Makes what exists equal to this: what these sandboxes hold is kept and put in order, everything else that bears this
    /// fabric's mark is removed. Called once, before anything else but `probe`.
    async fn restore(&self, held: Vec<(NetworkLease, Attachment)>) -> Result<()>;
}

/// What a fabric needs to know of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Which one.
    pub id: SandboxId,
    /// Its tenant.
    pub namespace: Namespace,
    /// Its labels: others find it by them.
    pub labels: BTreeMap<String, String>,
    /// It stands in a pool: nobody's, and nothing may pass.
    pub pooled: bool,
    /// What was asked.
    pub spec: NetworkSpec,
    /// Host user that opens a tap in the namespace: the link's frames then go to it and come from it. Absent: processes in the
    /// namespace use the link itself.
    pub tap_owner: Option<u32>,
}

impl Attachment {
    /// Of the sandbox that is put at `place` by a driver that gives `isolation`. A virtual machine has a tap, and its monitor
    /// opens that as a user of the sandbox's own range.
    pub fn of(place: &Place, isolation: Isolation, spec: &SandboxSpec) -> Self {
        Self {
            id: place.id.clone(),
            namespace: spec.namespace.clone(),
            labels: spec.labels.clone(),
            pooled: spec.origin.owner == moat_model::spec::Owner::Pool,
            spec: spec.network.clone(),
            tap_owner: (isolation == Isolation::Microvm).then(|| place.uid_base.saturating_add(VMM_UID)),
        }
    }

    /// Of a sandbox as an earlier daemon left it. One whose network was just being changed is treated as nobody's until it
    /// is found and the change is asked for again: which rules the kernel goes by is not known. So is one in which nothing
    /// runs any more, or ever will: its name may be another's already.
    pub fn recorded(place: &Place, state: &State) -> Self {
        let attachment = Self::of(place, state.isolation, &state.spec);
        let lifeless = match &state.phase {
            Phase::Pending | Phase::Preparing { .. } => true,
            Phase::Stopping(stopping) => matches!(stopping.rung, Rung::Measuring | Rung::Releasing { .. }),
            _ => false,
        };
        Self { pooled: attachment.pooled || state.rewiring.is_some() || lifeless, ..attachment }
    }
}

/// What a driver is told of a sandbox's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkPlace {
    /// A network namespace, as a file, or a link to one, to enter by. It belongs to the host: nobody inside can change it.
    pub netns: PathBuf,
    /// Its address there.
    pub address: Ipv4Addr,
    /// The next hop, and the resolver.
    pub gateway: Ipv4Addr,
    /// Domain that names without a dot are looked up in.
    pub search: String,
    /// Hardware address whoever has the address must have.
    pub mac: [u8; 6],
    /// The next hop's.
    pub gateway_mac: [u8; 6],
    /// Name of the tap in the namespace, for a sandbox that has one.
    pub tap: String,
}

/// A node without a network: every sandbox has its loopback only.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFabric;

impl NoFabric {
    fn refused<T>() -> Result<T> {
        let why = "network: this node gives none but isolated; its operator can enable networks with network.enabled";
        Err(Error::new(ErrorKind::Unsupported, why))
    }
}

#[async_trait]
impl Fabric for NoFabric {
    fn probe(&self) -> Vec<Requirement> {
        Vec::new()
    }

    fn validate(&self, spec: &NetworkSpec) -> Result<()> {
        if spec.is_wired() { Self::refused() } else { Ok(()) }
    }

    fn reserve(&self, _: &Attachment) -> Result<NetworkLease> {
        Self::refused()
    }

    fn place(&self, lease: &NetworkLease) -> NetworkPlace {
        NetworkPlace {
            netns: PathBuf::new(),
            address: lease.address,
            gateway: Ipv4Addr::UNSPECIFIED,
            search: String::new(),
            mac: [0; 6],
            gateway_mac: [0; 6],
            tap: String::new(),
        }
    }

    async fn attach(&self, _: &NetworkLease, _: &Attachment) -> Result<()> {
        Self::refused()
    }

    async fn change(&self, _: &NetworkLease, _: &Attachment) -> Result<()> {
        Self::refused()
    }

    async fn detach(&self, lease: &NetworkLease) -> Result<()> {
        // Made by a daemon that had a network; only such a one knows how to remove it.
        let why = format!("network slot {}: this node's network is disabled; enable it to have it removed", lease.slot);
        Err(Error::new(ErrorKind::Unavailable, why))
    }

    fn free(&self, _: &NetworkLease) {}

    async fn restore(&self, held: Vec<(NetworkLease, Attachment)>) -> Result<()> {
        if !held.is_empty() {
            let count = held.len();
            tracing::warn!(count, "sandboxes with a network exist, but it is disabled: they stay until it is enabled");
        }
        Ok(())
    }
}
