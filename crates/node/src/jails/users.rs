//! What jails, their snapshots and releases need of the image store.

use std::sync::{Arc, Weak};

use moat_api::rest::template::PoolStatus;

use crate::templates::{ImageUse, ImageUsers};

use super::record::digests;
use super::table::Shared;

/// Does not keep the jails alive.
#[derive(Debug)]
pub(super) struct Users(Weak<Shared>);

impl Users {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

impl ImageUsers for Users {
    fn in_use(&self) -> Option<ImageUse> {
        let shared = self.0.upgrade()?;
        let mut layers = shared.needs();
        for release in shared.releases.all() {
            let who = format!("release {}", release.name);
            layers.extend(digests(&release.layers, Some(&release.image)).map(|digest| (digest, who.clone())));
        }
        Some(ImageUse { layers, versions: Vec::new() })
    }

    fn pool_of(&self, _template: &str) -> Option<PoolStatus> {
        None
    }
}
