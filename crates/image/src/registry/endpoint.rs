//! One repository at one host: requests with whatever the host wants to know about us.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use moat_model::ErrorKind;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use url::Url;

use super::auth;
use super::challenge;
use super::credentials::Found;
use super::retry::{Failure, Patience};
use crate::error::Error;

/// How much of an error page is read for its message.
const MESSAGE_MAX: u64 = 64 << 10;

/// One repository at one host.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(super) client: Client,
    pub(super) host: String,
    pub(super) base: Url,
    pub(super) repository: String,
    pub(super) insecure: Arc<BTreeSet<String>>,
    pub(super) patience: Patience,
    pub(super) found: Found,
    pub(super) authorization: Mutex<Option<HeaderValue>>,
    /// Held while a token is being got: three layers at once ask once.
    pub(super) asking: tokio::sync::Mutex<()>,
}

impl Endpoint {
    /// Spoken to without TLS.
    pub fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// Whether plain HTTP is allowed to where this leads.
    pub fn may_be_plain(&self, url: &Url) -> bool {
        may_be_plain(url, &self.insecure)
    }

    /// GET of something below the repository. Any status but 401 is the caller's to judge.
    pub async fn get(&self, path: &str, headers: &HeaderMap, what: &str) -> Result<Response, Failure> {
        let url = self
            .base
            .join(path)
            .map_err(|e| Failure::last(Error::caused_by(ErrorKind::InvalidSpec, format!("URL of {what}"), e)))?;
        let mut renewed = false;
        loop {
            let used = self.current();
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            if let Some(value) = &used {
                request = request.header("authorization", value.clone());
            }
            let response = self.send(request, what).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            if renewed {
                return Err(self.not_accepted(what));
            }
            self.renew(used, response.headers()).await?;
            renewed = true;
        }
    }

    fn current(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new header instead of the one that was refused, unless somebody else has got one meanwhile.
    async fn renew(&self, used: Option<HeaderValue>, headers: &HeaderMap) -> Result<(), Failure> {
        let _asking = self.asking.lock().await;
        if self.current() != used {
            return Ok(());
        }
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let header = auth::answer(self, challenge::read(texts), &self.found).await?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
        Ok(())
    }

    fn not_accepted(&self, what: &str) -> Failure {
        let why = match self.found.credentials {
            Some(_) => format!("the credentials from {} are not accepted", self.found.origin),
            None => format!("it is not there or needs credentials; {}", self.found.origin),
        };
        Failure::last(Error::new(ErrorKind::Denied, format!("{what} from {}: {why}", self.host)))
    }

    /// Sends, waits for the headers, and sorts failures into passing ones and others.
    pub async fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, Failure> {
        let doing = format!("{what} from {}", self.host);
        match tokio::time::timeout(self.patience.silence, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            // A refused redirect will be refused again.
            Ok(Err(e)) if e.is_redirect() || e.is_builder() => {
                Err(Failure::last(Error::caused_by(ErrorKind::Denied, doing, e.without_url())))
            }
            Ok(Err(e)) => Err(Failure::passing(Error::caused_by(ErrorKind::Unavailable, doing, e.without_url()))),
            Err(_) => Err(silent(&doing, self.patience.silence)),
        }
    }

    /// The failure that a status stands for.
    pub async fn refused(&self, response: Response, what: &str) -> Failure {
        if response.status() == StatusCode::FORBIDDEN {
            return self.not_accepted(what);
        }
        refused(response, &format!("{what} from {}", self.host), self.patience).await
    }
}

fn silent(doing: &str, silence: Duration) -> Failure {
    Failure::passing(Error::new(ErrorKind::Deadline, format!("{doing}: not a byte for {silence:?}")))
}

/// The next piece of a body, `None` at its end.
pub(super) async fn chunk(response: &mut Response, doing: &str, patience: Patience) -> Result<Option<Bytes>, Failure> {
    match tokio::time::timeout(patience.silence, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(e)) => Err(Failure::passing(Error::caused_by(ErrorKind::Unavailable, doing, e.without_url()))),
        Err(_) => Err(silent(doing, patience.silence)),
    }
}

/// A whole body, refused when longer than `max`.
pub(super) async fn body(
    mut response: Response,
    max: u64,
    doing: &str,
    patience: Patience,
) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = chunk(&mut response, doing, patience).await? {
        if body.len() as u64 + piece.len() as u64 > max {
            return Err(Failure::last(Error::new(ErrorKind::InvalidSpec, format!("{doing}: more than {max} bytes"))));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Why a registry refused, in its own words as far as they are printable.
pub(super) async fn refused(response: Response, doing: &str, patience: Patience) -> Failure {
    let status = response.status();
    let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let text = body(response, MESSAGE_MAX, doing, patience).await.unwrap_or_default();
    let mut message = format!("{doing}: {}", status.as_u16());
    if let Some(said) = words(&text) {
        message = format!("{message} {said}");
    }
    let (kind, again) = match status.as_u16() {
        404 => (ErrorKind::NotFound, false),
        // Redirects that were not followed lead to what is not HTTP at all.
        300..=399 | 401 | 403 => (ErrorKind::Denied, false),
        429 => (ErrorKind::Exhausted, true),
        408 | 500..=599 => (ErrorKind::Unavailable, true),
        _ => (ErrorKind::Unavailable, false),
    };
    Failure { error: Error::new(kind, message), again, after: after.map(Duration::from_secs) }
}

/// The first error of a registry's error document.
fn words(text: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(text).ok()?;
    let error = document.get("errors")?.get(0)?;
    let part = |name: &str| error.get(name).and_then(|value| value.as_str()).unwrap_or_default();
    let said: String = format!("{} {}", part("code"), part("message")).chars().filter(|c| !c.is_control()).collect();
    Some(said.trim().chars().take(200).collect())
}

/// Plain HTTP goes to this machine and to what the operator listed, and nowhere else.
pub(super) fn may_be_plain(url: &Url, insecure: &BTreeSet<String>) -> bool {
    let Some(host) = url.host_str() else { return false };
    let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
    is_loopback(host) || insecure.contains(host) || with_port.is_some_and(|host| insecure.contains(&host))
}

/// Whether a host, without port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
