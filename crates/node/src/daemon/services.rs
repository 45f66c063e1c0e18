//! What the API stands on, as the configuration says.

use std::sync::Arc;

use moat_engine::{Engine, Offer, Registry};
use moat_image::ImageStore;
use moat_image::store::StoreConfig;
use moat_model::{ErrorKind, Isolation, SandboxSpec};

use crate::config::{ApiConfig, NodeConfig};
use crate::dirs::Dirs;
use crate::error::{Error, Result};
use crate::guard::make_private;
use crate::http::{self, HttpServer, Services};
use crate::networks::Networks;
use crate::sandboxes::Sandboxes;
use crate::sandboxes::ingress::Access;
use crate::templates::Templates;
use crate::tokens::Tokens;
use crate::verbs::deploy::machine_of_a_workload;

/// Opens the images and the templates made of them.
pub(super) fn templates(config: &NodeConfig, dirs: &Dirs, engine: Engine) -> Result<Templates> {
    let oci = config.oci.clone();
    let store = ImageStore::open(StoreConfig {
        dir: oci.cache_dir.unwrap_or_else(|| dirs.images()),
        insecure_registries: oci.insecure_registries,
        mirrors: oci.mirrors,
        docker_config: oci.docker_config,
        parallel_layers: oci.parallel_layers,
        limits: moat_image::erofs::Limits::default(),
    })?;
    Templates::open(&dirs.templates(), store, engine, oci.cache_bytes_max)
}

/// What stands ready for workloads, if the operator wants it and the node has machines.
pub(super) fn ready(config: &NodeConfig, networks: &Networks, engine: &Engine) -> Option<Arc<SandboxSpec>> {
    if config.pool.workloads == 0 {
        return None;
    }
    let member = engine
        .offer(Isolation::Microvm)
        .and_then(|_| machine_of_a_workload(config, networks).map_err(|error| Error::new(error.kind, error.message)));
    member
        .map(Arc::new)
        .inspect_err(|error| {
            tracing::warn!(error = %error.chain(), "pool.workloads: no machines stand ready for workloads");
        })
        .ok()
}

/// Serves the API. The default address is given up if somebody else has it; one the operator wrote down is not.
pub(super) async fn listen(config: &ApiConfig, services: Services) -> Result<Option<HttpServer>> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    make_private(&services.scratch)?;
    match http::serve(&config.listen, services).await {
        Ok(server) => {
            tracing::info!(addresses = ?server.addresses, "the API listens");
            Ok(Some(server))
        }
        Err(error) if !config.explicit && error.kind == ErrorKind::Unavailable => {
            tracing::warn!(error = %error.chain(), "no API: its default address is taken; set api.listen_addr to another");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Serves the ports of sandboxes, and tells those who may see a sandbox how. The default address is given up as for the API.
pub(super) async fn ingress(config: &NodeConfig, dirs: &Dirs, sandboxes: &Sandboxes) -> Result<Option<HttpServer>> {
    let proxy = &config.proxy;
    if proxy.listen.is_empty() || (config.api.listen.is_empty() && !proxy.explicit) {
        return Ok(None);
    }
    let tokens = Arc::new(Tokens::load_or_create(&dirs.identity())?);
    match http::ingress::serve(proxy, Arc::new(sandboxes.clone()), Arc::clone(&tokens)).await {
        Ok(server) => {
            tracing::info!(addresses = ?server.addresses, domain = proxy.domain, "the ports of sandboxes are served");
            if let Some(address) = server.addresses.first() {
                sandboxes.set_access(Access::new(tokens, proxy, *address));
            }
            Ok(Some(server))
        }
        Err(error) if !proxy.explicit && error.kind == ErrorKind::Unavailable => {
            let why = "no proxy: its default address is taken; set proxy.listen to another";
            tracing::warn!(error = %error.chain(), "{why}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What these drivers give, the strongest first, as replies say it.
pub(super) fn isolation(registry: &Registry) -> Vec<String> {
    let mut offers: Vec<Offer> = registry.iter().filter_map(|d| registry.offer_of(d.describe().name)).collect();
    offers.sort_by_key(|offer| std::cmp::Reverse(offer.isolation));
    let mut kinds: Vec<String> = offers.iter().map(Offer::shown).collect();
    kinds.dedup();
    kinds
}
