//! What surrounds every request: its id, its failure as a body, its numbers, and a net below a handler with a bug.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::Json;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{ALLOW, CACHE_CONTROL, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use super::answer::Failure;

/// Header of a request's id, both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Id of a request: the caller's, or a new one.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub String);

/// An answer that is as it should be although its status tells of a failure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finished;

/// Surrounds a request.
pub(super) async fn surround(matched: Option<MatchedPath>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = id_of(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let route = matched.as_ref().map_or("none", MatchedPath::as_str).to_owned();
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let answer = answer.unwrap_or_else(|_| Failure::bug("a handler panicked").into_response());
    let answer = dress(answer, &id);
    let (took, status) = (started.elapsed(), answer.status());
    // A method or a path of the caller's own making must not become a label.
    let method = if route == "none" { "other".to_owned() } else { method.to_string() };
    tracing::debug!(%id, method, route, status = status.as_u16(), took_ms = took.as_millis(), "request");
    metrics::counter!("moat_http_requests_total", "method" => method, "route" => route.clone(),
        "status" => status.as_u16().to_string())
    .increment(1);
    metrics::histogram!("moat_http_request_seconds", "route" => route).record(took.as_secs_f64());
    answer
}

fn id_of(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    given.filter(plain).map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// Writes the body of a failure, whoever found it, and the id on every answer.
fn dress(answer: Response, id: &str) -> Response {
    let status = answer.status();
    let failed = status.is_client_error() || status.is_server_error();
    let mut answer = if failed && answer.extensions().get::<Finished>().is_none() {
        let failure = answer.extensions().get::<Failure>().cloned().unwrap_or_else(|| Failure::of_status(status));
        if let Some(detail) = &failure.detail {
            tracing::error!(id, detail, "a request met a bug");
        }
        let mut dressed = (failure.status, Json(failure.body(id))).into_response();
        failure.headers(dressed.headers_mut());
        if let Some(allow) = answer.headers().get(ALLOW).filter(|_| status == StatusCode::METHOD_NOT_ALLOWED) {
            dressed.headers_mut().insert(ALLOW, allow.clone());
        }
        dressed
    } else {
        answer
    };
    let headers = answer.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}
