//! Jails as archives, and what they wrote on their consoles.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use moat_api::client::rest::SHA256_HEADER;
use moat_api::rest::jail::{ReadConsole, ReceiveJail};
use moat_model::jail::{ImportJail, JailName};
use tokio_util::io::ReaderStream;

use super::super::transfers::plain;
use super::work::{Work, jail};
use super::{JailParam, JailPath, nobody};
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::Asked;
use crate::http::meter::RequestId;
use crate::http::{App, IMPORT_BYTES_MAX, upload};
use crate::jails::ConsoleWanted;

/// A jail as an archive, made whether it is up or down. The answer begins when the archive is whole; its digest stands in
/// the header `x-moat-sha256`.
#[utoipa::path(get, path = "/jails/{name}/export", tag = "jails", operation_id = "export_jail", params(JailParam),
    responses((status = 200, body = Vec<u8>, content_type = "application/zstd", description = "The archive.")))]
pub(in crate::http) async fn export(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
) -> Answer<Response> {
    let exported = app.jails()?.export(&caller.namespace, &name, nobody()).await?;
    let headers = [
        (CONTENT_TYPE.as_str(), "application/zstd".to_owned()),
        (CONTENT_DISPOSITION.as_str(), format!("attachment; filename=\"{}\"", exported.name)),
        (CONTENT_LENGTH.as_str(), exported.bytes.to_string()),
        (SHA256_HEADER, exported.sha256),
    ];
    let content = ReaderStream::new(tokio::fs::File::from_std(exported.file));
    Ok((headers, Body::from_stream(content)).into_response())
}

/// Makes a jail of an archive in the body. It is down afterwards.
#[utoipa::path(post, path = "/jails/import", tag = "jails", operation_id = "import_jail", params(ReceiveJail),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the jail, or `failed`.")))]
pub(in crate::http) async fn import(
    State(app): State<App>,
    caller: Caller,
    Asked(query): Asked<ReceiveJail>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let name = query.name.as_deref().map(JailName::parse).transpose();
    let name = name.map_err(|error| Failure::invalid("name", error))?;
    if query.sha256.is_none() && !query.force {
        return Err(Failure::invalid("sha256", "the digest of the archive is needed, or force"));
    }
    let asked = ImportJail { name, sha256: query.sha256, force: query.force };
    let scratch = upload::onto_disk(plain(request)?, &app.services.scratch, IMPORT_BYTES_MAX).await?;
    let work = |events| async move {
        let imported = jails.import(&caller.namespace, asked, scratch.0.clone(), events).await;
        // The file stays until here.
        drop(scratch);
        imported.map(jail)
    };
    Work::respond(&app, id, work).await
}

/// What a jail wrote on its console: its services, as they start and stop.
#[utoipa::path(get, path = "/jails/{name}/console", tag = "jails", operation_id = "read_jail_console",
    params(JailParam, ReadConsole),
    responses((status = 200, body = String, content_type = "text/plain", description = "As it was written.")))]
pub(in crate::http) async fn console(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Asked(query): Asked<ReadConsole>,
) -> Answer<Response> {
    let lines = query.tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let wanted = lines.map_or(ConsoleWanted::All, ConsoleWanted::Lines);
    let pieces = app.jails()?.console(&caller.namespace, &name, wanted, query.follow).await?;
    let closing = app.closing.clone();
    let pieces = futures::stream::unfold((pieces, closing), |(mut pieces, closing)| async move {
        let piece = closing.run_until_cancelled(pieces.recv()).await??;
        Some((piece.map_err(std::io::Error::other), (pieces, closing)))
    });
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(pieces)).into_response())
}
