//! What a client sees instead of a sandbox's answer.

use axum::body::Body;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use hyper::Response;

use super::super::answer::Failure;

/// Tells an answer of the proxy from one of a sandbox: the code of the failure.
const ERROR: HeaderName = HeaderName::from_static("moat-error");

/// How a failure is shown.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shown {
    /// To a program.
    Json,
    /// To a person, in a browser.
    Html,
}

impl Shown {
    pub fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        if accepted.is_some_and(|value| value.contains("text/html")) { Self::Html } else { Self::Json }
    }

    pub fn page(self, failure: &Failure) -> Response<Body> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        if let Some(detail) = &failure.detail {
            tracing::error!(id, detail, "a request to a sandbox met a bug");
        }
        let body = failure.body(&id);
        let (kind, text) = match self {
            Self::Json => ("application/json", serde_json::to_string(&body).unwrap_or_default()),
            Self::Html => ("text/html; charset=utf-8", html(failure)),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = failure.status;
        let headers = response.headers_mut();
        failure.headers(headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ERROR, HeaderValue::from_static(failure.kind.code()));
        if failure.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Moat-Token"));
        }
        response
    }
}

fn html(failure: &Failure) -> String {
    let title = failure.status;
    let lines = [Some(failure.message.as_str()), failure.hint];
    let lines: String = lines.into_iter().flatten().map(|line| format!("<p>{}</p>", escaped(line))).collect();
    format!("<!doctype html><meta charset=utf-8><title>{title}</title><h1>{title}</h1>{lines}<p>moat</p>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
