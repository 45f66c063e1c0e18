//! Real sandboxes for tests: made, looked into, and always ended, also when the test panics.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use moat_agent::protocol::{Offsets, StreamName};
use moat_drivers::container::{ContainerConfig, ContainerDriver};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_engine::driver::{Driver, Place, Record};
use moat_engine::guest::{ExecOutput, Guest};
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{Artifact, ExecSpec, Resources, RootSpec, Security, StopSpec};
use moat_model::{Exit, Isolation, Namespace, ProcessSpec, SandboxId, SandboxSpec, Timestamp};
use moat_testkit::HostLock;
use tempfile::TempDir;

/// Cgroup all sandboxes of these tests are below.
pub const CGROUP_PARENT: &str = "moat-tests";

/// Long beside everything waited for, also on a loaded machine; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

static BINARY: LazyLock<AgentBinary> = LazyLock::new(|| AgentBinary::embedded().unwrap());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A container driver and a place for its sandboxes.
#[derive(Debug)]
pub struct Host {
    pub driver: Arc<ContainerDriver>,
    pub dir: TempDir,
    pub _lock: HostLock,
}

/// Settings tests use: the defaults below a cgroup of their own.
pub fn config() -> ContainerConfig {
    ContainerConfig { cgroup_parent: CGROUP_PARENT.to_owned(), ..ContainerConfig::default() }
}

impl Host {
    /// With default settings; `None`, after saying so, where containers cannot be made.
    pub fn new(id: &str) -> Option<Self> {
        Self::with(id, config())
    }

    /// With these settings.
    pub fn with(id: &str, config: ContainerConfig) -> Option<Self> {
        Self::locked(id, config, moat_testkit::shared().unwrap())
    }

    /// Alone on the machine.
    pub fn alone(id: &str) -> Option<Self> {
        Self::locked(id, config(), moat_testkit::exclusive().unwrap())
    }

    fn locked(id: &str, config: ContainerConfig, lock: HostLock) -> Option<Self> {
        if !moat_testkit::is_root() {
            moat_testkit::not_run(id, "needs root");
            return None;
        }
        // Below /tmp: the socket's path must stay short.
        let dir = tempfile::Builder::new().prefix("moat-").tempdir().unwrap();
        let config = ContainerConfig { roots_dir: dir.path().join("roots"), ..config };
        let driver = ContainerDriver::new(config, BINARY.clone()).unwrap();
        let unmet = driver.probe().into_iter().find(|r| !r.met && r.need == moat_engine::driver::Need::Required);
        if let Some(unmet) = unmet {
            moat_testkit::not_run(id, &format!("{}: {}", unmet.name, unmet.fact));
            return None;
        }
        Some(Self { driver: Arc::new(driver), dir, _lock: lock })
    }

    /// A place nobody used.
    pub fn place(&self) -> Place {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        // The conformance suite numbers its sandboxes of this process too: the first byte keeps the two apart.
        let mut random = [0; 10];
        random[0] = 1;
        random[2..6].copy_from_slice(&std::process::id().to_be_bytes());
        random[6..].copy_from_slice(&n.to_be_bytes());
        let id = SandboxId::from_parts(Timestamp::from_millis(now.as_millis().try_into().unwrap()), random);
        Place {
            run_dir: self.dir.path().join(&id.as_str()[id.as_str().len() - 8..]),
            data_dir: self.dir.path().join("data").join(id.as_str()),
            uid_base: 0x5000_0000 + (n % 4096) * 65_536,
            network: None,
            id,
        }
    }

    /// Creates and starts; panics with the whole error.
    pub async fn sandbox(&self, spec: SandboxSpec) -> Sandbox {
        self.sandbox_at(self.place(), spec).await
    }

    /// The same, at a place that was prepared.
    pub async fn sandbox_at(&self, place: Place, spec: SandboxSpec) -> Sandbox {
        Sandbox::start(self.driver.clone(), place, spec).await
    }
}

/// A live sandbox. Ends with the value.
#[derive(Debug)]
pub struct Sandbox {
    driver: Arc<dyn Driver>,
    pub place: Place,
    pub spec: SandboxSpec,
    record: Option<Record>,
    guest: Option<Arc<dyn Guest>>,
}

impl Sandbox {
    /// Creates and starts; panics with the whole error.
    pub async fn start(driver: Arc<dyn Driver>, place: Place, spec: SandboxSpec) -> Self {
        let mut sandbox = Self { driver: driver.clone(), place, spec, record: None, guest: None };
        driver.validate(&sandbox.spec).map_err(|e| e.chain()).expect("validate");
        let record = driver.create(&sandbox.place, &sandbox.spec).await.map_err(|e| e.chain()).expect("create");
        sandbox.record = Some(record.clone());
        sandbox.guest = Some(driver.start(&record).await.map_err(|e| e.chain()).expect("start"));
        sandbox
    }

    pub fn record(&self) -> &Record {
        self.record.as_ref().unwrap()
    }

    pub fn guest(&self) -> Arc<dyn Guest> {
        self.guest.clone().unwrap()
    }

    /// Gives the connection away, as a daemon's death does.
    pub fn forget_guest(&mut self) -> Option<Arc<dyn Guest>> {
        self.guest.take()
    }

    pub fn set_guest(&mut self, guest: Arc<dyn Guest>) {
        self.guest = Some(guest);
    }

    /// Host process id of the agent.
    pub fn pid(&self) -> u32 {
        self.record().data["process"]["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// The sandbox's root, as the host can look at it.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid()))
    }

    /// Runs a program as the default user.
    pub async fn exec(&self, words: &[&str]) -> Output {
        self.exec_process(process(words)).await
    }

    /// Runs a program as somebody.
    pub async fn exec_as(&self, user: &str, words: &[&str]) -> Output {
        self.exec_process(ProcessSpec { user: Some(user.to_owned()), ..process(words) }).await
    }

    /// Runs a shell line as the default user.
    pub async fn sh(&self, line: &str) -> Output {
        self.exec(&["/bin/sh", "-c", line]).await
    }

    /// Runs a shell line as root of the sandbox.
    pub async fn sh_root(&self, line: &str) -> Output {
        self.exec_as("root", &["/bin/sh", "-c", line]).await
    }

    pub async fn exec_process(&self, process: ProcessSpec) -> Output {
        self.exec_spec(&ExecSpec { process, pty: None, stdin: false, timeout: Some(DEADLINE / 2) }).await
    }

    pub async fn exec_spec(&self, spec: &ExecSpec) -> Output {
        let run = async {
            let mut session = self.guest().exec(spec).await.map_err(|e| e.chain()).expect("exec");
            let mut output = Output { stdout: String::new(), stderr: String::new(), exit: Exit::unknown() };
            while let Some(said) = session.output.recv().await {
                match said {
                    ExecOutput::Data(StreamName::Stdout, bytes) => output.stdout += &String::from_utf8_lossy(&bytes),
                    ExecOutput::Data(StreamName::Stderr, bytes) => output.stderr += &String::from_utf8_lossy(&bytes),
                    ExecOutput::Exited { exit, .. } => output.exit = exit,
                }
            }
            output
        };
        tokio::time::timeout(DEADLINE, run).await.expect("exec within its deadline")
    }

    /// The refusal of a program that could not be run.
    pub async fn exec_refused(&self, words: &[&str]) -> String {
        let spec = ExecSpec { process: process(words), pty: None, stdin: false, timeout: None };
        self.guest().exec(&spec).await.map(|s| s.pid).expect_err("exec refused").chain()
    }

    /// Starts the main process of the spec.
    pub async fn start_main(&self) {
        let main = self.spec.main.as_ref().expect("a spec with a main process");
        self.guest().start_main(main).await.map_err(|e| e.chain()).expect("start main");
    }

    /// Everything the main process says until it ends, and how it ended.
    pub async fn main_to_end(&self) -> Output {
        let guest = self.guest();
        let all = async {
            let mut reader = guest.output(Offsets::default()).await.map_err(|e| e.chain()).expect("output");
            let mut output = Output { stdout: String::new(), stderr: String::new(), exit: Exit::unknown() };
            let mut upto = Offsets::default();
            while let Some(chunk) = reader.next().await.map_err(|e| e.chain()).expect("read output") {
                let (text, offset) = match chunk.stream {
                    StreamName::Stdout => (&mut output.stdout, &mut upto.stdout),
                    StreamName::Stderr => (&mut output.stderr, &mut upto.stderr),
                };
                *text += &String::from_utf8_lossy(&chunk.bytes);
                *offset += chunk.bytes.len() as u64;
                reader.acknowledge(upto).await.map_err(|e| e.chain()).expect("acknowledge");
            }
            output.exit = guest.wait_main().await.map_err(|e| e.chain()).expect("wait");
            output
        };
        tokio::time::timeout(DEADLINE, all).await.expect("main ends within its deadline")
    }

    /// Waits for the end of the main process.
    pub async fn wait_main(&self) -> Exit {
        let guest = self.guest();
        let wait = tokio::time::timeout(DEADLINE, guest.wait_main()).await.expect("main ends within its deadline");
        wait.map_err(|e| e.chain()).expect("wait")
    }

    /// Ends it and gives everything back.
    pub async fn end(mut self) {
        self.finish().await;
    }

    async fn finish(&mut self) {
        self.guest = None;
        if let Some(record) = self.record.take() {
            self.driver.kill(&record).await.map_err(|e| e.chain()).expect("kill");
        }
        for resource in self.driver.plan(&self.place, &self.spec).iter().rev() {
            self.driver.release(resource).await.map_err(|e| e.chain()).expect("release");
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.record.is_none() {
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(self.finish());
            });
        });
    }
}

/// What a program said, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub exit: Exit,
}

impl Output {
    /// Standard output without white space around it, of a program that ended well.
    pub fn ok(&self) -> &str {
        assert!(self.exit.success(), "{self:?}");
        self.stdout.trim()
    }
}

/// A program and its arguments.
pub fn process(words: &[&str]) -> ProcessSpec {
    let (command, args) = words.split_first().expect("a program");
    ProcessSpec {
        command: (*command).to_owned(),
        args: args.iter().map(|&word| word.to_owned()).collect(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned())]),
        cwd: None,
        user: None,
    }
}

/// An idle sandbox on a root of this kind.
pub fn spec(root: RootSpec) -> SandboxSpec {
    SandboxSpec {
        restore: None,
        namespace: Namespace::default_namespace(),
        labels: BTreeMap::new(),
        isolation: Isolation::Container,
        root,
        artifact: None,
        log_dir: None,
        binds: Vec::new(),
        task_dir: None,
        host: Default::default(),
        lasting: None,
        hostname: None,
        leashed: false,
        oom_score_adj: None,
        main: None,
        stop: StopSpec::default(),
        resources: Resources::default(),
        security: Security::default(),
        network: NetworkSpec::new(NetworkMode::Isolated),
        ingress: Default::default(),
        forwards: Vec::new(),
        timeout: None,
        idle_timeout: None,
        on_timeout: Default::default(),
        process: Default::default(),
        origin: Default::default(),
    }
}

/// A sandbox on a root of this kind with a main process.
pub fn spec_with_main(root: RootSpec, words: &[&str]) -> SandboxSpec {
    SandboxSpec { main: Some(process(words)), ..spec(root) }
}

/// An empty root with the test program at `/local/probe`.
pub fn probe_spec() -> SandboxSpec {
    SandboxSpec { artifact: Some(probe_artifact()), ..spec(RootSpec::Scratch) }
}

/// The static test program.
pub fn probe_artifact() -> Artifact {
    let path = moat_testkit::static_bin("probe").expect("build the test program");
    Artifact { path, name: "probe".to_owned(), sha256: "0".repeat(64) }
}

/// A file's content.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
