//! One fetch from beginning to end, on a thread of its own.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moat_model::job::ArtifactMode;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{Gid, Uid};

use super::place::Place;
use super::process::{self, Stop};
use super::{Inner, inspect};
use crate::child::{Failure, unpacked_name};
use crate::config::Ids;
use crate::error::{FetchError, FetchErrorKind};
use crate::origin::{Plan, redacted};
use crate::request::{FetchRequest, Fetched, Progress, ProgressSink, Source, fingerprint};
use crate::wire::{DOWNLOAD, FILE, Order, Report, Staged, TREE};

/// Beginning of the names of staging directories.
pub(super) const STAGING: &str = ".moat-fetch-";

/// One fetch.
pub(super) struct Run {
    pub inner: Arc<Inner>,
    pub request: FetchRequest,
    pub plan: Plan,
    /// Relative to the allocation's directory.
    pub destination: PathBuf,
    /// Name of the staging directory.
    pub staging: String,
    pub progress: ProgressSink,
    pub stop: Stop,
}

impl Run {
    pub(super) fn run(mut self) -> Result<Fetched, FetchError> {
        let source = self.request.artifact.source.clone();
        let result = self.in_staging();
        let path = self.request.alloc_dir.join(&self.staging);
        if let Err(error) = std::fs::remove_dir_all(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "what an artifact left behind could not be removed");
        }
        result.map_err(|failure| {
            let (kind, detail) = self.stop.reason().unwrap_or((failure.kind, failure.detail));
            FetchError::new(kind, &source, detail)
        })
    }

    fn in_staging(&mut self) -> Result<Fetched, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let alloc = rustix::fs::open(&self.request.alloc_dir, flags, Mode::empty())
            .map_err(|e| Failure::node("open the allocation's directory", e))?;
        self.sweep(&alloc)?;
        rustix::fs::mkdirat(&alloc, &self.staging, Mode::from_raw_mode(0o700))
            .map_err(|e| Failure::node("make a staging directory", e))?;
        let staging = inspect::open_directory(&alloc, self.staging.as_ref())?;
        if let Some(Ids { uid, gid }) = self.inner.config.ids {
            rustix::fs::fchown(&staging, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| Failure::node("give the staging directory to the child", e))?;
        }
        let (staged, downloaded, from_cache) = self.child(&staging)?;
        if let Some((kind, detail)) = self.stop.reason() {
            return Err(Failure::new(kind, detail));
        }
        if !from_cache {
            self.keep(&staging);
        }
        let (destination, found) = self.deliver(&alloc, &staging, staged)?;
        Ok(Fetched {
            destination: self.request.alloc_dir.join(destination),
            downloaded,
            bytes: found.bytes,
            files: found.files,
            from_cache,
            fingerprint: fingerprint(&self.request.artifact),
        })
    }

    /// Removes staging directories of daemons that died.
    fn sweep(&self, alloc: &OwnedFd) -> Result<(), Failure> {
        let ours = format!("{STAGING}{}-", self.inner.instance);
        for name in inspect::names(alloc)? {
            let text = name.to_string_lossy();
            if text.starts_with(STAGING) && !text.starts_with(&ours) {
                std::fs::remove_dir_all(self.request.alloc_dir.join(&name))
                    .map_err(|e| Failure::node("remove what an earlier daemon left", e))?;
            }
        }
        Ok(())
    }

    /// Has the child fetch into `staging`.
    fn child(&mut self, staging: &OwnedFd) -> Result<(Staged, u64, bool), Failure> {
        let config = &self.inner.config;
        let cached = self.plan.checksum.as_ref().and_then(|sum| self.inner.cache.as_ref()?.find(sum));
        let from_cache = cached.is_some();
        let given = match (cached, std::mem::replace(&mut self.request.source, Source::Network)) {
            (Some(file), _) => Some(OwnedFd::from(file)),
            (None, Source::Descriptor { file, .. }) => Some(file),
            (None, Source::Network) => None,
        };
        let order = Order {
            plan: self.plan.clone(),
            limits: config.limits.clone(),
            network: config.network.clone(),
            ids: config.ids,
            isolate: config.filesystem_isolation,
            extra_paths: config.extra_paths.clone(),
            ssh_known_hosts: config.ssh_known_hosts.clone(),
            staging: self.request.alloc_dir.join(&self.staging),
            given: given.is_some(),
        };
        let descriptors: Vec<BorrowedFd<'_>> =
            std::iter::once(staging.as_fd()).chain(given.as_ref().map(|file| file.as_fd())).collect();
        let url = redacted(&self.request.artifact.source);
        let progress = |bytes, total| self.progress.report(Progress { url: url.clone(), bytes, total });
        let child = |detail: String| Failure::new(FetchErrorKind::Child, detail);
        match process::run(config, &order, &descriptors, &self.stop, progress) {
            Ok(Some(Report::Done { staged, downloaded })) => {
                Ok((staged, if from_cache { 0 } else { downloaded }, from_cache))
            }
            Ok(Some(Report::Failed { kind, detail })) => Err(Failure::new(kind, detail)),
            Ok(Some(Report::Progress { .. }) | None) => Err(child(
                "the fetching child ended without an answer: out of memory, or a limit of its own".to_owned(),
            )),
            Err(error) => Err(child(format!("the fetching child: {error}"))),
        }
    }

    /// Keeps the download for the next who wants the same bytes. Whether that works is nobody's failure.
    fn keep(&self, staging: &OwnedFd) {
        let (Some(cache), Some(checksum)) = (&self.inner.cache, &self.plan.checksum) else { return };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = rustix::fs::openat(staging, DOWNLOAD, flags, Mode::empty()) else { return };
        if let Err(error) = cache.keep(checksum, File::from(file)) {
            tracing::debug!(%error, "a download was not kept");
        }
    }

    /// Looks at what was staged and moves it; where to, relative to the allocation's directory.
    fn deliver(
        &self,
        alloc: &OwnedFd,
        staging: &OwnedFd,
        staged: Staged,
    ) -> Result<(PathBuf, inspect::Found), Failure> {
        let owner = self.request.owner.filter(|_| self.inner.config.ids.is_some());
        let place = Place::new(alloc, owner);
        let (from, name) = match staged {
            Staged::Tree => {
                // A child that made a directory where a file was asked for is not believed.
                if self.plan.mode == ArtifactMode::File {
                    return Err(Failure::new(FetchErrorKind::Child, "a directory came where a file was asked for"));
                }
                let found = inspect::tree(staging, TREE, owner, self.inner.config.limits.unpacked_size)?;
                place.tree(staging, Path::new(TREE), &self.destination)?;
                return Ok((self.destination.clone(), found));
            }
            Staged::Raw => (DOWNLOAD, self.plan.name.as_str()),
            Staged::File => (FILE, unpacked_name(&self.plan.name)),
        };
        let to = self.file_destination(name);
        let found = inspect::file(staging, from, owner)?;
        place.file(staging, Path::new(from), &to)?;
        Ok((to, found))
    }

    /// A file goes into the destination under its name; with mode `file` the destination is the file, unless it ends as a
    /// directory does.
    fn file_destination(&self, name: &str) -> PathBuf {
        let exact = self.plan.mode == ArtifactMode::File && !self.request.artifact.destination.ends_with('/');
        if exact { self.destination.clone() } else { self.destination.join(name) }
    }
}
