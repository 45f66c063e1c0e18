//! Killed in the middle of it, again and again: what the living hold is kept, nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use moat_engine::fabric::{Attachment, Fabric};
use moat_model::network::NetworkLease;
use moat_net::slots::naming;
use moat_net::{Net, NetConfig};

use super::harness::*;

/// Says to the re-executed test where it is to storm.
const STORM: &str = "MOAT_NET_STORM";
const TASKS: u32 = 4;

struct Records(PathBuf);

impl Records {
    fn path(&self, lease: &NetworkLease, what: &str) -> PathBuf {
        self.0.join(format!("{:x}-{what}", lease.slot))
    }

    /// Written before anything is made, as the engine does.
    fn intend(&self, lease: &NetworkLease, n: u32) {
        let text = serde_json::to_string(&(lease, n)).unwrap();
        let draft = self.path(lease, "draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.path(lease, "lease")).unwrap();
    }

    fn all(&self) -> Vec<(NetworkLease, Attachment)> {
        let all = names(&self.0).into_iter().filter(|name| name.ends_with("-lease"));
        all.map(|name| {
            let (lease, n): (NetworkLease, u32) =
                serde_json::from_str(&fs::read_to_string(self.0.join(name)).unwrap()).unwrap();
            (lease, sandbox(n))
        })
        .collect()
    }
}

/// Something that lives in a sandbox's network.
pub fn live_in(netns: &Path) -> Child {
    let way = format!("--net={}", netns.display());
    Command::new("nsenter")
        .arg(way)
        .args(["sleep", "600"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ends all that live in a sandbox's network of this test, those nobody recorded too: they bear its directory.
struct Agents(PathBuf);

impl Drop for Agents {
    fn drop(&mut self) {
        let mark = format!("{STORM}={}", self.0.display());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours = environment.split(|byte| *byte == 0).any(|pair| pair == mark.as_bytes());
            if let (true, Some(pid)) = (ours, pid.and_then(rustix::process::Pid::from_raw)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The part of the daemon: attaches, lets some live, detaches others, until it is killed.
async fn storm(dir: &Path) {
    let net = Net::start(NetConfig { ready: 3, ..NetConfig::new(dir.join("net")) }).await.unwrap();
    let records = Arc::new(Records(dir.join("records")));
    net.restore(records.all()).await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (net, records) = (Arc::clone(&net), Arc::clone(&records));
            tokio::spawn(async move {
                let mut dice = Dice(u64::from(std::process::id()) * 7919 + u64::from(task));
                for round in 0.. {
                    let n = std::process::id() * 10_000 + task * 1_000 + round;
                    let lease = net.reserve(&sandbox(n)).unwrap();
                    records.intend(&lease, n);
                    net.attach(&lease, &sandbox(n)).await.unwrap();
                    if dice.below(4) == 0 {
                        let agent = live_in(&net.place(&lease).netns);
                        // It is there once it is no longer the program that takes it there.
                        let comm = format!("/proc/{}/comm", agent.id());
                        while fs::read_to_string(&comm).unwrap().trim() != "sleep" {
                            tokio::task::yield_now().await;
                        }
                        fs::write(records.path(&lease, "agent"), agent.id().to_string()).unwrap();
                        continue;
                    }
                    net.detach(&lease).await.unwrap();
                    fs::remove_file(records.path(&lease, "lease")).unwrap();
                    net.free(&lease);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

fn agents(records: &Records) -> Vec<(u32, u32)> {
    let all = names(&records.0).into_iter().filter_map(|name| {
        let slot = u32::from_str_radix(name.strip_suffix("-agent")?, 16).ok()?;
        // Killed between making the file and writing it: then nothing says who it was, and it ends by itself.
        Some((slot, fs::read_to_string(records.0.join(name)).ok()?.parse().ok()?))
    });
    all.collect()
}

/// The links of this network that are slots'.
fn slots(config: &NetConfig) -> Vec<u32> {
    let mut all: Vec<_> = ip(&["-o", "link"])
        .lines()
        .filter_map(|line| naming::slot_of(config, line.split(": ").nth(1)?.split('@').next()?))
        .collect();
    all.sort_unstable();
    all
}

#[test]
fn after_a_kill_exactly_the_living_have_links() {
    if let Some(dir) = std::env::var_os(STORM) {
        // Already in the network of the test that started this.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(storm(Path::new(&dir)));
    }
    in_own_network(|| async {
        let dir = tempfile::tempdir().unwrap();
        let _agents = Agents(dir.path().to_owned());
        let records = Records(dir.path().join("records"));
        fs::create_dir(&records.0).unwrap();
        let config = NetConfig { ready: 0, ..NetConfig::new(dir.path().join("net")) };
        for round in 1..=4 {
            let mut daemon = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "kill::after_a_kill_exactly_the_living_have_links", "--nocapture"])
                .env(STORM, dir.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let busy = async || (agents(&records).len() >= round * 3).then_some(());
            let outcome = moat_testkit::wait_until(PATIENCE, "some that live", busy).await;
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            outcome.unwrap();
        }
        // The engine has given up those that never got an agent; the others live.
        let living = agents(&records);
        let held: Vec<_> =
            records.all().into_iter().filter(|(lease, _)| living.iter().any(|(slot, _)| *slot == lease.slot)).collect();
        let net = Net::start(config.clone()).await.unwrap();
        net.restore(held.clone()).await.unwrap();
        let mut expected: Vec<_> = held.iter().map(|(lease, _)| lease.slot).collect();
        expected.sort_unstable();
        assert_eq!(slots(&config), expected);
        assert_eq!(names(&config.run_dir.join("ns")).len(), expected.len());
        let node = Node { net, dir };
        let (first, second) = (held[0].0, held[1].0);
        node.inside(&first, || serve(first.address, 80));
        assert_eq!(node.inside(&second, || ask(first.address, 80)).unwrap(), second.address.to_string());
        let new = node.connect(&sandbox(1)).await;
        assert!(!expected.contains(&new.slot));
        node.disconnect(&new).await;
        for (lease, _) in &held {
            node.disconnect(lease).await;
        }
        assert!(slots(&config).is_empty());
        node.net.stop().await.unwrap();
        assert_eq!(ip(&["-o", "link"]).lines().count(), 1, "the loopback alone");
    });
}
