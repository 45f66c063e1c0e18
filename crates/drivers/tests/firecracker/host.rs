//! A host with a stand-in for Firecracker, and what is made on it, which always ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_drivers::firecracker::{FirecrackerConfig, FirecrackerDriver};
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::linux::cgroup::Hierarchy;
use moat_engine::driver::{Driver, Place, Record};
use moat_engine::guest::{ExecOutput, Guest};
use moat_guest::GuestImage;
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{ExecSpec, MachineSnapshot, Resources, RootSpec};
use moat_model::{Isolation, Namespace, ProcessSpec, SandboxId, SandboxSpec, Timestamp};
use moat_testkit::HostLock;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Cgroup all sandboxes of these tests are below.
pub const CGROUP_PARENT: &str = "moat-fc-tests";
/// Versions whose interfaces differ for this driver.
pub const VERSIONS: [&str; 4] = ["1.7.0", "1.10.1", "1.14.0", "1.16.1"];
/// The newest of them.
pub const NEWEST: &str = VERSIONS[3];
/// Long beside everything waited for, also on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(180);

static BINARY: LazyLock<AgentBinary> = LazyLock::new(|| AgentBinary::embedded().unwrap());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A driver on a stand-in.
#[derive(Debug)]
pub struct Host {
    pub driver: Arc<FirecrackerDriver>,
    pub config: FirecrackerConfig,
    pub dir: Arc<TempDir>,
    _lock: Arc<HostLock>,
}

impl Host {
    /// Of this version, with these faults (`,word`) of the monitor; `None`, after saying so, where none can be.
    pub fn new(version: &str, faults: &str) -> Option<Self> {
        Self::with(version, faults, |_| {})
    }

    pub fn with(version: &str, faults: &str, change: impl FnOnce(&mut FirecrackerConfig)) -> Option<Self> {
        if !moat_testkit::is_root() {
            moat_testkit::not_run_here("needs root");
            return None;
        }
        if let Some(missing) = moat_drivers::vm::disk::requirement().fix {
            moat_testkit::not_run_here(&missing);
            return None;
        }
        let lock = Arc::new(moat_testkit::shared().unwrap());
        let dir = Arc::new(tempfile::Builder::new().prefix("moat-fc-").tempdir().unwrap());
        guest(&dir.path().join("guest"));
        let mut config = FirecrackerConfig {
            binary: stub(dir.path(), &format!("firecracker,{version}{faults}")),
            jailer: stub(dir.path(), &format!("jailer,{version}")),
            cgroup_parent: CGROUP_PARENT.to_owned(),
            cache_dir: dir.path().join("cache"),
            guest_dir: dir.path().join("guest"),
            ..FirecrackerConfig::default()
        };
        change(&mut config);
        let driver = Arc::new(FirecrackerDriver::new(config.clone(), BINARY.clone()).unwrap());
        Some(Self { driver, config, dir, _lock: lock })
    }

    /// The same directories, as another daemon, with other programs, would find them.
    pub fn again(&self, version: &str, faults: &str) -> Self {
        let config = FirecrackerConfig {
            binary: stub(self.dir.path(), &format!("firecracker,{version}{faults}")),
            jailer: stub(self.dir.path(), &format!("jailer,{version}")),
            ..self.config.clone()
        };
        let driver = Arc::new(FirecrackerDriver::new(config.clone(), BINARY.clone()).unwrap());
        Self { driver, config, dir: self.dir.clone(), _lock: self._lock.clone() }
    }

    /// A place nobody used.
    pub fn place(&self) -> Place {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mut random = [0; 10];
        random[0] = 2;
        random[2..6].copy_from_slice(&std::process::id().to_be_bytes());
        random[6..].copy_from_slice(&n.to_be_bytes());
        let id = SandboxId::from_parts(Timestamp::from_millis(now.as_millis().try_into().unwrap()), random);
        Place {
            run_dir: self.dir.path().join("run").join(id.as_str()),
            // As deep as it may be: no socket's address has room for it.
            data_dir: self.dir.path().join("d".repeat(100)).join(id.as_str()),
            uid_base: 0x5100_0000 + (n % 4096) * 65_536,
            network: None,
            id,
        }
    }

    /// Creates and starts; panics with the whole error.
    pub async fn machine(&self, spec: SandboxSpec) -> Machine {
        let mut machine = self.created(spec).await;
        machine.begin().await;
        machine
    }

    /// Creates only.
    pub async fn created(&self, spec: SandboxSpec) -> Machine {
        let place = self.place();
        let mut machine = Machine { driver: self.driver.clone(), place, record: None, guest: None };
        self.driver.validate(&spec).map_err(|e| e.chain()).expect("validate");
        let record = self.driver.create(&machine.place, &spec).await.map_err(|e| e.chain()).expect("create");
        machine.record = Some(record);
        machine
    }

    /// Nothing of this place is left.
    pub async fn release(&self, place: &Place, spec: &SandboxSpec) {
        for resource in self.driver.plan(place, spec).iter().rev() {
            // It may fail as long as something that was given up is still being written.
            let released = async || self.driver.release(resource).await.ok();
            moat_testkit::wait_until(DEADLINE, "it is released", released).await.unwrap();
        }
        assert!(!place.run_dir.exists() && !place.data_dir.exists());
        let hierarchy = Hierarchy::detect(CGROUP_PARENT).unwrap();
        assert_eq!(hierarchy.procs_files(place.id.as_str()), Vec::<PathBuf>::new());
    }
}

/// A live machine. Ends with the value.
#[derive(Debug)]
pub struct Machine {
    driver: Arc<FirecrackerDriver>,
    pub place: Place,
    record: Option<Record>,
    guest: Option<Arc<dyn Guest>>,
}

impl Machine {
    pub fn record(&self) -> &Record {
        self.record.as_ref().unwrap()
    }

    pub fn guest(&self) -> Arc<dyn Guest> {
        self.guest.clone().unwrap()
    }

    pub async fn begin(&mut self) {
        let started = tokio::time::timeout(DEADLINE, self.driver.start(self.record())).await.unwrap();
        self.guest = Some(started.map_err(|e| e.chain()).expect("start"));
    }

    pub fn set_guest(&mut self, guest: Arc<dyn Guest>) {
        self.guest = Some(guest);
    }

    /// Gives the connection away, as a daemon's death does.
    pub fn forget_guest(&mut self) {
        self.guest = None;
    }

    /// Host process id of the monitor.
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read(self.place.run_dir.join("vmm.json")).ok()?;
        let vmm: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let pid = vmm["process"]["pid"].as_u64()?.try_into().ok()?;
        alive(pid).then_some(pid)
    }

    /// A file of the jail.
    pub fn in_jail(&self, name: &str) -> PathBuf {
        let jail = self.place.data_dir.join("jail");
        let program = fs::read_dir(jail).unwrap().next().unwrap().unwrap().path();
        program.join(self.place.id.as_str()).join("root").join(name)
    }

    /// What a file inside holds; none if there is no such file, or nobody to ask.
    pub async fn cat(&self, path: &str) -> Option<String> {
        let process = ProcessSpec {
            command: "cat".to_owned(),
            args: vec![path.to_owned()],
            env: [].into(),
            cwd: None,
            user: None,
        };
        let spec = ExecSpec { process, pty: None, stdin: false, timeout: None };
        let run = async {
            let mut session = self.guest().exec(&spec).await.ok()?;
            let mut text = String::new();
            while let Some(said) = session.output.recv().await {
                match said {
                    ExecOutput::Data(StreamName::Stdout, bytes) => text += &String::from_utf8_lossy(&bytes),
                    ExecOutput::Data(StreamName::Stderr, _) => {}
                    ExecOutput::Exited { exit, .. } => return (exit.code == 0).then_some(text),
                }
            }
            None
        };
        tokio::time::timeout(DEADLINE, run).await.expect("exec within its deadline")
    }

    /// Machine id, host name, and everything it was seeded with.
    pub async fn who(&self) -> (String, String, Vec<String>) {
        let seeds = self.cat("/proc/seeds").await.unwrap();
        let seeds = seeds.lines().map(str::to_owned).collect();
        (self.cat("/etc/machine-id").await.unwrap(), self.cat("/etc/hostname").await.unwrap(), seeds)
    }

    /// Kept in a new directory of the host's.
    pub async fn kept(&self, host: &Host, name: &str) -> PathBuf {
        let into = host.dir.path().join(name);
        let freezer = host.driver.freezer().unwrap();
        freezer.freeze(self.record()).await.map_err(|e| e.chain()).expect("freeze");
        let snapshotter = host.driver.snapshotter().unwrap();
        snapshotter.snapshot(self.record(), &into).await.map_err(|e| e.chain()).expect("snapshot");
        freezer.thaw(self.record()).await.map_err(|e| e.chain()).expect("thaw");
        into
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let (driver, place) = (self.driver.clone(), self.place.clone());
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for resource in driver.plan(&place, &spec()).iter().rev() {
                    driver.release(resource).await.unwrap();
                }
            });
        })
        .join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// Whether a process runs.
pub fn alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// An empty machine.
pub fn spec() -> SandboxSpec {
    let spec = SandboxSpec::new(Namespace::default_namespace(), Isolation::Microvm, RootSpec::Scratch);
    SandboxSpec {
        network: NetworkSpec::new(NetworkMode::Isolated),
        resources: Resources { memory_bytes: Some(128 << 20), disk_bytes: Some(16 << 20), ..Resources::default() },
        ..spec
    }
}

/// One made from what was kept.
pub fn from(dir: &Path) -> SandboxSpec {
    SandboxSpec { restore: Some(MachineSnapshot { dir: dir.to_owned(), driver: "firecracker".to_owned() }), ..spec() }
}

/// The stand-in under a name that says what it is to do.
pub fn stub(dir: &Path, name: &str) -> PathBuf {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join(name);
    if !path.exists() {
        let built = Path::new(env!("CARGO_BIN_EXE_fc-stub"));
        fs::hard_link(built, &path).or_else(|_| fs::copy(built, &path).map(drop)).unwrap();
    }
    path
}

/// A guest that a stand-in boots.
fn guest(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let (kernel, modules): (&[u8], &[u8]) = (b"\x7fELF and nothing more", b"");
    fs::write(dir.join("vmlinux"), kernel).unwrap();
    fs::write(dir.join("modules.cpio"), modules).unwrap();
    let digest = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let image = GuestImage {
        kernel_version: "6.1.0-stand-in".to_owned(),
        kernel_sha256: digest(kernel),
        modules_sha256: digest(modules),
        modules: Vec::new(),
        absent: Vec::new(),
        pvh: false,
    };
    fs::write(dir.join("guest.json"), serde_json::to_vec(&image).unwrap()).unwrap();
}
