//! What a main process wrote.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use moat_model::{Namespace, SandboxId};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::IdPath;
use crate::error::Error;
use crate::http::App;
use crate::http::answer::Answer;
use crate::http::auth::Caller;
use crate::http::body::{Asked, SandboxPath};
use crate::sandboxes::Sandboxes;
use crate::stream::LogPlace;

/// How often a follower looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Which part of it.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct LogsQuery {
    /// Goes on until the sandbox has ended.
    #[serde(default)]
    follow: Option<bool>,
    /// Begins so many lines before the end.
    #[serde(default)]
    tail: Option<u32>,
}

/// Output of the main process; also after the sandbox has ended, as long as it is remembered.
#[utoipa::path(get, path = "/sandboxes/{id}/logs", tag = "sandboxes", operation_id = "sandbox_logs",
    params(IdPath, LogsQuery),
    responses((status = 200, body = String, content_type = "text/plain; charset=utf-8", description = "Lines.")))]
pub(in crate::http) async fn logs(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<LogsQuery>,
) -> Answer<Response> {
    let place = LogPlace { tail: query.tail, after: None };
    let mut reader = Reader {
        sandboxes: app.services.sandboxes.clone(),
        namespace: caller.namespace,
        id,
        place,
        lines: VecDeque::new(),
        follow: query.follow.unwrap_or(false),
        last: false,
    };
    reader.read().await?;
    let closing: CancellationToken = app.closing.clone();
    let stream = futures::stream::unfold((reader, closing), |(mut reader, closing)| async move {
        let piece = closing.run_until_cancelled(reader.next()).await??;
        Some((piece.map_err(|error| std::io::Error::other(error.chain())), (reader, closing)))
    });
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(stream)).into_response())
}

struct Reader {
    sandboxes: Sandboxes,
    namespace: Namespace,
    id: SandboxId,
    place: LogPlace,
    lines: VecDeque<String>,
    follow: bool,
    /// There will be no more.
    last: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            if !self.lines.is_empty() {
                let text: String = self.lines.drain(..).collect();
                return Some(Ok(Bytes::from(text)));
            }
            if self.last {
                return None;
            }
            if let Err(error) = self.read().await {
                self.last = true;
                return Some(Err(error));
            }
            if self.lines.is_empty() && !self.last {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    async fn read(&mut self) -> Result<(), Error> {
        // Asked before the log is read: what it wrote before it ended is in what is read then.
        let ended = self.sandboxes.get(&self.namespace, &self.id)?.ended_at.is_some();
        let piece = self.sandboxes.logs(&self.namespace, &self.id, self.place).await?;
        self.place = LogPlace { tail: None, after: Some(piece.cursor) };
        self.last = !piece.more && (ended || !self.follow);
        self.lines.extend(piece.lines.into_iter().map(|line| line.text + "\n"));
        Ok(())
    }
}
