//! Log lines per second, from a program's standard output to a subscriber.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use moat_testkit::static_bin;

use super::node::Node;
use crate::samples::Sample;

/// Ours.
pub const OURS: &str = "moat: workload → $NEX.logs → subscriber";
/// The rival of the promise.
pub const STRAIGHT: &str = "straight: publish → subscriber";
const STRAIGHT_KEPT: &str = "straight: publish into JetStream → subscriber";

const LINES: u64 = 200_000;
const LINE_BYTES: u64 = 100;
const ROUNDS: usize = 10;
/// A line that does not come for so long will not come.
const SILENCE: Duration = Duration::from_secs(30);

/// Interleaves ours and the two rivals.
pub async fn run() -> anyhow::Result<Vec<Sample>> {
    let node = Node::start().await?;
    let location = node.upload("spew", &static_bin("probe")?).await?;
    let listener = node.nats.client().await?;
    let jetstream = async_nats::jetstream::new(node.nats.client().await?);
    let kept = async_nats::jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept.>".to_owned()],
        max_bytes: 256 << 20,
        ..Default::default()
    };
    jetstream.create_stream(kept).await.context("create a stream")?;

    let mut samples = Vec::new();
    let bytes = (LINES * LINE_BYTES).to_string();
    for _ in 0..ROUNDS {
        let (rate, deployed) = {
            let counted = count(listener.subscribe("$NEX.logs.>").await?);
            listener.flush().await?;
            let deployed = node.deploy_from("spew", &location, &["spew", &bytes], "scratch").await?;
            (counted.await?, deployed)
        };
        samples.push(Sample::rate("T11", OURS, LINES, rate));
        // It ended by itself; there is nothing to stop.
        drop(deployed);
        for (subject, name) in [("straight.line", STRAIGHT), ("kept.line", STRAIGHT_KEPT)] {
            let counted = count(listener.subscribe(subject).await?);
            listener.flush().await?;
            let (taken, sent) = tokio::join!(counted, publish(node.nats.client().await?, subject));
            sent?;
            samples.push(Sample::rate("T11", name, LINES, taken?));
        }
    }
    node.end().await?;
    Ok(samples)
}

async fn publish(client: Client, subject: &'static str) -> anyhow::Result<()> {
    let line = Bytes::from(vec![b'x'; usize::try_from(LINE_BYTES)? - 1]);
    for _ in 0..LINES {
        client.publish(subject, line.clone()).await?;
    }
    client.flush().await.context("flush")
}

/// From the first to the last line.
async fn count(mut lines: Subscriber) -> anyhow::Result<Duration> {
    let mut begin = None;
    for n in 0..LINES {
        match tokio::time::timeout(SILENCE, lines.next()).await {
            Ok(Some(_)) => begin.get_or_insert_with(Instant::now),
            _ => bail!("only {n} of {LINES} lines came"),
        };
    }
    Ok(begin.map(|begin| begin.elapsed()).unwrap_or_default())
}
