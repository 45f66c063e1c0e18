//! What is remembered of an allocation's life. It is written down as it is, before anything is done about it.

use std::collections::BTreeMap;

use moat_model::job::allocation::TASK_EVENTS_MAX;
use moat_model::job::{ClientStatus, TaskEvent, TaskPhase, TaskStatus};
use moat_model::{Exit, SandboxId, Timestamp};
use moat_scheduler::restart::History;
use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// Its directories and ports are there.
    pub ready: bool,
    /// Each task.
    pub tasks: BTreeMap<String, TaskLife>,
    /// Everything is being ended, and why.
    pub end: Option<End>,
    /// Nothing is started until it is known that nothing was placed elsewhere.
    pub fenced: bool,
    /// When its first main task started.
    pub began: Option<Timestamp>,
    /// Why it is as it is, for people.
    pub description: String,
}

/// Why everything is ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// Nobody wants it any more.
    Stopped {
        /// Tasks are not asked before this: the group's `shutdown_delay`.
        not_before: Timestamp,
        /// Nor do tasks wait for their own.
        no_delay: bool,
    },
    /// Another runs in its place: it is killed.
    Replaced,
    /// A task has failed.
    Failed { task: String },
    /// The leader has ended.
    LeaderDead,
    /// It ran as long as it may.
    TimeUp,
    /// It wrote more than it may.
    DiskFull,
    /// Its directories or ports could not be made.
    NotSetUp,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskLife {
    pub stage: Stage,
    pub failed: bool,
    pub exit: Option<Exit>,
    pub sandbox: Option<SandboxId>,
    pub restarts: u32,
    /// It has run at least once.
    pub ran: bool,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub history: History,
    pub events: Vec<TaskEvent>,
}

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Its turn has not come.
    Waiting,
    /// Artifacts and templates.
    Preparing,
    /// Its sandbox is asked for.
    Starting { sandbox: SandboxId },
    /// It runs.
    Running { sandbox: SandboxId },
    /// Its services are withdrawn; it is asked to stop at this moment.
    Draining { sandbox: SandboxId, until: Timestamp, why: Why },
    /// It was asked to stop.
    Stopping { sandbox: SandboxId, why: Why },
    /// It is started again at this moment.
    Backoff { until: Timestamp },
    /// Never again.
    Dead,
}

/// Why a task is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Why {
    /// It should not run any more.
    Killed,
    /// It should run anew.
    Restart,
    /// Its checks failed for too long: as if it had failed.
    Unhealthy,
}

impl Life {
    /// Of a new allocation.
    pub(crate) fn new(plan: &Plan, now: Timestamp, fenced: bool) -> Self {
        let tasks = plan.tasks.keys().map(|name| (name.clone(), TaskLife::new(now))).collect();
        Self { ready: false, tasks, end: None, fenced, began: None, description: String::new() }
    }

    /// Nothing will ever happen in it again.
    pub(crate) fn is_over(&self) -> bool {
        self.tasks.values().all(|task| task.stage == Stage::Dead)
    }

    /// In Nomad's word. What has failed counts as such only once nothing of it runs any more: another may then be placed.
    pub(crate) fn client(&self) -> ClientStatus {
        let lives = |task: &TaskLife| task.phase() == TaskPhase::Running;
        if self.is_over() {
            let broken = matches!(self.end, Some(End::DiskFull | End::NotSetUp));
            let failed = broken || self.tasks.values().any(|task| task.failed);
            return if failed { ClientStatus::Failed } else { ClientStatus::Complete };
        }
        if self.tasks.values().any(lives) { ClientStatus::Running } else { ClientStatus::Pending }
    }

    /// The sandboxes that belong to it.
    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = (&String, &SandboxId)> {
        self.tasks.iter().filter_map(|(name, task)| Some((name, task.stage.sandbox()?)))
    }
}

impl Stage {
    /// The sandbox it is in.
    pub(crate) fn sandbox(&self) -> Option<&SandboxId> {
        match self {
            Self::Starting { sandbox }
            | Self::Running { sandbox }
            | Self::Draining { sandbox, .. }
            | Self::Stopping { sandbox, .. } => Some(sandbox),
            Self::Waiting | Self::Preparing | Self::Backoff { .. } | Self::Dead => None,
        }
    }
}

impl TaskLife {
    fn new(now: Timestamp) -> Self {
        let mut task = Self {
            stage: Stage::Waiting,
            failed: false,
            exit: None,
            sandbox: None,
            restarts: 0,
            ran: false,
            started: None,
            finished: None,
            history: History::default(),
            events: Vec::new(),
        };
        task.note(now, "Received", "the node has taken it");
        task
    }

    /// Remembers that something happened.
    pub(crate) fn note(&mut self, at: Timestamp, kind: &str, message: impl Into<String>) {
        self.events.push(TaskEvent { at, kind: kind.to_owned(), message: message.into() });
        let surplus = self.events.len().saturating_sub(TASK_EVENTS_MAX);
        self.events.drain(..surplus);
    }

    pub(crate) fn phase(&self) -> TaskPhase {
        match self.stage {
            Stage::Waiting | Stage::Preparing | Stage::Starting { .. } | Stage::Backoff { .. } => TaskPhase::Pending,
            Stage::Running { .. } | Stage::Draining { .. } | Stage::Stopping { .. } => TaskPhase::Running,
            Stage::Dead => TaskPhase::Dead,
        }
    }

    /// As the node tells it.
    pub(crate) fn status(&self) -> TaskStatus {
        TaskStatus {
            phase: self.phase(),
            failed: self.failed,
            withdrawn: matches!(self.stage, Stage::Draining { .. } | Stage::Stopping { .. }),
            exit: self.exit,
            sandbox: self.sandbox.clone(),
            restarts: self.restarts,
            started: self.started,
            finished: self.finished,
            events: self.events.clone(),
        }
    }
}
