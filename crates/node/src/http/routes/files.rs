//! Questions about files, answered inside the sandbox by one of its users.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures::Stream;
use moat_api::rest::file::{File, FileEvent, FileList, FileQuery, MakeDirectory, MoveFile};
use moat_engine::Guest;
use moat_model::SandboxId;
use moat_model::file::{FileReply, FileRequest, WatchEvent};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::IdPath;
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Asked, Json as JsonBody, SandboxPath};
use crate::http::files::{event, mode, path, view};
use crate::http::lines::{self, QUIET_MAX};
use crate::http::presence::Presence;

/// Deepest list.
const DEPTH_MAX: u32 = 64;

/// What is at a path. A link is not followed.
#[utoipa::path(get, path = "/sandboxes/{id}/files/stat", tag = "files", operation_id = "stat_file",
    params(IdPath, FileQuery), responses((status = 200, body = File, description = "What is there.")))]
pub(super) async fn stat(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
) -> Answer<Json<File>> {
    only(&query, &[])?;
    let request = FileRequest::Stat { path: path("path", query.path)? };
    entry(ask(&app, &caller, &id, query.user.as_deref(), &request).await?)
}

/// What a directory holds.
#[utoipa::path(get, path = "/sandboxes/{id}/files/list", tag = "files", operation_id = "list_files",
    params(IdPath, FileQuery), responses((status = 200, body = FileList, description = "Ordered by path.")))]
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
) -> Answer<Json<FileList>> {
    only(&query, &["depth"])?;
    let depth = query.depth.unwrap_or(1);
    if !(1..=DEPTH_MAX).contains(&depth) {
        return Err(Failure::invalid("depth", format!("1 to {DEPTH_MAX}")));
    }
    let request = FileRequest::List { path: path("path", query.path)?, depth };
    match ask(&app, &caller, &id, query.user.as_deref(), &request).await? {
        FileReply::Entries { entries, truncated } => {
            Ok(Json(FileList { entries: entries.into_iter().map(view).collect(), truncated }))
        }
        other => Err(Failure::bug(format!("a list was answered with {other:?}"))),
    }
}

/// Makes a directory and its parents.
#[utoipa::path(post, path = "/sandboxes/{id}/files/mkdir", tag = "files", operation_id = "make_directory",
    params(IdPath), request_body = MakeDirectory, responses((status = 200, body = File, description = "It is there.")))]
pub(super) async fn make_directory(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    JsonBody(asked): JsonBody<MakeDirectory>,
) -> Answer<Json<File>> {
    let request = FileRequest::MakeDir { path: path("path", asked.path)?, mode: mode(asked.mode.as_deref())? };
    entry(ask(&app, &caller, &id, asked.user.as_deref(), &request).await?)
}

/// Renames; a file that is there is replaced.
#[utoipa::path(post, path = "/sandboxes/{id}/files/move", tag = "files", operation_id = "move_file", params(IdPath),
    request_body = MoveFile, responses((status = 200, body = File, description = "At its new place.")))]
pub(super) async fn rename(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    JsonBody(asked): JsonBody<MoveFile>,
) -> Answer<Json<File>> {
    let request = FileRequest::Move { from: path("from", asked.from)?, to: path("to", asked.to)? };
    entry(ask(&app, &caller, &id, asked.user.as_deref(), &request).await?)
}

/// Removes a file, or with `recursive` a directory and everything in it.
#[utoipa::path(delete, path = "/sandboxes/{id}/files", tag = "files", operation_id = "remove_file",
    params(IdPath, FileQuery), responses((status = 204, description = "It is gone.")))]
pub(in crate::http) async fn remove(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
) -> Answer<StatusCode> {
    only(&query, &["recursive"])?;
    let recursive = query.recursive.unwrap_or(false);
    let request = FileRequest::Remove { path: path("path", query.path)?, recursive };
    ask(&app, &caller, &id, query.user.as_deref(), &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells what happens to files, as JSON lines, until the client goes away.
#[utoipa::path(get, path = "/sandboxes/{id}/files/watch", tag = "files", operation_id = "watch_files",
    params(IdPath, FileQuery),
    responses((status = 200, body = FileEvent, content_type = "application/x-ndjson",
        description = "One event a line.")))]
pub(in crate::http) async fn watch(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
) -> Answer<Response> {
    only(&query, &["recursive"])?;
    let watched = path("path", query.path)?;
    let (guest, user) = inside(&app, &caller, &id, query.user.as_deref()).await?;
    let events = guest.watch(user.as_deref(), &watched, query.recursive.unwrap_or(false)).await?;
    Ok(lines::respond(told(events, Presence::new(&app, &id), app.closing.clone())))
}

fn told(
    events: mpsc::Receiver<WatchEvent>,
    presence: Presence,
    closing: CancellationToken,
) -> impl Stream<Item = FileEvent> + Send {
    futures::stream::unfold((events, presence, closing), |(mut events, presence, closing)| async move {
        let event = tokio::select! {
            found = events.recv() => event(found?),
            () = closing.cancelled() => return None,
            () = presence.keep(QUIET_MAX) => {
                FileEvent { event: "keepalive".to_owned(), path: String::new(), to: None }
            }
        };
        Some((event, (events, presence, closing)))
    })
}

/// Refuses members of a query that mean nothing here: a wish must not be silently ignored.
pub(super) fn only(query: &FileQuery, meant: &[&str]) -> Answer<()> {
    let given = [
        ("depth", query.depth.is_some()),
        ("recursive", query.recursive.is_some()),
        ("mode", query.mode.is_some()),
        ("offset", query.offset.is_some()),
        ("length", query.length.is_some()),
    ];
    match given.iter().find(|(name, given)| *given && !meant.contains(name)) {
        Some((name, _)) => Err(Failure::invalid(name, "means nothing for this request")),
        None => Ok(()),
    }
}

async fn ask(
    app: &App,
    caller: &Caller,
    id: &SandboxId,
    user: Option<&str>,
    request: &FileRequest,
) -> Answer<FileReply> {
    let (guest, user) = inside(app, caller, id, user).await?;
    Ok(guest.file(user.as_deref(), request).await?)
}

/// The inside of a sandbox, and the user things are done as there.
pub(super) async fn inside(
    app: &App,
    caller: &Caller,
    id: &SandboxId,
    user: Option<&str>,
) -> Answer<(Arc<dyn Guest>, Option<String>)> {
    let sandboxes = &app.services.sandboxes;
    let guest = sandboxes.guest(&caller.namespace, id).await?;
    let user = match user {
        Some(user) => Some(user.to_owned()),
        None => sandboxes.default_user(&caller.namespace, id)?,
    };
    Ok((guest, user))
}

fn entry(reply: FileReply) -> Answer<Json<File>> {
    match reply {
        FileReply::Entry(entry) => Ok(Json(view(entry))),
        other => Err(Failure::bug(format!("a question about one file was answered with {other:?}"))),
    }
}
