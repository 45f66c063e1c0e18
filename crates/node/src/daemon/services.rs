//! What the API stands on, as the configuration says.

use moat_engine::{Engine, Registry};
use moat_image::ImageStore;
use moat_image::store::StoreConfig;
use moat_model::Isolation;

use crate::config::NodeConfig;
use crate::dirs::Dirs;
use crate::error::Result;
use crate::templates::Templates;

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

/// Kinds of isolation these drivers give, the strongest first.
pub(super) fn isolation(registry: &Registry) -> Vec<Isolation> {
    let mut kinds: Vec<Isolation> = registry.iter().map(|driver| driver.describe().isolation).collect();
    kinds.sort_by(|a, b| b.cmp(a));
    kinds.dedup();
    kinds
}
