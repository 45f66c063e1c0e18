//! Warm pools: what a member of each is, and what is said of them.

use std::time::Duration;

use moat_api::rest::template::{PoolStatus, Warmup};
use moat_engine::pool;
use moat_model::spec::TemplateRef;
use moat_model::{Isolation, SandboxSpec};

use crate::config::{PoolConfig, PoolTemplate};
use crate::error::Result;
use crate::workloads::ready;

use super::seeds::Seed;
use super::{Sandboxes, plan};

/// Shapes that could not be set are tried again after this long: the driver may refuse them for a while only.
const AGAIN: Duration = Duration::from_secs(30);

/// The engine's view of it.
pub fn config(config: &PoolConfig) -> pool::PoolConfig {
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
            let (shapes, seeds) = self.shapes().await;
            let failed = self.shared.base.ready.pool.set_shapes(shapes).inspect_err(|error| {
                tracing::warn!(error = %error.chain(), "pools are not filled; trying again");
            });
            let wait = async {
                if failed.is_err() {
                    tokio::time::sleep(AGAIN).await;
                    return;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() {
                        std::future::pending::<()>().await;
                    },
                    () = self.tend_seeds(&seeds) => {}
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

    /// What can be kept ready now, and what stands behind pools of machines; templates without a version come later.
    async fn shapes(&self) -> (Vec<pool::Shape>, Vec<Seed>) {
        let (mut shapes, mut seeds) = (Vec::new(), Vec::new());
        for template in &self.shared.base.pool.templates {
            let Ok((version, spec)) = self.shape_of(template) else { continue };
            if let Err(error) = self.shared.base.engine.validate(&spec) {
                tracing::warn!(template = template.name, error = %error.chain(), "its pool cannot be filled");
                continue;
            }
            let mut shape = pool::Shape {
                key: template.name.clone(),
                version,
                spec,
                machine: None,
                min_ready: count(template.min_ready),
                max_ready: count(template.max_ready),
            };
            seeds.extend(self.seed(&mut shape).await);
            shapes.push(shape);
        }
        if let Some(mut shape) = self.shape_of_workloads() {
            seeds.extend(self.seed(&mut shape).await);
            shapes.push(shape);
        }
        let current: Vec<String> = seeds.iter().map(|seed| seed.name.clone()).collect();
        self.sweep_seeds(current).await;
        (shapes, seeds)
    }

    /// Machines for workloads that ask for nothing of their own.
    fn shape_of_workloads(&self) -> Option<pool::Shape> {
        let base = &self.shared.base;
        let (spec, wanted) = (base.ready.member.as_deref()?, count(base.pool.workloads));
        if let Err(error) = base.engine.validate(spec) {
            tracing::warn!(error = %error.chain(), "no machines stand ready for workloads");
            return None;
        }
        Some(pool::Shape {
            key: ready::KEY.to_owned(),
            version: ready::VERSION,
            spec: spec.clone(),
            machine: None,
            min_ready: wanted,
            max_ready: wanted,
        })
    }

    fn shape_of(&self, pool: &PoolTemplate) -> Result<(u64, SandboxSpec)> {
        let resolved = self.shared.base.templates.resolve(&pool.name)?;
        let version = resolved.template.as_ref().map_or(0, |t| t.version);
        let base = &self.shared.base;
        let machine = base.engine.offer(pool.isolation)?.isolation == Isolation::Microvm;
        let resources = if machine { &base.machine } else { &base.resources };
        Ok((version, plan::member(resolved, resources, pool.network, pool.isolation)?))
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
        match self.shared.base.ready.pool.status(template) {
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
        self.shared.base.ready.pool.statuses().into_iter().fold((0, 0, 0, 0), |sum, s| {
            (sum.0 + whole(s.ready), sum.1 + whole(s.starting), sum.2 + s.hits, sum.3 + s.misses)
        })
    }

    /// Ends every member: for a node that is to leave nothing behind.
    pub async fn empty_pools(&self) {
        self.shared.base.ready.pool.empty().await;
    }
}
