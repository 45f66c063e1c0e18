//! Cold create of a container, and whole lives beside the rivals'.

use std::time::Instant;

use anyhow::Context;
use moat_testkit::{busybox, tool};

use super::sandboxes::{Sandboxes, new_id, run_true, scratch};
use crate::rivals::{Runc, bwrap_true};
use crate::samples::Sample;

/// The series the promise is about.
pub const READY: &str = "moat: create → agent ready";
const ROUNDS: usize = 200;
/// Rounds before the first that counts: page cache, lazy initialisation.
const WARM_UP: usize = 5;

/// Interleaves ours and theirs.
pub async fn run() -> anyhow::Result<Vec<Sample>> {
    let sandboxes = Sandboxes::open().await?;
    let engine = &sandboxes.engine;
    let busybox = busybox().context("busybox is not installed")?;
    let spec = scratch(Some(&busybox))?;
    let mut runc = Runc::prepare()?;
    let bwrap = tool("bwrap");
    let mut samples = Vec::new();
    for round in 0..ROUNDS + WARM_UP {
        let mut sample = |subject: &str, taken| {
            if round >= WARM_UP {
                samples.push(Sample::time("T2", subject, taken));
            }
        };
        let id = new_id();
        let begin = Instant::now();
        engine.create(id.clone(), spec.clone()).await?;
        sample(READY, begin.elapsed());
        engine.delete(&id).await?;

        let id = new_id();
        let begin = Instant::now();
        engine.create(id.clone(), spec.clone()).await?;
        run_true(engine, &id).await?;
        engine.delete(&id).await?;
        sample("moat: create, exec true, delete", begin.elapsed());

        if let Some(runc) = &mut runc {
            sample("runc run true", runc.run_true()?);
        }
        if let Some(bwrap) = &bwrap {
            sample("bwrap true", bwrap_true(bwrap)?);
        }
    }
    Ok(samples)
}
