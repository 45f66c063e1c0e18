//! Jobs, their evaluations and deployments.

use axum::Json;
use axum::extract::State;
use data_encoding::BASE64;
use moat_api::nex::event::rfc3339;
use moat_api::rest::allocation::AllocationList;
use moat_api::rest::deployment::{Deployment, DeploymentList, Promote};
use moat_api::rest::evaluation::{Evaluation, EvaluationList};
use moat_api::rest::job::{
    Decided, DispatchJob, Dispatched, JobDetail, JobList, JobPlan, JobSummary, JobVersions, ListJobs, ParseJob,
    ParsedJob, PlanJob, RevertJob, StopJob, SubmitJob, Submitted,
};
use moat_formats::{Inputs, Nothing, nomad};
use moat_model::job::Job;
use moat_model::{ErrorKind, JobId, Namespace};
use utoipa::IntoParams;

use super::shown;
use crate::http::App;
use crate::http::answer::{Answer, Failure};
use crate::http::auth::Caller;
use crate::http::body::{Asked, IdText, JobPath, Json as JsonBody, OrNothing};
use crate::jobs::{DispatchRequest, Jobs, StopOptions, SubmitOptions};

/// Longest payload of a dispatch.
const PAYLOAD_MAX: usize = 16 << 10;

/// Broken rules of one job that are shown; as many as of a file.
const RULES_SHOWN_MAX: usize = 20;

/// `{id}` of a job.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
pub(super) struct JobIdPath {
    /// Id of a job; a `/` in it is written `%2F`.
    id: String,
}

/// `{id}` of an evaluation or a deployment.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is read by the document alone")]
pub(super) struct RecordPath {
    /// Its id, or the beginning of one.
    id: String,
}

/// A job is declared for the namespace of whoever asks, and one that comes as JSON is held to the rules of files.
fn own(namespace: &Namespace, job: &Job) -> Answer<()> {
    if job.namespace != *namespace {
        let why = format!("the job says {}, the request is for {namespace}", job.namespace);
        return Err(Failure::invalid("job.namespace", why).with_hint("X-Moat-Namespace, or --namespace, names another"));
    }
    if job.parent.is_some() || job.payload.is_some() {
        return Err(Failure::invalid(
            "job.parent",
            "parent and payload are given to children by a dispatch or the clock",
        ));
    }
    let broken: Vec<String> = nomad::rules::check(job).iter().take(RULES_SHOWN_MAX).map(ToString::to_string).collect();
    if broken.is_empty() { Ok(()) } else { Err(Failure::invalid("job", broken.join("; "))) }
}

/// Gives groups the counts of the version that runs.
async fn keep_counts(jobs: &Jobs, namespace: &Namespace, job: &mut Job) -> Answer<()> {
    let declared = match jobs.get(namespace, &job.id).await {
        Ok(view) => view.job,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for group in &mut job.groups {
        if let Some(before) = declared.group(&group.name) {
            group.count = before.count;
        }
    }
    Ok(())
}

/// Lists the jobs of the namespace, by id.
#[utoipa::path(get, path = "/jobs", tag = "jobs", operation_id = "list_jobs", params(ListJobs),
    responses((status = 200, body = JobList, description = "All of them.")))]
pub(in crate::http) async fn list(
    State(app): State<App>,
    caller: Caller,
    Asked(query): Asked<ListJobs>,
) -> Answer<Json<JobList>> {
    let prefix = query.prefix.unwrap_or_default();
    let jobs = app.cluster()?.jobs.list(Some(&caller.namespace), &prefix).await?;
    Ok(Json(JobList { jobs: jobs.iter().map(shown::row).collect() }))
}

/// Declares a job, or a new version of one. It is placed after the answer: the evaluation says how that goes.
#[utoipa::path(post, path = "/jobs", tag = "jobs", operation_id = "submit_job", request_body = SubmitJob,
    responses((status = 200, body = Submitted, description = "It is declared.")))]
pub(in crate::http) async fn submit(
    State(app): State<App>,
    caller: Caller,
    JsonBody(request): JsonBody<SubmitJob>,
) -> Answer<Json<Submitted>> {
    own(&caller.namespace, &request.job)?;
    let options = SubmitOptions { enforce_index: request.check_index, preserve_counts: request.preserve_counts };
    let submitted = app.cluster()?.jobs.submit(&caller.namespace, request.job, options).await?;
    Ok(Json(shown::submitted(&submitted)))
}

/// Reads a job file, HCL or JSON. Its functions see no files here and no clock: where it needs some, read it where they are.
#[utoipa::path(post, path = "/jobs/parse", tag = "jobs", operation_id = "parse_job", request_body = ParseJob,
    responses((status = 200, body = ParsedJob, description = "As `POST /jobs` takes it.")))]
pub(in crate::http) async fn parse(_caller: Caller, JsonBody(request): JsonBody<ParseJob>) -> Answer<Json<ParsedJob>> {
    let read = move || {
        let inputs = Inputs { vars: request.variables.into_iter().collect(), ..Inputs::default() };
        nomad::parse("job file", &request.text, &inputs, &Nothing)
    };
    // Expressions may take a while, though a bounded one.
    let parsed = tokio::task::spawn_blocking(read).await;
    let parsed = parsed.map_err(|error| Failure::bug(format!("reading a job file: {error}")))?;
    let job = parsed.map_err(|problems| Failure::invalid("text", problems))?;
    Ok(Json(ParsedJob { job }))
}

/// What declaring a job would change. Nothing is changed.
#[utoipa::path(post, path = "/jobs/plan", tag = "jobs", operation_id = "plan_job", request_body = PlanJob,
    responses((status = 200, body = JobPlan, description = "What would happen.")))]
pub(in crate::http) async fn plan(
    State(app): State<App>,
    caller: Caller,
    JsonBody(request): JsonBody<PlanJob>,
) -> Answer<Json<JobPlan>> {
    own(&caller.namespace, &request.job)?;
    let jobs = &app.cluster()?.jobs;
    let mut job = request.job;
    if request.preserve_counts {
        keep_counts(jobs, &caller.namespace, &mut job).await?;
    }
    Ok(Json(shown::plan(jobs.plan(&caller.namespace, job).await?)))
}

/// One job, and what became of it.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", operation_id = "get_job", params(JobIdPath),
    responses((status = 200, body = JobDetail, description = "As it is.")))]
pub(in crate::http) async fn get(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<JobDetail>> {
    let view = app.cluster()?.jobs.get(&caller.namespace, &id).await?;
    Ok(Json(shown::detail(view)))
}

/// Stops a job. It stays to be looked at, unless it is purged.
#[utoipa::path(delete, path = "/jobs/{id}", tag = "jobs", operation_id = "stop_job", params(JobIdPath, StopJob),
    responses((status = 200, body = Decided, description = "It is going to stop.")))]
pub(in crate::http) async fn stop(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    Asked(query): Asked<StopJob>,
) -> Answer<Json<Decided>> {
    let options = StopOptions { purge: query.purge, no_shutdown_delay: query.no_shutdown_delay };
    let submitted = app.cluster()?.jobs.stop(&caller.namespace, &id, options).await?;
    Ok(Json(Decided { evaluation: submitted.evaluation }))
}

/// Instances of a job by state.
#[utoipa::path(get, path = "/jobs/{id}/summary", tag = "jobs", operation_id = "job_summary", params(JobIdPath),
    responses((status = 200, body = JobSummary, description = "By group.")))]
pub(in crate::http) async fn summary(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<JobSummary>> {
    let view = app.cluster()?.jobs.get(&caller.namespace, &id).await?;
    Ok(Json(JobSummary { id: id.to_string(), groups: shown::groups(&view.summary.groups) }))
}

/// Versions of a job that are kept, the newest first, with what each changed.
#[utoipa::path(get, path = "/jobs/{id}/versions", tag = "jobs", operation_id = "job_versions", params(JobIdPath),
    responses((status = 200, body = JobVersions, description = "Those that are kept.")))]
pub(in crate::http) async fn versions(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<JobVersions>> {
    let versions = app.cluster()?.jobs.versions(&caller.namespace, &id).await?;
    Ok(Json(JobVersions { versions: shown::versions(versions) }))
}

/// Allocations of a job, the newest first.
#[utoipa::path(get, path = "/jobs/{id}/allocations", tag = "jobs", operation_id = "job_allocations",
    params(JobIdPath), responses((status = 200, body = AllocationList, description = "Those that are kept.")))]
pub(in crate::http) async fn allocations(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<AllocationList>> {
    let jobs = &app.cluster()?.jobs;
    // One that does not exist is told apart from one that has none.
    jobs.get(&caller.namespace, &id).await?;
    Ok(Json(shown::allocations(jobs.allocations(Some(&caller.namespace), Some(&id)).await?)))
}

/// Evaluations of a job, the newest first.
#[utoipa::path(get, path = "/jobs/{id}/evaluations", tag = "jobs", operation_id = "job_evaluations",
    params(JobIdPath), responses((status = 200, body = EvaluationList, description = "Those that are kept.")))]
pub(in crate::http) async fn evaluations(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<EvaluationList>> {
    let mut list = app.cluster()?.jobs.evaluations(&caller.namespace, &id).await?;
    list.reverse();
    Ok(Json(EvaluationList { evaluations: list.iter().map(shown::evaluation).collect() }))
}

/// Deployments of a job, the newest first.
#[utoipa::path(get, path = "/jobs/{id}/deployments", tag = "jobs", operation_id = "job_deployments",
    params(JobIdPath), responses((status = 200, body = DeploymentList, description = "Those that are kept.")))]
pub(in crate::http) async fn deployments(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<DeploymentList>> {
    let jobs = &app.cluster()?.jobs;
    // One that does not exist is told apart from one that has none.
    jobs.get(&caller.namespace, &id).await?;
    let list = jobs.deployments(&caller.namespace, Some(&id)).await?;
    Ok(Json(DeploymentList { deployments: list.iter().map(shown::deployment).collect() }))
}

/// Has it decided anew where a job runs.
#[utoipa::path(post, path = "/jobs/{id}/evaluate", tag = "jobs", operation_id = "evaluate_job", params(JobIdPath),
    responses((status = 200, body = Decided, description = "It is going to be decided.")))]
pub(in crate::http) async fn evaluate(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<Decided>> {
    let submitted = app.cluster()?.jobs.evaluate(&caller.namespace, &id).await?;
    Ok(Json(Decided { evaluation: submitted.evaluation }))
}

/// Declares an earlier version again, as a new one.
#[utoipa::path(post, path = "/jobs/{id}/revert", tag = "jobs", operation_id = "revert_job", params(JobIdPath),
    request_body = RevertJob, responses((status = 200, body = Submitted, description = "It is declared.")))]
pub(in crate::http) async fn revert(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    JsonBody(request): JsonBody<RevertJob>,
) -> Answer<Json<Submitted>> {
    let jobs = &app.cluster()?.jobs;
    let submitted = jobs.revert(&caller.namespace, &id, request.version, request.enforce_prior).await?;
    Ok(Json(shown::submitted(&submitted)))
}

/// Starts a child of a parameterized job.
#[utoipa::path(post, path = "/jobs/{id}/dispatch", tag = "jobs", operation_id = "dispatch_job", params(JobIdPath),
    request_body = Option<DispatchJob>, responses((status = 200, body = Dispatched, description = "It is declared.")))]
pub(in crate::http) async fn dispatch(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    OrNothing(request): OrNothing<DispatchJob>,
) -> Answer<Json<Dispatched>> {
    let decoded = request.payload.map(|text| BASE64.decode(text.as_bytes())).transpose();
    let payload = decoded.map_err(|error| Failure::invalid("payload", error))?;
    if payload.as_ref().is_some_and(|payload| payload.len() > PAYLOAD_MAX) {
        return Err(Failure::invalid(
            "payload",
            format!("at most {PAYLOAD_MAX} bytes; more belongs into an object store"),
        ));
    }
    let request = DispatchRequest { meta: request.meta, payload };
    let submitted = app.cluster()?.jobs.dispatch(&caller.namespace, &id, request).await?;
    Ok(Json(Dispatched { id: submitted.job.to_string(), evaluation: submitted.evaluation }))
}

/// Starts a child of a periodic job now.
#[utoipa::path(post, path = "/jobs/{id}/periodic/force", tag = "jobs", operation_id = "force_periodic",
    params(JobIdPath), responses((status = 200, body = Dispatched, description = "It is declared.")))]
pub(in crate::http) async fn force_periodic(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Answer<Json<Dispatched>> {
    let submitted = app.cluster()?.jobs.force_periodic(&caller.namespace, &id).await?;
    Ok(Json(Dispatched { id: submitted.job.to_string(), evaluation: submitted.evaluation }))
}

/// Accepts the canaries of a job's deployment.
#[utoipa::path(post, path = "/jobs/{id}/promote", tag = "jobs", operation_id = "promote_job", params(JobIdPath),
    request_body = Option<Promote>, responses((status = 200, body = Decided, description = "It goes on.")))]
pub(in crate::http) async fn promote(
    State(app): State<App>,
    caller: Caller,
    JobPath(id): JobPath,
    OrNothing(request): OrNothing<Promote>,
) -> Answer<Json<Decided>> {
    let jobs = &app.cluster()?.jobs;
    let latest = latest_deployment(jobs, &caller.namespace, &id).await?;
    jobs.promote(&caller.namespace, &latest, &request.groups).await?;
    let decided = jobs.evaluate(&caller.namespace, &id).await?;
    Ok(Json(Decided { evaluation: decided.evaluation }))
}

async fn latest_deployment(jobs: &Jobs, namespace: &Namespace, id: &JobId) -> Answer<String> {
    let list = jobs.deployments(namespace, Some(id)).await?;
    let latest = list.into_iter().next().map(|view| view.deployment.id);
    latest.ok_or_else(|| Failure::not_found(format!("job {id} has no deployment")))
}

/// One evaluation.
#[utoipa::path(get, path = "/evaluations/{id}", tag = "jobs", operation_id = "get_evaluation", params(RecordPath),
    responses((status = 200, body = Evaluation, description = "As it is.")))]
pub(in crate::http) async fn evaluation(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
) -> Answer<Json<Evaluation>> {
    let view = app.cluster()?.jobs.evaluation(&caller.namespace, &id).await?;
    Ok(Json(shown::evaluation(&view)))
}

/// One deployment.
#[utoipa::path(get, path = "/deployments/{id}", tag = "jobs", operation_id = "get_deployment", params(RecordPath),
    responses((status = 200, body = Deployment, description = "As it is.")))]
pub(in crate::http) async fn deployment(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
) -> Answer<Json<Deployment>> {
    let view = app.cluster()?.jobs.deployment(&caller.namespace, &id).await?;
    Ok(Json(shown::deployment(&view)))
}

/// Accepts the canaries of a deployment.
#[utoipa::path(post, path = "/deployments/{id}/promote", tag = "jobs", operation_id = "promote_deployment",
    params(RecordPath), request_body = Option<Promote>,
    responses((status = 200, body = Deployment, description = "It goes on.")))]
pub(in crate::http) async fn promote_deployment(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
    OrNothing(request): OrNothing<Promote>,
) -> Answer<Json<Deployment>> {
    let view = app.cluster()?.jobs.promote(&caller.namespace, &id, &request.groups).await?;
    Ok(Json(shown::deployment(&view)))
}

/// Gives a deployment up.
#[utoipa::path(post, path = "/deployments/{id}/fail", tag = "jobs", operation_id = "fail_deployment",
    params(RecordPath), responses((status = 200, body = Deployment, description = "It has failed.")))]
pub(in crate::http) async fn fail_deployment(
    State(app): State<App>,
    caller: Caller,
    IdText(id): IdText,
) -> Answer<Json<Deployment>> {
    let view = app.cluster()?.jobs.fail(&caller.namespace, &id).await?;
    Ok(Json(shown::deployment(&view)))
}

/// A moment as the API writes it.
pub(super) fn moment(at: moat_model::Timestamp) -> String {
    rfc3339(at)
}
