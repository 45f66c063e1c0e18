//! Templates. They belong to the node: every caller sees and uses them, administrators change them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use moat_api::rest::Nothing;
use moat_api::rest::template::{Template, TemplateList, Warmup, WarmupStatus};

use super::with_status;
use crate::http::App;
use crate::http::answer::Answer;
use crate::http::auth::{Administrator, Caller};
use crate::http::body::{Json as JsonBody, NamePath, OrNothing};

/// Makes a template of an image, in the background.
#[utoipa::path(post, path = "/templates/warmup", tag = "templates", operation_id = "warm_up_template",
    request_body = Warmup, responses((status = 202, body = WarmupStatus, description = "It is under way.")))]
pub(super) async fn warm_up(
    State(app): State<App>,
    _admin: Administrator,
    JsonBody(request): JsonBody<Warmup>,
) -> Answer<(StatusCode, Json<WarmupStatus>)> {
    Ok(with_status(StatusCode::ACCEPTED, app.services.templates.warm_up(request).await?))
}

/// Lists templates.
#[utoipa::path(get, path = "/templates", tag = "templates", operation_id = "list_templates",
    responses((status = 200, body = TemplateList, description = "All of them.")))]
pub(super) async fn list(State(app): State<App>, _caller: Caller) -> Json<TemplateList> {
    Json(app.services.templates.list())
}

/// One template.
#[utoipa::path(get, path = "/templates/{name}", tag = "templates", operation_id = "get_template",
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 200, body = Template, description = "As it is.")))]
pub(super) async fn get(State(app): State<App>, _caller: Caller, NamePath(name): NamePath) -> Answer<Json<Template>> {
    Ok(Json(app.services.templates.get(&name)?))
}

/// How far a warm-up is.
#[utoipa::path(get, path = "/templates/{name}/status", tag = "templates", operation_id = "template_status",
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 200, body = WarmupStatus, description = "Its state now.")))]
pub(super) async fn status(
    State(app): State<App>,
    _caller: Caller,
    NamePath(name): NamePath,
) -> Answer<Json<WarmupStatus>> {
    Ok(Json(app.services.templates.status(&name)?))
}

/// Gives a warm-up up. The version in use stays.
#[utoipa::path(post, path = "/templates/{name}/cancel", tag = "templates", operation_id = "cancel_warmup",
    params(("name" = String, Path, description = "Its name.")), request_body = Option<Nothing>,
    responses((status = 200, body = WarmupStatus, description = "It is given up.")))]
pub(super) async fn cancel(
    State(app): State<App>,
    _admin: Administrator,
    NamePath(name): NamePath,
    OrNothing(Nothing {}): OrNothing<Nothing>,
) -> Answer<Json<WarmupStatus>> {
    Ok(Json(app.services.templates.cancel(&name).await?))
}

/// Removes a template. Sandboxes made from it live on.
#[utoipa::path(delete, path = "/templates/{name}", tag = "templates", operation_id = "remove_template",
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 204, description = "It is gone.")))]
pub(super) async fn remove(
    State(app): State<App>,
    _admin: Administrator,
    NamePath(name): NamePath,
) -> Answer<StatusCode> {
    app.services.templates.remove(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
