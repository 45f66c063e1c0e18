//! What a task finds in its directory when it starts: artifacts and rendered templates.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use moat_getter::{FetchRequest, Fetched, Ids, Origin, ProgressSink, Source};
use moat_model::Namespace;
use moat_model::job::{ArtifactSpec, ChangeMode, Task, TaskDriver, TemplateSpec};

use super::beneath::{Beneath, place};
use super::front::{Directory, ServiceInstance};
use super::ground::Ground;
use super::render::{self, Lookups};
use super::sources;
use crate::error::Error;

/// Longest source of a template.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;
/// The user a task is if nobody says otherwise.
const NOBODY: u32 = 65_534;

/// Why a task cannot start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Nomad's name of the event.
    pub kind: &'static str,
    pub message: String,
    /// Trying again may help.
    pub may_help: bool,
}

impl Failure {
    pub(super) fn of(kind: &'static str, error: &Error) -> Self {
        use moat_model::ErrorKind as Kind;
        let may_help = !matches!(error.kind, Kind::InvalidSpec | Kind::Unsupported | Kind::Denied);
        Self { kind, message: error.chain(), may_help }
    }

    fn never(message: String) -> Self {
        Self { kind: "Failed Validation", message, may_help: false }
    }
}

/// What was rendered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rendered {
    /// Of `env` templates.
    pub env: BTreeMap<String, String>,
    /// Each template that may come out differently later, by its place, and its text.
    pub watched: BTreeMap<usize, String>,
    /// Something of it looks up what may change.
    pub looks_up: bool,
}

/// Fetches what has not arrived yet. Returns what there is now, as `task/fingerprint`.
pub(super) async fn fetch(ground: &Ground, task: &Task) -> (Vec<String>, Result<(), Failure>) {
    let mut arrived = Vec::new();
    let requests = match requests(ground, task).await {
        Ok(requests) => requests,
        Err(failure) => return (arrived, Err(failure)),
    };
    let mut first = Ok(());
    for outcome in ground.shared.base.getter.fetch_all(requests, ProgressSink::none()).await {
        match outcome {
            Ok(Fetched { fingerprint, .. }) => arrived.push(format!("{}/{fingerprint}", task.name)),
            Err(error) if first.is_ok() => {
                let may_help = error.recoverable();
                first = Err(Failure { kind: "Failed Artifact Download", message: error.to_string(), may_help });
            }
            Err(error) => tracing::warn!(task = task.name, %error, "artifact"),
        }
    }
    (arrived, first)
}

async fn requests(ground: &Ground, task: &Task) -> Result<Vec<FetchRequest>, Failure> {
    let env = ground.env(task, &BTreeMap::new()).map_err(|e| Failure::of("Failed Validation", &e))?;
    let dirs = ground.dirs();
    let mut requests = Vec::new();
    for artifact in &task.artifacts {
        let artifact = replaced(ground, &env, artifact);
        let owner = match (artifact.chown, task.user.as_deref()) {
            (false, _) => ground.owner(task, None, None),
            (true, None) => ground.owner(task, Some(NOBODY), None),
            (true, Some(user)) => {
                let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
                let number = |text: &str| text.parse::<u32>().ok();
                let Some(uid) = number(uid) else {
                    let why = format!("artifact.chown: {user:?} is no number; name the task's user by its id");
                    return Err(Failure::never(why));
                };
                ground.owner(task, Some(uid), gid.and_then(number))
            }
        };
        let bad = |e: moat_getter::FetchError| Failure {
            kind: "Failed Artifact Download",
            message: e.to_string(),
            may_help: e.recoverable(),
        };
        let mut request = FetchRequest {
            artifact,
            alloc_dir: dirs.root().to_owned(),
            task_dir: dirs.task(&task.name),
            owner: owner.map(|(uid, gid)| Ids { uid, gid }),
            source: Source::Network,
            deadline: None,
        };
        if ground.fetched.contains(&format!("{}/{}", task.name, request.fingerprint())) {
            continue;
        }
        match moat_getter::origin(&request.artifact).map_err(bad)? {
            Origin::Network => {}
            Origin::Oci { reference } => {
                request.source = sources::image(ground, &reference).await.map_err(not_fetched)?;
            }
            Origin::Nats { bucket, key } => {
                let object = sources::object(ground, ground.shared.directory(), (&bucket, &key)).await;
                request.source = object.map_err(not_fetched)?;
            }
        }
        requests.push(request);
    }
    Ok(requests)
}

fn not_fetched(error: Error) -> Failure {
    Failure::of("Failed Artifact Download", &error)
}

fn replaced(ground: &Ground, env: &BTreeMap<String, String>, artifact: &ArtifactSpec) -> ArtifactSpec {
    let text = |text: &String| ground.replaced(env, text);
    let map = |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| (k.clone(), text(v))).collect();
    ArtifactSpec {
        source: text(&artifact.source),
        destination: text(&artifact.destination),
        options: map(&artifact.options),
        headers: map(&artifact.headers),
        ..artifact.clone()
    }
}

/// One template, everything about it known.
#[derive(Debug)]
struct Job {
    index: usize,
    spec: TemplateSpec,
    source: Option<PathBuf>,
    destination: Option<PathBuf>,
    owner: Option<(u32, u32)>,
}

/// Whether something of a task is written to `/secrets` before it starts.
pub(super) fn uses_secrets(ground: &Ground, task: &Task) -> bool {
    let Ok(env) = ground.env(task, &BTreeMap::new()) else { return false };
    let places = task.templates.iter().map(|t| &t.destination).chain(task.artifacts.iter().map(|a| &a.destination));
    let secrets = Path::new(&task.name).join("secrets");
    let root = ground.dirs();
    places
        .filter_map(|text| place(root.root(), &task.name, &ground.replaced(&env, text)))
        .any(|place| place.starts_with(&secrets))
}

/// Renders all templates of a task. `write`: puts the outcome in place.
pub(super) async fn render(ground: &Ground, task: &Task, write: bool) -> Result<Rendered, Failure> {
    if task.templates.is_empty() {
        return Ok(Rendered::default());
    }
    let env = ground.env(task, &BTreeMap::new()).map_err(|e| Failure::of("Failed Validation", &e))?;
    let jobs = template_jobs(ground, task, &env)?;
    let root = ground.dirs().root().to_owned();
    let denied = ground.shared.base.jobs.template_functions_denied.clone();
    let lookups = Asked {
        env,
        namespace: ground.job.namespace.clone(),
        directory: ground.shared.directory(),
        handle: tokio::runtime::Handle::current(),
    };
    let work = tokio::task::spawn_blocking(move || render_all(&jobs, &root, &denied, lookups, write));
    match work.await {
        Ok(rendered) => rendered.map_err(|message| Failure { kind: "Setup Failure", message, may_help: true }),
        // The daemon goes away: no outcome.
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(error) => Err(Failure { kind: "Setup Failure", message: error.to_string(), may_help: true }),
    }
}

fn template_jobs(ground: &Ground, task: &Task, env: &BTreeMap<String, String>) -> Result<Vec<Job>, Failure> {
    let root = ground.dirs();
    let inside = |what: &str, text: &str| {
        let text = ground.replaced(env, text);
        place(root.root(), &task.name, &text)
            .ok_or_else(|| Failure::never(format!("template.{what}: {text:?} leaves the allocation")))
    };
    let mut jobs: Vec<Job> = Vec::new();
    for (index, spec) in task.templates.iter().enumerate() {
        if spec.data.is_none() && spec.source.is_none() {
            return Err(Failure::never("template: has neither data nor source: there is nothing to render".to_owned()));
        }
        if spec.env && matches!(spec.change_mode, ChangeMode::Signal { .. }) {
            let why = "template.change_mode: signal does not change an environment; use restart";
            return Err(Failure::never(why.to_owned()));
        }
        let destination = match (spec.destination.is_empty(), spec.env) {
            (true, false) => return Err(Failure::never("template.destination: is missing".to_owned())),
            (true, true) => None,
            (false, _) => Some(inside("destination", &spec.destination)?),
        };
        if destination.is_some() && jobs.iter().any(|other| other.destination == destination) {
            let why = format!("template.destination: {:?} is another template's too", spec.destination);
            return Err(Failure::never(why));
        }
        let source = spec.source.as_deref().map(|text| inside("source", text)).transpose()?;
        let owner = ground.owner(task, spec.uid, spec.gid);
        jobs.push(Job { index, spec: spec.clone(), source, destination, owner });
    }
    Ok(jobs)
}

fn render_all(jobs: &[Job], root: &Path, denied: &[String], lookups: Asked, write: bool) -> Result<Rendered, String> {
    let lookups: Rc<dyn Lookups> = Rc::new(lookups);
    let beneath = Beneath::open(root).map_err(|e| format!("template: {}: {e}", root.display()))?;
    let mut all = Rendered::default();
    for job in jobs {
        let text = match (&job.spec.data, &job.source) {
            (Some(data), _) => data.clone(),
            (None, source) => read(&beneath, source.as_deref().unwrap_or(Path::new("")))?,
        };
        let source = render::Source {
            text: &text,
            left: &job.spec.left_delimiter,
            right: &job.spec.right_delimiter,
            strict: job.spec.error_on_missing_key,
            denied,
        };
        let shown = job.spec.destination.as_str();
        let out = render::render(source, Rc::clone(&lookups)).map_err(|e| format!("template {shown}: {e}"))?;
        if job.spec.env {
            all.env.extend(render::env_lines(&out.text).map_err(|e| format!("template {shown}: {e}"))?);
        }
        if write && let Some(destination) = &job.destination {
            beneath
                .replace(destination, out.text.as_bytes(), job.spec.perms, job.owner)
                .map_err(|e| format!("template.destination {shown}: {e}"))?;
        }
        if !job.spec.once {
            all.looks_up |= out.looked_up;
            all.watched.insert(job.index, out.text);
        }
    }
    Ok(all)
}

fn read(beneath: &Beneath, path: &Path) -> Result<String, String> {
    let failed = |e: std::io::Error| format!("template.source {}: {e}", path.display());
    let mut text = String::new();
    let file = beneath.file(path).map_err(failed)?;
    file.take(TEMPLATE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > TEMPLATE_BYTES_MAX {
        return Err(format!("template.source {}: has more than {TEMPLATE_BYTES_MAX} bytes", path.display()));
    }
    Ok(text)
}

/// What a template may ask for, from the thread that renders it.
struct Asked {
    env: BTreeMap<String, String>,
    namespace: Namespace,
    directory: Option<Arc<dyn Directory>>,
    handle: tokio::runtime::Handle,
}

impl Asked {
    fn directory(&self) -> Result<&Arc<dyn Directory>, String> {
        self.directory.as_ref().ok_or_else(|| "NATS is not reached yet".to_owned())
    }
}

impl Lookups for Asked {
    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    fn services(&self, name: &str) -> Result<Vec<ServiceInstance>, String> {
        let directory = self.directory()?;
        self.handle.block_on(directory.services(&self.namespace, name)).map_err(|e| e.chain())
    }

    fn key(&self, name: &str) -> Result<Option<String>, String> {
        let directory = self.directory()?;
        self.handle.block_on(directory.key(&self.namespace, name)).map_err(|e| e.chain())
    }
}

/// Writes what a dispatch brought to where the task wants it.
pub(super) async fn payload(ground: &Ground, task: &Task) -> Result<(), Failure> {
    let (Some(file), Some(payload)) = (&task.dispatch_payload, &ground.job.payload) else { return Ok(()) };
    let failed = |why: String| Failure {
        kind: "Setup Failure",
        message: format!("dispatch_payload {file}: {why}"),
        may_help: false,
    };
    let body = data_encoding::BASE64.decode(payload.as_bytes()).map_err(|e| failed(e.to_string()))?;
    let root = ground.dirs().root().to_owned();
    let path = place(&root, &task.name, &format!("local/{file}")).ok_or_else(|| failed("leaves local/".to_owned()))?;
    let owner = ground.owner(task, None, None);
    let work = move || Beneath::open(&root)?.replace(&path, &body, 0o644, owner);
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(error) => Err(failed(error.to_string())),
    }
}

/// What a driver cannot be given, said before anything is made.
pub(super) fn check(task: &Task) -> Result<(), Failure> {
    let brings = !task.artifacts.is_empty() || !task.templates.is_empty() || task.dispatch_payload.is_some();
    if task.driver == TaskDriver::Microvm && (brings || !task.volume_mounts.is_empty()) {
        let why = "microvm: a machine shares no directory with the host, so artifacts, templates, payloads and volumes \
                   do not reach it: put them into its template's image, or use exec";
        return Err(Failure::never(why.to_owned()));
    }
    Ok(())
}
