//! A virtual machine started by hand, with the agent as its first process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use moat_agent::launch::AgentConfig;
use moat_agent::protocol::StreamName;
use moat_agent::protocol::line;
use moat_agent::protocol::machine::{ENTROPY_LEN, GuestNetwork, GuestRoot, GuestSetup, Identity, Moment};
use moat_engine::Guest;
use moat_engine::guest::agent::{AgentGuest, Endpoint};
use moat_engine::guest::{Channel, ExecOutput};
use moat_image::erofs::{Limits, RootBuilder};
use moat_model::ProcessSpec;
use moat_model::spec::ExecSpec;
use moat_testkit::Machines;
use tokio::net::UnixStream;

/// An emulated machine on a loaded host takes a minute for what it does in seconds otherwise.
pub const DEADLINE: Duration = Duration::from_secs(180);
/// The capabilities programs have by default.
const CAPABILITIES: u64 = 0xa804_05fb & !(1 << 13);
/// Size of the writable disk.
const DISK_BYTES: u64 = 256 << 20;

/// The machine.
pub struct Vm {
    endpoint: Arc<SocketEndpoint>,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct SocketEndpoint {
    socket: PathBuf,
    connections: AtomicU64,
    vmm: Mutex<Child>,
}

#[async_trait]
impl Endpoint for SocketEndpoint {
    async fn connect(&self) -> io::Result<Box<dyn Channel>> {
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let socket = UnixStream::connect(&self.socket).await?;
        Ok(Box::new(line::connect(socket, (0xa9e_0000 + number).to_be_bytes()).await?))
    }

    async fn gone(&self) -> String {
        loop {
            if let Some(status) = self.vmm.lock().unwrap().try_wait().unwrap() {
                return status.to_string();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What a machine has.
pub struct Parts<'a> {
    /// Disks that cannot be written, in order.
    pub layers: &'a [PathBuf],
    /// The one after them.
    pub disk: &'a Path,
    pub memory_mib: u32,
}

impl Vm {
    pub fn start(machines: &Machines, parts: &Parts<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let guest = moat_guest::Guest::open(&machines.guest).unwrap();
        let initramfs = dir.path().join("initramfs");
        let agent = fs::read(env!("CARGO_BIN_EXE_moat-agent")).unwrap();
        moat_guest::initramfs(&guest, &agent, &initramfs).unwrap();
        let socket = dir.path().join("agent.sock");
        let mut command = Command::new(&machines.qemu);
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        command.args(["-M", "q35,hpet=off", "-accel", "tcg", "-cpu", "max", "-m", &parts.memory_mib.to_string()]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-kernel", &text(&guest.kernel()), "-initrd", &text(&initramfs)]);
        command.args(["-append", "console=ttyS0 quiet panic=-1 moat.ready"]);
        command.args(["-serial", &format!("file:{}", text(&dir.path().join("console")))]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", text(&socket))]);
        command.args(["-device", "virtserialport,chardev=agent,name=moat.agent"]);
        // A link that leads nowhere.
        command.args(["-netdev", "hubport,hubid=0,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        let all = parts.layers.iter().map(|layer| (layer.as_path(), "on")).chain([(parts.disk, "off")]);
        for (number, (path, read_only)) in all.enumerate() {
            let drive = format!("if=none,id=d{number},format=raw,file={},readonly={read_only}", text(path));
            command.args(["-drive", &drive, "-device", &format!("virtio-blk-pci,drive=d{number}")]);
        }
        let vmm = command.stdin(Stdio::null()).spawn().unwrap();
        let endpoint = Arc::new(SocketEndpoint { socket, connections: AtomicU64::new(0), vmm: Mutex::new(vmm) });
        Self { endpoint, dir }
    }

    /// Connects like a daemon that just started.
    pub async fn connect(&self) -> Arc<AgentGuest> {
        match AgentGuest::connect_within(self.endpoint.clone(), vec![], DEADLINE).await {
            Ok(guest) => guest,
            Err(error) => panic!("{error}; the console says:\n{}", self.console()),
        }
    }

    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("console")).unwrap_or_default()).into_owned()
    }

    /// Waits for its end.
    pub async fn gone(&self) -> String {
        tokio::time::timeout(DEADLINE, self.endpoint.gone()).await.expect("the machine ends")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let mut vmm = self.endpoint.vmm.lock().unwrap();
        let _ = vmm.kill();
        let _ = vmm.wait();
    }
}

/// A tree with a shell in it, and some files to be changed.
pub fn tree(dir: &Path, busybox: &Path) -> PathBuf {
    let tree = dir.join("tree");
    for (path, mode) in [("bin", 0o755), ("etc", 0o755), ("opt/dir", 0o755), ("tmp", 0o1777), ("root", 0o700)] {
        fs::create_dir_all(tree.join(path)).unwrap();
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::copy(busybox, tree.join("bin/busybox")).unwrap();
    fs::set_permissions(tree.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in [
        "sh", "cat", "id", "ls", "rm", "mkdir", "hostname", "date", "ip", "kill", "sleep", "head", "tail", "dd",
        "mount",
    ] {
        symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\n").unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:\nann:x:1000:\n").unwrap();
    fs::write(tree.join("etc/gone"), "gone\n").unwrap();
    // A file of the image's own, behind a link that leads out of it.
    symlink("/proc/self/environ", tree.join("etc/machine-id")).unwrap();
    fs::write(tree.join("opt/dir/old"), "old\n").unwrap();
    tree
}

/// A directory as a layer.
pub fn erofs(tree: &Path, path: &Path) -> PathBuf {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let builder = RootBuilder::new(file, 1, Limits::default());
    builder.add_directory(0, File::open(tree).unwrap().as_fd(), 0, true).unwrap();
    builder.finish().unwrap();
    path.to_owned()
}

/// A writable disk, with a directory's content if there is one; `None` where it cannot be made.
pub fn ext4(path: &Path, tree: Option<&Path>) -> Option<PathBuf> {
    File::create_new(path).unwrap().set_len(DISK_BYTES).unwrap();
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-O", "^has_journal", "-E", "root_owner=0:0"]);
    if let Some(tree) = tree {
        make.arg("-d").arg(tree);
    }
    let made = make.arg(path).output().ok()?;
    assert!(made.status.success(), "{made:?}");
    Some(path.to_owned())
}

/// What a machine is told first.
pub fn setup(root: GuestRoot, identity: Identity, unix_seconds: i64) -> GuestSetup {
    GuestSetup {
        identity,
        root,
        moment: moment(unix_seconds),
        secrets_bytes: 1 << 20,
        pids_max: Some(64),
        agent: AgentConfig {
            default_user: "root".to_owned(),
            task_dir: None,
            capabilities: Some(CAPABILITIES),
            no_new_privs: true,
            seccomp: vec![],
            nofile: 1024,
            forward_ports: vec![],
            oom_score_adj: 0,
            output_buffer_bytes: 1 << 20,
        },
    }
}

pub fn moment(unix_seconds: i64) -> Moment {
    let entropy = fs::read("/proc/sys/kernel/random/uuid").unwrap();
    let digits = entropy.iter().cycle().filter(|digit| digit.is_ascii_hexdigit()).take(2 * ENTROPY_LEN);
    Moment { unix_nanos: unix_seconds * 1_000_000_000, entropy: digits.map(|digit| char::from(*digit)).collect() }
}

/// Now, by the host's clock.
pub fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// Machine number `n`.
pub fn identity(n: u8) -> Identity {
    Identity {
        hostname: format!("machine-{n}"),
        machine_id: format!("{n:02x}").repeat(16),
        network: Some(GuestNetwork {
            mac: [2, 0, 0, 0, 0, n],
            address: [10, 77, 0, n].into(),
            gateway: [10, 77, 255, 1].into(),
            gateway_mac: [2, 0, 0, 0, 255, 1],
            search: "moat.internal".to_owned(),
            name: Some(format!("web{n}")),
        }),
    }
}

pub fn sh(script: &str) -> ProcessSpec {
    ProcessSpec {
        command: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
        cwd: None,
        user: None,
    }
}

/// Runs a script inside; what it wrote, both streams together.
pub async fn run(guest: &AgentGuest, script: &str) -> String {
    let spec = ExecSpec { process: sh(script), pty: None, stdin: false, timeout: None };
    let mut session = guest.exec(&spec).await.unwrap();
    let (mut text, mut errors) = (String::new(), String::new());
    while let Some(output) = tokio::time::timeout(DEADLINE, session.output.recv()).await.expect("an exec ends") {
        match output {
            ExecOutput::Data(StreamName::Stdout, bytes) => text += &String::from_utf8_lossy(&bytes),
            ExecOutput::Data(StreamName::Stderr, bytes) => errors += &String::from_utf8_lossy(&bytes),
            ExecOutput::Exited { .. } => break,
        }
    }
    text + &errors
}
