//! Jails: what is one question and one answer. What takes long is in [`work`], archives are in [`archives`], releases and
//! templates in [`furnish`].

pub(super) mod archives;
pub(super) mod furnish;
pub(super) mod life;
mod work;

use std::path::PathBuf;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use moat_api::rest::jail::{JailList, JailSnapshots, RemoveJail, RemoveLimits, RemoveMounts, RemoveRedirects};
use moat_model::jail::{
    ChangeJail, DestroyJail, JailLimit, JailMount, JailName, JailView, Redirect, RemoveLimit, RemoveMount, RenameJail,
    Setting, SnapshotTag,
};
use utoipa::IntoParams;

use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Asked, Json as JsonBody, part};
use crate::jails::Listener;

/// `{name}` of a jail.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
struct JailParam {
    /// What it is called.
    name: String,
}

/// `{name}` and `{tag}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
struct SnapshotParam {
    /// The jail.
    name: String,
    /// The snapshot.
    tag: String,
}

/// `{name}` of a jail. What cannot be one is not found, like one that is not there.
#[derive(Debug)]
pub(super) struct JailPath(pub JailName);

impl<S: Send + Sync> FromRequestParts<S> for JailPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let name = part(parts, state, "name").await?;
        JailName::parse(&name).map(Self).map_err(|_| Failure::not_found(format!("no jail {name:?}")))
    }
}

/// `{name}` and `{tag}`.
#[derive(Debug)]
pub(super) struct SnapshotPath(pub JailName, pub SnapshotTag);

impl<S: Send + Sync> FromRequestParts<S> for SnapshotPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let JailPath(name) = JailPath::from_request_parts(parts, state).await?;
        let tag = part(parts, state, "tag").await?;
        let tag = SnapshotTag::parse(&tag).map_err(|_| Failure::not_found(format!("no snapshot {tag:?}")))?;
        Ok(Self(name, tag))
    }
}

/// Where news go that nobody waits for.
fn nobody() -> Listener {
    tokio::sync::mpsc::channel(1).0
}

/// Lists the jails of the namespace, in the order they are started in.
#[utoipa::path(get, path = "/jails", tag = "jails", operation_id = "list_jails",
    responses((status = 200, body = JailList, description = "All of them.")))]
pub(in crate::http) async fn list(State(app): State<App>, caller: Caller) -> Answer<Json<JailList>> {
    Ok(Json(JailList { jails: app.jails()?.list(&caller.namespace) }))
}

/// One jail.
#[utoipa::path(get, path = "/jails/{name}", tag = "jails", operation_id = "get_jail", params(JailParam),
    responses((status = 200, body = Value, description = "As it is.")))]
pub(in crate::http) async fn get(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
) -> Answer<Json<JailView>> {
    Ok(Json(app.jails()?.get(&caller.namespace, &name)?))
}

/// Changes what is declared of a jail: boot, priority, depend, labels, address, watched services, properties.
#[utoipa::path(patch, path = "/jails/{name}", tag = "jails", operation_id = "change_jail", params(JailParam),
    request_body = Value, responses((status = 200, body = Value, description = "As it is now.")))]
pub(in crate::http) async fn change(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    JsonBody(change): JsonBody<ChangeJail>,
) -> Answer<Json<JailView>> {
    Ok(Json(app.jails()?.change(&caller.namespace, &name, change).await?))
}

/// Removes a jail and its files. One that is up is refused, unless `force` says otherwise.
#[utoipa::path(delete, path = "/jails/{name}", tag = "jails", operation_id = "destroy_jail",
    params(JailParam, RemoveJail), responses((status = 204, description = "It is gone.")))]
pub(in crate::http) async fn destroy(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Asked(query): Asked<RemoveJail>,
) -> Answer<StatusCode> {
    let how = DestroyJail { force: query.force };
    app.jails()?.destroy(&caller.namespace, &name, how, nobody()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a jail that is down another name.
#[utoipa::path(post, path = "/jails/{name}/rename", tag = "jails", operation_id = "rename_jail", params(JailParam),
    request_body = Value, responses((status = 200, body = Value, description = "Under its new name.")))]
pub(in crate::http) async fn rename(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    JsonBody(request): JsonBody<RenameJail>,
) -> Answer<Json<JailView>> {
    Ok(Json(app.jails()?.rename(&caller.namespace, &name, request.name).await?))
}

async fn set(app: &App, caller: &Caller, name: &JailName, setting: Setting) -> Answer<Json<JailView>> {
    Ok(Json(app.jails()?.set(&caller.namespace, name, setting).await?))
}

/// Bounds a resource of a jail: `resource` and `value`, as rctl has them. One that is up gets it at once.
#[utoipa::path(post, path = "/jails/{name}/limits", tag = "jails", operation_id = "limit_jail", params(JailParam),
    request_body = Value, responses((status = 200, body = Value, description = "As it is now.")))]
pub(in crate::http) async fn limit(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    JsonBody(limit): JsonBody<JailLimit>,
) -> Answer<Json<JailView>> {
    set(&app, &caller, &name, Setting::Limit(limit)).await
}

/// Takes a limit away, or all of them.
#[utoipa::path(delete, path = "/jails/{name}/limits", tag = "jails", operation_id = "unlimit_jail",
    params(JailParam, RemoveLimits), responses((status = 200, body = Value, description = "As it is now.")))]
pub(in crate::http) async fn unlimit(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Asked(query): Asked<RemoveLimits>,
) -> Answer<Json<JailView>> {
    set(&app, &caller, &name, Setting::NoLimit(RemoveLimit { resource: query.resource })).await
}

/// Shows a path of the host inside, one the operator allows: `kind`, `target`, `read_only`.
#[utoipa::path(post, path = "/jails/{name}/mounts", tag = "jails", operation_id = "mount_in_jail", params(JailParam),
    request_body = Value, responses((status = 200, body = Value, description = "As it is now.")))]
pub(in crate::http) async fn mount(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    JsonBody(mount): JsonBody<JailMount>,
) -> Answer<Json<JailView>> {
    set(&app, &caller, &name, Setting::Mount(mount)).await
}

/// No longer shows it.
#[utoipa::path(delete, path = "/jails/{name}/mounts", tag = "jails", operation_id = "unmount_in_jail",
    params(JailParam, RemoveMounts), responses((status = 200, body = Value, description = "As it is now.")))]
pub(in crate::http) async fn unmount(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Asked(query): Asked<RemoveMounts>,
) -> Answer<Json<JailView>> {
    let remove = RemoveMount { target: PathBuf::from(query.target) };
    set(&app, &caller, &name, Setting::NoMount(remove)).await
}

/// Leads a port of the host to a jail: `protocol`, `host_address`, `host_port`, `port`, `count`.
#[utoipa::path(post, path = "/jails/{name}/redirects", tag = "jails", operation_id = "redirect_to_jail",
    params(JailParam), request_body = Value, responses((status = 200, body = Value, description = "As it is now.")))]
pub(in crate::http) async fn redirect(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    JsonBody(redirect): JsonBody<Redirect>,
) -> Answer<Json<JailView>> {
    set(&app, &caller, &name, Setting::Redirect(redirect)).await
}

/// Takes a redirect away, or all of them.
#[utoipa::path(delete, path = "/jails/{name}/redirects", tag = "jails", operation_id = "remove_redirects",
    params(JailParam, RemoveRedirects), responses((status = 200, body = Value, description = "As it is now.")))]
pub(in crate::http) async fn remove_redirects(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
    Asked(query): Asked<RemoveRedirects>,
) -> Answer<Json<JailView>> {
    let one = match (query.protocol, query.host_port) {
        (None, None) => None,
        (Some(protocol), Some(port)) => {
            let there = app.jails()?.get(&caller.namespace, &name)?.spec.redirects;
            let found = there.into_iter().find(|r| r.protocol.as_str() == protocol && r.host_port == port);
            Some(found.ok_or_else(|| Failure::not_found(format!("no redirect of {protocol} port {port}")))?)
        }
        _ => return Err(Failure::invalid("protocol", "protocol and host_port come together")),
    };
    set(&app, &caller, &name, Setting::NoRedirect(one)).await
}

/// Snapshots of a jail, the oldest first.
#[utoipa::path(get, path = "/jails/{name}/snapshots", tag = "jails", operation_id = "list_jail_snapshots",
    params(JailParam), responses((status = 200, body = JailSnapshots, description = "All of them.")))]
pub(in crate::http) async fn snapshots(
    State(app): State<App>,
    caller: Caller,
    JailPath(name): JailPath,
) -> Answer<Json<JailSnapshots>> {
    Ok(Json(JailSnapshots { snapshots: app.jails()?.snapshots(&caller.namespace, &name)? }))
}

/// Removes a snapshot.
#[utoipa::path(delete, path = "/jails/{name}/snapshots/{tag}", tag = "jails", operation_id = "remove_jail_snapshot",
    params(SnapshotParam), responses((status = 204, description = "It is gone.")))]
pub(in crate::http) async fn remove_snapshot(
    State(app): State<App>,
    caller: Caller,
    SnapshotPath(name, tag): SnapshotPath,
) -> Answer<StatusCode> {
    app.jails()?.drop_snapshot(&caller.namespace, &name, &tag).await?;
    Ok(StatusCode::NO_CONTENT)
}
