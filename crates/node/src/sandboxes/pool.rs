//! Warm pools: what a member of each is, and what is said of them.

use std::time::Duration;

use moat_api::rest::template::{PoolStatus, Warmup};
use moat_engine::pool;
use moat_model::SandboxSpec;
use moat_model::spec::TemplateRef;

use crate::config::{PoolConfig, PoolTemplate};
use crate::error::Result;

use super::{Sandboxes, plan};

/// Shapes that could not be set are tried again after this long: the driver may refuse them for a while only.
const AGAIN: Duration = Duration::from_secs(30);

pub(super) fn config(config: &PoolConfig) -> pool::PoolConfig {
    pool::PoolConfig {
        replenish_interval: config.replenish_interval,
        max_idle: config.max_idle,
        ..pool::PoolConfig::default()
    }
}

fn count(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn shown(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Sandboxes {
    /// Warms up the templates that pools name with an image, and keeps every pool on the version in use, for ever.
    pub(super) async fn fill_pools(self) {
        let closed = self.shared.closed.clone();
        let mut changes = self.shared.base.templates.changes();
        self.warm_up_pools().await;
        loop {
            changes.mark_unchanged();
            let shapes = self.shapes();
            let failed = self.shared.pool.set_shapes(shapes).inspect_err(|error| {
                tracing::warn!(error = %error.chain(), "pools are not filled; trying again");
            });
            let wait = async {
                if failed.is_err() {
                    tokio::time::sleep(AGAIN).await;
                } else if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            if closed.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    async fn warm_up_pools(&self) {
        for template in &self.shared.base.pool.templates {
            let Some(image) = template.image.clone() else { continue };
            let request = Warmup { name: template.name.clone(), image, ..Warmup::default() };
            if let Err(error) = self.shared.base.templates.warm_up(request).await {
                tracing::warn!(template = template.name, error = %error.chain(), "pool: its template is not warmed up");
            }
        }
    }

    /// What can be kept ready now; templates without a version come later.
    fn shapes(&self) -> Vec<pool::Shape> {
        let shape = |template: &PoolTemplate| {
            let (version, spec) = self.shape_of(template).ok()?;
            let shape = pool::Shape {
                key: template.name.clone(),
                version,
                spec,
                min_ready: count(template.min_ready),
                max_ready: count(template.max_ready),
            };
            match self.shared.base.engine.validate(&shape.spec) {
                Ok(()) => Some(shape),
                Err(error) => {
                    tracing::warn!(template = template.name, error = %error.chain(), "its pool cannot be filled");
                    None
                }
            }
        };
        self.shared.base.pool.templates.iter().filter_map(shape).collect()
    }

    fn shape_of(&self, pool: &PoolTemplate) -> Result<(u64, SandboxSpec)> {
        let resolved = self.shared.base.templates.resolve(&pool.name)?;
        let version = resolved.template.as_ref().map_or(0, |t| t.version);
        Ok((version, plan::member(resolved, &self.shared.base.resources, pool.network)?))
    }

    /// What a member of this template's pool is, if it has a pool and this is the version it holds.
    pub(super) fn member_of(&self, template: &TemplateRef) -> Option<SandboxSpec> {
        let pool = self.shared.base.pool.templates.iter().find(|t| t.name == template.name)?;
        let (version, spec) = self.shape_of(pool).ok()?;
        (version == template.version).then_some(spec)
    }

    /// The pool of a template, if it has one.
    pub(super) fn pool_status(&self, template: &str) -> Option<PoolStatus> {
        let config = self.shared.base.pool.templates.iter().find(|t| t.name == template)?;
        let mut status =
            PoolStatus { min_ready: config.min_ready, max_ready: config.max_ready, ..PoolStatus::default() };
        match self.shared.pool.status(template) {
            Some(now) => {
                status.ready = shown(now.ready);
                status.starting = shown(now.starting);
                (status.hits, status.misses, status.problem) = (now.hits, now.misses, now.problem);
            }
            None => status.problem = Some("the template is not ready, or its members cannot be made here".to_owned()),
        }
        Some(status)
    }

    /// All pools: ready, starting, hits and misses.
    pub(super) fn pool_sums(&self) -> (u64, u64, u64, u64) {
        let whole = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.shared.pool.statuses().into_iter().fold((0, 0, 0, 0), |sum, s| {
            (sum.0 + whole(s.ready), sum.1 + whole(s.starting), sum.2 + s.hits, sum.3 + s.misses)
        })
    }

    /// Ends every member: for a node that is to leave nothing behind.
    pub async fn empty_pools(&self) {
        self.shared.pool.empty().await;
    }
}
