//! From a plan to what lies in the staging directory.

use std::fs::File;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use moat_model::job::ArtifactMode;
use url::Url;

use super::confine::Place;
use super::http::{Http, Wanted, headers};
use super::s3::Store;
use super::tree::Tree;
use super::unpack::{self, Format};
use super::{Failure, ProgressReports, git};
use crate::error::FetchErrorKind;
use crate::origin::{ArchiveWish, Checksum, Fetch, Plan, S3};
use crate::wire::{DOWNLOAD, FILE, Order, Report, Staged, TREE};

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Everything one fetch needs.
pub(super) struct Job<'a> {
    pub order: &'a Order,
    pub place: &'a Place,
    pub progress: ProgressReports,
}

/// Fetches, compares, unpacks.
pub(super) fn fetch(job: &Job<'_>, given: Option<File>) -> Result<Report, Failure> {
    let Plan { fetch, checksum, .. } = &job.order.plan;
    let (came, downloaded) = match given {
        Some(file) => given_file(job, file, checksum.as_ref())?,
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| Failure::node("start", e))?;
            let limit = fetch.timeout(&job.order.limits);
            runtime.block_on(in_time(limit, over_network(job, fetch)))?
        }
    };
    let staged = match came {
        Came::File => unpacked(job)?,
        Came::Tree => Staged::Tree,
    };
    let staged = within(&job.order.plan, staged)?;
    Ok(Report::Done { staged, downloaded })
}

/// What came, before it is unpacked.
enum Came {
    /// One file, in [`DOWNLOAD`], with the checksum it should have.
    File,
    /// A directory, in [`TREE`].
    Tree,
}

async fn in_time<T>(limit: Duration, what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(limit, what).await {
        Ok(result) => result,
        Err(_) => {
            let detail = format!("it took longer than {} s", limit.as_secs_f64());
            Err(Failure::new(FetchErrorKind::Timeout, detail))
        }
    }
}

async fn over_network(job: &Job<'_>, fetch: &Fetch) -> Result<(Came, u64), Failure> {
    let Order { plan, limits, network, .. } = job.order;
    match fetch {
        Fetch::Http(wanted) => {
            let url: Url = wanted
                .url
                .parse()
                .map_err(|e| Failure::new(FetchErrorKind::BadSource, format!("not an address: {e}")))?;
            let http = Http::new(limits, network, wanted.insecure)?;
            let mut file = create(DOWNLOAD)?;
            let wanted = Wanted {
                address: &|| Ok(url.clone()),
                headers: headers(&wanted.headers)?,
                checksum: plan.checksum.as_ref(),
                progress: &job.progress,
            };
            let got = http.download(&wanted, &mut file).await?;
            compare(plan.checksum.as_ref(), got.digest.as_deref())?;
            Ok((Came::File, got.bytes))
        }
        Fetch::S3(s3) => from_s3(job, s3).await,
        Fetch::Git(wanted) => git::clone(wanted, job.order, job.place).await.map(|()| (Came::Tree, 0)),
        Fetch::Nats { .. } | Fetch::Oci { .. } => {
            Err(Failure::new(FetchErrorKind::Child, "the node fetches these itself, and did not"))
        }
    }
}

async fn from_s3(job: &Job<'_>, s3: &S3) -> Result<(Came, u64), Failure> {
    let Order { plan, limits, network, .. } = job.order;
    let store = Store::new(s3, Http::new(limits, network, s3.insecure)?)?;
    let checksum = plan.checksum.as_ref();
    let packed = format(plan).is_some();
    let whole = s3.key.is_empty() || s3.key.ends_with('/');
    if !whole && (plan.mode != ArtifactMode::Dir || packed) {
        let mut file = create(DOWNLOAD)?;
        if let Some(got) = store.object(&s3.key, checksum, &job.progress, &mut file).await? {
            compare(checksum, got.digest.as_deref())?;
            return Ok((Came::File, got.bytes));
        }
        if plan.mode == ArtifactMode::File {
            return Err(Failure::new(FetchErrorKind::Status, format!("there is no object {:?}", s3.key)));
        }
    }
    if plan.mode == ArtifactMode::File {
        return Err(Failure::new(FetchErrorKind::BadSource, "mode: keys that begin alike are a directory, not a file"));
    }
    if checksum.is_some() {
        let detail = "options.checksum: there is no such object, and a directory of objects has no checksum";
        return Err(Failure::new(FetchErrorKind::BadOption, detail));
    }
    let mut tree = Tree::create(job.place.directory.as_fd(), TREE, limits)?;
    let bytes = store.directory(&s3.key, limits, &job.progress, &mut tree).await?;
    Ok((Came::Tree, bytes))
}

/// What the daemon fetched: copied, for the next step needs a file of its own in any case but an archive's.
fn given_file(job: &Job<'_>, mut given: File, checksum: Option<&Checksum>) -> Result<(Came, u64), Failure> {
    let mut hasher = checksum.map(Checksum::hasher);
    let mut file = create(DOWNLOAD)?;
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let got = given.read(&mut chunk).map_err(|e| Failure::node("read what was fetched", e))?;
        let Some(part) = chunk.get(..got).filter(|part| !part.is_empty()) else { break };
        bytes += got as u64;
        if bytes > job.order.limits.http_max_size {
            let detail = format!("more than {} bytes (http_max_size)", job.order.limits.http_max_size);
            return Err(Failure::new(FetchErrorKind::Size, detail));
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(part);
        }
        file.write_all(part).map_err(|e| Failure::node("write the download", e))?;
    }
    compare(checksum, hasher.map(crate::origin::Hasher::finish).as_deref())?;
    Ok((Came::File, bytes))
}

fn compare(checksum: Option<&Checksum>, digest: Option<&[u8]>) -> Result<(), Failure> {
    let Some(checksum) = checksum else { return Ok(()) };
    let mismatch = |detail| Failure::new(FetchErrorKind::ChecksumMismatch, detail);
    checksum.compare(digest.unwrap_or_default()).map_err(mismatch)
}

/// The format the download is unpacked from; nothing if it stays a file.
fn format(plan: &Plan) -> Option<Format> {
    match &plan.archive {
        ArchiveWish::Never => None,
        ArchiveWish::As(extension) => unpack::format_of(extension),
        ArchiveWish::ByName => unpack::format_by_name(&plan.name),
    }
}

fn unpacked(job: &Job<'_>) -> Result<Staged, Failure> {
    let Order { plan, limits, .. } = job.order;
    let dir = plan.mode == ArtifactMode::Dir;
    match format(plan) {
        None if dir => {
            let detail = format!("mode: dir wants an archive, {} is none by its name", plan.name);
            Err(Failure::new(FetchErrorKind::Archive, detail))
        }
        None => Ok(Staged::Raw),
        Some(Format::One(_)) if dir => {
            let detail = format!("mode: dir wants a directory, {} is one file", plan.name);
            Err(Failure::new(FetchErrorKind::Archive, detail))
        }
        Some(Format::One(packing)) => {
            unpack::into_file(open(DOWNLOAD)?, packing, &mut create(FILE)?, limits)?;
            Ok(Staged::File)
        }
        Some(format) => {
            let mut tree = Tree::create(job.place.directory.as_fd(), TREE, limits)?;
            unpack::into_tree(open(DOWNLOAD)?, format, &mut tree, limits)?;
            Ok(Staged::Tree)
        }
    }
}

/// Only the sub-directory that was asked for.
fn within(plan: &Plan, staged: Staged) -> Result<Staged, Failure> {
    let Some(subdir) = &plan.subdir else { return Ok(staged) };
    let missing = |why: &str| Failure::new(FetchErrorKind::BadSource, format!("the directory //{subdir}: {why}"));
    if staged != Staged::Tree {
        return Err(missing("it is no archive, so there is no directory in it"));
    }
    // Each part a real directory: a link would be followed to somebody else's.
    let mut path = Path::new(TREE).to_owned();
    for part in subdir.split('/') {
        path.push(part);
        let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|about| about.is_dir());
        if !is_dir {
            return Err(missing("there is none in it"));
        }
    }
    let whole = "whole";
    std::fs::rename(TREE, whole).map_err(|e| Failure::node("set the rest aside", e))?;
    std::fs::rename(Path::new(whole).join(subdir), TREE).map_err(|e| Failure::node("take the directory out", e))?;
    Ok(Staged::Tree)
}

fn create(name: &str) -> Result<File, Failure> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).open(name).map_err(|e| Failure::node("make a file", e))
}

fn open(name: &str) -> Result<File, Failure> {
    File::open(name).map_err(|e| Failure::node("read the download", e))
}
