//! What a failure looks like. Handlers say what went wrong; [`super::meter`] writes the body, because it knows the id.

use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use moat_api::rest::ErrorBody;
use moat_model::ErrorKind;

use crate::error::Error;

/// The result of a handler.
pub(super) type Answer<T> = Result<T, Failure>;

/// A failure on its way out.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub status: StatusCode,
    pub kind: ErrorKind,
    /// For the caller.
    pub message: String,
    pub hint: Option<&'static str>,
    /// For the log alone: what a bug looked like.
    pub detail: Option<String>,
}

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { status: status_of(kind), kind, message: message.into(), hint: None, detail: None }
    }

    /// A refusal that names the field at fault.
    pub fn invalid(field: &str, why: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::InvalidSpec, format!("{field}: {why}"))
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, what)
    }

    pub fn bug(detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::new(ErrorKind::Internal, "a bug in the daemon; its log has more") }
    }

    /// The node is going down.
    pub fn closing() -> Self {
        Self::new(ErrorKind::Unavailable, "the node is shutting down")
    }

    /// What stands for one without a kind of its own: a status alone.
    pub fn of_status(status: StatusCode) -> Self {
        let (kind, message) = match status {
            StatusCode::NOT_FOUND => (ErrorKind::NotFound, "no such path"),
            StatusCode::METHOD_NOT_ALLOWED => (ErrorKind::InvalidSpec, "this path does not have that method"),
            StatusCode::PAYLOAD_TOO_LARGE => (ErrorKind::InvalidSpec, "the body is too large"),
            status if status.is_client_error() => (ErrorKind::InvalidSpec, "the request could not be read"),
            _ => return Self::bug(format!("an answer with status {status}")),
        };
        Self { status, ..Self::new(kind, message) }
    }

    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    #[must_use]
    pub fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    pub fn body(&self, id: &str) -> ErrorBody {
        ErrorBody {
            code: self.kind.code().to_owned(),
            message: self.message.clone(),
            hint: self.hint.map(str::to_owned),
            id: id.to_owned(),
        }
    }

    /// Headers that go with it.
    pub fn headers(&self, headers: &mut HeaderMap) {
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"moat\""));
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind {
            ErrorKind::Internal => Self::bug(error.chain()),
            kind => Self::new(kind, error.chain()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// A program that did not start is a request that could not be met; as an answer to a wait, `Guest` would be a success.
fn status_of(kind: ErrorKind) -> StatusCode {
    let status = match kind {
        ErrorKind::Guest => 422,
        kind => kind.http_status(),
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
