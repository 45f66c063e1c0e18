//! What somebody waits for who uses REST: a create from the pool, a program, a hundred creates at once.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use moat_api::client::rest::RestClient;
use moat_api::rest::exec::Exec;
use moat_api::rest::sandbox::{CreateSandbox, ResourceLimits, Sandbox};
use moat_testkit::wait_until;

use super::node::Node;
use crate::samples::Sample;

/// A create that a member of the pool serves.
pub const WARM: &str = "moat: POST /sandboxes, from the pool";
/// A create that nothing stood ready for.
const COLD: &str = "moat: POST /sandboxes, cold";
/// A program over REST.
pub const EXEC: &str = "moat: client → REST → node";
/// One of a hundred creates at once.
pub const BURST: &str = "moat: POST /sandboxes, a hundred at once";
const ROUNDS: usize = 200;
const WARM_UP: usize = 5;
const AT_ONCE: usize = 100;
/// A pool fills in much less, or something is broken.
pub const FILLED_WITHIN: Duration = Duration::from_secs(60);

const POOL: &str = "[pool]\nreplenish_interval_sec = 1\n\
                    [[pool.templates]]\nname = \"host\"\nmin_ready = 2\nmax_ready = 4\n";

/// Creates that find a member ready.
pub async fn warm() -> anyhow::Result<Vec<Sample>> {
    let node = Node::start_with(POOL).await?;
    let mut samples = Vec::new();
    for round in 0..ROUNDS + WARM_UP {
        let ready = async || node.rest.stats().await.ok().filter(|stats| stats.pool_ready > 0).map(drop);
        wait_until(FILLED_WITHIN, "a member is ready", ready).await?;
        let begin = Instant::now();
        let sandbox = node.rest.create(&request()).await?;
        let taken = begin.elapsed();
        if round >= WARM_UP {
            samples.push(Sample::time("T1", if sandbox.from_pool { WARM } else { COLD }, taken));
        }
        node.rest.delete(&sandbox.id).await?;
    }
    node.end().await?;
    Ok(samples)
}

/// A sandbox to run programs in.
pub async fn sandbox(client: &RestClient) -> anyhow::Result<Sandbox> {
    Ok(client.create(&request()).await?)
}

/// `true`, to its end.
pub async fn run_true(client: &RestClient, sandbox: &Sandbox) -> anyhow::Result<()> {
    let exec = Exec { command: "/bin/true".to_owned(), ..Exec::default() };
    let result = client.run(&sandbox.id, &exec).await?;
    if result.exit_code == 0 { Ok(()) } else { bail!("true ended with {}", result.exit_code) }
}

/// A hundred creates at once, without a pool; all must succeed, and nothing may be left.
pub async fn burst() -> anyhow::Result<Vec<Sample>> {
    let node = Node::start().await?;
    // What is lazy is not part of it.
    let first = sandbox(&node.rest).await?;
    node.rest.delete(&first.id).await?;
    let creates = (0..AT_ONCE).map(|_| async {
        let begin = Instant::now();
        let sandbox = node.rest.create(&request()).await?;
        anyhow::Ok((sandbox.id, begin.elapsed()))
    });
    let created = futures::future::join_all(creates).await.into_iter().collect::<anyhow::Result<Vec<_>>>();
    let created = created.context("one of the hundred was not created")?;
    let mut samples = Vec::new();
    for (id, taken) in created {
        samples.push(Sample::time("T5", BURST, taken));
        node.rest.delete(&id).await?;
    }
    let left = node.rest.sandboxes(&Default::default()).await?;
    ensure!(left.sandboxes.is_empty(), "{} sandboxes are left", left.sandboxes.len());
    node.end().await?;
    Ok(samples)
}

/// A small sandbox of the template `host`.
pub fn request() -> CreateSandbox {
    CreateSandbox {
        template: Some("host".to_owned()),
        resources: ResourceLimits { memory_mb: Some(64), ..ResourceLimits::default() },
        ..CreateSandbox::default()
    }
}
