//! The ports of sandboxes, for the HTTP proxy: who may reach them, and how.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use moat_api::rest::sandbox::ProxyAccess;
use moat_engine::guest::Channel;
use moat_model::lifecycle::SandboxView;
use moat_model::spec::Owner;
use moat_model::{Isolation, SandboxId, SandboxSpec};

use super::{Sandboxes, no_such};
use crate::config::ProxyConfig;
use crate::http::ingress::{Closed, Doors};
use crate::tokens::Tokens;

/// How the ports of this node's sandboxes are reached.
#[derive(Debug)]
pub struct Access {
    tokens: Arc<Tokens>,
    scheme: &'static str,
    /// What comes after port and id in a URL.
    authority: String,
}

impl Access {
    /// Through a proxy that listens here.
    pub fn new(tokens: Arc<Tokens>, config: &ProxyConfig, address: SocketAddr) -> Self {
        let domain = &config.domain;
        match config.https {
            true => Self { tokens, scheme: "https", authority: domain.clone() },
            false => Self { tokens, scheme: "http", authority: format!("{domain}:{}", address.port()) },
        }
    }
}

impl Sandboxes {
    /// The proxy listens: from now on those who may see a sandbox are told how its ports are reached. Counts once.
    pub fn set_access(&self, access: Access) {
        if self.shared.access.set(access).is_err() {
            tracing::error!("a second proxy for the ports of sandboxes is not told of");
        }
    }

    /// URL of a port of any sandbox, if there is a proxy.
    pub fn proxy_url(&self) -> Option<String> {
        let access = self.shared.access.get()?;
        Some(format!("{}://{{port}}-{{sandbox}}.{}", access.scheme, access.authority))
    }

    /// One that has ended has no ports, and its token would only lie about in its history.
    pub(super) fn access_of(&self, view: &SandboxView, spec: &SandboxSpec) -> Option<ProxyAccess> {
        let access = self.shared.access.get().filter(|_| has_ports(view))?;
        Some(ProxyAccess {
            url_template: format!("{}://{{port}}-{}.{}", access.scheme, view.id, access.authority),
            token: access.tokens.of(&view.id),
            public: spec.ingress.public,
        })
    }

    /// Of whatever namespace: the token says that whoever asks may.
    fn has_ports(&self, id: &SandboxId) -> bool {
        self.shared.base.engine.get(id).is_some_and(|view| has_ports(&view))
    }
}

/// Workloads and members of a pool have no ports here; nor has what is no sandbox, for the loopback its agent would reach
/// is the host's.
fn has_ports(view: &SandboxView) -> bool {
    view.origin.owner == Owner::Api && !view.phase.is_terminal() && view.isolation != Isolation::Process
}

#[async_trait]
impl Doors for Sandboxes {
    fn public(&self, id: &SandboxId) -> bool {
        self.has_ports(id) && self.shared.base.engine.spec(id).is_some_and(|spec| spec.ingress.public)
    }

    async fn connect(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Channel>, Closed> {
        if !self.has_ports(id) {
            return Err(Closed::Sandbox(no_such(id)));
        }
        let guest = self.shared.base.engine.guest(id).await.map_err(Closed::Sandbox)?;
        guest.connect_port(port).await.map_err(Closed::Port)
    }

    fn touch(&self, id: &SandboxId) {
        self.shared.base.engine.touch(id);
    }
}
