//! A minimal Debian as one tar archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::{Scratch, apt_install, put, retried};
use crate::process::output;

/// The release: old enough to be on every mirror, new enough to be supported.
const RELEASE: &str = "bookworm";
/// Where it comes from if apt names no mirror of it.
const ANYWHERE: &str = "http://deb.debian.org/debian";
/// What a node makes anew for every sandbox, and what only fills the archive.
const LEFT_OUT: [&str; 6] =
    ["./dev/*", "./proc/*", "./sys/*", "./var/cache/apt/*", "./var/lib/apt/lists/*", "./var/log/*"];

/// Makes it, with `debootstrap` from the mirror this machine's apt uses.
pub fn make(to: &Path) -> anyhow::Result<()> {
    let debootstrap = debootstrap()?;
    let scratch = Scratch::new("debian-root")?;
    let mirror = mirror();
    let (tree, archive) = (scratch.0.join("tree"), scratch.0.join("root.tar"));
    retried("debootstrap", || {
        // What an interrupted try left would be taken for finished.
        let _ = std::fs::remove_dir_all(&tree);
        let mut command = Command::new(&debootstrap);
        command.args(["--variant=minbase", RELEASE]).arg(&tree).arg(&mirror);
        // Its own programs lie in directories that a user's path may lack.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        output(&mut command).map(drop)
    })?;
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&tree).args(["--numeric-owner", "--xattrs", "--sort=name"]);
    tar.args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}"))).arg("-cf").arg(&archive).arg(".");
    output(&mut tar)?;
    put(&archive, to)
}

fn debootstrap() -> anyhow::Result<PathBuf> {
    let usual = PathBuf::from("/usr/sbin/debootstrap");
    if !usual.is_file() {
        apt_install(&["debootstrap"]).context("debootstrap is missing")?;
    }
    if !usual.is_file() {
        bail!("the package debootstrap was installed without {}", usual.display());
    }
    Ok(usual)
}

/// The mirror apt fetches this release from.
fn mirror() -> String {
    let format = "$(CODENAME) $(REPO_URI)";
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]));
    let wanted = |line: &str| {
        let (release, uri) = line.split_once(' ')?;
        (release == RELEASE).then(|| uri.trim().trim_end_matches('/').to_owned())
    };
    targets.ok().and_then(|text| text.lines().find_map(wanted)).unwrap_or_else(|| ANYWHERE.to_owned())
}
