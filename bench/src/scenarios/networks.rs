//! What a network costs: creates with one next to creates without, and a thousand sandboxes that have one.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use moat_api::client::rest::RestClient;
use moat_api::rest::network::NetworkWish;
use moat_api::rest::sandbox::CreateSandbox;
use moat_model::SandboxSpec;
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_testkit::{LeakAudit, busybox, tool, wait_until};

use super::node::Node;
use super::rest::{FILLED_WITHIN, request};
use super::sandboxes::{Sandboxes, new_id, scratch};
use crate::samples::Sample;

/// Creates from a pool whose members have loopback only.
pub const WARM_ISOLATED: &str = "moat: POST /sandboxes, from the pool, isolated";
/// Creates from a pool whose members have a network.
pub const WARM_INTERNET: &str = "moat: POST /sandboxes, from the pool, internet";
/// Creates that nothing stood ready for.
const COLD: &str = "moat: POST /sandboxes, cold";
/// Cold creates with loopback only.
pub const READY_ISOLATED: &str = "moat: create → agent ready, isolated";
/// Cold creates with a network.
pub const READY_INTERNET: &str = "moat: create → agent ready, internet";
/// The first of the thousand.
pub const FIRST: &str = "moat: POST /sandboxes, internet, the first 100";
/// The last of the thousand.
pub const LAST: &str = "moat: POST /sandboxes, internet, the last 100";
const BETWEEN: &str = "moat: POST /sandboxes, internet, those between";
const DELETE: &str = "moat: DELETE /sandboxes/{id}, of a thousand";

const ROUNDS: usize = 200;
const WARM_UP: usize = 5;
const MANY: usize = 1000;
const COMPARED: usize = 100;
/// What a thousand leave is taken away while they are deleted, not afterwards.
const CLEAN_WITHIN: Duration = Duration::from_secs(60);

/// Creates that find a member ready, on two nodes that differ in the network of their pool's members.
pub async fn warm() -> anyhow::Result<Vec<Sample>> {
    let isolated = Node::start_with(&pool("isolated")).await?;
    let internet = Node::start_with(&pool("internet")).await?;
    let mut samples = Vec::new();
    for round in 0..ROUNDS + WARM_UP {
        for (node, mode, subject) in [(&isolated, "isolated", WARM_ISOLATED), (&internet, "internet", WARM_INTERNET)] {
            let ready = async || node.rest.stats().await.ok().filter(|stats| stats.pool_ready > 0).map(drop);
            wait_until(FILLED_WITHIN, "a member is ready", ready).await?;
            let begin = Instant::now();
            let sandbox = node.rest.create(&with_network(mode)).await?;
            let taken = begin.elapsed();
            ensure!(sandbox.network == mode, "asked for {mode}, given {}", sandbox.network);
            if round >= WARM_UP {
                samples.push(Sample::time("T1n", if sandbox.from_pool { subject } else { COLD }, taken));
            }
            node.rest.delete(&sandbox.id).await?;
        }
    }
    isolated.end().await?;
    internet.end().await?;
    Ok(samples)
}

fn pool(network: &str) -> String {
    format!(
        "[network]\nenabled = true\n[pool]\nreplenish_interval_sec = 1\n\
         [[pool.templates]]\nname = \"host\"\nmin_ready = 2\nmax_ready = 4\nnetwork = \"{network}\"\n"
    )
}

fn with_network(mode: &str) -> CreateSandbox {
    CreateSandbox { network: Some(NetworkWish::Mode(mode.to_owned())), ..request() }
}

/// Cold creates through the engine, in turn without and with a network.
pub async fn cold() -> anyhow::Result<Vec<Sample>> {
    let sandboxes = Sandboxes::open_with_network().await?;
    let isolated = scratch(Some(&busybox().context("busybox is not installed")?))?;
    let internet = SandboxSpec { network: NetworkSpec::new(NetworkMode::Internet), ..isolated.clone() };
    let mut samples = Vec::new();
    for round in 0..ROUNDS + WARM_UP {
        for (spec, subject) in [(&isolated, READY_ISOLATED), (&internet, READY_INTERNET)] {
            let id = new_id();
            let begin = Instant::now();
            sandboxes.engine.create(id.clone(), spec.clone()).await?;
            if round >= WARM_UP {
                samples.push(Sample::time("T2n", subject, begin.elapsed()));
            }
            sandboxes.engine.delete(&id).await?;
        }
    }
    sandboxes.close().await?;
    Ok(samples)
}

/// A thousand that live at once, one created after the other; then all are deleted, and nothing may be left.
pub async fn thousand() -> anyhow::Result<Vec<Sample>> {
    let audit = LeakAudit::before();
    let before = HostNetwork::now()?;
    let node = Node::start_with("[network]\nenabled = true\n").await?;
    let first = node.rest.create(&with_network("internet")).await?;
    node.rest.delete(&first.id).await?;
    let mut samples = Vec::new();
    let mut ids = Vec::new();
    for number in 0..MANY {
        let begin = Instant::now();
        let sandbox = node.rest.create(&with_network("internet")).await;
        let sandbox = sandbox.with_context(|| format!("create sandbox {number}"))?;
        let subject = match number {
            n if n < COMPARED => FIRST,
            n if n >= MANY - COMPARED => LAST,
            _ => BETWEEN,
        };
        samples.push(Sample::time("N1000", subject, begin.elapsed()));
        ids.push(sandbox.id);
    }
    let addresses = addresses(&node.rest).await?;
    ensure!(addresses == MANY, "{addresses} of {MANY} have an address of their own");
    for id in &ids {
        let begin = Instant::now();
        node.rest.delete(id).await?;
        samples.push(Sample::time("N1000", DELETE, begin.elapsed()));
    }
    node.end().await?;
    audit.assert_same(CLEAN_WITHIN).await?;
    let same = async || (HostNetwork::now().ok()? == before).then_some(());
    if wait_until(CLEAN_WITHIN, "the host's network is as before", same).await.is_err() {
        anyhow::bail!("before: {before:?}\nafter: {:?}", HostNetwork::now()?);
    }
    Ok(samples)
}

async fn addresses(client: &RestClient) -> anyhow::Result<usize> {
    let network = client.network().await?;
    Ok(network.sandboxes.iter().map(|sandbox| sandbox.address).collect::<BTreeSet<_>>().len())
}

/// What of the host's network a node touches.
#[derive(Debug, PartialEq, Eq)]
struct HostNetwork {
    links: BTreeSet<String>,
    routes: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    rules: String,
}

impl HostNetwork {
    fn now() -> anyhow::Result<Self> {
        let links = fs::read_dir("/sys/class/net").context("list links")?;
        let route = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        let routes = fs::read_to_string("/proc/net/route").context("list routes")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("list mounts")?;
        let namespaces =
            mounts.lines().filter(|line| line.contains(" - nsfs ")).filter_map(|line| line.split(' ').nth(4));
        let rules =
            Command::new(tool("nft").context("nft is not installed")?).args(["-s", "list", "ruleset"]).output()?;
        ensure!(rules.status.success(), "nft list ruleset: {}", String::from_utf8_lossy(&rules.stderr));
        Ok(Self {
            links: links.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect(),
            routes: routes.lines().map(route).collect(),
            namespaces: namespaces.map(str::to_owned).collect(),
            rules: String::from_utf8_lossy(&rules.stdout).into_owned(),
        })
    }
}
