//! Answers that go on: one JSON value in each line.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;

/// Their content type.
pub(super) const NDJSON: &str = "application/x-ndjson";
/// After so long without anything to say, a line says that.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(15);

/// Sends a stream. A line is made when the client has room for it; a client that goes away drops the stream.
pub(super) fn respond<T: Serialize + Send + 'static>(values: impl Stream<Item = T> + Send + 'static) -> Response {
    let lines = values.map(|value| {
        let mut line = serde_json::to_vec(&value)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    });
    ([(CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}
