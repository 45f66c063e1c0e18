//! How much happens at once.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use moat_model::ErrorKind;

use super::App;
use super::answer::Failure;

/// Connections at once; more wait in the kernel's queue.
pub(super) const CONNECTIONS_MAX: usize = 1024;
/// Requests at once that are neither a stream nor an exec: those last as long as their client wants.
pub(super) const REQUESTS_MAX: usize = 256;
/// How long a request waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(10);

/// Lets so many through at once.
pub(super) async fn take_turn(State(app): State<App>, request: Request, next: Next) -> Response {
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN_MAX, app.slots.acquire()).await else {
        return Failure::new(ErrorKind::Unavailable, format!("{REQUESTS_MAX} requests are under way")).into_response();
    };
    next.run(request).await
}
