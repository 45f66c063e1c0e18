//! The root of a machine that outlives it: a directory of the host, served to the machine by a program of its own.
//!
//! The directory is put together like a container's root (layers below, what lasts above), and shown to nobody but that
//! program. It runs in a jail as root of the sandbox's own ids, so that whatever comes out of the machine, files it makes belong
//! to ids that are nobody's, and nothing else of the host is within its reach. It ends with the machine's monitor, and the
//! machine with it: without its files it would only stand there.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moat_agent::launch::{
    BindConfig, HostPath, JailConfig, LaunchConfig, Payload, ProgramConfig, SERVED, SERVES_WITH, ServedRoot, ShownIds,
};
use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::spec::{Bind, BindIds};
use serde::{Deserialize, Serialize};

use super::config::QemuConfig;
use super::launch::Launcher;
use crate::container::probe::nofile_ceiling;
use crate::linux::directory::make_private_dir;
use crate::linux::identity::ProcessIdentity;
use crate::linux::launch::{launch, listen};
use crate::linux::{readiness, seccomp};
use crate::vm::endpoint::said;
use crate::vm::machine::Machine;
use crate::vm::process::{Vmm, replace_file};
use crate::vm::program;

/// Where the program is looked for: it belongs to QEMU's helpers, which are on nobody's path.
const PLACES: [&str; 4] =
    ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/local/libexec/virtiofsd"];
/// Names in the root of its jail.
const JAIL_BYTES: u64 = 1 << 20;
/// It keeps a descriptor for each file the machine's kernel knows. Bounded by the memory of the machine's group, which they
/// count against; more than this is what a kernel lets no process have.
const NOFILE: u64 = 1 << 20;
/// Memory it and what the host's kernel notes of its files take.
pub(super) const OVERHEAD: u64 = 64 << 20;
/// Who ends together does so within this.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The monitor was killed: it has gone by then.
const WITH_MONITOR: Duration = Duration::from_secs(5);

/// Which process serves a machine, in its run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    process: ProcessIdentity,
}

/// The program that serves files, found when the driver was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileServer {
    pub program: PathBuf,
    kind: Kind,
}

impl FileServer {
    /// The program set, or the one that is where distributions put it.
    pub fn find(config: &QemuConfig) -> Result<Self> {
        let found = match &config.virtiofsd {
            Some(path) => Some(path.clone()),
            None => PLACES.iter().map(PathBuf::from).find(|path| path.is_file()),
        };
        let program = found.ok_or_else(missing)?;
        let kind = kind_of(&program)?;
        Ok(Self { program, kind })
    }
}

/// Which of the two programs of that name it is: they are told the same things in other words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// QEMU's own, up to version 7.
    Qemu,
    /// The one that came after it.
    Standalone,
}

/// `virtiofsd version 7.2.22 (Debian …)`, or `virtiofsd 1.13.0`.
fn kind_of(program_file: &Path) -> Result<Kind> {
    let failed =
        |why: String| Error::new(ErrorKind::Unsupported, format!("qemu.virtiofsd: {}: {why}", program_file.display()));
    let text = program::version(program_file).map_err(failed)?;
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some("virtiofsd"), Some("version")) => Ok(Kind::Qemu),
        (Some("virtiofsd"), Some(version)) if version.starts_with(|c: char| c.is_ascii_digit()) => Ok(Kind::Standalone),
        _ => Err(failed("does not say that it is virtiofsd".to_owned())),
    }
}

/// What it is told. It is kept where it is by its jail, and by a root of its own below that.
fn arguments(kind: Kind) -> Vec<String> {
    let words = match kind {
        Kind::Qemu => format!(
            "-f --fd=3 --rlimit-nofile=0 -o source={SERVED} -o sandbox=chroot -o cache=auto -o xattr -o log_level=warn"
        ),
        Kind::Standalone => format!(
            "--fd=3 --rlimit-nofile=0 --shared-dir={SERVED} --sandbox=chroot --cache=auto --xattr \
             --inode-file-handles=never --log-level=warn"
        ),
    };
    words.split(' ').map(str::to_owned).collect()
}

/// What it takes to serve a machine.
#[derive(Debug)]
pub(super) struct Serve<'a> {
    pub machine: &'a Machine,
    /// Where its root is written to.
    pub lasting: &'a Path,
    /// Where the layers of its root are mounted.
    pub layers: Vec<PathBuf>,
}

impl Launcher {
    /// Starts it, and returns the monitor's end of the line to it.
    pub async fn serve(&self, config: &QemuConfig, server: &FileServer, serve: &Serve<'_>) -> Result<OwnedFd> {
        let run_dir = &serve.machine.run_dir;
        let (log, socket) = (run_dir.join("files.log"), run_dir.join("files.sock"));
        let failed = |path: &Path| {
            let doing = format!("open {} for the machine's files", path.display());
            move |e: std::io::Error| Error::caused_by(ErrorKind::Internal, doing, e)
        };
        let written = File::options().append(true).create(true).mode(0o600).open(&log).map_err(failed(&log))?;
        let listener = listen(&socket).map_err(failed(&socket))?;
        let line = UnixStream::connect(&socket).map_err(failed(&socket))?;
        // Nobody else is to come.
        fs::remove_file(&socket).map_err(failed(&socket))?;
        let mount_point = run_dir.join("files");
        make_private_dir(&mount_point)?;
        let told = self.told(config, server, serve, mount_point)?;
        let launched = launch(&self.binary, &told, vec![written.into(), listener]).await;
        let launched = launched.map_err(|e| Error::caused_by(e.kind(), format!("start virtiofsd{}", said(&log)), e))?;
        Server { process: launched.identity }.write(run_dir)?;
        Ok(line.into())
    }

    fn told(
        &self,
        config: &QemuConfig,
        server: &FileServer,
        serve: &Serve<'_>,
        mount_point: PathBuf,
    ) -> Result<LaunchConfig> {
        let Serve { machine, lasting, layers } = serve;
        let FileServer { program, kind } = server;
        let mut shown = config.host_paths.clone();
        if !shown.iter().any(|path| program.starts_with(path)) {
            shown.push(program.clone());
        }
        Ok(LaunchConfig {
            cgroup_procs: self.hierarchy.procs_files(&machine.cgroup),
            jail: Some(JailConfig {
                hostname: "files".to_owned(),
                uid_base: machine.uid_base,
                mount_point,
                writable_bytes: JAIL_BYTES,
                lasting: None,
                layers: Vec::new(),
                host_paths: shown.into_iter().map(|path| HostPath { source: path.clone(), target: path }).collect(),
                binds: Vec::new(),
                secrets_bytes: 0,
                host_pid: false,
                host_ipc: false,
                network: None,
            }),
            payload: Payload::Program(ProgramConfig {
                path: program.clone(),
                args: arguments(*kind),
                uid: 0,
                serves: Some(ServedRoot {
                    lasting: lasting.to_path_buf(),
                    layers: layers.clone(),
                    binds: machine.binds.iter().map(|bind| shown_bind(bind, config.disk_ids)).collect(),
                    wired: machine.network.is_some(),
                }),
                descriptors: 1,
                tap: None,
                devices: Vec::new(),
                seccomp: seccomp::filters_of_file_server(SERVES_WITH)?,
                nofile: NOFILE.min(nofile_ceiling()),
                file_bytes_max: None,
            }),
        })
    }
}

fn shown_bind(bind: &Bind, disk_ids: u32) -> BindConfig {
    BindConfig {
        source: bind.source.clone(),
        target: bind.target.clone(),
        read_only: bind.read_only,
        exec: true,
        ids: match bind.ids {
            BindIds::Node => ShownIds::Block(disk_ids),
            BindIds::Host => ShownIds::Same,
        },
    }
}

/// There is no program to serve it.
fn missing() -> Error {
    let why = "lasting: the root of a machine that lasts is served by virtiofsd, which is not here: \
               apt-get install qemu-system-common (Debian 12) or virtiofsd (later), or set qemu.virtiofsd";
    Error::new(ErrorKind::Unsupported, why)
}

impl Server {
    fn file(run_dir: &Path) -> PathBuf {
        run_dir.join("files.json")
    }

    fn write(&self, run_dir: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write down who serves the machine", e))?;
        replace_file(&Self::file(run_dir), &text)
    }

    /// The process that runs; none if it has ended.
    fn open(run_dir: &Path) -> Result<Option<OwnedFd>> {
        let path = Self::file(run_dir);
        let failed = |e: std::io::Error| Error::caused_by(ErrorKind::Internal, format!("read {}", path.display()), e);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(failed)?,
        };
        let server: Self = serde_json::from_slice(&text).map_err(|e| failed(e.into()))?;
        server.process.open().map_err(failed)
    }
}

/// Has the machine end when nobody serves it any more. False: that is so already.
pub(super) fn watch(machine: &Machine) -> Result<bool> {
    let Some(pidfd) = Server::open(&machine.run_dir)? else { return Ok(false) };
    let ended = readiness::register(pidfd)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "watch who serves the machine", e))?;
    let (run_dir, id) = (machine.run_dir.clone(), machine.id.clone());
    tokio::spawn(async move {
        if ended.readable().await.is_err() || with_monitor(&run_dir).await {
            return;
        }
        tracing::error!(sandbox = %id, "virtiofsd ended{}: the machine is ended", said(&run_dir.join("files.log")));
        if let Err(error) = Vmm::end(&run_dir).await {
            tracing::error!(sandbox = %id, error = error.chain(), "a machine without its files is not ended");
        }
    });
    Ok(true)
}

/// Whether the monitor goes at the same time: one that ends takes its server along.
async fn with_monitor(run_dir: &Path) -> bool {
    let Ok(Some((_, monitor))) = Vmm::open(run_dir) else { return true };
    let Ok(monitor) = readiness::register(monitor) else { return false };
    tokio::time::timeout(AT_ONCE, monitor.readable()).await.is_ok()
}

/// Waits until nobody writes into the directory any more. The machine's group was killed.
pub(super) async fn ended(machine: &Machine) -> Result<()> {
    let Some(pidfd) = Server::open(&machine.run_dir)? else { return Ok(()) };
    let failed = |e: std::io::Error| Error::caused_by(ErrorKind::Internal, "end virtiofsd", e);
    let ended = readiness::register(pidfd).map_err(failed)?;
    match tokio::time::timeout(WITH_MONITOR, ended.readable()).await {
        Ok(done) => done.map(drop).map_err(failed),
        Err(_) => Err(Error::new(ErrorKind::Deadline, "virtiofsd does not end with its machine")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_are_kept_below_the_root_they_serve() {
        for kind in [Kind::Qemu, Kind::Standalone] {
            let line = arguments(kind).join(" ");
            for part in ["--fd=3", "=/served", "sandbox=chroot", "xattr", "--rlimit-nofile=0"] {
                assert!(line.contains(part), "{part} is not in {line}");
            }
        }
    }

    #[test]
    fn what_is_no_virtiofsd_is_named() {
        let refused = kind_of(Path::new("/bin/echo")).unwrap_err();
        assert!(refused.doing.starts_with("qemu.virtiofsd: /bin/echo: "), "{refused}");
        let refused = kind_of(Path::new("/nonexistent")).unwrap_err();
        assert!(refused.doing.starts_with("qemu.virtiofsd: /nonexistent: "), "{refused}");
    }
}
