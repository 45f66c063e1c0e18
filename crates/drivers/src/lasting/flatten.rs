//! Layers, and what lies over them, as one tree that needs none of them.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::mount::{UnmountFlags, unmount};

use super::copier::{Copier, Pass};
use super::{Owners, Stats, failed};
use crate::linux::erofs;

/// Something that is laid over what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// An erofs file of the image store: ids in it are those inside.
    Layer(PathBuf),
    /// The writable layer of something that does not run.
    Tree {
        /// Where it lies.
        dir: PathBuf,
        /// First host id of its files.
        uid_base: u32,
    },
}

/// Makes the new directory `to` what an overlay of these, the lowest first, shows. Its files belong to the ids from `uid_base`
/// on. Blocks.
pub fn flatten(parts: &[Part], to: &Path, uid_base: u32, cancel: &AtomicBool) -> Result<Stats> {
    mkdirat(CWD, to, Mode::from_raw_mode(0o700)).map_err(failed("make", to))?;
    let mut stats = Stats::default();
    for part in parts {
        let laid = match part {
            Part::Tree { dir, uid_base: from } => lay(dir, to, Owners { from: *from, to: uid_base }, cancel)?,
            Part::Layer(file) => {
                let shown = Shown::of(file, to)?;
                lay(&shown.0, to, Owners { from: 0, to: uid_base }, cancel)?
            }
        };
        stats = stats.and(laid);
    }
    Ok(stats)
}

fn lay(dir: &Path, to: &Path, owners: Owners, cancel: &AtomicBool) -> Result<Stats> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = openat(CWD, dir, flags, Mode::empty()).map_err(failed("open", dir))?;
    let mut copier = Copier::onto(from, to, owners)?;
    let stats = copier.pass(Pass::Standing, cancel)?;
    copier.finish()?;
    Ok(stats)
}

/// A layer mounted beside what is made of it, for that time.
struct Shown(PathBuf);

impl Shown {
    fn of(file: &Path, to: &Path) -> Result<Self> {
        let mut beside = to.file_name().unwrap_or_default().to_owned();
        beside.push(".layer");
        let at = to.with_file_name(beside);
        let internal = |e: io::Error| Error::caused_by(ErrorKind::Internal, format!("mount {}", file.display()), e);
        // One of a daemon that died over it.
        drop(Self(at.clone()));
        fs::DirBuilder::new().mode(0o700).create(&at).map_err(internal)?;
        erofs::mount(file, &at).map_err(internal)?;
        Ok(Self(at))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // Nothing may be mounted there; what stays is found and taken away by whoever makes the next.
        let _ = unmount(&self.0, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        let _ = fs::remove_dir(&self.0);
    }
}
