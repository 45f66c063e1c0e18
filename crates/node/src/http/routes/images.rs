//! Images. They belong to the node, and who uses them is told of every tenant: all of this needs an administrator.

use std::pin::Pin;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::Stream;
use moat_api::rest::Nothing;
use moat_api::rest::image::{CollectImages, Collected, Image, ImageList, ImportImage, PullEvent, PullImage};
use moat_api::rest::template::LayerStatus;
use moat_image::progress::Progress;
use moat_image::store::Source;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;

use crate::error::Result;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Administrator;
use crate::http::body::{Asked, Json as JsonBody, NamePath, OrNothing};
use crate::http::meter::RequestId;
use crate::http::{App, IMPORT_BYTES_MAX, lines, upload};

/// The one route whose path the router spells differently.
#[derive(Debug, OpenApi)]
#[openapi(paths(removal))]
pub(super) struct Removal;

/// Removes a reference, or an image by digest.
#[utoipa::path(delete, path = "/api/v1/images/{name}", tag = "images", operation_id = "remove_image",
    params(("name" = String, Path, description = "Reference or digest; slashes may stand as they are.")),
    responses((status = 200, body = Collected, description = "What is gone with it.")))]
#[expect(dead_code, reason = "it is read by the document alone")]
fn removal() {}

/// Removes a reference, or an image by digest.
pub(super) async fn remove(
    State(app): State<App>,
    _admin: Administrator,
    NamePath(name): NamePath,
) -> Answer<Json<Collected>> {
    Ok(Json(app.services.templates.remove_image(&name).await?))
}

/// Lists images.
#[utoipa::path(get, path = "/images", tag = "images", operation_id = "list_images",
    responses((status = 200, body = ImageList, description = "All of them.")))]
pub(super) async fn list(State(app): State<App>, _admin: Administrator) -> Answer<Json<ImageList>> {
    Ok(Json(app.services.templates.images()))
}

/// Removes what nothing needs.
#[utoipa::path(post, path = "/images/gc", tag = "images", operation_id = "collect_images",
    params(CollectImages), request_body = Option<Nothing>,
    responses((status = 200, body = Collected, description = "What is gone.")))]
pub(super) async fn collect(
    State(app): State<App>,
    _admin: Administrator,
    Asked(query): Asked<CollectImages>,
    OrNothing(Nothing {}): OrNothing<Nothing>,
) -> Answer<Json<Collected>> {
    Ok(Json(app.services.templates.collect(query.all.unwrap_or(false)).await?))
}

/// Fetches an image. A client that goes away gives it up; what is fetched is kept for the next.
#[utoipa::path(post, path = "/images/pull", tag = "images", operation_id = "pull_image", request_body = PullImage,
    responses((status = 200, body = PullEvent, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done` or `failed`.")))]
pub(in crate::http) async fn pull(
    State(app): State<App>,
    _admin: Administrator,
    axum::Extension(RequestId(id)): axum::Extension<RequestId>,
    JsonBody(request): JsonBody<PullImage>,
) -> Answer<Response> {
    let (sender, progress) = watch::channel(Progress::default());
    let (templates, closing) = (app.services.templates.clone(), app.closing.clone());
    let work = Box::pin(async move { templates.pull(request, sender, closing.child_token()).await });
    Work { work, progress, closing: app.closing.clone(), id, ended: false }.respond().await
}

/// Imports an image from an archive in the body.
#[utoipa::path(post, path = "/images/import", tag = "images", operation_id = "import_image", params(ImportImage),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = PullEvent, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done` or `failed`.")))]
pub(in crate::http) async fn import(
    State(app): State<App>,
    _admin: Administrator,
    Asked(query): Asked<ImportImage>,
    axum::Extension(RequestId(id)): axum::Extension<RequestId>,
    request: Request,
) -> Answer<Response> {
    let kind = Archive::parse(&query.format)?;
    if matches!(kind, Archive::Root) && query.source.is_some() {
        return Err(Failure::invalid("source", "a root has no images to choose from"));
    }
    let body = super::transfers::plain(request)?;
    let scratch = upload::onto_disk(body, &app.services.scratch, IMPORT_BYTES_MAX).await?;
    let (sender, progress) = watch::channel(Progress::default());
    let (templates, closing) = (app.services.templates.clone(), app.closing.clone());
    let work = Box::pin(async move {
        let source = kind.source(scratch.0.clone(), query.source);
        let imported = templates.import(source, query.name, sender, closing.child_token()).await;
        // The file stays until here, whoever gives up.
        drop(scratch);
        imported
    });
    Work { work, progress, closing: app.closing.clone(), id, ended: false }.respond().await
}

/// What an archive is.
#[derive(Debug, Clone, Copy)]
enum Archive {
    Oci,
    Docker,
    Root,
}

impl Archive {
    fn parse(text: &str) -> Answer<Self> {
        match text {
            "oci-archive" => Ok(Self::Oci),
            "docker-archive" => Ok(Self::Docker),
            "rootfs" => Ok(Self::Root),
            _ => Err(Failure::invalid("format", "`oci-archive`, `docker-archive` or `rootfs`")),
        }
    }

    fn source(self, path: std::path::PathBuf, name: Option<String>) -> Source {
        match self {
            Self::Oci => Source::OciLayout { path, name },
            Self::Docker => Source::DockerArchive { path, name },
            Self::Root => Source::RootArchive { path },
        }
    }
}

/// A pull or an import under way. Dropped, it is given up.
struct Work {
    work: Pin<Box<dyn Future<Output = Result<Image>> + Send>>,
    progress: watch::Receiver<Progress>,
    closing: CancellationToken,
    id: String,
    ended: bool,
}

impl Work {
    /// A refusal before anything was done is a status, not a line.
    async fn respond(mut self) -> Answer<Response> {
        let first = match self.next().await {
            Err(failure) => return Err(failure),
            Ok(first) => first,
        };
        let rest = futures::stream::unfold(self, |mut work| async move {
            if work.ended {
                return None;
            }
            let event = work.next().await.unwrap_or_else(|failure| PullEvent::Failed { error: failure.body(&work.id) });
            Some((event, work))
        });
        Ok(lines::respond(first_then(first, rest)))
    }

    async fn next(&mut self) -> Answer<PullEvent> {
        let event = tokio::select! {
            biased;
            ended = &mut self.work => {
                self.ended = true;
                PullEvent::Done { image: ended? }
            }
            () = self.closing.cancelled() => {
                self.ended = true;
                return Err(Failure::closing());
            }
            Ok(()) = self.progress.changed() => told(&self.progress.borrow_and_update()),
            // Nothing new is a sign of life too.
            () = tokio::time::sleep(lines::QUIET_MAX) => told(&self.progress.borrow()),
        };
        Ok(event)
    }
}

fn first_then<S: Stream<Item = PullEvent> + Send>(first: PullEvent, rest: S) -> impl Stream<Item = PullEvent> + Send {
    use futures::StreamExt;
    futures::stream::once(std::future::ready(first)).chain(rest)
}

fn told(progress: &Progress) -> PullEvent {
    let layers = progress.layers.iter().map(|layer| LayerStatus {
        digest: layer.digest.to_string(),
        bytes_done: layer.bytes_done,
        bytes_total: layer.bytes_total,
        cached: layer.cached,
        done: layer.done,
    });
    PullEvent::Progress { phase: progress.phase.as_str().to_owned(), layers: layers.collect() }
}
