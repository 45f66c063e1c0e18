//! From a NATS object store to a file with the right digest.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind, ObjectStoreErrorKind};
use async_nats::jetstream::object_store::{GetErrorKind, Object};
use moat_model::ErrorKind;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;

use super::{ArtifactStore, PARTIAL, PinnedArtifact, elf};

/// One chunk of an object store.
const CHUNK: usize = 128 << 10;

/// A store that sends nothing for this long has failed; the whole is bounded by its size.
const STALL_MAX: Duration = Duration::from_secs(10);

/// What to fetch and what it must be.
#[derive(Debug, Clone)]
pub struct FetchRequest<'a> {
    /// Bucket.
    pub bucket: &'a str,
    /// Key in it.
    pub key: &'a str,
    /// JetStream domain of the bucket.
    pub domain: Option<&'a str>,
    /// Digest the signer vouches for.
    pub sha256: Option<&'a str>,
    /// Most bytes taken.
    pub bytes_max: Option<u64>,
    /// Refuse what needs a loader.
    pub must_be_static: bool,
}

/// Why a program was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The bucket does not exist in this account or domain.
    #[error("object store bucket {bucket:?} does not exist")]
    NoBucket {
        /// Which.
        bucket: String,
    },
    /// The object does not.
    #[error("no object {key:?} in bucket {bucket:?}")]
    NoObject {
        /// Where.
        bucket: String,
        /// Which.
        key: String,
    },
    /// NATS or JetStream is not there.
    #[error("cannot read object {key:?} from bucket {bucket:?}")]
    Unavailable {
        /// Where.
        bucket: String,
        /// Which.
        key: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Too large for this node.
    #[error("the artifact has {size} bytes; this node takes at most {bytes_max} (limits.artifact_size_max)")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The bound.
        bytes_max: u64,
    },
    /// Not the bytes the store promised.
    #[error(
        "checksum mismatch: the object store promises SHA-256 {promised}, what arrived has {found}; upload it again"
    )]
    Corrupt {
        /// As promised.
        promised: String,
        /// As found.
        found: String,
    },
    /// Not the bytes the signer vouches for.
    #[error("checksum mismatch: the signed claims name SHA-256 {claimed}, the artifact has {found}")]
    NotAsClaimed {
        /// As signed.
        claimed: String,
        /// As found.
        found: String,
    },
    /// Not a program that runs here.
    #[error(transparent)]
    NotRunnable(#[from] elf::NotRunnable),
    /// Our own disk.
    #[error("cannot keep the artifact in {dir}")]
    Disk {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl FetchError {
    /// What the caller may decide by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoBucket { .. } | Self::NoObject { .. } => ErrorKind::NotFound,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::TooLarge { .. } => ErrorKind::Exhausted,
            Self::Corrupt { .. } | Self::NotAsClaimed { .. } | Self::NotRunnable(_) => ErrorKind::InvalidSpec,
            Self::Disk { .. } => ErrorKind::Internal,
        }
    }
}

/// Removes the file unless it was kept.
struct Partial(Option<PathBuf>);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl ArtifactStore {
    /// Fetches a program, or finds it here under the digest the store promises. After an error nothing of it is left.
    pub async fn fetch(
        &self,
        client: &async_nats::Client,
        request: &FetchRequest<'_>,
    ) -> Result<PinnedArtifact, FetchError> {
        let object = open(client, request.domain, request.bucket, request.key).await?;
        let size = object.info().size as u64;
        fits(size, request)?;
        let promised = object.info().digest.as_deref().and_then(promised_digest);
        if let (Some(promised), Some(claimed)) = (&promised, request.sha256)
            && promised != claimed
        {
            return Err(FetchError::NotAsClaimed { claimed: claimed.to_owned(), found: promised.clone() });
        }
        if let Some(pinned) = promised.as_deref().and_then(|p| self.pin(p)).filter(|p| p.size() == size) {
            check_program(pinned.path(), request.must_be_static).await?;
            return Ok(pinned);
        }
        let pinned = self.receive(object, promised, request).await?;
        self.evict();
        Ok(pinned)
    }

    async fn receive(
        &self,
        mut object: Object,
        promised: Option<String>,
        request: &FetchRequest<'_>,
    ) -> Result<PinnedArtifact, FetchError> {
        let disk = |source| FetchError::Disk { dir: self.dir().to_owned(), source };
        let path = self.dir().join(format!("{PARTIAL}{}", uuid::Uuid::new_v4()));
        let mut partial = Partial(Some(path.clone()));
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(disk)?;
        let mut digest = Sha256::new();
        let mut size: u64 = 0;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = tokio::time::timeout(STALL_MAX, object.read(&mut chunk)).await;
            let read = read.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            let n = match read {
                Ok(0) => break,
                Ok(n) => n,
                // The client's own check: the promise is broken, whatever the bytes are.
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(FetchError::Corrupt {
                        promised: promised.unwrap_or_default(),
                        found: "another digest".to_owned(),
                    });
                }
                Err(e) => return Err(unavailable(request.bucket, request.key, e)),
            };
            let bytes = chunk.get(..n).unwrap_or_default();
            size = size.saturating_add(n as u64);
            fits(size, request)?;
            digest.update(bytes);
            // A write of one chunk into the page cache; handing each to another thread would cost more than it.
            file.write_all(bytes).map_err(disk)?;
        }
        let found = hex::encode(digest.finalize());
        if let Some(promised) = promised.filter(|p| *p != found) {
            return Err(FetchError::Corrupt { promised, found });
        }
        if let Some(claimed) = request.sha256.filter(|c| *c != found) {
            return Err(FetchError::NotAsClaimed { claimed: claimed.to_owned(), found });
        }
        check_program(path.clone(), request.must_be_static).await?;
        self.keep(file, &path, &found).await.map_err(disk)?;
        partial.0 = None;
        self.pin(&found).ok_or_else(|| disk(std::io::ErrorKind::NotFound.into()))
    }

    /// Read-only for everybody, on disk, and only then under its name.
    async fn keep(&self, file: std::fs::File, from: &Path, sha256: &str) -> std::io::Result<()> {
        let (from, to) = (from.to_owned(), self.dir().join(sha256));
        tokio::task::spawn_blocking(move || {
            file.set_permissions(std::fs::Permissions::from_mode(0o555))?;
            file.sync_all()?;
            std::fs::rename(from, to)
        })
        .await
        .map_err(std::io::Error::other)?
    }
}

/// Begins to read an object.
pub(crate) async fn open(
    client: &async_nats::Client,
    domain: Option<&str>,
    bucket: &str,
    key: &str,
) -> Result<Object, FetchError> {
    let context = match domain.filter(|d| !d.is_empty()) {
        Some(domain) => jetstream::with_domain(client.clone(), domain),
        None => jetstream::new(client.clone()),
    };
    let store = context.get_object_store(bucket).await.map_err(|e| match e.kind() {
        ObjectStoreErrorKind::InvalidBucketName => FetchError::NoBucket { bucket: bucket.to_owned() },
        ObjectStoreErrorKind::GetStore if is_not_found(&e) => FetchError::NoBucket { bucket: bucket.to_owned() },
        _ => unavailable(bucket, key, e),
    })?;
    store.get(key).await.map_err(|e| match e.kind() {
        GetErrorKind::NotFound | GetErrorKind::InvalidName => {
            FetchError::NoObject { bucket: bucket.to_owned(), key: key.to_owned() }
        }
        _ => unavailable(bucket, key, e),
    })
}

/// Whether JetStream itself said that there is no such stream, rather than nobody answering.
fn is_not_found(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<GetStreamError>() {
            let GetStreamErrorKind::JetStream(error) = error.kind() else { return false };
            return error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND;
        }
        next = error.source();
    }
    false
}

fn unavailable(bucket: &str, key: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
    FetchError::Unavailable { bucket: bucket.to_owned(), key: key.to_owned(), source: source.into() }
}

fn fits(size: u64, request: &FetchRequest<'_>) -> Result<(), FetchError> {
    match request.bytes_max.filter(|max| size > *max) {
        Some(bytes_max) => Err(FetchError::TooLarge { size, bytes_max }),
        None => Ok(()),
    }
}

/// `SHA-256=<base64url>` as hex.
fn promised_digest(text: &str) -> Option<String> {
    let encoded = text.strip_prefix("SHA-256=")?;
    let bytes = data_encoding::BASE64URL
        .decode(encoded.as_bytes())
        .or_else(|_| data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()))
        .ok()?;
    (bytes.len() == 32).then(|| hex::encode(bytes))
}

async fn check_program(path: PathBuf, must_be_static: bool) -> Result<(), FetchError> {
    let checked = tokio::task::spawn_blocking(move || elf::check(&path, must_be_static)).await;
    checked.map_err(|e| elf::NotRunnable::Unreadable(std::io::Error::other(e)))??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_the_object_store_are_read() {
        let bytes = Sha256::digest(b"x");
        let text = format!("SHA-256={}", data_encoding::BASE64URL.encode(&bytes));
        assert_eq!(promised_digest(&text), Some(hex::encode(bytes)));
        for bad in ["", "SHA-256=", "SHA-512=AA==", "SHA-256=AA=="] {
            assert_eq!(promised_digest(bad), None, "{bad}");
        }
    }
}
