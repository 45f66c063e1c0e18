//! One request into a sandbox, and its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, EXPECT, LOCATION, REFERRER_POLICY, SET_COOKIE, TE,
};
use axum::http::header::{TRANSFER_ENCODING, UPGRADE};
use axum::http::{HeaderValue, Method, StatusCode, Uri, Version};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use moat_model::ErrorKind;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::super::answer::{Answer, Failure};
use super::super::auth::Peer;
use super::super::server::{HEAD_BYTES_MAX, HEADERS_MAX, Place};
use super::admission::{self, Admission, TOKEN};
use super::sending::{Progress, Sending};
use super::target::{self, Target};
use super::tunnel::Tunnel;
use super::visits::Visit;
use super::{Closed, Ingress, headers};

/// How long a port may take to take a connection; a sandbox that is just being paused does not answer at all.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a program may think before it begins to answer, counted from the last piece of the request it took.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// The connection to a program. Dropping it hangs up.
#[derive(Debug)]
pub(super) struct Carrier(AbortHandle);

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers a request: with what the program inside says, or with a failure of ours.
pub(super) async fn answer(
    ingress: &Arc<Ingress>,
    mut request: Request<Incoming>,
    peer: Peer,
    place: Place,
) -> Answer<Response<Body>> {
    if request.method() == Method::CONNECT {
        let what = "CONNECT: this is no proxy for other hosts";
        return Err(Failure::new(ErrorKind::InvalidSpec, what).with_status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let target = target::of(request.headers(), request.uri(), &ingress.domain)?;
    let upgrade = headers::upgrade_of(request.headers(), request.version());
    let client = hyper::upgrade::on(&mut request);
    let (parts, body) = request.into_parts();
    match admission::decide(ingress, &target, &parts, upgrade.is_some())? {
        Admission::Through => {}
        Admission::Remember(token) => return remember(&parts.uri, &token, ingress.https),
    }
    let visit = ingress.visits.enter(&target.id).await?;
    let (sender, carrier) = connect(ingress, &target).await?;
    let method = parts.method.clone();
    let mut onward = Onward::of(parts, body, upgrade.as_ref(), &target)?;
    headers::say_origin(onward.request.headers_mut(), peer.0.ip(), ingress.https);
    let answer = onward.send(sender).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(relayed(answer, &method, carrier, visit));
    }
    let (answer, inside) = switched(answer, upgrade.as_ref())?;
    let (closing, tunnel) = (ingress.closing.clone(), Tunnel { client, inside, carrier, visit, place });
    ingress.tunnels.spawn(async move {
        closing.run_until_cancelled(tunnel.carry()).await;
    });
    Ok(answer)
}

/// The browser keeps the token for this host alone, where no script sees it, and asks again.
fn remember(uri: &Uri, token: &str, https: bool) -> Answer<Response<Body>> {
    let path = admission::without_token(uri);
    // Browsers read two slashes at the beginning, either way round, as another host.
    let elsewhere = path.get(1..2).is_some_and(|second| matches!(second, "/" | "\\"));
    let location = if elsewhere { format!("/.{path}") } else { path };
    let secure = if https { "; Secure" } else { "" };
    let cookie = format!("{TOKEN}={token}; Path=/; HttpOnly; SameSite=Lax{secure}");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let bad = |error| Failure::invalid("path", error);
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_str(&location).map_err(bad)?);
    headers.insert(SET_COOKIE, HeaderValue::from_str(&cookie).map_err(bad)?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

async fn connect(ingress: &Arc<Ingress>, target: &Target) -> Answer<(SendRequest<Sending>, Carrier)> {
    let connecting = tokio::time::timeout(CONNECT_MAX, ingress.doors.connect(&target.id, target.port));
    let channel = match connecting.await {
        Ok(Ok(channel)) => channel,
        Ok(Err(closed)) => return Err(closed_door(closed, target.port)),
        Err(_) => return Err(Failure::new(ErrorKind::Deadline, "the sandbox does not take the connection")),
    };
    let mut builder = http1::Builder::new();
    builder.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX).max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(channel)).await.map_err(|error| broken(&error))?;
    let carrying = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::trace!(%error, "a connection into a sandbox ended badly");
        }
    });
    Ok((sender, Carrier(carrying.abort_handle())))
}

fn closed_door(closed: Closed, port: u16) -> Failure {
    let gateway = |what: String| Failure::new(ErrorKind::Unavailable, what).with_status(StatusCode::BAD_GATEWAY);
    match closed {
        Closed::Sandbox(error) => Failure::from(error),
        Closed::Port(error) => match error.kind {
            ErrorKind::NotFound => gateway(format!("nothing listens on port {port} of this sandbox"))
                .with_hint("a program inside has to listen on it, on 127.0.0.1 or on every address"),
            ErrorKind::Denied | ErrorKind::Exhausted | ErrorKind::Deadline | ErrorKind::Conflict => error.into(),
            _ => gateway(format!("port {port} of this sandbox: {}", error.chain())),
        },
    }
}

fn broken(error: &hyper::Error) -> Failure {
    let what = if error.is_parse_too_large() {
        format!("the head of the program's answer is larger than {HEAD_BYTES_MAX} bytes")
    } else if error.is_parse() {
        "the program's answer is no HTTP/1.1".to_owned()
    } else {
        "the program ended the connection without an answer".to_owned()
    };
    Failure::new(ErrorKind::Unavailable, what).with_status(StatusCode::BAD_GATEWAY)
}

/// A request as it goes on.
struct Onward {
    request: Request<Sending>,
    progress: Arc<Progress>,
}

impl Onward {
    fn of(
        parts: axum::http::request::Parts,
        body: Incoming,
        upgrade: Option<&HeaderValue>,
        target: &Target,
    ) -> Answer<Self> {
        let mut all = parts.headers;
        let trailers = all.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
        let chunked = body.size_hint().exact().is_none();
        let waits = all.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        headers::strip_connection(&mut all);
        admission::strip(&mut all);
        if chunked {
            all.remove(CONTENT_LENGTH);
            all.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if trailers {
            all.insert(TE, HeaderValue::from_static("trailers"));
        }
        if let Some(protocol) = upgrade {
            all.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            all.insert(UPGRADE, protocol.clone());
        }
        let path = if parts.uri.path() == "*" { "*".to_owned() } else { admission::without_token(&parts.uri) };
        let uri: Uri = path.parse().map_err(|error| Failure::invalid("path", error))?;
        let (told, progress) = (waits.then(|| Arc::new(Notify::new())), Arc::new(Progress::default()));
        let mut request = Request::new(Sending::new(body, told.clone(), Arc::clone(&progress)));
        *request.method_mut() = parts.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = all;
        if let Some(told) = told {
            hyper::ext::on_informational(&mut request, move |said| {
                if said.status() == StatusCode::CONTINUE {
                    told.notify_one();
                }
            });
        }
        tracing::debug!(sandbox = %target.id, port = target.port, method = %request.method(), "into a sandbox");
        Ok(Self { request, progress })
    }

    /// Sends it, and waits for the head of the answer as long as the program takes pieces, and then some.
    async fn send(self, mut sender: SendRequest<Sending>) -> Answer<Response<Incoming>> {
        let mut answer = std::pin::pin!(sender.send_request(self.request));
        let mut taken = self.progress.pieces();
        loop {
            match tokio::time::timeout(ANSWER_MAX, answer.as_mut()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(_)) if self.progress.broken() => {
                    return Err(Failure::new(ErrorKind::InvalidSpec, "the body of the request did not come whole"));
                }
                Ok(Err(error)) => return Err(broken(&error)),
                Err(_) if self.progress.pieces() == taken => {
                    let what = format!("the program did not answer within {} s", ANSWER_MAX.as_secs());
                    return Err(Failure::new(ErrorKind::Deadline, what));
                }
                Err(_) => taken = self.progress.pieces(),
            }
        }
    }
}

/// The answer to an upgrade, and the program's side of what comes after it.
fn switched(
    mut answer: Response<Incoming>,
    asked: Option<&HeaderValue>,
) -> Answer<(Response<Body>, hyper::upgrade::OnUpgrade)> {
    let given = answer.headers().get(UPGRADE).cloned();
    let fits = |asked: &HeaderValue, given: &HeaderValue| {
        asked.as_bytes().split(|b| *b == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(given.as_bytes()))
    };
    let Some(given) = given.filter(|given| asked.is_some_and(|asked| fits(asked, given))) else {
        let what = "the program switched to a protocol that was not asked for";
        return Err(Failure::new(ErrorKind::Unavailable, what).with_status(StatusCode::BAD_GATEWAY));
    };
    let inside = hyper::upgrade::on(&mut answer);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let mut all = std::mem::take(answer.headers_mut());
    headers::strip_connection(&mut all);
    headers::confine_cookies(&mut all);
    all.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    all.insert(UPGRADE, given);
    *response.headers_mut() = all;
    Ok((response, inside))
}

/// An answer on its way out.
fn relayed(answer: Response<Incoming>, method: &Method, carrier: Carrier, visit: Visit) -> Response<Body> {
    let (mut parts, inner) = answer.into_parts();
    headers::strip_connection(&mut parts.headers);
    headers::confine_cookies(&mut parts.headers);
    if has_body(method, parts.status) && inner.size_hint().exact().is_none() {
        // How long it is, is what was read of it; a length beside that would be a second answer.
        parts.headers.remove(CONTENT_LENGTH);
    }
    parts.version = Version::HTTP_11;
    Response::from_parts(parts, Body::new(Relay { inner, _carrier: carrier, _visit: visit }))
}

fn has_body(method: &Method, status: StatusCode) -> bool {
    method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The body of an answer, taken as the client takes it. Dropping it hangs up.
struct Relay {
    inner: Incoming,
    _carrier: Carrier,
    _visit: Visit,
}

impl hyper::body::Body for Relay {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.get_mut().inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
