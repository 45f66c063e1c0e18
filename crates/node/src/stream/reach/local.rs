//! What is asked about allocations of this node.

use moat_agent::protocol::StreamName;
use moat_api::allocation::{AllocationVerb, Origin as Asked};
use moat_api::nex::event::rfc3339;
use moat_api::rest::Done;
use moat_api::rest::allocation::{AllocationFile, AllocationFiles, AllocationStats, TaskStats};
use moat_engine::guest::ExecSession;
use moat_model::job::TaskDriver;
use moat_model::spec::ExecSpec;
use moat_model::{AllocId, ErrorKind, Namespace};
use serde::Serialize;
use serde_json::Value;

use super::{Reach, carry};
use crate::allocations::{AllocView, FsEntry, LogsWanted, Origin, RestartWanted, TaskUsage};
use crate::error::{Error, Result};

impl Reach {
    /// The allocation, if it is here and of this namespace.
    fn find(&self, namespace: &Namespace, id: &AllocId) -> Result<std::sync::Arc<AllocView>> {
        // The same text for what does not exist and for what another namespace has.
        let found = self.allocations.get(id).filter(|view| view.assignment.allocation.namespace == *namespace);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("allocation {id} is not on this node")))
    }

    /// Answers what is one question and one answer.
    pub(super) async fn answer(&self, namespace: &Namespace, id: &AllocId, verb: AllocationVerb) -> Result<Value> {
        self.find(namespace, id)?;
        let all = &self.allocations;
        match verb {
            AllocationVerb::List { path } => {
                let files = all.fs_list(id, &path).await?.into_iter().map(file).collect();
                value(&AllocationFiles { files })
            }
            AllocationVerb::Stat { path } => value(&file(all.fs_stat(id, &path).await?)),
            AllocationVerb::Signal { task, signal } => {
                all.signal(id, task.as_deref(), signal).await?;
                value(&Done { ok: true })
            }
            AllocationVerb::Restart { task } => {
                all.restart(id, task.map_or(RestartWanted::Running, RestartWanted::Task)).await?;
                value(&Done { ok: true })
            }
            AllocationVerb::Stats => {
                let tasks = all.stats(id).await?.into_iter().map(|(name, used)| (name, stats(used))).collect();
                value(&AllocationStats { tasks })
            }
            AllocationVerb::Exec { .. } | AllocationVerb::Logs { .. } | AllocationVerb::Read { .. } => {
                Err(Error::new(ErrorKind::InvalidSpec, "this verb is answered with a stream"))
            }
        }
    }

    /// Begins what is answered with a stream.
    pub(super) async fn begin(&self, namespace: &Namespace, id: &AllocId, verb: AllocationVerb) -> Result<ExecSession> {
        let view = self.find(namespace, id)?;
        match verb {
            AllocationVerb::Exec { task, spec, bare_host, .. } => {
                self.exec(&view, task.as_deref(), &spec, bare_host).await
            }
            AllocationVerb::Logs { task, stderr, from, follow, .. } => {
                let task = one_task(&view, task.as_deref())?;
                let stream = if stderr { StreamName::Stderr } else { StreamName::Stdout };
                let wanted = LogsWanted { task, stream, from: origin(from), follow };
                Ok(carry::from_pieces(self.allocations.logs(id, wanted).await?))
            }
            AllocationVerb::Read { path, from, limit, follow, .. } => {
                Ok(carry::from_pieces(self.allocations.fs_read(id, &path, origin(from), limit, follow).await?))
            }
            _ => Err(Error::new(ErrorKind::InvalidSpec, "this verb is answered at once")),
        }
    }

    async fn exec(
        &self,
        view: &AllocView,
        task: Option<&str>,
        spec: &ExecSpec,
        bare_host: bool,
    ) -> Result<ExecSession> {
        let target = self.allocations.exec_target(&view.assignment.allocation.id, task)?;
        let driver = view.assignment.group().and_then(|group| group.task(&target.task)).map(|task| task.driver);
        // Whoever runs a program beside a task of raw_exec runs it on the bare host, as the task's user.
        if driver == Some(TaskDriver::RawExec) && !bare_host {
            let why = format!(
                "task {}: it runs on the bare host, so exec needs an API key with the scope admin",
                target.task
            );
            return Err(Error::new(ErrorKind::Denied, why));
        }
        self.engine.exec(&target.sandbox, spec).await
    }
}

/// The task that is meant: the only one may be left out.
fn one_task(view: &AllocView, task: Option<&str>) -> Result<String> {
    let group = view.assignment.group();
    let names: Vec<&str> = group.into_iter().flat_map(|group| &group.tasks).map(|task| task.name.as_str()).collect();
    match (task, names.as_slice()) {
        (Some(task), names) if names.contains(&task) => Ok(task.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (Some(task), names) => {
            Err(Error::new(ErrorKind::NotFound, format!("task: there is no {task:?}, only {}", names.join(", "))))
        }
        (None, names) => Err(Error::new(ErrorKind::InvalidSpec, format!("task: name one of {}", names.join(", ")))),
    }
}

fn origin(asked: Asked) -> Origin {
    match asked {
        Asked::Start(bytes) => Origin::Start(bytes),
        Asked::End(bytes) => Origin::End(bytes),
        Asked::Lines(lines) => Origin::Lines(lines),
    }
}

fn file(entry: FsEntry) -> AllocationFile {
    AllocationFile {
        name: entry.name,
        directory: entry.is_dir,
        mode: entry.mode,
        size: entry.size,
        modified_at: rfc3339(entry.modified),
    }
}

fn stats(used: TaskUsage) -> TaskStats {
    TaskStats {
        memory_bytes: used.usage.memory_bytes,
        memory_peak_bytes: used.usage.memory_peak_bytes,
        cpu_usec: used.usage.cpu_usec,
        pids: used.usage.pids,
        oom_kills: used.usage.oom_kills,
    }
}

fn value<T: Serialize>(answer: &T) -> Result<Value> {
    serde_json::to_value(answer).map_err(|error| Error::caused_by(ErrorKind::Internal, "write an answer", error))
}
