//! Bytes into and out of a sandbox. Nothing of them is held: a piece is taken when there is room for it.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use moat_api::rest::file::{FileQuery, Uploaded};
use moat_model::ErrorKind;
use moat_model::file::Transfer;

use super::IdPath;
use super::files::{inside, only};
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Asked, SandboxPath};
use crate::http::files::{mode, path};
use crate::http::presence::Presence;
use crate::http::upload;

/// The bytes of a file, or of a part of it.
#[utoipa::path(get, path = "/sandboxes/{id}/files", tag = "files", operation_id = "download_file",
    params(IdPath, FileQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream", description = "The bytes.")))]
pub(in crate::http) async fn download(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
) -> Answer<Response> {
    only(&query, &["offset", "length"])?;
    let (offset, length) = (query.offset.unwrap_or(0), query.length);
    let transfer = Transfer::Read { path: path("path", query.path)?, offset, length };
    let (guest, user) = inside(&app, &caller, &id, query.user.as_deref()).await?;
    let bytes = guest.pull(user.as_deref(), &transfer).await?;
    Ok(upload::out_of_sandbox(bytes, "application/octet-stream", Presence::new(&app, &id), app.closing.clone()))
}

/// Replaces the bytes of a file. It appears whole or not at all.
#[utoipa::path(put, path = "/sandboxes/{id}/files", tag = "files", operation_id = "upload_file",
    params(IdPath, FileQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Uploaded, description = "It is in place.")))]
pub(in crate::http) async fn upload(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
    request: Request,
) -> Answer<Json<Uploaded>> {
    only(&query, &["mode"])?;
    let transfer = Transfer::Write { path: path("path", query.path)?, mode: mode(query.mode.as_deref())? };
    let body = plain(request)?;
    let (guest, user) = inside(&app, &caller, &id, query.user.as_deref()).await?;
    let sink = guest.push(user.as_deref(), &transfer).await?;
    Ok(Json(upload::into_sandbox(body, sink, Presence::new(&app, &id)).await?))
}

/// A file or directory as a tar archive.
#[utoipa::path(get, path = "/sandboxes/{id}/files/tar", tag = "files", operation_id = "download_tar",
    params(IdPath, FileQuery),
    responses((status = 200, body = Vec<u8>, content_type = "application/x-tar", description = "The archive.")))]
pub(in crate::http) async fn download_tar(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
) -> Answer<Response> {
    only(&query, &[])?;
    let transfer = Transfer::TarOut { path: path("path", query.path)? };
    let (guest, user) = inside(&app, &caller, &id, query.user.as_deref()).await?;
    let bytes = guest.pull(user.as_deref(), &transfer).await?;
    Ok(upload::out_of_sandbox(bytes, "application/x-tar", Presence::new(&app, &id), app.closing.clone()))
}

/// Unpacks a tar archive below a directory.
#[utoipa::path(put, path = "/sandboxes/{id}/files/tar", tag = "files", operation_id = "upload_tar",
    params(IdPath, FileQuery), request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = Uploaded, description = "It is unpacked.")))]
pub(in crate::http) async fn upload_tar(
    State(app): State<App>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Asked(query): Asked<FileQuery>,
    request: Request,
) -> Answer<Json<Uploaded>> {
    only(&query, &[])?;
    let transfer = Transfer::TarIn { path: path("path", query.path)? };
    let body = plain(request)?;
    let (guest, user) = inside(&app, &caller, &id, query.user.as_deref()).await?;
    let sink = guest.push(user.as_deref(), &transfer).await?;
    Ok(Json(upload::into_sandbox(body, sink, Presence::new(&app, &id)).await?))
}

/// A body that is the bytes themselves. A form has its own wrapping around them, which would end up in the file.
pub(super) fn plain(request: Request) -> Answer<Body> {
    let given = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    if given.is_some_and(|given| given.trim_start().to_ascii_lowercase().starts_with("multipart/")) {
        return Err(Failure::new(ErrorKind::InvalidSpec, "Content-Type: the body is the bytes themselves, not a form")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    Ok(request.into_body())
}
