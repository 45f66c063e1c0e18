//! One machine of the cluster: a network namespace, in it a nats-server and a daemon, either of which may be killed.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use moat_testkit::netns::{Switch, address};
use rustix::process::{Pid, Signal};

/// Longest wait for anything that must come: the machine may be loaded.
pub const SOON: Duration = Duration::from_secs(120);
/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(100);

/// Where programs of the test are shown in containers.
pub const PROGRAMS: &str = "/opt/moat-test";

/// See the module.
pub struct Member {
    pub index: usize,
    pub name: String,
    dir: PathBuf,
    group: String,
    server: Option<Child>,
    daemon: Option<Child>,
}

fn nats_config(index: usize, count: usize, dir: &Path) -> String {
    let routes = (0..count).filter(|other| *other != index).map(|other| format!("\"nats://{}:6222\"", address(other)));
    format!(
        "server_name: n{index}\nlisten: \"0.0.0.0:4222\"\nping_interval: \"2s\"\nping_max: 2\n\
         jetstream {{ store_dir: {:?}, max_memory_store: 64MB, max_file_store: 512MB }}\n\
         cluster {{ name: moat-test, listen: \"{}:6222\", ping_interval: \"2s\", ping_max: 2, routes: [{}] }}\n",
        dir.join("store"),
        address(index),
        routes.collect::<Vec<_>>().join(", "),
    )
}

fn daemon_config(index: usize, count: usize, group: &str, dir: &Path, programs: &Path) -> String {
    let mut servers = String::from("\"nats://127.0.0.1:4222\"");
    for other in (0..count).filter(|other| *other != index) {
        write!(servers, ", \"nats://{}:4222\"", address(other)).unwrap();
    }
    // Two daemons of one host differ in all of this; links and rules are in namespaces of their own anyway.
    let uid_base = 0x4800_0000_u64 + 0x0200_0000 * u64::try_from(index).unwrap();
    format!(
        "name = \"{}\"\nrun_dir = {:?}\ndata_dir = {:?}\ndrivers = [\"container\", \"process\"]\n\
         uid_base = {uid_base}\nsandboxes_max = 100\n\
         [nats]\nservers = [{servers}]\n\
         [history]\nenabled = false\n\
         [container]\ncgroup_parent = \"{group}\"\nhost_paths = {{ {:?} = \"{PROGRAMS}\" }}\n\
         [process]\nenabled = true\ncgroup_parent = \"{group}\"\n\
         [network]\nenabled = true\nuplink = \"wire0\"\nallow = [\"10.99.0.0/24\"]\nready = 1\n",
        name(index),
        dir.join("run"),
        dir.join("data"),
        programs.display(),
    )
}

fn name(index: usize) -> String {
    format!("node{}", index + 1)
}

impl Member {
    /// Writes down how it is configured; nothing runs yet.
    pub fn new(index: usize, count: usize, root: &Path, programs: &Path) -> Self {
        let dir = root.join(name(index));
        let group = format!("moat-test-{}-{index}", std::process::id());
        for sub in ["run", "data", "home"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        std::fs::write(dir.join("nats.conf"), nats_config(index, count, &dir)).unwrap();
        std::fs::write(dir.join("moat.toml"), daemon_config(index, count, &group, &dir, programs)).unwrap();
        Self { index, name: name(index), dir, group, server: None, daemon: None }
    }

    fn start(&self, switch: &Switch, log: &str, mut command: Command) -> Child {
        let log = File::options().create(true).append(true).open(self.dir.join(log)).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        switch.end(self.index).unwrap().enter(|| command.spawn()).unwrap().unwrap()
    }

    pub fn start_server(&mut self, switch: &Switch) {
        let mut command = Command::new(moat_testkit::tool("nats-server").unwrap());
        command.arg("-c").arg(self.dir.join("nats.conf"));
        self.server = Some(self.start(switch, "nats.log", command));
    }

    pub fn start_daemon(&mut self, switch: &Switch) {
        let mut command = self.moat();
        command.args(["node", "up", "--config"]).arg(self.dir.join("moat.toml")).env("MOAT_LOG", "info");
        self.daemon = Some(self.start(switch, "moat.log", command));
    }

    pub fn kill_server(&mut self) {
        kill(self.server.take());
    }

    pub fn kill_daemon(&mut self) {
        kill(self.daemon.take());
    }

    fn moat(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("moat"));
        let home = self.dir.join("home");
        command.env_remove("XDG_CONFIG_HOME").env("HOME", &home).env("XDG_RUNTIME_DIR", &home);
        for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CONTEXT", "NATS_NKEY"] {
            command.env_remove(name);
        }
        command
    }

    /// The command line, on this machine.
    pub fn run(&self, switch: &Switch, words: &[&str]) -> Output {
        let mut command = self.moat();
        command.args(words).stdin(Stdio::null());
        switch.end(self.index).unwrap().enter(|| command.output()).unwrap().unwrap()
    }

    /// The end of what its daemon and its server said.
    pub fn last_words(&self) -> String {
        let mut all = String::new();
        for log in ["moat.log", "nats.log"] {
            let text = std::fs::read_to_string(self.dir.join(log)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(60).collect();
            writeln!(all, "--- {} {log}", self.name).unwrap();
            for line in lines.iter().rev() {
                writeln!(all, "{line}").unwrap();
            }
        }
        all
    }

    /// Ends what runs in its control groups, and removes them.
    fn clear_groups(&self) {
        let Ok(entries) = std::fs::read_dir("/sys/fs/cgroup") else { return };
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
        let end = Instant::now() + Duration::from_secs(10);
        // Version 2 has it as a slice.
        let names = [self.group.clone(), format!("{}.slice", self.group)];
        let groups = roots.iter().flat_map(|root| names.iter().map(|name| root.join(name)));
        for group in groups.filter(|group| group.is_dir()) {
            while !is_cleared(&group) && Instant::now() < end {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
    }
}

/// Kills what is in a group and below it, thawed so that it dies, and removes them; false if something is left.
fn is_cleared(group: &Path) -> bool {
    let below: Vec<PathBuf> =
        std::fs::read_dir(group).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    let cleared = below.iter().filter(|path| !is_cleared(path)).count() == 0;
    let _ = std::fs::write(group.join("freezer.state"), "THAWED");
    let _ = std::fs::write(group.join("cgroup.freeze"), "0");
    for pid in std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    cleared && std::fs::remove_dir(group).is_ok()
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill_daemon();
        self.clear_groups();
        self.kill_server();
    }
}
