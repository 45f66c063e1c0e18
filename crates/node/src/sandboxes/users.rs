//! What sandboxes and snapshots need of the image store.

use std::sync::{Arc, Weak};

use moat_api::rest::template::PoolStatus;
use moat_image::Digest;
use moat_model::SandboxSpec;

use crate::templates::{ImageUse, ImageUsers};

use super::plan::layers_of;
use super::{Sandboxes, Shared};

/// Does not keep the sandboxes alive: the templates they are made from hold it.
#[derive(Debug)]
pub(super) struct Users(Weak<Shared>);

impl Users {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

/// Layers and image of a sandbox.
fn needs(spec: &SandboxSpec) -> impl Iterator<Item = Digest> {
    let layers = layers_of(&spec.root).iter().filter_map(|layer| format!("sha256:{}", layer.digest).parse().ok());
    layers.chain(spec.origin.image.iter().filter_map(|image| image.parse().ok())).collect::<Vec<_>>().into_iter()
}

impl ImageUsers for Users {
    fn in_use(&self) -> Option<ImageUse> {
        let shared = self.0.upgrade()?;
        let mut used = ImageUse::default();
        let engine = &shared.base.engine;
        for view in engine.list() {
            // An ended one whose record is still there may not have let go of its layers.
            let Some(spec) = engine.spec(&view.id) else { continue };
            used.layers.extend(needs(&spec).map(|digest| (digest, format!("sandbox {}", view.id))));
            used.versions.extend(spec.origin.template.iter().map(|t| (t.name.clone(), t.version)));
        }
        shared.snapshots.add_needs(&mut used);
        Some(used)
    }

    fn pool_of(&self, template: &str) -> Option<PoolStatus> {
        Sandboxes { shared: self.0.upgrade()? }.pool_status(template)
    }
}
