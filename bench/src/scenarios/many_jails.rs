//! Two hundred jails on one node: made, started, listed, stopped, and brought up again as after a boot.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use moat_api::client::rest::RestClient;
use moat_model::jail::{DestroyJail, JailState, JailView, StopJail};
use moat_testkit::{LeakAudit, wait_until};

use super::jails::{create, done, node};
use super::machines::pss_kib;
use super::node::Node;
use crate::rivals::{HeldRunc, Runc};
use crate::samples::Sample;

const CREATE: &str = "moat: POST /jails, one of 200, not started";
/// One of them started.
pub const START: &str = "moat: POST /jails/{name}/start, one of 200";
const START_ALL: &str = "moat: 200 jails started, one after the other";
const STOP: &str = "moat: POST /jails/{name}/stop, one of 200";
const STOP_ALL: &str = "moat: 200 jails stopped, one after the other";
const LIST: &str = "moat: GET /jails, 200 up";
const NODE_UP: &str = "moat: the node's start after a boot → 200 jails up";
const NODE_DOWN: &str = "moat: SIGTERM to the node → 200 jails stopped, the node ended";
/// What its processes have.
pub const MEMORY: &str = "moat: memory of an idle jail (PSS of its processes)";
const CHARGED: &str = "moat: memory of an idle jail, as its control group counts";
const HOST: &str = "moat: memory the host has less, per jail";
/// The rival started.
pub const RUNC_START: &str = "runc run --detach, busybox sleep, no network";
/// What it has.
pub const RUNC_MEMORY: &str = "runc: memory of the same (PSS of its process)";

const MANY: usize = 200;
const RIVALS: usize = 20;
const BOOTS: usize = 3;
const LOOKS: usize = 50;
/// Anything here takes much less, or something is broken.
const WITHIN: Duration = Duration::from_secs(300);

/// All of it.
pub async fn many() -> anyhow::Result<Vec<Sample>> {
    let audit = LeakAudit::before();
    let mut node = node(Path::new("/var/tmp")).await?;
    create(&node.rest, "first", true).await?;
    node.rest.destroy_jail("first", &DestroyJail { force: true }).await?;
    let mut samples = Samples(Vec::new());
    let names: Vec<String> = (0..MANY).map(|number| format!("jail-{number:03}")).collect();
    for name in &names {
        let begin = Instant::now();
        create(&node.rest, name, false).await?;
        samples.time(CREATE, begin.elapsed());
    }
    let free = free_kib()?;
    let rivals = start_each(&node.rest, &names, &mut samples).await?;
    for _ in 0..LOOKS {
        let begin = Instant::now();
        let listed = node.rest.jails().await?;
        samples.time(LIST, begin.elapsed());
        ensure!(listed.jails.iter().all(|jail| jail.state == JailState::Up), "not all are up");
    }
    for rival in &rivals {
        samples.kib(RUNC_MEMORY, pss_kib(rival.pid()?)?);
    }
    drop(rivals);
    samples.kib(HOST, free.saturating_sub(free_kib()?) / MANY as u64);
    memory(&node.rest, &mut samples).await?;
    stop_each(&node.rest, &names, &mut samples).await?;
    for _ in 0..BOOTS {
        boot(&mut node, &mut samples).await?;
    }
    node.end().await?;
    audit.assert_same(WITHIN).await?;
    Ok(samples.0)
}

struct Samples(Vec<Sample>);

impl Samples {
    fn time(&mut self, subject: &str, taken: Duration) {
        self.0.push(Sample::time("J200", subject, taken));
    }

    fn kib(&mut self, subject: &str, kib: u64) {
        self.0.push(Sample::new("J200", subject, "MiB", kib as f64 / 1024.0));
    }
}

/// One after the other, a rival now and then, which goes on.
async fn start_each(rest: &RestClient, names: &[String], samples: &mut Samples) -> anyhow::Result<Vec<HeldRunc>> {
    let (mut rivals, mut all) = (Vec::new(), Duration::ZERO);
    for (number, name) in names.iter().enumerate() {
        let begin = Instant::now();
        done(rest.start_jail(name).await?).await.with_context(|| format!("start {name}"))?;
        let taken = begin.elapsed();
        samples.time(START, taken);
        all += taken;
        if number % (MANY / RIVALS) == 0 {
            let runc = Runc::prepare()?.context("runc is not installed")?;
            let begin = Instant::now();
            rivals.push(runc.hold()?);
            samples.time(RUNC_START, begin.elapsed());
        }
    }
    samples.time(START_ALL, all);
    Ok(rivals)
}

async fn stop_each(rest: &RestClient, names: &[String], samples: &mut Samples) -> anyhow::Result<()> {
    let mut all = Duration::ZERO;
    for name in names.iter().rev() {
        let begin = Instant::now();
        done(rest.stop_jail(name, &StopJail::default()).await?).await.with_context(|| format!("stop {name}"))?;
        let taken = begin.elapsed();
        samples.time(STOP, taken);
        all += taken;
    }
    samples.time(STOP_ALL, all);
    Ok(())
}

/// The node as after a boot of the host, and to its end.
async fn boot(node: &mut Node, samples: &mut Samples) -> anyhow::Result<()> {
    node.stop_daemon()?;
    // A boot of the host leaves records, and no note of this boot.
    fs::remove_file(node.data_dir().join("jails/.boot.json")).context("forget this boot")?;
    let begin = Instant::now();
    node.start_daemon()?;
    all_are(node, "up", |jail| jail.state == JailState::Up).await?;
    samples.time(NODE_UP, begin.elapsed());
    let begin = Instant::now();
    node.stop_daemon()?;
    samples.time(NODE_DOWN, begin.elapsed());
    node.start_daemon()?;
    all_are(node, "down", |jail| jail.sandbox.is_none()).await
}

async fn all_are(node: &Node, what: &str, is: impl Fn(&JailView) -> bool) -> anyhow::Result<()> {
    wait_until(WITHIN, &format!("all jails are {what}"), async || {
        let jails = node.rest.jails().await.ok()?.jails;
        (jails.len() == MANY && jails.iter().all(&is)).then_some(())
    })
    .await
}

/// What of the host's memory is to be had.
fn free_kib() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Of each jail, in KiB: its processes' proportional set, and what its control group counts.
async fn memory(rest: &RestClient, samples: &mut Samples) -> anyhow::Result<()> {
    for jail in rest.jails().await?.jails {
        let id = jail.sandbox.context("it is not up")?.to_string();
        let group = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .iter()
            .find_map(|root| named(Path::new(root), &id, 4).filter(|group| charge(group).is_some()))
            .with_context(|| format!("no control group of {id} counts memory"))?;
        let mut pss = 0;
        for pid in pids(&group) {
            // One that has just ended has none.
            pss += pss_kib(pid).unwrap_or(0);
        }
        samples.kib(CHARGED, charge(&group).unwrap_or(0) / 1024);
        samples.kib(MEMORY, pss);
    }
    Ok(())
}

fn charge(group: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse().ok();
    read("memory.usage_in_bytes").or_else(|| read("memory.current"))
}

/// The directory whose name has this in it, so many levels down at most.
fn named(dir: &Path, id: &str, levels: u32) -> Option<PathBuf> {
    let mut below = Vec::new();
    for entry in fs::read_dir(dir).ok()?.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        if entry.file_name().to_string_lossy().contains(id) {
            return Some(entry.path());
        }
        below.push(entry.path());
    }
    if levels == 0 { None } else { below.iter().find_map(|dir| named(dir, id, levels - 1)) }
}

fn pids(group: &Path) -> Vec<u64> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u64> = own.lines().filter_map(|line| line.parse().ok()).collect();
    let below = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    found.extend(below.filter(|path| path.is_dir()).flat_map(|path| pids(&path)));
    found
}
