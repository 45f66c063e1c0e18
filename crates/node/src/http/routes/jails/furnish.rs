//! What jails are made of: releases, which belong to the node, and templates, which belong to a namespace.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use axum::{Extension, Json};
use moat_api::rest::jail::{JailTemplateList, ReleaseList, UploadRelease};
use moat_model::jail::{
    Bootstrap, FetchTemplate, ReleaseArchive, ReleaseName, TemplateCheck, TemplateName, TemplateView,
};
use utoipa::IntoParams;

use super::super::transfers::plain;
use super::work::{Work, other};
use crate::http::answer::{Answer, Failure};
use crate::http::auth::{Administrator, Caller};
use crate::http::body::{Asked, Json as JsonBody, part};
use crate::http::meter::RequestId;
use crate::http::{App, IMPORT_BYTES_MAX, upload};

/// `{name}` of a release.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
struct ReleaseParam {
    /// What it is called.
    name: String,
}

/// `{project}` and `{template}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
struct TemplateParam {
    /// Before the slash.
    project: String,
    /// Behind it.
    template: String,
}

/// `{name}` of a release.
#[derive(Debug)]
pub(in crate::http) struct ReleasePath(ReleaseName);

impl<S: Send + Sync> FromRequestParts<S> for ReleasePath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let name = part(parts, state, "name").await?;
        ReleaseName::parse(&name).map(Self).map_err(|error| Failure::not_found(error.to_string()))
    }
}

/// `{project}` and `{template}`.
#[derive(Debug)]
pub(in crate::http) struct TemplatePath(TemplateName);

impl<S: Send + Sync> FromRequestParts<S> for TemplatePath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let name = format!("{}/{}", part(parts, state, "project").await?, part(parts, state, "template").await?);
        TemplateName::parse(&name).map(Self).map_err(|error| Failure::not_found(error.to_string()))
    }
}

/// Lists releases. Of the jails that need them a caller is told those it may see.
#[utoipa::path(get, path = "/releases", tag = "jails", operation_id = "list_releases",
    responses((status = 200, body = ReleaseList, description = "All of them.")))]
pub(in crate::http) async fn releases(State(app): State<App>, caller: Caller) -> Answer<Json<ReleaseList>> {
    let of = (!caller.is_administrator()).then_some(&caller.namespace);
    Ok(Json(ReleaseList { releases: app.jails()?.releases(of) }))
}

/// Makes a release of an image, of a jail of the caller's namespace that is down, or of what the operator says of its name.
#[utoipa::path(post, path = "/releases", tag = "jails", operation_id = "make_release", request_body = Value,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the release, or `failed`.")))]
pub(in crate::http) async fn make_release(
    State(app): State<App>,
    _admin: Administrator,
    caller: Caller,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<Bootstrap>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let work = |events| async move {
        jails.bootstrap(&caller.namespace, request, events).await.map(|release| other(&release))
    };
    Work::respond(&app, id, work).await
}

/// Makes a release of an archive in the body; one that is there is replaced.
#[utoipa::path(put, path = "/releases/{name}", tag = "jails", operation_id = "upload_release",
    params(ReleaseParam, UploadRelease),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the release, or `failed`.")))]
pub(in crate::http) async fn upload_release(
    State(app): State<App>,
    _admin: Administrator,
    ReleasePath(name): ReleasePath,
    Asked(query): Asked<UploadRelease>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Answer<Response> {
    let kind = match query.format.as_str() {
        "rootfs" => ReleaseArchive::Root,
        "oci-archive" => ReleaseArchive::Oci,
        "docker-archive" => ReleaseArchive::Docker,
        _ => return Err(Failure::invalid("format", "`oci-archive`, `docker-archive` or `rootfs`")),
    };
    let jails = app.jails()?.clone();
    let scratch = upload::onto_disk(plain(request)?, &app.services.scratch, IMPORT_BYTES_MAX).await?;
    let work = |events| async move {
        let made = jails.bootstrap_from(name, kind, scratch.0.clone(), events).await;
        // The file stays until here.
        drop(scratch);
        made.map(|release| other(&release))
    };
    Work::respond(&app, id, work).await
}

/// Removes a release that no jail needs.
#[utoipa::path(delete, path = "/releases/{name}", tag = "jails", operation_id = "remove_release", params(ReleaseParam),
    responses((status = 204, description = "It is gone.")))]
pub(in crate::http) async fn remove_release(
    State(app): State<App>,
    _admin: Administrator,
    ReleasePath(name): ReleasePath,
) -> Answer<StatusCode> {
    app.jails()?.drop_release(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the templates of the namespace.
#[utoipa::path(get, path = "/jail-templates", tag = "jails", operation_id = "list_jail_templates",
    responses((status = 200, body = JailTemplateList, description = "All of them.")))]
pub(in crate::http) async fn templates(State(app): State<App>, caller: Caller) -> Answer<Json<JailTemplateList>> {
    Ok(Json(JailTemplateList { templates: app.jails()?.templates(&caller.namespace)? }))
}

/// Fetches a repository of templates; those that are there are replaced.
#[utoipa::path(post, path = "/jail-templates", tag = "jails", operation_id = "fetch_jail_templates",
    request_body = Value,
    responses((status = 200, body = Value, content_type = "application/x-ndjson",
        description = "One event in each line; the last is `done`, with the templates, or `failed`.")))]
pub(in crate::http) async fn fetch_templates(
    State(app): State<App>,
    caller: Caller,
    Extension(id): Extension<RequestId>,
    JsonBody(request): JsonBody<FetchTemplate>,
) -> Answer<Response> {
    let jails = app.jails()?.clone();
    let work = |events| async move {
        let found = jails.add_template(&caller.namespace, request, events).await?;
        Ok(other(&found))
    };
    Work::respond(&app, id, work).await
}

/// Takes a template from a tar archive of its directory; one that is there is replaced.
#[utoipa::path(put, path = "/jail-templates/{project}/{template}", tag = "jails", operation_id = "upload_jail_template",
    params(TemplateParam), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Value, description = "It is there.")))]
pub(in crate::http) async fn upload_template(
    State(app): State<App>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
    request: Request,
) -> Answer<Json<TemplateView>> {
    let jails = app.jails()?;
    let scratch = upload::onto_disk(plain(request)?, &app.services.scratch, IMPORT_BYTES_MAX).await?;
    Ok(Json(jails.put_template(&caller.namespace, name, scratch.0.clone()).await?))
}

/// Looks through a template and all it includes: what its lines do, what is not here yet. Nothing is done.
#[utoipa::path(get, path = "/jail-templates/{project}/{template}", tag = "jails",
    operation_id = "check_jail_template", params(TemplateParam),
    responses((status = 200, body = Value, description = "Its hooks, what it includes, and warnings."),
        (status = 400, description = "It cannot be applied: where, and why.")))]
pub(in crate::http) async fn check_template(
    State(app): State<App>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
) -> Answer<Json<TemplateCheck>> {
    Ok(Json(app.jails()?.check_template(&caller.namespace, &name).await?))
}

/// Removes a template; jails it was applied to stay as they are.
#[utoipa::path(delete, path = "/jail-templates/{project}/{template}", tag = "jails",
    operation_id = "remove_jail_template", params(TemplateParam),
    responses((status = 204, description = "It is gone.")))]
pub(in crate::http) async fn remove_template(
    State(app): State<App>,
    caller: Caller,
    TemplatePath(name): TemplatePath,
) -> Answer<StatusCode> {
    app.jails()?.drop_template(&caller.namespace, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
