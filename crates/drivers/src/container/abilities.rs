//! What can be done to a container beyond the contract: stop its scheduling, keep its changes, change its limits.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use moat_engine::driver::{Captured, Capturer, Freezer, Record, Tuner};
use moat_engine::error::{Error, Result};
use moat_image::erofs::{Limits as ImageLimits, RootBuilder};
use moat_model::ErrorKind;
use moat_model::spec::Resources;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::driver::{ContainerDriver, Held, held};
use super::validate;
use crate::linux::cgroup::Limits;

#[async_trait]
impl Freezer for ContainerDriver {
    async fn freeze(&self, record: &Record) -> Result<()> {
        Ok(self.hierarchy.freeze(&held(record)?.cgroup).await?)
    }

    async fn thaw(&self, record: &Record) -> Result<()> {
        Ok(self.hierarchy.thaw(&held(record)?.cgroup)?)
    }
}

#[async_trait]
impl Capturer for ContainerDriver {
    async fn capture(&self, record: &Record, into: &Path) -> Result<Captured> {
        let held = held(record)?;
        let (changes, uid_base, into) = (changes_of(&held)?, held.uid_base, into.to_owned());
        tokio::task::spawn_blocking(move || write_layer(&changes, uid_base, &into))
            .await
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "capture", e))?
    }
}

/// Opens the directory the agent holds. Nothing in it can lead elsewhere: it is a mount of its own.
fn changes_of(held: &Held) -> Result<OwnedFd> {
    let Some(fd) = held.changes_fd else {
        let why = "capture: a root of template host has a private layer over each host directory, which cannot be \
                   one layer of another root: use an image or template scratch";
        return Err(Error::new(ErrorKind::Unsupported, why));
    };
    let gone = || Error::new(ErrorKind::Guest, "capture: the agent has ended, and with it the private layer");
    let failed = |e: io::Error| Error::caused_by(ErrorKind::Internal, "capture: open the private layer", e);
    if held.process.open().map_err(failed)?.is_none() {
        return Err(gone());
    }
    let path = PathBuf::from(format!("/proc/{}/fd/{fd}", held.process.pid));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, &path, flags, Mode::empty()).map_err(|e| failed(e.into()));
    // Looked at again: what was opened belongs to this agent if the number was its own before and after.
    match held.process.open().map_err(failed)? {
        Some(_) => opened,
        None => Err(gone()),
    }
}

fn write_layer(changes: &OwnedFd, uid_base: u32, into: &Path) -> Result<Captured> {
    let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(into);
    let file = made.map_err(|e| Error::caused_by(ErrorKind::Internal, format!("make {}", into.display()), e))?;
    let builder = RootBuilder::new(file, 1, ImageLimits::default());
    builder.add_directory(0, changes.as_fd(), uid_base, true)?;
    let written = builder.finish()?;
    Ok(Captured { bytes: written.bytes, entries: written.entries, memory: false })
}

#[async_trait]
impl Tuner for ContainerDriver {
    fn validate_live(&self, resources: &Resources) -> Result<()> {
        let fixed = [
            ("resources.disk_bytes", resources.disk_bytes.is_some(), "the private layer has the size it was made with"),
            ("resources.secrets_bytes", resources.secrets_bytes.is_some(), "/secrets has the size it was made with"),
            ("resources.nofile", resources.nofile.is_some(), "processes have the limit they were started with"),
        ];
        if let Some((field, _, why)) = fixed.into_iter().find(|(_, asked, _)| *asked) {
            return Err(Error::new(ErrorKind::Unsupported, format!("{field}: {why}; make a new sandbox")));
        }
        validate::memory(resources.memory_bytes)?;
        Ok(self.hierarchy.check(&changed(resources))?)
    }

    async fn tune(&self, record: &Record, resources: &Resources) -> Result<()> {
        self.validate_live(resources)?;
        let (hierarchy, cgroup, limits) = (self.hierarchy.clone(), held(record)?.cgroup, changed(resources));
        // A lower memory limit makes the kernel give memory back first, which takes its time.
        tokio::task::spawn_blocking(move || hierarchy.tune(&cgroup, &limits))
            .await
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "change limits", e))??;
        Ok(())
    }
}

/// What is asked and nothing else: no defaults.
fn changed(resources: &Resources) -> Limits {
    Limits::new(resources, &Resources::default())
}
