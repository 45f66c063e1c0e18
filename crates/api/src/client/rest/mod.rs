//! The client of a node's REST API: one HTTP connection pool, typed calls, every failure with its kind and hint.
//!
//! A reply that is no success is read as [`ErrorBody`]; whoever answers something else (a proxy, another server on that
//! port) is judged by the status. Nothing is tried twice: creating a sandbox twice is not the same as creating one.

mod allocations;
mod exec;
mod files;
mod images;
mod jails;
mod jobs;
mod lines;
mod network;
mod sandboxes;
mod session;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use moat_model::{ErrorKind, Namespace};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::{Host, Url};

pub use jails::{ExportedJail, SHA256_HEADER};
pub use lines::Lines;

use super::{Error, Result};
use crate::WireError;
use crate::rest::{ErrorBody, PREFIX};

/// Where a node's REST API is unless it says otherwise.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Longest answer taken: two streams of a buffered exec at their largest, as text and as base64.
const ANSWER_MAX: usize = 512 << 20;
/// Longest text of a failure.
const ERROR_MAX: usize = 64 << 10;
/// A node says something at least every 15 s while it streams.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Bytes as they come.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Whom to speak to, and as whom.
#[derive(Clone)]
pub struct RestOptions {
    /// Base URL, without `/api/v1`.
    pub url: String,
    /// API key.
    pub api_key: Option<String>,
    /// Tenant; absent: the key's own, or the node's default.
    pub namespace: Option<Namespace>,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long an answer that needs no work may take.
    pub quick: Duration,
    /// How long an answer may take that needs work: a create may fetch an image first.
    pub slow: Duration,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self {
            url: DEFAULT_URL.to_owned(),
            api_key: None,
            namespace: None,
            connect: Duration::from_secs(5),
            quick: Duration::from_secs(30),
            slow: Duration::from_secs(30 * 60),
        }
    }
}

impl std::fmt::Debug for RestOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestOptions")
            .field("url", &self.url)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Speaks to one node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RestClient {
    http: reqwest::Client,
    base: Url,
    options: RestOptions,
}

/// Members of a query; those without a value are left out.
type Query<'a> = &'a [(&'a str, Option<String>)];

impl RestClient {
    /// Checks the options; nothing is sent yet.
    pub fn new(options: RestOptions) -> Result<Self> {
        let doing = || format!("use {}", options.url);
        let base = Url::parse(&options.url).map_err(|e| Error::new(ErrorKind::InvalidSpec, doing(), e))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            let why = "the URL of a node's REST API begins with http:// or https://";
            return Err(Error::new(ErrorKind::InvalidSpec, doing(), why));
        }
        let mut http = reqwest::Client::builder().connect_timeout(options.connect).tcp_nodelay(true);
        // To follow a redirection would be to hand the key to somebody else.
        http = http.redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            http = http.no_proxy();
        }
        if base.scheme() == "http" {
            // Reading the machine's certificates takes longer than most calls, and may fail where there are none.
            http = http.tls_certs_only([]);
        }
        let http = http.build().map_err(|e| Error::new(ErrorKind::Internal, doing(), e))?;
        Ok(Self { http, base, options })
    }

    /// Its options.
    pub fn options(&self) -> &RestOptions {
        &self.options
    }

    fn request(&self, method: Method, path: &[&str], query: Query<'_>) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(PREFIX.split('/').filter(|s| !s.is_empty())).extend(path);
        }
        let given: Vec<_> = query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).collect();
        if !given.is_empty() {
            url.query_pairs_mut().extend_pairs(given);
        }
        let mut request = self.http.request(method, url);
        if let Some(key) = &self.options.api_key {
            request = request.bearer_auth(key);
        }
        if let Some(namespace) = &self.options.namespace {
            request = request.header("x-moat-namespace", namespace.as_str());
        }
        request
    }

    /// Sends; a reply that is no success is a failure. `within` bounds the time to the head of the reply.
    async fn send(&self, doing: &str, request: RequestBuilder, within: Duration) -> Result<Response> {
        let sent = tokio::time::timeout(within, request.send()).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.unsent(doing, error)),
            Err(_) => {
                let why = format!("no answer from {} within {within:?}", self.base);
                return Err(Error::new(ErrorKind::Deadline, doing, why));
            }
        };
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        Err(refused(doing, response).await)
    }

    fn unsent(&self, doing: &str, error: reqwest::Error) -> Error {
        let kind = if error.is_builder() { ErrorKind::InvalidSpec } else { ErrorKind::Unavailable };
        let connect = error.is_connect();
        // Its own text has the URL; without it, it can stand in a sentence of ours.
        let error = Error::new(kind, format!("{doing}: {}", self.base), error.without_url());
        if connect {
            error.with_hint("is a node there? `moat up` starts one; --url or MOAT_URL names another")
        } else {
            error
        }
    }

    async fn quick<T: DeserializeOwned>(&self, doing: &str, request: RequestBuilder) -> Result<T> {
        let within = self.options.quick;
        let answer = async { self.answer(doing, self.send(doing, request, within).await?).await };
        self.bounded(doing, within, answer).await
    }

    async fn slow<T: DeserializeOwned>(&self, doing: &str, request: RequestBuilder) -> Result<T> {
        let within = self.options.slow;
        let answer = async { self.answer(doing, self.send(doing, request, within).await?).await };
        self.bounded(doing, within, answer).await
    }

    async fn bounded<T>(&self, doing: &str, within: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(within, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let why = format!("no whole answer from {} within {within:?}", self.base);
                Err(Error::new(ErrorKind::Deadline, doing, why))
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, doing: &str, path: &[&str], query: Query<'_>) -> Result<T> {
        self.quick(doing, self.request(Method::GET, path, query)).await
    }

    async fn post<T: DeserializeOwned>(&self, doing: &str, path: &[&str], body: &impl Serialize) -> Result<T> {
        self.slow(doing, self.request(Method::POST, path, &[]).json(body)).await
    }

    /// A success without anything worth reading.
    async fn done(&self, doing: &str, request: RequestBuilder) -> Result<()> {
        self.send(doing, request, self.options.slow).await.map(drop)
    }

    async fn answer<T: DeserializeOwned>(&self, doing: &str, response: Response) -> Result<T> {
        let body = read(doing, response, ANSWER_MAX).await?;
        serde_json::from_slice(&body).map_err(|e| {
            Error::new(ErrorKind::Internal, format!("{doing}: read the answer"), e)
                .with_hint(format!("does {} belong to a moat node of this version?", self.base))
        })
    }

    /// A reply that goes on: lines of JSON.
    async fn lines<T: DeserializeOwned>(&self, doing: &str, request: RequestBuilder) -> Result<Lines<T>> {
        let response = self.send(doing, request, self.options.slow).await?;
        Ok(Lines::new(doing, bytes_of(response)))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn bytes_of(response: Response) -> ByteStream {
    response.bytes_stream().map(|piece| piece.map_err(std::io::Error::other)).boxed()
}

/// A whole body of bounded length.
async fn read(doing: &str, mut response: Response, max: usize) -> Result<Bytes> {
    let mut body = BytesMut::new();
    loop {
        let piece = response.chunk().await.map_err(|e| Error::new(ErrorKind::Unavailable, doing, e.without_url()))?;
        let Some(piece) = piece else { return Ok(body.freeze()) };
        if body.len() + piece.len() > max {
            return Err(Error::new(ErrorKind::Internal, doing, format!("the answer is longer than {max} bytes")));
        }
        body.extend_from_slice(&piece);
    }
}

async fn refused(doing: &str, response: Response) -> Error {
    let status = response.status();
    let body = read(doing, response, ERROR_MAX).await.unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => told(doing, body),
        Err(_) => {
            let error = Error::new(kind_of(status), doing, format!("HTTP status {status}"));
            error.with_hint("the answer is not that of a moat node: is the URL right?")
        }
    }
}

/// The failure a node told.
fn told(doing: &str, body: ErrorBody) -> Error {
    let kind = ErrorKind::from_code(&body.code).unwrap_or(ErrorKind::Internal);
    let error = Error::refused(doing, WireError::new(kind, body.message));
    match body.hint {
        Some(hint) => error.with_hint(hint),
        None if kind == ErrorKind::Internal && !body.id.is_empty() => {
            error.with_hint(format!("the daemon's log has more, under request {}", body.id))
        }
        None => error,
    }
}

fn kind_of(status: StatusCode) -> ErrorKind {
    if status == StatusCode::UNAUTHORIZED {
        return ErrorKind::Denied;
    }
    let kind = ErrorKind::ALL.into_iter().find(|kind| kind.http_status() == status.as_u16() && !status.is_success());
    match kind {
        Some(kind) => kind,
        None if status.is_client_error() => ErrorKind::InvalidSpec,
        None => ErrorKind::Unavailable,
    }
}
