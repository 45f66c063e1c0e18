//! Real machines for tests: made, looked into, and always ended, also when the test panics.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_drivers::linux::agent_binary::AgentBinary;
use moat_drivers::qemu::QemuConfig;
use moat_drivers::qemu::QemuDriver;
use moat_drivers::qemu::config::AcceleratorChoice;
use moat_drivers::vm::config::MachineDefaults;
use moat_engine::driver::{Driver as _, Place, Record};
use moat_engine::guest::{ExecOutput, Guest};
use moat_image::erofs::{Limits, RootBuilder};
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{ExecSpec, Resources, RootLayer, RootSpec};
use moat_model::{Exit, Isolation, Namespace, ProcessSpec, SandboxId, SandboxSpec, Timestamp};
use moat_testkit::Machines;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// Long beside everything waited for, also where a guest is emulated on a processor that others use.
pub const DEADLINE: Duration = Duration::from_secs(180);
/// Cgroup all machines of these tests are below.
const CGROUP_PARENT: &str = "moat-tests-qemu";
/// First host ids of these tests' machines.
pub const UID_BASE: u32 = 0x6800_0000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A driver, an image with a shell, and the turn to run machines.
#[derive(Debug)]
pub struct Bed {
    pub driver: Arc<QemuDriver>,
    pub dir: TempDir,
    pub layer: RootLayer,
    pub machines: Machines,
}

impl Bed {
    /// `None`, after saying so, where no machine can be had.
    pub fn new(id: &str) -> Option<Self> {
        let id = format!("qemu {id}");
        let machines = moat_testkit::machines(&id).unwrap()?;
        let Some(busybox) = moat_testkit::busybox() else {
            moat_testkit::not_run(&id, "no busybox");
            return None;
        };
        // Below /tmp: sockets' paths must stay short.
        let dir = tempfile::Builder::new().prefix("moat-").tempdir().unwrap();
        let layer = image(dir.path(), &busybox);
        let driver = Arc::new(driver(&machines, &machines.guest, dir.path()));
        let unmet = driver.probe().into_iter().find(|r| !r.met && r.need == moat_engine::driver::Need::Required);
        if let Some(unmet) = unmet {
            moat_testkit::not_run(&id, &format!("{}: {}", unmet.name, unmet.fact));
            return None;
        }
        Some(Self { driver, dir, layer, machines })
    }

    /// As a daemon that came after this one would have it.
    pub fn next_driver(&self) -> Arc<QemuDriver> {
        Arc::new(driver(&self.machines, &self.machines.guest, self.dir.path()))
    }

    /// One whose machines boot another guest.
    pub fn driver_of(&self, guest: &Path) -> Arc<QemuDriver> {
        Arc::new(driver(&self.machines, guest, self.dir.path()))
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
            run_dir: self.dir.path().join(&id.as_str()[id.as_str().len() - 8..]),
            data_dir: self.dir.path().join("data").join(id.as_str()),
            uid_base: UID_BASE + (n % 256) * 65_536,
            network: None,
            id,
        }
    }

    /// An idle machine on the image.
    pub fn spec(&self) -> SandboxSpec {
        let root = RootSpec::Layers { layers: vec![self.layer.clone()] };
        let spec = SandboxSpec::new(Namespace::default_namespace(), Isolation::Microvm, root);
        SandboxSpec {
            network: NetworkSpec::new(NetworkMode::Isolated),
            resources: Resources { memory_bytes: Some(160 << 20), ..Resources::default() },
            ..spec
        }
    }

    /// Creates and starts; panics with the whole error.
    pub async fn machine(&self, spec: SandboxSpec) -> Vm {
        self.machine_at(self.place(), spec).await
    }

    /// The same at a place.
    pub async fn machine_at(&self, place: Place, spec: SandboxSpec) -> Vm {
        let mut vm = created_at(place, self.driver.clone(), spec).await;
        vm.guest = Some(vm.driver.start(vm.record()).await.map_err(|e| e.chain()).expect("start"));
        vm
    }

    /// Creates one that nobody has started to speak with.
    pub async fn created(&self, driver: Arc<QemuDriver>, spec: SandboxSpec) -> Vm {
        created_at(self.place(), driver, spec).await
    }
}

async fn created_at(place: Place, driver: Arc<QemuDriver>, spec: SandboxSpec) -> Vm {
    let mut vm = Vm { driver, place, spec, record: None, guest: None };
    vm.driver.validate(&vm.spec).map_err(|e| e.chain()).expect("validate");
    let record = vm.driver.create(&vm.place, &vm.spec).await.map_err(|e| e.chain()).expect("create");
    vm.record = Some(record);
    vm
}

fn driver(machines: &Machines, guest: &Path, dir: &Path) -> QemuDriver {
    let config = QemuConfig {
        program: Some(machines.qemu.canonicalize().unwrap()),
        accelerator: AcceleratorChoice::Tcg,
        machine: MachineDefaults { disk_bytes: 64 << 20, ..MachineDefaults::default() },
        cgroup_parent: CGROUP_PARENT.to_owned(),
        guest_dir: guest.canonicalize().unwrap(),
        run_dir: dir.join("q"),
        data_dir: dir.join("qdata"),
        ..QemuConfig::default()
    };
    QemuDriver::new(config, AgentBinary::embedded().unwrap()).map_err(|e| e.chain()).unwrap()
}

/// A small image with a shell.
fn image(dir: &Path, busybox: &Path) -> RootLayer {
    let tree = tempfile::tempdir_in(dir).unwrap();
    let tree = tree.path();
    fs::set_permissions(tree, fs::Permissions::from_mode(0o755)).unwrap();
    for (path, mode) in [("bin", 0o755), ("etc", 0o755), ("opt/dir", 0o755), ("tmp", 0o1777), ("root", 0o700)] {
        fs::create_dir_all(tree.join(path)).unwrap();
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::copy(busybox, tree.join("bin/busybox")).unwrap();
    fs::set_permissions(tree.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    let names = "sh cat id ls stat touch mv rm hostname mkdir ln dd sleep head date od true kill ps grep wc tr seq yes env \
                 printf echo test sync uname free basename dirname sort tail find chmod ip nc";
    for name in names.split_whitespace() {
        symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n").unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    fs::write(tree.join("etc/gone"), "gone\n").unwrap();
    fs::write(tree.join("opt/dir/old"), "old\n").unwrap();
    let path = dir.join("image.erofs");
    let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let builder = RootBuilder::new(file, 1, Limits::default());
    builder.add_directory(0, fs::File::open(tree).unwrap().as_fd(), 0, false).unwrap();
    builder.finish().unwrap();
    let digest = Sha256::digest(fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    RootLayer { digest, path }
}

/// A live machine. Ends with the value.
#[derive(Debug)]
pub struct Vm {
    pub driver: Arc<QemuDriver>,
    pub place: Place,
    pub spec: SandboxSpec,
    record: Option<Record>,
    pub guest: Option<Arc<dyn Guest>>,
}

/// What a program said, and how it ended.
#[derive(Debug, Default)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub exit: Option<Exit>,
}

impl Vm {
    pub fn record(&self) -> &Record {
        self.record.as_ref().unwrap()
    }

    pub fn guest(&self) -> Arc<dyn Guest> {
        self.guest.clone().unwrap()
    }

    /// Host process id of its monitor.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.place.run_dir.join("vmm.json")).unwrap();
        let vmm: serde_json::Value = serde_json::from_str(&text).unwrap();
        vmm["process"]["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// Runs a shell line as root of the machine; standard output without white space around it, of one that ended well.
    pub async fn sh(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(output.exit.as_ref().is_some_and(Exit::success), "{line}: {output:?}");
        output.stdout.trim().to_owned()
    }

    pub async fn run(&self, line: &str) -> Output {
        let process = ProcessSpec {
            command: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), line.to_owned()],
            env: [("PATH".to_owned(), "/bin".to_owned())].into(),
            cwd: None,
            user: Some("root".to_owned()),
        };
        let spec = ExecSpec { process, pty: None, stdin: false, timeout: Some(DEADLINE / 2) };
        let run = async {
            let mut session = self.guest().exec(&spec).await.map_err(|e| e.chain()).expect("exec");
            let mut output = Output::default();
            while let Some(said) = session.output.recv().await {
                match said {
                    ExecOutput::Data(StreamName::Stdout, bytes) => output.stdout += &String::from_utf8_lossy(&bytes),
                    ExecOutput::Data(StreamName::Stderr, bytes) => output.stderr += &String::from_utf8_lossy(&bytes),
                    ExecOutput::Exited { exit, .. } => output.exit = Some(exit),
                }
            }
            output
        };
        tokio::time::timeout(DEADLINE, run).await.expect("exec within its deadline")
    }

    pub async fn freeze(&self) {
        self.driver.freezer().unwrap().freeze(self.record()).await.map_err(|e| e.chain()).expect("freeze");
    }

    pub async fn thaw(&self) {
        self.driver.freezer().unwrap().thaw(self.record()).await.map_err(|e| e.chain()).expect("thaw");
    }

    /// Keeps all of it in a new directory, and stands still afterwards.
    pub async fn snapshot(&self, into: &Path) {
        self.freeze().await;
        let kept = self.driver.snapshotter().unwrap().snapshot(self.record(), into).await;
        let kept = kept.map_err(|e| e.chain()).expect("snapshot");
        assert!(kept.memory && kept.bytes > 1 << 20, "{kept:?}");
    }

    pub async fn stow(&self) {
        self.driver.stower().unwrap().stow(self.record()).await.map_err(|e| e.chain()).expect("stow");
    }

    pub async fn unstow(&mut self) {
        let guest = self.driver.stower().unwrap().unstow(self.record()).await.map_err(|e| e.chain()).expect("unstow");
        self.guest = Some(guest);
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
        let left: Vec<&PathBuf> =
            [&self.place.run_dir, &self.place.data_dir].into_iter().filter(|p| p.exists()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Vm {
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
