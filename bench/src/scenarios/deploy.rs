//! Deploy and stop over NATS.

use std::time::Instant;

use moat_testkit::static_bin;

use super::node::Node;
use crate::samples::Sample;

const ROUNDS: usize = 100;

/// From each request to its reply: that it runs, that it is gone.
pub async fn run() -> anyhow::Result<Vec<Sample>> {
    let node = Node::start().await?;
    let location = node.upload("hold", &static_bin("probe")?).await?;
    let mut samples = Vec::new();
    for round in 0..=ROUNDS {
        let begin = Instant::now();
        let deployed = node.deploy_from("hold", &location, &["hold"], "scratch").await?;
        let running = begin.elapsed();
        let begin = Instant::now();
        node.stop(&deployed).await?;
        if round > 0 {
            samples.push(Sample::time("D1", "moat: DEPLOY → reply", running));
            samples.push(Sample::time("D1", "moat: STOP → reply", begin.elapsed()));
        }
    }
    node.end().await?;
    Ok(samples)
}
