//! Networks of sandboxes: as they are, changed while they live, and tried out.

use std::collections::BTreeMap;
use std::sync::Arc;

use moat_api::rest::network::{AttachedSandbox, NetworkStatus, NetworkTest, NetworkWish, NodeNetwork, TestNetwork};
use moat_model::lifecycle::SandboxView;
use moat_model::network::NetworkSpec;
use moat_model::spec::Owner;
use moat_model::{ErrorKind, Isolation, Namespace, SandboxId, SandboxSpec};

use crate::error::{Error, Result};
use crate::networks::{self, Asker, Neighbours};

use super::{Sandboxes, launch, no_such};

impl Sandboxes {
    /// The network one has: everything that holds.
    pub fn network(&self, namespace: &Namespace, id: &SandboxId) -> Result<NetworkStatus> {
        let (view, spec) = self.viewed(namespace, id)?;
        Ok(self.shared.base.networks.status(id, &spec.network, view.address))
    }

    /// Gives one that lives another network; returns when that is in force. After an error the one before holds.
    pub async fn set_network(&self, namespace: &Namespace, id: &SandboxId, wish: NetworkWish) -> Result<NetworkStatus> {
        self.own(namespace, id)?;
        let (view, spec) = self.viewed(namespace, id)?;
        let wanted = self.shared.base.networks.replan(wish, view.isolation, &spec.network)?;
        self.check_name(namespace, Some(id), &wanted)?;
        let view = self.shared.base.engine.rewire(id, wanted).await?;
        let spec = self.shared.base.engine.spec(id).ok_or_else(|| no_such(id))?;
        Ok(self.shared.base.networks.status(id, &spec.network, view.address))
    }

    /// Says what would become of packets of one, with the network it has or another.
    pub async fn test_network(
        &self,
        namespace: &Namespace,
        id: &SandboxId,
        request: TestNetwork,
    ) -> Result<NetworkTest> {
        let (view, spec) = self.viewed(namespace, id)?;
        let networks = &self.shared.base.networks;
        let network = match request.network {
            None => spec.network.clone(),
            Some(wish) => networks.try_out(wish, view.isolation, Some(&spec.network))?,
        };
        let asker = Asker { id: id.clone(), namespace: namespace.clone(), labels: view.labels, spec: network };
        networks.trial(&asker, &request.destinations, &self.neighbours()).await
    }

    /// The same of one that does not exist.
    pub async fn test_any_network(&self, namespace: &Namespace, request: TestNetwork) -> Result<NetworkTest> {
        let networks = &self.shared.base.networks;
        let Some(wish) = request.network else {
            return Err(Error::invalid(
                "network",
                "say which network it would have; a sandbox's own is tested at its path",
            ));
        };
        let spec = networks.try_out(wish, Isolation::Container, None)?;
        let asker = Asker { id: launch::new_id(), namespace: namespace.clone(), labels: BTreeMap::new(), spec };
        networks.trial(&asker, &request.destinations, &self.neighbours()).await
    }

    /// The network of the node, with the sandboxes of a namespace that have a place in it.
    pub async fn node_network(&self, namespace: &Namespace) -> NodeNetwork {
        let own = self.views().into_iter().filter(|view| view.namespace == *namespace);
        let engine = &self.shared.base.engine;
        let shown = |view: SandboxView| -> Option<AttachedSandbox> {
            let spec = engine.spec(&view.id)?;
            Some(networks::attached(&view.id, &spec.network, view.address?))
        };
        self.shared.base.networks.shown(own.filter_map(shown).collect(), self.proxy_url()).await
    }

    /// Refuses a name that is another's: before a member of a pool is used up by it.
    pub(super) fn check_name(&self, namespace: &Namespace, of: Option<&SandboxId>, wanted: &NetworkSpec) -> Result<()> {
        let Some(name) = &wanted.name else { return Ok(()) };
        let engine = &self.shared.base.engine;
        let other = |view: &SandboxView| {
            view.namespace == *namespace
                && view.origin.owner != Owner::Pool
                && !view.phase.is_terminal()
                && Some(&view.id) != of
                && engine.spec(&view.id).is_some_and(|spec| spec.network.name.as_ref() == Some(name))
        };
        match engine.list().iter().find(|view| other(view)) {
            None => Ok(()),
            Some(holder) => {
                let what =
                    format!("network.name: {name} is the name of {} in this namespace; choose another", holder.id);
                Err(Error::new(ErrorKind::Conflict, what))
            }
        }
    }

    fn viewed(&self, namespace: &Namespace, id: &SandboxId) -> Result<(SandboxView, Arc<SandboxSpec>)> {
        let view = self.view(namespace, id)?;
        let spec = self.shared.base.engine.spec(id).ok_or_else(|| no_such(id))?;
        Ok((view, spec))
    }

    fn neighbours(&self) -> Neighbours {
        Neighbours::of(&self.shared.base.engine.list())
    }
}
