//! The routes, by what they are about.

mod allocations;
mod cluster;
mod detached;
mod exec;
mod files;
mod images;
mod jails;
mod jobs;
mod logs;
mod network;
mod node;
mod sandboxes;
mod shown;
mod sockets;
mod templates;
mod transfers;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get};
use axum::{Json, Router};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::Failure;
use super::{App, auth, bounds, meter, openapi};
use moat_api::rest::PREFIX;

/// `{id}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
struct IdPath {
    /// Id of a sandbox.
    #[param(pattern = "^sb-[0-9a-hjkmnp-tv-z]{26}$")]
    id: String,
}

/// `{id}` and `{pid}`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
struct PidPath {
    /// Id of a sandbox.
    #[param(pattern = "^sb-[0-9a-hjkmnp-tv-z]{26}$")]
    id: String,
    /// Process id inside it.
    pid: u32,
}

/// Routes that last as long as their client wants.
fn streams() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(exec::exec))
        .routes(routes!(exec::exec_stream))
        .routes(routes!(sockets::exec_ws))
        .routes(routes!(sockets::terminal))
        .routes(routes!(sockets::attach_ws))
        .routes(routes!(detached::follow))
        .routes(routes!(transfers::download, transfers::upload, files::remove))
        .routes(routes!(transfers::download_tar, transfers::upload_tar))
        .routes(routes!(files::watch))
        .routes(routes!(logs::logs))
        .routes(routes!(images::pull))
        .routes(routes!(images::import))
        .merge(long_of_jails())
        .routes(routes!(allocations::exec))
        .routes(routes!(allocations::logs))
        .routes(routes!(allocations::read_file))
}

/// Routes that are one question and one answer.
fn questions() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::get, sandboxes::delete))
        .routes(routes!(sandboxes::keepalive))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::fork))
        .routes(routes!(sandboxes::snapshot))
        .routes(routes!(sandboxes::snapshots))
        .routes(routes!(sandboxes::delete_snapshot))
        .routes(routes!(sandboxes::explain))
        .routes(routes!(sandboxes::usage))
        .routes(routes!(network::get, network::put))
        .routes(routes!(network::test))
        .routes(routes!(network::of_node))
        .routes(routes!(network::test_any))
        .routes(routes!(detached::processes))
        .routes(routes!(detached::signal_process))
        .routes(routes!(detached::start, detached::list))
        .routes(routes!(detached::get))
        .routes(routes!(detached::signal))
        .routes(routes!(files::stat))
        .routes(routes!(files::list))
        .routes(routes!(files::make_directory))
        .routes(routes!(files::rename))
        .routes(routes!(templates::warm_up))
        .routes(routes!(templates::list))
        .routes(routes!(templates::get, templates::remove))
        .routes(routes!(templates::status))
        .routes(routes!(templates::cancel))
        .routes(routes!(images::list))
        .routes(routes!(images::collect))
        .merge(of_jobs())
        .merge(of_jails())
        .routes(routes!(node::nodes))
        .routes(routes!(node::stats))
        .routes(routes!(node::version))
}

/// Jails: what may take long, and carries archives.
fn long_of_jails() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(jails::life::create))
        .routes(routes!(jails::life::start))
        .routes(routes!(jails::life::stop))
        .routes(routes!(jails::life::restart))
        .routes(routes!(jails::life::clone))
        .routes(routes!(jails::life::convert))
        .routes(routes!(jails::life::upgrade))
        .routes(routes!(jails::life::template))
        .routes(routes!(jails::life::snapshot))
        .routes(routes!(jails::life::rollback))
        .routes(routes!(jails::archives::export))
        .routes(routes!(jails::archives::import))
        .routes(routes!(jails::archives::console))
        .routes(routes!(jails::furnish::make_release))
        .routes(routes!(jails::furnish::upload_release))
        .routes(routes!(jails::furnish::fetch_templates))
        .routes(routes!(jails::furnish::upload_template))
}

/// Jails, and what belongs to them.
fn of_jails() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(jails::list))
        .routes(routes!(jails::get, jails::change, jails::destroy))
        .routes(routes!(jails::rename))
        .routes(routes!(jails::limit, jails::unlimit))
        .routes(routes!(jails::mount, jails::unmount))
        .routes(routes!(jails::redirect, jails::remove_redirects))
        .routes(routes!(jails::snapshots))
        .routes(routes!(jails::remove_snapshot))
        .routes(routes!(jails::furnish::releases))
        .routes(routes!(jails::furnish::remove_release))
        .routes(routes!(jails::furnish::templates))
        .routes(routes!(jails::furnish::check_template, jails::furnish::remove_template))
}

/// Jobs, and what belongs to them.
fn of_jobs() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(jobs::parse))
        .routes(routes!(jobs::plan))
        .routes(routes!(jobs::get, jobs::stop))
        .routes(routes!(jobs::summary))
        .routes(routes!(jobs::versions))
        .routes(routes!(jobs::allocations))
        .routes(routes!(jobs::evaluations))
        .routes(routes!(jobs::deployments))
        .routes(routes!(jobs::evaluate))
        .routes(routes!(jobs::revert))
        .routes(routes!(jobs::dispatch))
        .routes(routes!(jobs::force_periodic))
        .routes(routes!(jobs::promote))
        .routes(routes!(jobs::evaluation))
        .routes(routes!(jobs::deployment))
        .routes(routes!(jobs::promote_deployment))
        .routes(routes!(jobs::fail_deployment))
        .routes(routes!(allocations::list))
        .routes(routes!(allocations::get))
        .routes(routes!(allocations::stop))
        .routes(routes!(allocations::restart))
        .routes(routes!(allocations::signal))
        .routes(routes!(allocations::stats))
        .routes(routes!(allocations::checks))
        .routes(routes!(allocations::list_files))
        .routes(routes!(allocations::stat_file))
        .routes(routes!(cluster::get))
        .routes(routes!(cluster::drain))
        .routes(routes!(cluster::eligibility))
}

/// All of `/api/v1`, with its document.
pub(super) fn described() -> OpenApiRouter<App> {
    let mut document = <images::Removal as utoipa::OpenApi>::openapi();
    let all = OpenApiRouter::new().nest(PREFIX, streams()).nest(PREFIX, questions());
    let mut all = OpenApiRouter::with_openapi(std::mem::take(&mut document)).merge(all);
    openapi::complete(all.get_openapi_mut());
    all
}

/// The whole server.
pub(super) fn router(app: App) -> Router {
    let turn = || from_fn_with_state(app.clone(), bounds::take_turn);
    let identify = from_fn_with_state(app.clone(), auth::identify);
    // An image's name has slashes, which the document's language cannot say of a path.
    let extra = Router::new()
        .route(&format!("{PREFIX}/images/{{*name}}"), delete(images::remove))
        .route(&format!("{PREFIX}/openapi.json"), get(node::openapi))
        .route_layer(turn());
    let api = Router::from(OpenApiRouter::new().nest(PREFIX, streams()))
        .merge(Router::from(OpenApiRouter::new().nest(PREFIX, questions())).route_layer(turn()))
        .merge(extra)
        .fallback(async || Failure::of_status(StatusCode::NOT_FOUND))
        .layer(identify);
    let pages = Router::new().route("/healthz", get(node::health)).route("/metrics", get(node::metrics));
    pages.merge(api).layer(DefaultBodyLimit::disable()).layer(from_fn(meter::surround)).with_state(app)
}

/// A JSON answer with a status of its own.
fn with_status<T: serde::Serialize>(status: StatusCode, value: T) -> (StatusCode, Json<T>) {
    (status, Json(value))
}
