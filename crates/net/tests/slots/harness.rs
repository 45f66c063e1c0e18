//! A network of a test's own, and what it takes to look at it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use moat_engine::fabric::{Attachment, Fabric};
use moat_model::network::{HostLabel, NetworkLease, NetworkMode, NetworkSpec};
use moat_model::{Namespace, SandboxId, Timestamp};
use moat_net::slots::namespace;
use moat_net::{Net, NetConfig};
use tempfile::TempDir;

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test in a network of its own, where nothing is but a loopback that is down.
pub fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    if !moat_testkit::is_root() {
        return moat_testkit::not_run_here("needs root");
    }
    let outcome = namespace::fresh(|_| {
        // A new network begins with the first one's settings, and a node may be running there.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test());
        Ok(())
    });
    outcome.unwrap();
}

/// A node's network and its directory.
pub struct Node {
    pub net: Arc<Net>,
    pub dir: TempDir,
}

impl Node {
    pub async fn start(ready: usize) -> Self {
        Self::with(|config| NetConfig { ready, ..config }).await
    }

    pub async fn with(change: impl FnOnce(NetConfig) -> NetConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let net = Net::start(change(NetConfig::new(dir.path().join("net")))).await.unwrap();
        net.restore(Vec::new()).await.unwrap();
        Self { net, dir }
    }

    /// Once as many stand ready as are wanted.
    pub async fn is_full(&self) {
        let wanted = self.net.config().ready;
        let full = async || (self.net.status().await.ready == wanted).then_some(());
        moat_testkit::wait_until(PATIENCE, "ready slots", full).await.unwrap();
    }

    pub async fn connect(&self, attachment: &Attachment) -> NetworkLease {
        let lease = self.net.reserve(attachment).unwrap();
        self.net.attach(&lease, attachment).await.unwrap();
        lease
    }

    pub async fn disconnect(&self, lease: &NetworkLease) {
        self.net.detach(lease).await.unwrap();
        self.net.free(lease);
    }

    /// Runs something where a sandbox is.
    pub fn inside<T: Send>(&self, lease: &NetworkLease, job: impl FnOnce() -> T + Send) -> T {
        let way = File::open(self.net.place(lease).netns).unwrap();
        namespace::within(way.as_fd(), || Ok(job())).unwrap()
    }
}

pub fn sandbox(n: u32) -> Attachment {
    let mut seed = [0; 10];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    Attachment {
        id: SandboxId::from_parts(Timestamp::from_millis(1), seed),
        namespace: Namespace::parse("red").unwrap(),
        labels: BTreeMap::new(),
        pooled: false,
        tap_owner: None,
        spec: NetworkSpec::new(NetworkMode::Internal),
    }
}

pub fn at(n: u32, address: &str) -> Attachment {
    let mut one = sandbox(n);
    one.spec.address = Some(address.parse().unwrap());
    one
}

pub fn named(n: u32, name: &str) -> Attachment {
    let mut one = sandbox(n);
    one.spec.name = Some(HostLabel::parse(name).unwrap());
    one
}

/// A server where this thread is: answers each connection with the address it came from.
pub fn serve(address: Ipv4Addr, port: u16) {
    let listener = TcpListener::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.peer_addr().map(|peer| stream.write_all(peer.ip().to_string().as_bytes()));
        }
    });
}

/// Connects from where this thread is, and returns what the server says.
pub fn ask(address: Ipv4Addr, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(20))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

/// Everything of this network that an attachment could have left.
pub fn audit(node: &Node) -> String {
    let listings: [&[&str]; 4] =
        [&["-o", "link"], &["-o", "addr"], &["route", "show", "table", "all"], &["neigh", "show", "nud", "all"]];
    let mut all: Vec<String> = listings.iter().map(|args| ip(args)).collect();
    all.push(names(&node.net.config().run_dir.join("ns")).join(" "));
    all.push(elements());
    all.join("\n")
}

/// The table of rules, without counts, which go on.
fn elements() -> String {
    let out = Command::new("nft").args(["-s", "list", "ruleset"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

pub fn ip(args: &[&str]) -> String {
    let out = Command::new("ip").args(args).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// Once the audit says this again.
pub async fn is_again(node: &Node, before: &str) {
    let mut last = String::new();
    let same = async || {
        last = audit(node);
        (last == before).then_some(())
    };
    let outcome = moat_testkit::wait_until(PATIENCE, "what was before", same).await;
    assert!(outcome.is_ok(), "before:\n{before}\nafter:\n{last}");
}

/// Numbers that look random, the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
