//! What an allocation has done: each piece by itself, telling the actor how it went. Any of it may be dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use moat_model::job::allocation::PortMapping;
use moat_model::job::{ChangeMode, CheckKind, Task, TaskDriver};
use moat_model::lifecycle::{PhaseName, SandboxView};
use moat_model::{Cause, ErrorKind, Exit, ProcessSpec, SandboxId};
use tokio::sync::mpsc::Sender;

use super::actor::News;
use super::checks::{self, Planned};
use super::ground::{Ground, owners};
use super::life::Event;
use super::prepare::{self, Failure, Rendered};
use super::{Shared, ports, secrets, spec};
use crate::error::{Error, Result};
use crate::logfile::Rotation;
use crate::outlet::{TaskOutput, blocking};

/// How long a predecessor on this node may take to end before its successor goes on without its data.
const PREDECESSOR_WITHIN: Duration = Duration::from_secs(120);
/// How often is looked whether it has.
const PREDECESSOR_LOOK: Duration = Duration::from_millis(250);
/// How often what templates ask for is asked again.
const TEMPLATES_EVERY: Duration = Duration::from_secs(2);

async fn say(tell: &Sender<News>, news: News) {
    // The actor has gone: nobody wants to know.
    let _ = tell.send(news).await;
}

async fn tell(to: &Sender<News>, event: Event) {
    say(to, News::Life(event)).await;
}

// --- before the first start

/// Directories and ports.
pub(super) async fn set_up(ground: Ground, to: Sender<News>) {
    let news = match try_set_up(&ground).await {
        Ok(ports) => News::SetUp(ports),
        Err(error) => News::Life(Event::NotSetUp(error.chain())),
    };
    say(&to, news).await;
    undo(&ground).await;
}

/// One that was forgotten while it waited for its predecessor leaves neither ports nor directories, however far it came.
async fn undo(ground: &Ground) {
    let id = &ground.allocation.id;
    if ground.shared.view(id).is_some() {
        return;
    }
    ground.shared.ports.free(id);
    let dirs = ground.dirs();
    if let Err(error) = blocking("remove the directories of an allocation", move || dirs.remove()).await {
        tracing::warn!(alloc = %id, error = %error.chain(), "its directories are left");
    }
}

async fn try_set_up(ground: &Ground) -> Result<BTreeMap<String, PortMapping>> {
    let group = ground.group()?;
    owners(group)?;
    for task in &group.tasks {
        prepare::check(task).map_err(|failure| Error::new(ErrorKind::InvalidSpec, failure.message))?;
        ground.network_mode(task)?;
    }
    for planned in checks::planned(group) {
        if matches!(planned.check.kind, CheckKind::Http { tls: true, .. }) {
            return Err(Error::invalid(&format!("check {}", planned.name), "protocol https is not checked; use http"));
        }
    }
    let predecessor = predecessor(ground).await;
    let tasks: Vec<(String, bool)> =
        group.tasks.iter().map(|task| (task.name.clone(), task.driver == TaskDriver::RawExec)).collect();
    let dirs = ground.dirs();
    blocking("make the directories of an allocation", move || {
        dirs.build(tasks.iter().map(|(name, on_host)| (name.as_str(), *on_host)))?;
        if let Some(predecessor) = predecessor {
            dirs.take_from(&predecessor, tasks.iter().map(|(name, _)| name.as_str()))?;
        }
        // Output nobody wants to keep still has to be read off the programs.
        std::fs::create_dir_all(dirs.root().join(SINK))
    })
    .await?;
    let Some(network) = group.network.as_ref().filter(|network| !network.ports.is_empty()) else {
        return Ok(BTreeMap::new());
    };
    if !ground.ports.is_empty() {
        return Ok(ground.ports.as_ref().clone());
    }
    let (first, last) = ground.shared.base.jobs.ports;
    let range = ports::Range {
        first,
        last,
        reserved: &ground.shared.base.facts.reserved_ports,
        address: ground.shared.address(),
    };
    ground.shared.ports.give(&ground.allocation.id, network, range, rand::random())
}

/// The directories of the one it replaces, if that was on this node and left something; waits until it has ended.
async fn predecessor(ground: &Ground) -> Option<super::dirs::AllocDirs> {
    let previous = ground.allocation.previous.as_ref()?;
    if !ground.group().ok()?.ephemeral_disk.sticky {
        return None;
    }
    let deadline = tokio::time::Instant::now() + PREDECESSOR_WITHIN;
    while let Some(view) = ground.shared.view(previous) {
        if view.status.client.is_terminal() {
            return Some(ground.shared.dirs_of(previous));
        }
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!(alloc = %ground.allocation.id, %previous, "does not end: its data is left to it");
            return None;
        }
        tokio::time::sleep(PREDECESSOR_LOOK).await;
    }
    None
}

// --- each start

/// Artifacts, payload and templates.
pub(super) async fn prepare(ground: Ground, name: String, to: Sender<News>) {
    match try_prepare(&ground, &name, &to).await {
        Ok(rendered) => say(&to, News::Prepared { task: name, rendered }).await,
        Err(Failure { kind, message, may_help }) => {
            tell(&to, Event::NotPrepared { task: name, kind, message, may_help }).await;
        }
    }
}

async fn try_prepare(ground: &Ground, name: &str, to: &Sender<News>) -> std::result::Result<Rendered, Failure> {
    let task = ground.task(name).map_err(|e| Failure::of("Failed Validation", &e))?;
    if prepare::uses_secrets(ground, task) {
        let (dir, owner) = (ground.dirs().task(name).join("secrets"), ground.owner(task, None, None));
        let mib = task.resources.secrets_mb;
        blocking("make the secrets of a task", move || secrets::mount(&dir, mib, owner))
            .await
            .map_err(|e| Failure::of("Setup Failure", &e))?;
    }
    if !task.artifacts.is_empty() {
        let message = "what its artifacts name".to_owned();
        tell(to, Event::Note { task: name.to_owned(), kind: "Downloading Artifacts", message }).await;
    }
    let (arrived, outcome) = prepare::fetch(ground, task).await;
    if !arrived.is_empty() {
        say(to, News::Fetched(arrived)).await;
    }
    outcome?;
    prepare::payload(ground, task).await?;
    prepare::render(ground, task, true).await
}

/// Directory for output nobody wants.
pub(super) const SINK: &str = ".sink";

/// Where the output of a task goes.
pub(super) fn output(ground: &Ground, task: &Task) -> TaskOutput {
    let dirs = ground.dirs();
    let name = task.name.clone();
    if task.logs.disabled {
        let rotation = Rotation { files_max: 1, file_bytes_max: 64 << 10 };
        return TaskOutput { dir: dirs.root().join(SINK), task: name, rotation };
    }
    let rotation = Rotation {
        files_max: task.logs.max_files.max(1),
        file_bytes_max: u64::from(task.logs.max_file_size_mb.max(1)) << 20,
    };
    TaskOutput { dir: dirs.logs(), task: name, rotation }
}

/// Makes the sandbox of a start, and follows it to its end.
pub(super) async fn create(
    ground: Ground,
    name: String,
    sandbox: SandboxId,
    env: BTreeMap<String, String>,
    to: Sender<News>,
) {
    match try_create(&ground, &name, &sandbox, &env).await {
        Ok(()) => follow(ground, name, sandbox, false, to).await,
        Err(error) => {
            let may_help = !matches!(error.kind, ErrorKind::InvalidSpec | ErrorKind::Unsupported | ErrorKind::Denied);
            let message = error.chain();
            tell(&to, Event::NotStarted { task: name, sandbox, message, may_help }).await;
        }
    }
}

async fn try_create(ground: &Ground, name: &str, sandbox: &SandboxId, env: &BTreeMap<String, String>) -> Result<()> {
    let task = ground.task(name)?;
    let planned = spec::plan(ground, task, env)?;
    ground.shared.base.outlet.bind_task(sandbox.clone(), output(ground, task)).await?;
    ground.shared.base.engine.create(sandbox.clone(), planned.spec).await?;
    Ok(())
}

/// Tells that it runs, and how it ended. `found`: a daemon before this one asked for it; if that died while it was made, it
/// never ran, and nobody is to blame.
pub(super) async fn follow(ground: Ground, task: String, sandbox: SandboxId, found: bool, to: Sender<News>) {
    let Some(mut views) = ground.shared.base.engine.watch(&sandbox) else {
        return tell(&to, Event::Vanished { task, sandbox }).await;
    };
    let mut told = false;
    loop {
        let view = views.borrow_and_update().clone();
        if let (Some(at), false, true) = (view.started_at, told, view.phase != PhaseName::Recovering) {
            told = true;
            tell(&to, Event::Started { task: task.clone(), sandbox: sandbox.clone(), at }).await;
        }
        if view.phase.is_terminal() && found && view.started_at.is_none() {
            return tell(&to, Event::Vanished { task, sandbox }).await;
        }
        if view.phase.is_terminal() {
            return tell(&to, ended(task, sandbox, &view)).await;
        }
        if views.changed().await.is_err() {
            // The engine lets go of it: forgotten after its end, or the daemon ends.
            return;
        }
    }
}

fn ended(task: String, sandbox: SandboxId, view: &SandboxView) -> Event {
    let cause = view.cause.as_ref();
    if view.started_at.is_none() {
        let message = cause.map(Cause::message).unwrap_or_default();
        return Event::NotStarted { task, sandbox, message, may_help: true };
    }
    let exit = view.exit.unwrap_or(Exit::unknown());
    let note = match cause {
        None | Some(Cause::Exited | Cause::Stopped) => String::new(),
        Some(cause) => cause.message(),
    };
    Event::Exited { task, sandbox, exit, note }
}

/// Forgets the record of a sandbox that has ended.
pub(super) async fn forget(shared: Arc<Shared>, sandbox: SandboxId) {
    match shared.base.engine.delete(&sandbox).await {
        Ok(()) => {}
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%sandbox, error = %error.chain(), "sandbox not deleted yet"),
    }
    if let Err(error) = shared.base.outlet.unbind_task(&sandbox).await {
        tracing::warn!(%sandbox, error = %error.chain(), "output not closed");
    }
}

// --- while it runs

/// Counts its bytes on disk.
pub(super) async fn count_disk(ground: Ground, to: Sender<News>) {
    let dirs = ground.dirs();
    match blocking("count the bytes of an allocation", move || dirs.bytes()).await {
        Ok(bytes) => say(&to, News::Disk(Some(bytes))).await,
        Err(error) => {
            tracing::warn!(alloc = %ground.allocation.id, error = %error.chain(), "not counted");
            say(&to, News::Disk(None)).await;
        }
    }
}

/// Tries one check for as long as its task runs.
pub(super) async fn check(ground: Ground, planned: Planned, sandbox: SandboxId, to: Sender<News>) {
    // All checks of a node at once would be a load of its own.
    let first = planned.check.interval.min(Duration::from_secs(1)).mul_f64(rand::random::<f64>());
    tokio::time::sleep(first).await;
    loop {
        let runs = ground.shared.base.engine.get(&sandbox).is_some_and(|view| view.phase == PhaseName::Running);
        if runs {
            let result = checks::attempt(&ground, &planned, &sandbox).await;
            let planned = Box::new(planned.clone());
            say(&to, News::Checked { planned, sandbox: sandbox.clone(), result }).await;
        }
        tokio::time::sleep(planned.check.interval.max(Duration::from_secs(1))).await;
    }
}

/// Looks again and again whether templates come out differently, and does what they say then.
pub(super) async fn follow_templates(
    ground: Ground,
    name: String,
    sandbox: SandboxId,
    last: Option<Rendered>,
    to: Sender<News>,
) {
    let Ok(task) = ground.task(&name).cloned() else { return };
    let mut last = match last {
        Some(last) => last,
        None => loop {
            match prepare::render(&ground, &task, false).await {
                Ok(now) => break now,
                Err(_) => tokio::time::sleep(TEMPLATES_EVERY).await,
            }
        },
    };
    if !last.looks_up {
        return;
    }
    loop {
        tokio::time::sleep(TEMPLATES_EVERY).await;
        let now = match prepare::render(&ground, &task, false).await {
            Ok(now) => now,
            // What it asks for is away: it keeps what it has.
            Err(failure) => {
                tracing::debug!(alloc = %ground.allocation.id, task = name, failure.message, "template");
                continue;
            }
        };
        let changed: Vec<usize> =
            now.watched.iter().filter(|(at, text)| last.watched.get(at) != Some(*text)).map(|(at, _)| *at).collect();
        if changed.is_empty() {
            continue;
        }
        let splay = changed.iter().filter_map(|at| task.templates.get(*at)).map(|t| t.splay).max().unwrap_or_default();
        tokio::time::sleep(splay.mul_f64(rand::random::<f64>())).await;
        let Ok(written) = prepare::render(&ground, &task, true).await else { continue };
        last = written;
        let modes = changed.iter().filter_map(|at| task.templates.get(*at)).map(|t| &t.change_mode);
        if apply(&ground, &name, &sandbox, modes.collect(), &to).await {
            return;
        }
    }
}

/// Does what changed templates say; whether the task starts anew.
async fn apply(ground: &Ground, name: &str, sandbox: &SandboxId, modes: Vec<&ChangeMode>, to: &Sender<News>) -> bool {
    if modes.iter().any(|mode| matches!(mode, ChangeMode::Restart)) {
        let message = "a template came out differently".to_owned();
        tell(to, Event::Restart { task: name.to_owned(), dead: false, message }).await;
        return true;
    }
    for mode in modes {
        match mode {
            ChangeMode::Noop | ChangeMode::Restart => {}
            ChangeMode::Signal { signal } => {
                let message = format!("signal {}: a template came out differently", signal.number());
                tell(to, Event::Note { task: name.to_owned(), kind: "Signaling", message }).await;
                let sent = match ground.shared.base.engine.guest(sandbox).await {
                    Ok(guest) => guest.signal_main(*signal).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = sent {
                    tracing::warn!(task = name, error = %error.chain(), "signal for a template");
                }
            }
            ChangeMode::Script { command, args, timeout, fail_on_error } => {
                let process = ProcessSpec {
                    command: command.clone(),
                    args: args.clone(),
                    env: BTreeMap::new(),
                    cwd: None,
                    user: None,
                };
                let outcome = checks::script(ground, sandbox, process, *timeout).await;
                let (kind, message) = match &outcome {
                    Ok(_) => ("Hook Completed", "the script of a changed template".to_owned()),
                    Err(why) => ("Hook Failed", format!("the script of a changed template: {why}")),
                };
                tell(to, Event::Note { task: name.to_owned(), kind, message: message.clone() }).await;
                if outcome.is_err() && *fail_on_error {
                    tell(to, Event::Unhealthy { task: name.to_owned(), message }).await;
                    return true;
                }
            }
        }
    }
    false
}
