//! What the machine has to know of a group.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_model::job::{Hook, Job, Restart, Task, TaskGroup};
use moat_model::spec::Signal;

/// A group, as far as the life of its tasks depends on it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Wait between withdrawing services and stopping tasks.
    pub shutdown_delay: Duration,
    /// Stopped after this long.
    pub max_run: Option<Duration>,
    /// Its tasks by name.
    pub tasks: BTreeMap<String, TaskPlan>,
}

/// A task, as far as its life depends on it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TaskPlan {
    pub role: Role,
    pub leader: bool,
    pub restart: Restart,
    /// An end with 0 is followed by a start.
    pub on_success: bool,
    pub shutdown_delay: Duration,
    pub kill_signal: Signal,
    pub kill_timeout: Duration,
}

/// When a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// To its end, before the main tasks.
    Prestart,
    /// From before the main tasks to their end.
    PrestartSidecar,
    Main,
    /// To its end, once all main tasks have started.
    Poststart,
    /// From then to the end of the main tasks.
    PoststartSidecar,
    /// When all others are dead.
    Poststop,
}

impl Role {
    fn of(task: &Task) -> Self {
        match task.lifecycle {
            None => Self::Main,
            Some(life) => match (life.hook, life.sidecar) {
                (Hook::Prestart, false) => Self::Prestart,
                (Hook::Prestart, true) => Self::PrestartSidecar,
                (Hook::Poststart, false) => Self::Poststart,
                (Hook::Poststart, true) => Self::PoststartSidecar,
                (Hook::Poststop, _) => Self::Poststop,
            },
        }
    }

    pub(crate) fn is_sidecar(self) -> bool {
        matches!(self, Self::PrestartSidecar | Self::PoststartSidecar)
    }
}

impl Plan {
    /// Of a group of a job; `longest`: the operator's bound of `kill_timeout`.
    pub(crate) fn of(job: &Job, group: &TaskGroup, longest: Duration) -> Self {
        let task = |task: &Task| {
            let role = Role::of(task);
            TaskPlan {
                role,
                leader: task.leader,
                restart: task.restart.unwrap_or(group.restart),
                on_success: job.kind.is_long_running() && (role == Role::Main || role.is_sidecar()),
                shutdown_delay: task.shutdown_delay,
                kill_signal: task.kill_signal,
                kill_timeout: task.kill_timeout.min(longest),
            }
        };
        Self {
            shutdown_delay: group.shutdown_delay,
            max_run: group.max_run_duration,
            tasks: group.tasks.iter().map(|t| (t.name.clone(), task(t))).collect(),
        }
    }
}
