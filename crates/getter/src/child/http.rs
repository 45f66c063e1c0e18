//! Downloads over HTTP: redirects looked at one by one, broken connections resumed.

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use url::Url;

use super::address::{Denied, Resolver, check_literal, check_port};
use super::{Failure, ProgressReports};
use crate::config::{Limits, NetworkPolicy};
use crate::error::FetchErrorKind;
use crate::origin::Checksum;
use crate::origin::Hasher;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// Longest wait before a broken connection is resumed.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Speaks HTTP within the operator's policy.
pub(super) struct Http<'a> {
    client: Client,
    policy: Arc<NetworkPolicy>,
    limits: &'a Limits,
    insecure: bool,
}

/// Bytes wanted: addresses are asked for anew at each attempt, for those that are signed run out.
pub(super) struct Wanted<'a> {
    pub address: &'a (dyn Fn() -> Result<Url, Failure> + 'a),
    pub headers: HeaderMap,
    pub checksum: Option<&'a Checksum>,
    pub progress: &'a ProgressReports,
}

/// What a download was.
pub(super) struct Downloaded {
    pub bytes: u64,
    pub digest: Option<Vec<u8>>,
}

impl<'a> Http<'a> {
    pub(super) fn new(limits: &'a Limits, policy: &NetworkPolicy, insecure: bool) -> Result<Self, Failure> {
        let policy = Arc::new(policy.clone());
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Resolver(Arc::clone(&policy)))
            .connect_timeout(CONNECT)
            .read_timeout(limits.stall)
            .tls_danger_accept_invalid_certs(insecure)
            .user_agent(concat!("moat/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Failure::new(FetchErrorKind::Child, format!("the HTTP client: {}", chain(&e))))?;
        Ok(Self { client, policy, limits, insecure })
    }

    /// Writes what is wanted into `file`.
    pub(super) async fn download(&self, wanted: &Wanted<'_>, file: &mut File) -> Result<Downloaded, Failure> {
        let mut sink = Sink::new(file, wanted.checksum, self.limits.http_max_size);
        let mut broken = 0;
        loop {
            let failure = match self.attempt(wanted, &mut sink).await {
                Ok(()) => return Ok(sink.finish()),
                Err(Broken::For(failure)) => failure,
                Err(Broken::Perhaps(failure)) if broken >= self.limits.resumes => {
                    let detail = format!("{}; resumed {broken} times, {} bytes came", failure.detail, sink.written);
                    return Err(Failure::new(failure.kind, detail));
                }
                Err(Broken::Perhaps(_)) => {
                    broken += 1;
                    let wait = Duration::from_millis(100).saturating_mul(2u32.saturating_pow(broken));
                    tokio::time::sleep(wait.min(BACKOFF_MAX)).await;
                    continue;
                }
            };
            return Err(failure);
        }
    }

    /// A small body as a whole.
    pub(super) async fn body(&self, url: Url, most: usize) -> Result<(StatusCode, Vec<u8>), Failure> {
        let mut response = self.follow(url, &HeaderMap::new()).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| transport(e, FetchErrorKind::Unreachable))? {
            body.extend_from_slice(&chunk);
            if body.len() > most {
                return Err(Failure::new(FetchErrorKind::Size, format!("an answer of more than {most} bytes")));
            }
        }
        Ok((response.status(), body))
    }

    async fn attempt(&self, wanted: &Wanted<'_>, sink: &mut Sink<'_>) -> Result<(), Broken> {
        let mut headers = wanted.headers.clone();
        sink.ask_for_rest(&mut headers);
        let url = (wanted.address)().map_err(Broken::For)?;
        // Nobody there at the first attempt is an answer; later it may be the same trouble that broke the connection.
        let first = sink.written == 0;
        let response = self.follow(url, &headers).await;
        let mut response = response.map_err(|failure| match failure.kind {
            FetchErrorKind::Unreachable if !first => Broken::Perhaps(failure),
            _ => Broken::For(failure),
        })?;
        sink.begin(&response)?;
        let total = sink.total;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => sink.write(&chunk).map_err(Broken::For)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(Broken::Perhaps(transport(error, FetchErrorKind::Unreachable))),
            }
            wanted.progress.tell(sink.written, total);
        }
    }

    /// Asks, and follows redirects: bounded, not in circles, not from TLS to none, headers only to the host they are for.
    async fn follow(&self, first: Url, headers: &HeaderMap) -> Result<Response, Failure> {
        let redirect = |detail: String| Failure::new(FetchErrorKind::Redirect, detail);
        let mut seen = HashSet::new();
        let mut url = first.clone();
        for _ in 0..=self.limits.redirects {
            check_literal(&url, &self.policy)?;
            // A port that stands in the address has precedence over the resolver's.
            check_port(&url, url.port(), &self.policy)?;
            let same = url.origin() == first.origin();
            let mut sent = headers.clone();
            if !same {
                sent.retain_ours();
            }
            let response = self.client.get(url.clone()).headers(sent).send().await;
            let response = response.map_err(|e| transport(e, FetchErrorKind::Unreachable))?;
            let status = response.status();
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            let next = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = next.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| redirect(format!("{status} without a place to go")))?;
            match (url.scheme(), next.scheme()) {
                ("https", "http") if !self.insecure => {
                    return Err(redirect("from https to http: only with insecure = true".to_owned()));
                }
                (_, "http" | "https") => {}
                (_, other) => return Err(redirect(format!("to {other}:, which is not fetched"))),
            }
            if !seen.insert(url) || seen.contains(&next) {
                return Err(redirect("in a circle".to_owned()));
            }
            url = next;
        }
        Err(redirect(format!("more than {} times", self.limits.redirects)))
    }
}

trait Ours {
    /// Keeps what asks for a part; all else is meant for one host only.
    fn retain_ours(&mut self);
}

impl Ours for HeaderMap {
    fn retain_ours(&mut self) {
        let kept = [header::RANGE, header::IF_RANGE].map(|name| (self.get(&name).cloned(), name));
        self.clear();
        for (value, name) in kept {
            if let Some(value) = value {
                self.insert(name, value);
            }
        }
    }
}

/// A job's headers.
pub(super) fn headers(given: &std::collections::BTreeMap<String, String>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let bad = |why: &str| Failure::new(FetchErrorKind::BadOption, format!("headers.{name}: {why}"));
        let key: HeaderName = name.parse().map_err(|_| bad("not a name for a header"))?;
        let value = HeaderValue::from_str(value).map_err(|_| bad("its value cannot be sent"))?;
        if [header::RANGE, header::IF_RANGE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(&key) {
            return Err(bad("is decided by the download itself"));
        }
        headers.insert(key, value);
    }
    Ok(headers)
}

/// An attempt that came to nothing: for good, or perhaps not.
enum Broken {
    For(Failure),
    Perhaps(Failure),
}

/// Where a download goes, and how far it is.
struct Sink<'a> {
    file: &'a mut File,
    checksum: Option<&'a Checksum>,
    hasher: Option<Hasher>,
    written: u64,
    most: u64,
    total: Option<u64>,
    /// What says that the rest is of the same: a strong entity tag, or a date.
    validator: Option<HeaderValue>,
}

impl<'a> Sink<'a> {
    fn new(file: &'a mut File, checksum: Option<&'a Checksum>, most: u64) -> Self {
        let hasher = checksum.map(Checksum::hasher);
        Self { file, checksum, hasher, written: 0, most, total: None, validator: None }
    }

    fn ask_for_rest(&self, headers: &mut HeaderMap) {
        let Some(validator) = self.validator.as_ref().filter(|_| self.written > 0) else { return };
        if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.written)) {
            headers.insert(header::RANGE, range);
            headers.insert(header::IF_RANGE, validator.clone());
        }
    }

    /// Looks at an answer's head: the rest, the whole, or a refusal.
    fn begin(&mut self, response: &Response) -> Result<(), Broken> {
        let status = response.status();
        if status == StatusCode::PARTIAL_CONTENT && self.written > 0 {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let start = range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
            if start == Some(self.written) {
                return Ok(());
            }
            self.restart().map_err(Broken::For)?;
            let detail = "the server resumed elsewhere than asked";
            return Err(Broken::Perhaps(Failure::new(FetchErrorKind::Unreachable, detail)));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE && self.written > 0 {
            self.restart().map_err(Broken::For)?;
            return Err(Broken::Perhaps(Failure::new(FetchErrorKind::Unreachable, "it became shorter on the server")));
        }
        if status != StatusCode::OK {
            let failure = Failure::new(FetchErrorKind::Status, format!("the server answers {status}"));
            let again = self.written > 0 && status.is_server_error();
            return Err(if again { Broken::Perhaps(failure) } else { Broken::For(failure) });
        }
        self.restart().map_err(Broken::For)?;
        self.total = response.content_length();
        let headers = response.headers();
        let strong = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"));
        self.validator = strong.or_else(|| headers.get(header::LAST_MODIFIED)).cloned();
        match self.total {
            Some(total) if total > self.most => Err(Broken::For(self.too_large())),
            _ => Ok(()),
        }
    }

    fn restart(&mut self) -> Result<(), Failure> {
        self.file.set_len(0).map_err(|e| Failure::node("empty the download", e))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|e| Failure::node("rewind the download", e))?;
        self.hasher = self.checksum.map(Checksum::hasher);
        self.written = 0;
        self.validator = None;
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        self.written = self.written.saturating_add(chunk.len() as u64);
        if self.written > self.most {
            return Err(self.too_large());
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(chunk);
        }
        self.file.write_all(chunk).map_err(|e| Failure::node("write the download", e))
    }

    fn too_large(&self) -> Failure {
        Failure::new(FetchErrorKind::Size, format!("a download of more than {} bytes (http_max_size)", self.most))
    }

    fn finish(self) -> Downloaded {
        Downloaded { bytes: self.written, digest: self.hasher.map(Hasher::finish) }
    }
}

/// An error of the client by its cause. Addresses stay out of the text: they may hold passwords.
fn transport(error: reqwest::Error, otherwise: FetchErrorKind) -> Failure {
    let error = error.without_url();
    if let Some(denied) = within(&error, &|e| e.downcast_ref::<Denied>().cloned()) {
        return denied.into();
    }
    if within(&error, &|e| e.downcast_ref::<rustls::Error>().map(|_| ())).is_some() {
        return Failure::new(FetchErrorKind::Tls, chain(&error));
    }
    Failure::new(otherwise, chain(&error))
}

/// What `look` finds in an error, its causes, and what errors of input and output wrap without naming it as their cause.
fn within<T>(error: &(dyn Error + 'static), look: &dyn Fn(&(dyn Error + 'static)) -> Option<T>) -> Option<T> {
    let wrapped = || within(error.downcast_ref::<std::io::Error>()?.get_ref()?, look);
    look(error).or_else(wrapped).or_else(|| within(error.source()?, look))
}

/// An error and its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let words = current.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = current.source();
    }
    text
}
