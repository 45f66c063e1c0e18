//! A repository through its mirrors and its registry: manifests, and blobs as pieces in order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use moat_model::ErrorKind;
use reqwest::header::{ACCEPT, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Client, Response, StatusCode, redirect};
use url::Url;

use super::credentials::{self, Credentials, Found, Secret};
use super::endpoint::{self, Endpoint};
use super::retry::{Attempts, Failure, Patience};
use crate::Digest;
use crate::error::{Error, Result};
use crate::manifest::{self, DOCUMENT_MAX, Descriptor};
use crate::reference::{DEFAULT_REGISTRY, ImageRef};
use crate::store::StoreConfig;

/// Where docker's own registry really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Redirects followed: a registry sends us to its blob store, which may send us to a mirror of its own.
const REDIRECTS_MAX: usize = 5;

/// Failures in all that one blob may have, however much came between them: a hostile registry gives a byte and breaks.
const BREAKS_MAX: u32 = 100;

/// All registries: clients and what the operator set.
#[derive(Debug)]
pub(crate) struct Registries {
    /// Through the proxy of the environment, if there is one.
    client: Client,
    /// Never through a proxy: for this machine.
    local: Client,
    insecure: Arc<BTreeSet<String>>,
    mirrors: BTreeMap<String, Vec<String>>,
    docker_config: Option<PathBuf>,
    patience: Patience,
    /// Loopback registries that turned out to speak TLS or not.
    plain: Mutex<BTreeMap<String, bool>>,
}

impl Registries {
    /// Builds the clients; asks nobody.
    pub fn new(config: &StoreConfig, patience: Patience) -> Result<Self> {
        // Whoever was first in this process has chosen; it makes no difference here.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let insecure = Arc::new(config.insecure_registries.clone());
        let build = |local: bool| {
            let builder = Client::builder()
                .user_agent(concat!("moat/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(patience.connect)
                .redirect(redirects(Arc::clone(&insecure)));
            let builder = if local { builder.no_proxy() } else { builder };
            builder.build().map_err(|e| Error::caused_by(ErrorKind::Internal, "make a client for registries", e))
        };
        Ok(Self {
            client: build(false)?,
            local: build(true)?,
            insecure,
            mirrors: config.mirrors.clone(),
            docker_config: config.docker_config.clone(),
            patience,
            plain: Mutex::default(),
        })
    }

    /// The places of a repository, mirrors first. Given credentials are for its own registry only.
    pub async fn open(&self, reference: &ImageRef, auth: Option<(String, String)>) -> Result<Repository> {
        let mut endpoints = Vec::new();
        for mirror in self.mirrors.get(&reference.registry).into_iter().flatten() {
            let found = self.credentials(mirror, &reference.repository).await?;
            endpoints.push(self.endpoint(mirror, &reference.repository, found).await?);
        }
        let found = match auth {
            Some((user, password)) => Found {
                credentials: Some(Credentials::Basic { user, password: Secret(password) }),
                origin: "the request".to_owned(),
            },
            None => self.credentials(&reference.registry, &reference.repository).await?,
        };
        endpoints.push(self.endpoint(&reference.registry, &reference.repository, found).await?);
        Ok(Repository { endpoints, patience: self.patience })
    }

    async fn credentials(&self, registry: &str, repository: &str) -> Result<Found> {
        credentials::find(self.docker_config.as_deref(), registry, repository, self.patience).await
    }

    async fn endpoint(&self, registry: &str, repository: &str, found: Found) -> Result<Endpoint> {
        let host = if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/{repository}/"))
                .map_err(|e| Error::caused_by(ErrorKind::InvalidSpec, format!("registry {host:?}"), e))
        };
        let secure = url("https")?;
        let loopback = secure.host_str().is_some_and(endpoint::is_loopback);
        let plain = self.insecure.contains(host) || loopback && self.speaks_plain(host).await;
        Ok(Endpoint {
            client: if loopback { self.local.clone() } else { self.client.clone() },
            host: host.to_owned(),
            base: if plain { url("http")? } else { secure },
            repository: repository.to_owned(),
            insecure: Arc::clone(&self.insecure),
            patience: self.patience,
            found,
            authorization: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// Whether a registry of this machine speaks plain HTTP, which nearly all do. Servers of TLS answer a plain request
    /// with 400 or with nothing.
    async fn speaks_plain(&self, host: &str) -> bool {
        if let Some(known) = self.plain.lock().unwrap_or_else(PoisonError::into_inner).get(host) {
            return *known;
        }
        let asked = self.local.get(format!("http://{host}/v2/")).send();
        let plain = match tokio::time::timeout(self.patience.connect, asked).await {
            Ok(Ok(response)) => response.status() != StatusCode::BAD_REQUEST,
            // Not there: whatever is asked next says so better. Not remembered.
            Ok(Err(e)) if e.is_connect() => return true,
            Ok(Err(_)) | Err(_) => false,
        };
        self.plain.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), plain);
        plain
    }
}

fn redirects(insecure: Arc<BTreeSet<String>>) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let from_plain = attempt.previous().last().is_some_and(|url| url.scheme() == "http");
        let plain = attempt.url().scheme() == "http";
        if attempt.previous().len() > REDIRECTS_MAX {
            attempt.error("redirected too often")
        } else if attempt.url().scheme() == "https"
            || plain && from_plain && endpoint::may_be_plain(attempt.url(), &insecure)
        {
            attempt.follow()
        } else {
            attempt.error("redirected to something that is not HTTPS")
        }
    })
}

/// A manifest or index as it came.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    /// Of the bytes, computed here.
    pub digest: Digest,
    /// As sent.
    pub bytes: Vec<u8>,
}

/// Takes the pieces of one blob.
pub(crate) trait Sink: Send {
    /// How many bytes it has: where to go on.
    fn have(&self) -> u64;
    /// The next piece.
    fn put(&mut self, piece: Bytes) -> impl Future<Output = Result<()>> + Send;
    /// Forget all: it begins again.
    fn restart(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// A document to get as a whole.
struct Small {
    path: String,
    what: String,
    expected: Option<Digest>,
    max: u64,
}

/// One repository, wherever it is to be had.
#[derive(Debug)]
pub(crate) struct Repository {
    endpoints: Vec<Endpoint>,
    patience: Patience,
}

impl Repository {
    /// A manifest or index by tag or digest, from the first place that has it.
    pub async fn manifest(&self, tag: &str, digest: Option<Digest>) -> Result<Fetched> {
        let name = digest.map_or_else(|| tag.to_owned(), |digest| digest.to_string());
        let path = format!("manifests/{name}");
        let what = format!("get the manifest {name}");
        self.small(&Small { path, what, expected: digest, max: DOCUMENT_MAX }).await
    }

    /// A small blob as a whole: the configuration.
    pub async fn document(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        let digest = blob.digest;
        if blob.size > DOCUMENT_MAX {
            let text = format!("the configuration {digest} has {} bytes; the most is {DOCUMENT_MAX}", blob.size);
            return Err(Error::new(ErrorKind::InvalidSpec, text));
        }
        let (path, what) = (format!("blobs/{digest}"), format!("get {digest}"));
        let small = Small { path, what, expected: Some(digest), max: blob.size };
        self.small(&small).await.map(|fetched| fetched.bytes)
    }

    /// From the first place that has it; the last failure is that of the registry itself.
    async fn small(&self, small: &Small) -> Result<Fetched> {
        let mut last = None;
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let mut attempts = Attempts::new(self.patience);
            let failed = loop {
                match self.small_once(endpoint, small).await {
                    Ok(fetched) => return Ok(fetched),
                    // A mirror that does not answer is not waited for: there is another place.
                    Err(failure) if index + 1 < self.endpoints.len() => break failure.error,
                    Err(failure) => match attempts.pause(failure).await {
                        Ok(()) => {}
                        Err(error) => break error,
                    },
                }
            };
            tracing::debug!(host = endpoint.host, error = failed.chain(), "a registry did not help");
            last = Some(failed);
        }
        Err(last.unwrap_or_else(nowhere))
    }

    async fn small_once(&self, endpoint: &Endpoint, small: &Small) -> std::result::Result<Fetched, Failure> {
        let what = format!("{} of {}", small.what, endpoint.repository);
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(manifest::ACCEPT));
        let response = endpoint.get(&small.path, &headers, &what).await?;
        if response.status() != StatusCode::OK {
            return Err(endpoint.refused(response, &what).await);
        }
        let claimed = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok()?.parse().ok());
        let bytes = endpoint::body(response, small.max, &what, self.patience).await?;
        let digest = Digest::of(&bytes);
        match small.expected.or(claimed) {
            Some(expected) if expected != digest => {
                Err(Failure::passing(mismatch(&what, &endpoint.host, expected, digest)))
            }
            _ => Ok(Fetched { digest, bytes }),
        }
    }

    /// All of a blob into `sink`, from where it stands. Exactly `size` bytes, or an error; their digest is the sink's
    /// business. A broken connection is gone on with by `Range`, from the same place or the next. The first `skipped`
    /// mirrors are not asked.
    pub async fn blob(&self, blob: &Descriptor, sink: &mut impl Sink, skipped: usize) -> Result<()> {
        let mut last = None;
        let skipped = skipped.min(self.endpoints.len().saturating_sub(1));
        for (index, endpoint) in self.endpoints.iter().enumerate().skip(skipped) {
            let more = index + 1 < self.endpoints.len();
            let (mut attempts, mut breaks) = (Attempts::new(self.patience), 0);
            loop {
                let before = sink.have();
                match self.blob_once(endpoint, blob, sink).await {
                    Ok(()) => return Ok(()),
                    Err(Broken::Sink(error)) => return Err(error),
                    Err(Broken::Registry(failure)) => {
                        breaks += 1;
                        let moved = sink.have() > before;
                        if moved {
                            attempts.moved();
                        }
                        // A mirror that gives nothing is not waited for: there is another place.
                        if breaks >= BREAKS_MAX || more && !(moved && failure.again) {
                            last = Some(failure.error);
                            break;
                        }
                        if let Err(error) = attempts.pause(failure).await {
                            last = Some(error);
                            break;
                        }
                    }
                }
            }
        }
        Err(last.unwrap_or_else(nowhere))
    }

    /// In how many places it is to be had.
    pub fn places(&self) -> usize {
        self.endpoints.len()
    }

    /// A blob that is not what its digest says.
    pub fn other_bytes(&self, blob: &Descriptor, is: Digest) -> Error {
        let host = self.endpoints.last().map_or("", |endpoint| endpoint.host.as_str());
        mismatch(&format!("get {}", blob.digest), host, blob.digest, is)
    }

    async fn blob_once(
        &self,
        endpoint: &Endpoint,
        blob: &Descriptor,
        sink: &mut impl Sink,
    ) -> std::result::Result<(), Broken> {
        let what = format!("get {}", blob.digest);
        let mut have = sink.have();
        if have == blob.size {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        if have > 0 {
            let range = HeaderValue::try_from(format!("bytes={have}-"))
                .map_err(|e| Error::caused_by(ErrorKind::Internal, "write a Range", e))?;
            headers.insert(RANGE, range);
        }
        let mut response = endpoint.get(&format!("blobs/{}", blob.digest), &headers, &what).await?;
        match response.status() {
            StatusCode::OK if have > 0 => {
                sink.restart().await.map_err(Broken::Sink)?;
                have = 0;
            }
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if begins_at(&response) == Some(have) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                sink.restart().await.map_err(Broken::Sink)?;
                let text = format!("{what} from {}: it does not go on where we stopped", endpoint.host);
                return Err(Failure::passing(Error::new(ErrorKind::Unavailable, text)).into());
            }
            _ => return Err(endpoint.refused(response, &what).await.into()),
        }
        while let Some(piece) = endpoint::chunk(&mut response, &what, self.patience).await? {
            have += piece.len() as u64;
            if have > blob.size {
                let text = format!("{what} from {}: more than the {} bytes it should have", endpoint.host, blob.size);
                return Err(Failure::last(Error::new(ErrorKind::Unavailable, text)).into());
            }
            sink.put(piece).await.map_err(Broken::Sink)?;
        }
        if have < blob.size {
            let text = format!("{what} from {}: ended after {have} of {} bytes", endpoint.host, blob.size);
            return Err(Failure::passing(Error::new(ErrorKind::Unavailable, text)).into());
        }
        Ok(())
    }
}

/// What broke a transfer: the other side, or ours, for which asking again is no help.
enum Broken {
    Registry(Failure),
    Sink(Error),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Registry(failure)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Sink(error)
    }
}

/// `bytes 100-199/200` → 100.
fn begins_at(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn nowhere() -> Error {
    Error::new(ErrorKind::Internal, "a repository without a place")
}

fn mismatch(what: &str, host: &str, expected: Digest, is: Digest) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("{what} from {host}: the bytes are not what was asked for: expected {expected}, got {is}"),
    )
}
