//! Exec of `true` in a live sandbox.

use std::time::Instant;

use anyhow::{Context, bail};
use moat_api::client::{Exec, ExecOutput};
use moat_model::WorkloadId;
use moat_testkit::busybox;

use super::node::Node;
use super::rest;
use super::sandboxes::{Sandboxes, exec_true, new_id, run_true, scratch};
use crate::rivals::Runc;
use crate::samples::Sample;

/// The lower bound of every other series of ours.
const ENGINE: &str = "moat: through the engine";
const ROUNDS: usize = 300;
const WARM_UP: usize = 10;

/// Interleaves the engine, clients over NATS and REST, and runc.
pub async fn run() -> anyhow::Result<Vec<Sample>> {
    let sandboxes = Sandboxes::open().await?;
    let busybox = busybox().context("busybox is not installed")?;
    let id = new_id();
    sandboxes.engine.create(id.clone(), scratch(Some(&busybox))?).await?;

    let node = Node::start().await?;
    // A program stands at /local/<name>, and busybox must bear its own; `true` is one of its applets.
    let deployed = node.deploy("busybox", &busybox, &["sleep", "3600"], "scratch").await?;
    let workload = WorkloadId::parse(&deployed.id)?;
    let over_rest = rest::sandbox(&node.rest).await?;
    let runc = Runc::prepare()?.map(Runc::hold).transpose()?;

    let mut samples = Vec::new();
    for round in 0..ROUNDS + WARM_UP {
        let mut sample = |subject: &str, taken| {
            if round >= WARM_UP {
                samples.push(Sample::time("T3", subject, taken));
            }
        };
        let begin = Instant::now();
        run_true(&sandboxes.engine, &id).await?;
        sample(ENGINE, begin.elapsed());

        let begin = Instant::now();
        over_nats(&node, &workload).await?;
        sample("moat: client → NATS → node", begin.elapsed());

        let begin = Instant::now();
        rest::run_true(&node.rest, &over_rest).await?;
        sample(rest::EXEC, begin.elapsed());

        if let Some(runc) = &runc {
            sample("runc exec", runc.exec_true()?);
        }
    }
    sandboxes.engine.delete(&id).await?;
    node.rest.delete(&over_rest.id).await?;
    node.end().await?;
    Ok(samples)
}

async fn over_nats(node: &Node, workload: &WorkloadId) -> anyhow::Result<()> {
    let name = moat_model::WorkloadName::parse("busybox")?;
    let mut spec = exec_true();
    spec.process.command = "/local/busybox".to_owned();
    let exec = Exec { node: &node.id, workload, name: &name, issuer: &node.issuer, spec };
    let mut session = node.client.exec(exec).await?;
    while let Some(output) = session.output.recv().await {
        if let ExecOutput::Exited(ended) = output? {
            return if ended.exit.success() { Ok(()) } else { bail!("true ended with {:?}", ended.exit) };
        }
    }
    bail!("the exec ended without a status")
}
