//! What a killed daemon's successor needs to have everything again.

use std::time::{Duration, Instant};

use moat_api::sandbox::InspectRequest;
use moat_model::lifecycle::PhaseName;
use moat_testkit::{static_bin, wait_until};

use super::node::Node;
use crate::samples::Sample;

/// The series of the promise.
pub const OURS: &str = "moat: daemon's start → 20 workloads listed as running";
const WORKLOADS: usize = 20;
const ROUNDS: usize = 20;

/// Kills, starts, waits.
pub async fn run() -> anyhow::Result<Vec<Sample>> {
    let mut node = Node::start().await?;
    let location = node.upload("hold", &static_bin("probe")?).await?;
    for n in 0..WORKLOADS {
        node.deploy_from(&format!("hold-{n}"), &location, &["hold"], "scratch").await?;
    }
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        node.kill_daemon();
        let begin = Instant::now();
        node.start_daemon()?;
        wait_until(Duration::from_secs(30), "all workloads are listed as running", async || {
            let answer = node.client.inspect(&node.id, &InspectRequest::default()).await.ok()?;
            let running = answer.workloads.iter().filter(|w| w.phase == PhaseName::Running).count();
            (running == WORKLOADS).then_some(())
        })
        .await?;
        samples.push(Sample::time("T9", OURS, begin.elapsed()));
    }
    node.end().await?;
    Ok(samples)
}
