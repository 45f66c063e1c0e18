//! A whole node at work, each command shown before it runs and checked after it.

mod image;
mod jails;
mod jobs;
mod machines;
mod networks;
mod sandboxes;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::install::{Tool, guest, install, install_all};
use crate::process::{self, Guard, output, shown};
use crate::workspace::{cargo, path_with_tools, programs_dir};

/// A node starts in a second; a loaded machine takes longer.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// `moat up` stops workloads with their grace periods, then its server.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at something awaited.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs it; with `keep`, leaves it running.
pub fn run(keep: bool) -> anyhow::Result<()> {
    install(Tool::NatsServer).or_else(|error| {
        // Debian's server is older and enough for a demonstration.
        install(Tool::OldNatsServer).map_err(|_| error)
    })?;
    for tool in [Tool::Busybox, Tool::Umoci, Tool::Skopeo, Tool::Registry, Tool::Curl, Tool::Nft] {
        install(tool)?;
    }
    // Without these there are no machines, and the demonstration says so.
    install_all(&[Tool::Qemu, Tool::GuestKernel, Tool::Mke2fs]);
    process::run(cargo().args(["build", "--package", "moat-cli", "--package", "echo-service"]))?;
    let mut stage = Stage::set()?;
    let played = stage.play();
    match (&played, keep) {
        (Ok(()), true) => stage.leave(),
        (Ok(()), false) => stage.close(),
        (Err(_), _) => {
            eprintln!("\n--- what `moat up` said ---\n{}", stage.daemon_log());
            // The demonstration failed already; its own error is the one to show.
            let _ = stage.close();
            played
        }
    }
}

/// A directory, a daemon and the environment in which commands find both.
struct Stage {
    dir: PathBuf,
    programs: PathBuf,
    daemon: Option<Child>,
    registry: Option<Child>,
    artifacts: Option<Child>,
    guard: Guard,
    before: networks::HostNetwork,
    /// Where the guest of its machines is; none if this host has none.
    guest: Option<PathBuf>,
}

impl Stage {
    fn set() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("moat-demo-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let guard = Guard::over(&dir)?;
        let programs = programs_dir("debug")?;
        let guest = install(Tool::Qemu).and_then(|_| guest(&programs.join("moat")));
        let guest = guest.inspect_err(|error| eprintln!("xtask: no microVMs: {error:#}")).ok();
        let before = networks::HostNetwork::now()?;
        let mut stage = Self { dir, programs, daemon: None, registry: None, artifacts: None, guard, before, guest };
        stage.start_daemon()?;
        Ok(stage)
    }

    /// A command in the demonstration's own world: nothing of the user's is read or written.
    fn command(&self, program: &str) -> Command {
        let path = path_with_tools();
        let dirs = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&path));
        let mut command = Command::new(self.programs.join(program));
        command.env("PATH", std::env::join_paths(dirs).unwrap_or(path)).env("HOME", &self.dir);
        command.env("XDG_RUNTIME_DIR", &self.dir).env_remove("XDG_CONFIG_HOME").env("RUST_BACKTRACE", "0");
        for name in ["NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_CREDS", "NATS_CONTEXT", "NATS_NKEY"] {
            command.env_remove(name);
        }
        for name in ["MOAT_URL", "MOAT_API_KEY", "NEX_NAMESPACE"] {
            command.env_remove(name);
        }
        command
    }

    fn start_daemon(&mut self) -> anyhow::Result<()> {
        let log = File::create(self.dir.join("up.log")).context("create up.log")?;
        let config = self.dir.join("demo.toml");
        let machines = self.guest.as_deref().map_or_else(Default::default, machines::config);
        let jobs = self.set_jobs()?;
        fs::write(&config, machines + sandboxes::CONFIG + &jobs).context("write demo.toml")?;
        let mut up = self.command("moat");
        up.args(["up", "--nats-port", "0", "--api-listen", "127.0.0.1:0", "--config"]).arg(&config);
        up.arg("--dir").arg(self.dir.join("node"));
        say(&up);
        let child = up.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("start moat up")?;
        self.guard.watch(child.id())?;
        self.daemon = Some(child);
        Ok(())
    }

    fn daemon_log(&self) -> String {
        fs::read_to_string(self.dir.join("up.log")).unwrap_or_default()
    }

    /// Runs `moat` with these words, shows what it says and returns it.
    fn moat(&self, words: &[&str]) -> anyhow::Result<String> {
        self.show("moat", words)
    }

    fn show(&self, program: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(program);
        say(command.args(words));
        let text = output(&mut command)?;
        print!("{text}");
        if !text.is_empty() && !text.ends_with('\n') {
            println!();
        }
        Ok(text)
    }

    /// Asks quietly until the answer holds `wanted`.
    fn wait_for(&mut self, words: &[&str], wanted: &str) -> anyhow::Result<()> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.daemon.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("moat up ended: {status}");
            }
            let answer = output(self.command("moat").args(words));
            if answer.as_ref().is_ok_and(|text| text.contains(wanted)) {
                return Ok(());
            }
            if Instant::now() > end {
                let said = answer.unwrap_or_else(|error| format!("{error:#}"));
                bail!("moat {}: no {wanted:?} within {READY_WITHIN:?}; at last: {said}", words.join(" "));
            }
            thread::park_timeout(LOOK_EVERY);
        }
    }

    fn play(&mut self) -> anyhow::Result<()> {
        self.wait_for(&["node", "ls", "--json"], "\"N")?;
        self.moat(&["node", "ls"])?;
        self.moat(&["node", "preflight"])?;

        title("events are written to a file from here on");
        let events = File::create(self.dir.join("events.log")).context("create events.log")?;
        let mut listener = self.command("moat");
        say(listener.arg("events"));
        let mut listener = listener.stdin(Stdio::null()).stdout(events).spawn().context("start moat events")?;
        let played = self.play_workload();
        let _ = listener.kill();
        let _ = listener.wait();
        played?;

        title("what the node told meanwhile");
        let events = fs::read_to_string(self.dir.join("events.log")).context("read events.log")?;
        print!("{events}");
        for fact in ["workload_deployed", "workload_undeployed"] {
            expect(&events, fact, "the events")?;
        }
        self.play_jobs()?;
        self.play_sandboxes()
    }

    fn play_workload(&mut self) -> anyhow::Result<()> {
        title("deploy: upload, auction, seal, sign, start");
        let program = self.programs.join("echo-service");
        let program = program.to_string_lossy().into_owned();
        self.moat(&["devrun", &program, "NATS_URL=nats://127.0.0.1:4222", "--nats"])?;
        self.wait_for(&["logs", "echo-service"], "ready on echo.service")?;

        title("call it over NATS");
        let url = self.server_url()?;
        let answer = self.show("echo-service", &["call", &url, "hello from outside"])?;
        expect(&answer, "hello from outside", "the answer")?;

        title("look at it");
        expect(&self.moat(&["ps"])?, "echo-service", "the list of workloads")?;
        self.wait_for(&["logs", "echo-service"], "answering request 1")?;
        self.moat(&["logs", "echo-service"])?;

        title("run a command in its sandbox");
        let inside = self.moat(&["exec", "echo-service", "--", "sh", "-c", "id; hostname; cat /proc/net/dev"])?;
        expect(&inside, "lo:", "the sandbox's network")?;
        if inside.contains("eth0") {
            bail!("the sandbox sees a network of the host");
        }

        title("stop it");
        self.moat(&["stop", "echo-service"])?;
        let left = self.moat(&["ps"])?;
        if left.contains("running") {
            bail!("a workload still runs after it was stopped");
        }
        Ok(())
    }

    /// Where `moat up` says that its server listens.
    fn server_url(&self) -> anyhow::Result<String> {
        self.told("server")
    }

    /// What `moat up` left for others.
    fn told(&self, member: &str) -> anyhow::Result<String> {
        let text = fs::read_to_string(self.dir.join("moat/up.json")).context("read what moat up left for others")?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        value
            .get(member)
            .and_then(|url| url.as_str())
            .map(str::to_owned)
            .with_context(|| format!("up.json: no {member}"))
    }

    /// Ends everything and removes the directory.
    fn close(&mut self) -> anyhow::Result<()> {
        for mut server in [self.registry.take(), self.artifacts.take()].into_iter().flatten() {
            server.kill().context("end what served the demonstration")?;
            server.wait().context("end what served the demonstration")?;
        }
        title("end the node");
        let Some(mut child) = self.daemon.take() else { return Ok(()) };
        let mut kill = Command::new("sh");
        say(kill.args(["-c", &format!("kill -TERM {}", child.id())]));
        process::output(&mut kill)?;
        let end = Instant::now() + ENDED_WITHIN;
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > end => {
                    child.kill()?;
                    bail!("moat up did not end within {ENDED_WITHIN:?}: {}", child.wait()?);
                }
                None => thread::park_timeout(LOOK_EVERY),
            }
        };
        self.guard.dismiss()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        if !status.success() {
            bail!("moat up: {status}");
        }
        self.before.assert_same()?;
        println!("\nNothing of it is left.");
        Ok(())
    }

    /// Says how to go on, and lets go.
    fn leave(&mut self) -> anyhow::Result<()> {
        let Some(child) = self.daemon.take() else { return Ok(()) };
        self.guard.dismiss()?;
        let dir = self.dir.display();
        println!("\nIt still runs. To use it:");
        println!("  export XDG_RUNTIME_DIR={dir} HOME={dir} PATH={}:$PATH", self.programs.display());
        println!("  moat node ls");
        let servers = [self.registry.take(), self.artifacts.take()].into_iter().flatten();
        let servers: String = servers.map(|child| format!(" {}", child.id())).collect();
        println!("To end it:\n  kill {}{servers} && rm -rf {dir}", child.id());
        Ok(())
    }
}

fn title(text: &str) {
    println!("\n--- {text} ---");
}

fn say(command: &Command) {
    let text = shown(command);
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let rest = text.split_once(' ').map_or("", |(_, rest)| rest);
    println!("$ {name} {rest}");
}

fn expect(text: &str, wanted: &str, place: &str) -> anyhow::Result<()> {
    if text.contains(wanted) { Ok(()) } else { bail!("{place}: no {wanted:?} in: {text}") }
}
