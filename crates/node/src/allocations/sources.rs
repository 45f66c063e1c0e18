//! Artifacts the daemon fetches itself, for only it can: objects over its connection to NATS, images by the store of this
//! node. What they hold is as foreign as anything else: the getter's child checks and unpacks it.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moat_drivers::lasting::{self, Part};
use moat_getter::Source;
use moat_model::spec::RootSpec;
use moat_model::{ErrorKind, Namespace};
use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::front::Directory;
use super::ground::Ground;
use crate::config::jobs::ArtifactConfig;
use crate::error::{Error, Result};

/// What is read at once: a chunk of an object store.
const PIECE: usize = 128 << 10;
/// A store that sends nothing for so long has failed; the whole is bounded by its size.
const STALL_MAX: Duration = Duration::from_secs(10);

/// An object of a bucket its namespace may read. `directory` is what is reached over NATS.
pub(super) async fn object(
    ground: &Ground,
    directory: Option<Arc<dyn Directory>>,
    (bucket, key): (&str, &str),
) -> Result<Source> {
    let config = &ground.shared.base.jobs.artifact;
    let what = format!("nats://{bucket}/{key}");
    check_bucket(config, &ground.job.namespace, bucket)
        .map_err(|why| Error::new(ErrorKind::Denied, format!("{what}: {why}")))?;
    let directory = directory.ok_or_else(|| Error::new(ErrorKind::Unavailable, "NATS is not reached yet"))?;
    let mut object = directory.object(bucket, key).await?;
    let mut file = unnamed(ground.dirs().root())?;
    receive(&mut object, &mut file, config.http_bytes_max).await.map_err(|e| Error::caused_by(e.kind, what, e))?;
    let name = key.rsplit('/').next().unwrap_or(key).to_owned();
    Ok(Source::Descriptor { file: file.into(), name })
}

/// The name of the bucket that is a namespace's own.
fn own_bucket(namespace: &Namespace) -> String {
    format!("moat_objects_{namespace}")
}

/// Everybody's job would read everybody's objects otherwise: the daemon may read them all.
fn check_bucket(config: &ArtifactConfig, namespace: &Namespace, bucket: &str) -> std::result::Result<(), String> {
    let own = own_bucket(namespace);
    if bucket == own || config.buckets.holds(bucket) {
        return Ok(());
    }
    Err(format!("jobs of namespace {namespace} read bucket {own}, and those named in buckets of [jobs.artifact]"))
}

async fn receive(from: &mut (dyn AsyncRead + Send + Unpin), to: &mut File, bytes_max: u64) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut bytes = 0_u64;
    loop {
        let read = tokio::time::timeout(STALL_MAX, from.read(&mut piece)).await;
        let read = read.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let n = read.map_err(|e| match e.kind() {
            // The client's own check of the digest.
            std::io::ErrorKind::InvalidData => {
                Error::new(ErrorKind::Unavailable, "its bytes are not those its digest promises; upload it again")
            }
            _ => Error::caused_by(ErrorKind::Unavailable, "read it", e),
        })?;
        let Some(read) = piece.get(..n).filter(|read| !read.is_empty()) else { break };
        bytes = bytes.saturating_add(n as u64);
        if bytes > bytes_max {
            let why = format!("it is larger than {bytes_max} bytes (http_size_max of [jobs.artifact])");
            return Err(Error::invalid("artifact", why));
        }
        // Of one piece, into the page cache; handing each to another thread would cost more.
        to.write_all(read).map_err(unwritten)?;
    }
    to.rewind().map_err(unwritten)
}

/// The files of an image, all its layers together, as an archive.
pub(super) async fn image(ground: &Ground, reference: &str) -> Result<Source> {
    let resolved = ground.shared.base.templates.resolve_image(reference).await?;
    let RootSpec::Layers { layers } = resolved.root else {
        return Err(Error::invalid("artifact", format!("oci://{reference}: the image has no layers")));
    };
    let parts: Vec<Part> = layers.into_iter().map(|layer| Part::Layer(layer.path)).collect();
    let root = ground.dirs().root().to_owned();
    // Nobody else's, also while one that was called off is still at it; what a dead daemon leaves goes with the allocation.
    let scratch = root.join(format!(".image-{}", uuid::Uuid::new_v4()));
    let stop = Stop::default();
    let flag = Arc::clone(&stop.0);
    let pins = resolved.pins;
    let packing = tokio::task::spawn_blocking(move || {
        let packed = pack(&parts, &root, &scratch, &flag);
        drop(pins);
        packed
    });
    let file = packing.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "pack an image", e))?;
    let file = file.map_err(|e| Error::caused_by(e.kind, format!("oci://{reference}"), e))?;
    Ok(Source::Descriptor { file: file.into(), name: "image.tar".to_owned() })
}

/// Ends the packing of whoever does not wait for it any more.
#[derive(Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn pack(parts: &[Part], root: &Path, scratch: &Path, stop: &AtomicBool) -> Result<File> {
    let packed = lasting::flatten(parts, scratch, 0, stop).and_then(|_| {
        let mut file = unnamed(root)?;
        lasting::export(scratch, 0, &mut file, stop)?;
        file.rewind().map_err(unwritten)?;
        Ok(file)
    });
    lasting::remove(scratch)?;
    packed
}

/// A file that is gone when nobody has it open.
fn unnamed(dir: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let opened = openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR);
    opened.map(File::from).map_err(|e| unwritten(e.into()))
}

fn unwritten(error: std::io::Error) -> Error {
    let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let kind = if full { ErrorKind::Exhausted } else { ErrorKind::Internal };
    Error::caused_by(kind, "keep an artifact until it is unpacked", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::jobs::Buckets;

    #[test]
    fn a_namespace_reads_its_own_bucket_and_what_the_operator_names() {
        let red: Namespace = "red".parse().unwrap();
        let mut config = ArtifactConfig::default();
        let mut may = |buckets: Buckets, bucket| {
            config.buckets = buckets;
            check_bucket(&config, &red, bucket).is_ok()
        };
        let named = || Buckets::Named(["apps".to_owned()].into());
        assert!(may(Buckets::default(), "moat_objects_red") && may(named(), "moat_objects_red"));
        assert!(!may(Buckets::default(), "moat_objects_blue") && !may(named(), "moat_objects_blue"));
        assert!(!may(Buckets::default(), "apps") && may(named(), "apps"));
        assert!(may(Buckets::All, "moat_objects_blue"));
        config.buckets = named();
        let why = check_bucket(&config, &red, "other").unwrap_err();
        assert!(why.contains("moat_objects_red") && why.contains("buckets of [jobs.artifact]"), "{why}");
    }

    #[tokio::test]
    async fn an_object_larger_than_allowed_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = unnamed(dir.path()).unwrap();
        let bytes = vec![7_u8; 3 * PIECE];
        receive(&mut bytes.as_slice(), &mut file, 3 * PIECE as u64).await.unwrap();
        assert_eq!(std::io::read_to_string(&mut file).unwrap().len(), bytes.len());
        let error = receive(&mut bytes.as_slice(), &mut file, 3 * PIECE as u64 - 1).await.unwrap_err();
        assert!(error.to_string().contains("http_size_max"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
