//! A daemon process on the real container driver, a nats-server and a registry with an image made by umoci.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper::header::HeaderMap;
use moat_node::config::NodeConfig;
use moat_testkit::registry::Registry;
use moat_testkit::{NatsServer, Release, busybox, is_root, not_run, tool, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::rest::Client;

/// Longest wait for a daemon or a warm-up: a loaded machine is slow.
pub const SOON: Duration = Duration::from_secs(60);

/// The image in the registry.
const NAME: &str = "team/tools:v1";

/// What can be called in the image without a path.
const APPLETS: &str = "sh ls cat echo id sleep true env find sort xargs sha256sum stty tty pwd mkdir wc grep";

/// The user the image names.
pub const UID: u32 = 1000;

/// Everything around one daemon.
pub struct Host {
    nats: NatsServer,
    registry: Registry,
    dir: tempfile::TempDir,
    pub run_dir: tempfile::TempDir,
    pub cgroup: String,
    address: SocketAddr,
    /// Keeps the daemon's address for it.
    port: tokio::net::TcpSocket,
    daemon: Option<Child>,
}

impl Host {
    /// One with a running daemon, whose configuration ends with `more`; `None`, and *not run*, if something is missing.
    pub async fn start(id: &str, more: &str) -> Option<Self> {
        Self::start_with(id, "", more).await
    }

    /// The same; `top` stands before the first table of its configuration.
    pub async fn start_with(id: &str, top: &str, more: &str) -> Option<Self> {
        if !is_root() {
            not_run(id, "needs root");
            return None;
        }
        if let Err(error) = moat_node::daemon::drivers(&NodeConfig::default()) {
            not_run(id, &error.chain());
            return None;
        }
        let Some(busybox) = tool("umoci").and(tool("curl")).and(busybox()) else {
            not_run(
                id,
                "umoci, curl or a static busybox is not installed; `cargo xtask install` puts them into the tools",
            );
            return None;
        };
        let nats = NatsServer::start(Release::Current).await.unwrap()?;
        let registry = Registry::start().await.unwrap()?;
        let dir = tempfile::Builder::new().prefix("moat-images-").tempdir().unwrap();
        build_image(dir.path(), &busybox);
        registry.push(&format!("{}:v1", dir.path().join("layout").display()), NAME).await.unwrap();
        // A tmpfs, as /run is.
        let run_dir = tempfile::Builder::new().prefix("moat-images-").tempdir_in("/dev/shm").unwrap();
        // Bound and never listening: the daemon may listen there, and no connection gets the port while there is no daemon.
        let port = tokio::net::TcpSocket::new_v4().unwrap();
        port.set_reuseaddr(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap();
        let cgroup = format!("moat-images-{}-{}", std::process::id(), address.port());
        let text = format!(
            "run_dir = {:?}\ndata_dir = {:?}\nstop_workloads = true\n{top}[nats]\nservers = [{:?}]\n\
             [container]\ncgroup_parent = {cgroup:?}\n[api]\nlisten_addr = \"{address}\"\n{more}",
            run_dir.path(),
            dir.path().join("data"),
            nats.url(),
        );
        fs::write(dir.path().join("moat.toml"), text).unwrap();
        let mut host = Self { nats, registry, dir, run_dir, cgroup, address, port, daemon: None };
        host.up().await;
        Some(host)
    }

    /// Starts the daemon; returns when it answers.
    pub async fn up(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("daemon.log")).unwrap();
        let mut command = Command::new(crate::child::example());
        command.arg(self.dir.path().join("moat.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        let client = self.client();
        let up = wait_until(SOON, "the daemon answers", async || {
            let reply = client.open("GET", "/healthz", axum::body::Body::empty()).await.ok()?;
            reply.status().is_success().then_some(())
        });
        up.await.unwrap_or_else(|e| panic!("{e}: {}", self.log()));
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Ends the daemon in the middle of whatever it does.
    pub fn kill(&mut self) {
        let mut child = self.daemon.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends the daemon in order; its sandboxes and its network go with it.
    pub fn stop(&mut self) {
        let Some(mut child) = self.daemon.take() else { return };
        let network = self.network_name();
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        child.wait().unwrap();
        let left = network.and_then(|name| table(&name));
        if !std::thread::panicking() {
            assert_eq!(left, None, "{}", self.log());
        }
    }

    /// What everything of its network is called; none where the host cannot have one.
    pub fn network_name(&self) -> Option<String> {
        let text = fs::read_to_string(self.run_dir.path().join("net/place.json")).ok()?;
        serde_json::from_str::<Value>(&text).unwrap()["name"].as_str().map(ToOwned::to_owned)
    }

    pub fn client(&self) -> Client {
        Client { address: self.address, headers: HeaderMap::new() }
    }

    /// A client of its nats-server.
    pub async fn nats(&self) -> async_nats::Client {
        self.nats.client().await.unwrap()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The image's reference.
    pub fn image(&self) -> String {
        format!("{}/{NAME}", self.registry.host())
    }

    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Warms the image up as a template.
    pub async fn warm_up(&self, name: &str) {
        let client = self.client();
        client.post("templates/warmup", &json!({"name": name, "image": self.image()})).await.expect(202);
        self.ready(name).await;
    }

    /// Waits until a warm-up is done.
    pub async fn ready(&self, name: &str) {
        let client = self.client();
        let done = wait_until(SOON, "the warm-up", async || {
            let status = client.get(&format!("templates/{name}/status")).await.expect(200);
            assert_ne!(status["status"], "failed", "{status}\n{}", self.log());
            (status["status"] == "ready").then_some(())
        });
        done.await.unwrap_or_else(|e| panic!("{e}: {}", self.log()));
    }

    /// A new sandbox's id.
    pub async fn create(&self, asked: Value) -> String {
        let reply = self.client().post("sandboxes", &asked).await;
        assert_eq!(reply.status, 201, "{}\n{}", String::from_utf8_lossy(&reply.bytes), self.log());
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// What a line of shell in a sandbox writes.
    pub async fn sh(&self, id: &str, line: &str) -> String {
        let asked = json!({"command": "sh", "args": ["-c", line]});
        let reply = self.client().post(&format!("sandboxes/{id}/exec"), &asked).await;
        assert_eq!(reply.status, 200, "{line}: {}\n{}", String::from_utf8_lossy(&reply.bytes), self.log());
        let result = reply.json();
        assert_eq!(result["exit_code"], 0, "{line}: {result}");
        result["stdout"].as_str().unwrap().to_owned()
    }

    /// Mount points of this host below the daemon's directory of shared layers.
    pub fn mounts(&self) -> Vec<String> {
        let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = all.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|at| Path::new(at).starts_with(self.run_dir.path())).map(str::to_owned).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
        // The parent cgroup was made for this test alone.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.cgroup));
            let _ = fs::remove_dir(hierarchy.path().join(format!("{}.slice", self.cgroup)));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.cgroup));
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(format!("{}.slice", self.cgroup)));
    }
}

/// The table of a node's network, as the kernel has it, without what it counted.
pub fn table(name: &str) -> Option<String> {
    let tools = moat_testkit::tools_dir().display().to_string();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("nft").env("PATH", path).args(["list", "table", "inet", name]).output().unwrap();
    let text = output.status.success().then(|| String::from_utf8(output.stdout).unwrap())?;
    Some(text.lines().filter(|line| !line.contains("packets")).collect::<Vec<_>>().join("\n"))
}

/// An image of a user, an environment, a working directory and busybox, in the layout `dir/layout` as `v1`.
fn build_image(dir: &Path, busybox: &PathBuf) {
    let umoci = |words: &[&str]| {
        let output = Command::new(tool("umoci").unwrap()).args(words).env("HOME", dir).output().unwrap();
        assert!(output.status.success(), "umoci {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (layout, bundle) = (dir.join("layout"), dir.join("bundle"));
    let (layout, image) = (layout.to_str().unwrap(), format!("{}:v1", layout.display()));
    umoci(&["init", "--layout", layout]);
    umoci(&["new", "--image", &image]);
    umoci(&["unpack", "--image", &image, bundle.to_str().unwrap()]);
    let root = bundle.join("rootfs");
    for sub in ["bin", "etc", "tmp", "data"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in APPLETS.split(' ') {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), format!("root:x:0:0::/:/bin/sh\napp:x:{UID}:{UID}::/data:/bin/sh\n")).unwrap();
    fs::write(root.join("etc/group"), format!("root:x:0:\napp:x:{UID}:\n")).unwrap();
    std::os::unix::fs::chown(root.join("data"), Some(UID), Some(UID)).unwrap();
    umoci(&["repack", "--image", &image, bundle.to_str().unwrap()]);
    let of_processes = ["--config.env", "GREETING=hello", "--config.env", "PATH=/bin", "--config.user", "app"];
    let of_place = ["--config.workingdir", "/data", "--config.cmd", "sh"];
    umoci(&[&["config", "--image", &image][..], &of_processes, &of_place].concat());
    fs::remove_dir_all(bundle).unwrap();
}
