//! What happens next in an allocation: a pure state machine. Time and chance arrive in events.
//!
//! ```text
//! prestart ephemerals end with 0, prestart sidecars run -> main tasks -> all have started: poststart -> main tasks dead: sidecars are stopped
//!   -> all but poststop dead: poststop -> over
//! ```
//!
//! [`Life::step`] takes one event and says what is to be done; the actor writes the life down first, then does it. After a
//! daemon's death [`Life::resume`] says what is to be done again for what was written.

mod plan;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use moat_model::spec::StopSpec;
use moat_model::{Exit, SandboxId, Timestamp};
use moat_scheduler::restart::{self, Decision, Ending};

pub(crate) use plan::{Plan, Role, TaskPlan};
pub(crate) use state::{End, Life, Stage, TaskLife, Why};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// Time passed.
    Tick,
    /// Directories and ports are there.
    SetUp,
    /// They are not, and why.
    NotSetUp(String),
    /// Artifacts and templates of a task are there; it may run in this sandbox, which is new.
    Prepared { task: String, sandbox: SandboxId },
    /// They are not.
    NotPrepared { task: String, kind: &'static str, message: String, may_help: bool },
    /// Its program runs.
    Started { task: String, sandbox: SandboxId, at: Timestamp },
    /// It does not.
    NotStarted { task: String, sandbox: SandboxId, message: String, may_help: bool },
    /// Its program has ended; `note` for people.
    Exited { task: String, sandbox: SandboxId, exit: Exit, note: String },
    /// Nothing is known of its sandbox after a daemon's death.
    Vanished { task: String, sandbox: SandboxId },
    /// Nobody wants the allocation any more.
    Stop { no_delay: bool },
    /// Another runs in its place.
    Replaced,
    /// A task is to run anew; `dead`: even if it has ended.
    Restart { task: String, dead: bool, message: String },
    /// A task's checks failed for too long, or a template's script.
    Unhealthy { task: String, message: String },
    /// It wrote more than it may.
    DiskFull(String),
    /// It may have been placed elsewhere.
    Fence,
    /// It was not.
    GoOn,
    /// To be remembered of a task.
    Note { task: String, kind: &'static str, message: String },
}

/// What is to be done. Each is done at least once; what was done already changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make directories and take ports.
    SetUp,
    /// Fetch and render.
    Prepare { task: String },
    /// Give up fetching and rendering.
    GiveUp { task: String },
    /// Make the sandbox and follow it to its end.
    Create { task: String, sandbox: SandboxId },
    /// Follow it to its end: it is there, or was.
    Follow { task: String, sandbox: SandboxId },
    /// Ask it to stop, then make it.
    Stop { sandbox: SandboxId, how: StopSpec },
    /// End it now.
    Kill { sandbox: SandboxId },
    /// Forget its record.
    Forget { sandbox: SandboxId },
}

impl Life {
    /// Takes an event. `jitter` is any number, by chance.
    pub(crate) fn step(&mut self, plan: &Plan, event: Event, now: Timestamp, jitter: u16) -> Vec<Action> {
        let mut todo = Vec::new();
        self.take(plan, event, now, jitter, &mut todo);
        self.advance(plan, now, &mut todo);
        todo
    }

    /// What is to be done again after a daemon's death.
    pub(crate) fn resume(&mut self, plan: &Plan, now: Timestamp) -> Vec<Action> {
        let mut todo = Vec::new();
        if !self.ready && self.end.is_none() {
            todo.push(Action::SetUp);
        }
        for (name, task) in &mut self.tasks {
            match &task.stage {
                // Begun anew: what was fetched is still there.
                Stage::Preparing => task.stage = Stage::Waiting,
                Stage::Starting { sandbox } | Stage::Running { sandbox } | Stage::Draining { sandbox, .. } => {
                    todo.push(Action::Follow { task: name.clone(), sandbox: sandbox.clone() });
                }
                Stage::Stopping { sandbox, .. } => {
                    todo.push(Action::Follow { task: name.clone(), sandbox: sandbox.clone() });
                    todo.push(self.end.stop_of(plan.tasks.get(name), sandbox));
                }
                Stage::Waiting | Stage::Backoff { .. } | Stage::Dead => {}
            }
        }
        self.advance(plan, now, &mut todo);
        todo
    }

    /// The node stops, and with it whatever runs: that runs anew where the next daemon takes this up, and how it ended says
    /// nothing about it. Nothing follows from this here.
    pub(crate) fn depart(&mut self, now: Timestamp) {
        for task in self.tasks.values_mut() {
            if let Stage::Running { sandbox } = &task.stage {
                task.stage = Stage::Stopping { sandbox: sandbox.clone(), why: Why::Restart };
                task.note(now, "Restart Signaled", "its node is stopped".to_owned());
            }
        }
    }

    /// When time alone changes something.
    pub(crate) fn wake(&self, plan: &Plan) -> Option<Timestamp> {
        let tasks = self.tasks.values().filter_map(|task| match task.stage {
            Stage::Draining { until, .. } => Some(until),
            Stage::Backoff { until } if !self.fenced => Some(until),
            _ => None,
        });
        let time_up = match (self.end.is_none(), self.began, plan.max_run) {
            (true, Some(began), Some(max)) => Some(began.plus(max)),
            _ => None,
        };
        let stop = match &self.end {
            Some(End::Stopped { not_before, .. }) if self.has_unasked() => Some(*not_before),
            _ => None,
        };
        tasks.chain(time_up).chain(stop).min()
    }

    fn has_unasked(&self) -> bool {
        self.tasks.values().any(|task| matches!(task.stage, Stage::Running { .. }))
    }

    // --- events

    fn take(&mut self, plan: &Plan, event: Event, now: Timestamp, jitter: u16, todo: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::SetUp => self.ready = true,
            Event::NotSetUp(why) => {
                for task in self.tasks.values_mut() {
                    task.note(now, "Setup Failure", why.clone());
                }
                self.describe(why);
                self.end.get_or_insert(End::NotSetUp);
            }
            Event::Stop { no_delay } => self.stop(plan, no_delay, now),
            Event::Replaced => {
                "another runs in its place".clone_into(&mut self.description);
                self.end = Some(End::Replaced);
            }
            Event::DiskFull(why) => {
                for task in self.tasks.values_mut().filter(|task| task.stage != Stage::Dead) {
                    task.note(now, "Disk Resources Exceeded", why.clone());
                }
                self.describe(why);
                self.end.get_or_insert(End::DiskFull);
            }
            Event::Fence => self.fenced = true,
            Event::GoOn => self.fenced = false,
            Event::Prepared { task, sandbox } => self.prepared(&task, sandbox, todo),
            Event::NotPrepared { task, kind, message, may_help } => {
                let Some(life) = self.tasks.get_mut(&task).filter(|t| t.stage == Stage::Preparing) else { return };
                life.note(now, kind, message);
                let ending = if may_help { Ending::StartFailed } else { Ending::StartImpossible };
                self.over(plan, &task, ending, now, jitter);
            }
            Event::Started { task, sandbox, at } => self.started(plan, &task, &sandbox, at, now),
            Event::NotStarted { task, sandbox, message, may_help } => {
                let Some(life) = self.tasks.get_mut(&task) else { return };
                if life.stage.sandbox() != Some(&sandbox) {
                    return;
                }
                todo.push(Action::Forget { sandbox });
                let killed = matches!(life.stage, Stage::Stopping { .. });
                if !killed {
                    life.note(now, "Driver Failure", message);
                }
                let ending = match (killed, may_help) {
                    (true, _) => Ending::Killed,
                    (false, true) => Ending::StartFailed,
                    (false, false) => Ending::StartImpossible,
                };
                self.over(plan, &task, ending, now, jitter);
            }
            Event::Exited { task, sandbox, exit, note } => {
                self.exited(plan, &task, (sandbox, exit, note), (now, jitter), todo);
            }
            Event::Vanished { task, sandbox } => match self.tasks.get_mut(&task) {
                // It was asked for, and never was: nobody saw it run, so it is no failure.
                Some(life) if matches!(&life.stage, Stage::Starting { sandbox: wanted } if *wanted == sandbox) => {
                    life.stage = Stage::Waiting;
                    todo.push(Action::Forget { sandbox });
                }
                _ => {
                    let lost = (sandbox, Exit::unknown(), "its sandbox was not found when the node started".to_owned());
                    self.exited(plan, &task, lost, (now, jitter), todo);
                }
            },
            Event::Restart { task, dead, message } => self.restart(plan, &task, (dead, message), now, todo),
            Event::Unhealthy { task, message } => {
                let Some(life) = self.tasks.get_mut(&task) else { return };
                if matches!(life.stage, Stage::Running { .. }) {
                    life.note(now, "Restart Signaled", message);
                    self.ask(plan, &task, Why::Unhealthy, now, todo);
                }
            }
            Event::Note { task, kind, message } => {
                if let Some(life) = self.tasks.get_mut(&task) {
                    life.note(now, kind, message);
                }
            }
        }
    }

    fn stop(&mut self, plan: &Plan, no_delay: bool, now: Timestamp) {
        // What stands still serves nobody any more.
        let no_delay = no_delay || self.fenced;
        let not_before = if no_delay { now } else { now.plus(plan.shutdown_delay) };
        match &mut self.end {
            None => {
                self.describe("stopped: nobody wants it any more".to_owned());
                self.end = Some(End::Stopped { not_before, no_delay });
            }
            Some(End::Stopped { not_before: before, no_delay: hurried }) if no_delay => {
                (*before, *hurried) = (now.min(*before), true);
            }
            Some(_) => {}
        }
    }

    fn prepared(&mut self, name: &str, sandbox: SandboxId, todo: &mut Vec<Action>) {
        let Some(task) = self.tasks.get_mut(name).filter(|t| t.stage == Stage::Preparing) else { return };
        if self.fenced {
            // Rendered anew when it is known that it is still wanted.
            task.stage = Stage::Waiting;
            return;
        }
        task.sandbox = Some(sandbox.clone());
        task.stage = Stage::Starting { sandbox: sandbox.clone() };
        todo.push(Action::Create { task: name.to_owned(), sandbox });
    }

    fn started(&mut self, plan: &Plan, name: &str, sandbox: &SandboxId, at: Timestamp, now: Timestamp) {
        let Some(task) = self.tasks.get_mut(name) else { return };
        let starting = matches!(&task.stage, Stage::Starting { sandbox: wanted } if wanted == sandbox);
        if !starting {
            return;
        }
        if task.ran {
            task.restarts = task.restarts.saturating_add(1);
        }
        (task.ran, task.started) = (true, Some(at));
        task.stage = Stage::Running { sandbox: sandbox.clone() };
        task.note(now, "Started", "its program runs");
        if plan.tasks.get(name).is_some_and(|p| p.role == Role::Main) {
            self.began.get_or_insert(at);
        }
    }

    fn exited(
        &mut self,
        plan: &Plan,
        name: &str,
        (sandbox, exit, note): (SandboxId, Exit, String),
        (now, jitter): (Timestamp, u16),
        todo: &mut Vec<Action>,
    ) {
        let Some(task) = self.tasks.get_mut(name) else { return };
        if task.stage.sandbox() != Some(&sandbox) {
            return;
        }
        todo.push(Action::Forget { sandbox });
        (task.exit, task.finished, task.ran) = (Some(exit), Some(now), true);
        task.note(now, "Terminated", terminated(&exit, &note));
        let ending = match task.stage {
            Stage::Stopping { why, .. } | Stage::Draining { why, .. } => match why {
                Why::Killed => {
                    task.note(now, "Killed", "it has ended as it was asked to");
                    Ending::Killed
                }
                Why::Restart => Ending::RestartAsked,
                Why::Unhealthy => Ending::Failure,
            },
            _ if exit.success() => Ending::Success,
            _ => Ending::Failure,
        };
        self.over(plan, name, ending, now, jitter);
    }

    /// One attempt is over: decides what follows.
    fn over(&mut self, plan: &Plan, name: &str, ending: Ending, now: Timestamp, jitter: u16) {
        let ending_all = self.end.is_some();
        let (Some(task), Some(wanted)) = (self.tasks.get_mut(name), plan.tasks.get(name)) else { return };
        let poststop = wanted.role == Role::Poststop;
        // What ends by itself while everything is ended is not started again; how it ended still counts.
        let ending = if ending_all && !poststop && ending == Ending::RestartAsked { Ending::Killed } else { ending };
        match restart::decide(&wanted.restart, wanted.on_success, &mut task.history, ending, now, jitter) {
            Decision::Restart { after, reason } if !ending_all || poststop => {
                task.stage = Stage::Backoff { until: now.plus(after) };
                task.note(now, "Restarting", format!("in {}: {reason}", span(after)));
            }
            Decision::Restart { .. } => task.stage = Stage::Dead,
            Decision::Dead { failed, reason } => {
                task.stage = Stage::Dead;
                task.finished.get_or_insert(now);
                task.failed |= failed && !ending_all;
                if failed {
                    task.note(now, "Not Restarting", reason.clone());
                }
                if failed && !ending_all {
                    self.describe(format!("task {name} has failed: {reason}"));
                    if !poststop {
                        self.end = Some(End::Failed { task: name.to_owned() });
                    }
                } else if wanted.leader && !ending_all {
                    self.end = Some(End::LeaderDead);
                }
            }
        }
    }

    fn restart(
        &mut self,
        plan: &Plan,
        name: &str,
        (dead, message): (bool, String),
        now: Timestamp,
        todo: &mut Vec<Action>,
    ) {
        if self.end.is_some() {
            return;
        }
        let Some(task) = self.tasks.get_mut(name) else { return };
        match task.stage {
            Stage::Running { .. } => {
                task.note(now, "Restart Signaled", message);
                self.ask(plan, name, Why::Restart, now, todo);
            }
            Stage::Backoff { .. } => task.stage = Stage::Backoff { until: now },
            Stage::Dead if dead => {
                task.note(now, "Restart Signaled", message);
                (task.stage, task.failed, task.ran) = (Stage::Waiting, false, false);
            }
            _ => {}
        }
    }

    // --- what follows

    /// Does whatever is due.
    fn advance(&mut self, plan: &Plan, now: Timestamp, todo: &mut Vec<Action>) {
        if let (None, Some(began), Some(max)) = (&self.end, self.began, plan.max_run)
            && now >= began.plus(max)
        {
            self.describe(format!("it ran for {}, its max_run_duration", span(max)));
            self.end = Some(End::TimeUp);
        }
        self.end_what_must(plan, now, todo);
        self.due(plan, now, todo);
        if !self.ready || self.fenced {
            return;
        }
        let names: Vec<String> = self.tasks.keys().cloned().collect();
        for name in names {
            let due = match self.tasks.get(&name).map(|task| &task.stage) {
                Some(Stage::Waiting) => true,
                Some(Stage::Backoff { until }) => *until <= now,
                _ => false,
            };
            if due && self.may_start(plan, &name) {
                if let Some(task) = self.tasks.get_mut(&name) {
                    task.stage = Stage::Preparing;
                    task.note(now, "Task Setup", "its directories, artifacts and templates");
                }
                todo.push(Action::Prepare { task: name });
            }
        }
    }

    /// Whether the turn of a task has come.
    fn may_start(&self, plan: &Plan, name: &str) -> bool {
        let Some(wanted) = plan.tasks.get(name) else { return false };
        let all = |roles: &[Role], holds: fn(&TaskLife) -> bool| {
            let of_roles = plan.tasks.iter().filter(|(_, p)| roles.contains(&p.role));
            of_roles.filter_map(|(n, _)| self.tasks.get(n)).all(holds)
        };
        let ended_well = |task: &TaskLife| task.stage == Stage::Dead && !task.failed;
        let has_run = |task: &TaskLife| task.ran;
        match wanted.role {
            Role::Prestart | Role::PrestartSidecar => self.end.is_none(),
            Role::Main => {
                self.end.is_none() && all(&[Role::Prestart], ended_well) && all(&[Role::PrestartSidecar], has_run)
            }
            Role::Poststart | Role::PoststartSidecar => self.end.is_none() && all(&[Role::Main], has_run),
            Role::Poststop => plan
                .tasks
                .iter()
                .filter(|(_, p)| p.role != Role::Poststop)
                .all(|(n, _)| self.tasks.get(n).is_none_or(|task| task.stage == Stage::Dead)),
        }
    }

    /// Ends tasks that should not run, or not be started, any more.
    fn end_what_must(&mut self, plan: &Plan, now: Timestamp, todo: &mut Vec<Action>) {
        let mains_dead = plan
            .tasks
            .iter()
            .filter(|(_, p)| p.role == Role::Main)
            .all(|(n, _)| self.tasks.get(n).is_none_or(|task| task.stage == Stage::Dead));
        let names: Vec<(String, Role)> = plan.tasks.iter().map(|(n, p)| (n.clone(), p.role)).collect();
        for (name, role) in names {
            let must = match (&self.end, role) {
                // Nothing of it was set up, or another does it.
                (Some(End::NotSetUp | End::Replaced), _) => true,
                (_, Role::Poststop) => false,
                // Sidecars serve the main tasks to their end.
                (Some(End::Stopped { not_before, .. }), Role::PrestartSidecar | Role::PoststartSidecar) => {
                    mains_dead && *not_before <= now || !self.runs(&name)
                }
                (Some(End::Stopped { not_before, .. }), _) => *not_before <= now || !self.runs(&name),
                (Some(_), _) => true,
                (None, role) => mains_dead && role.is_sidecar(),
            };
            if must {
                self.end_task(plan, &name, now, todo);
            }
        }
    }

    fn runs(&self, name: &str) -> bool {
        self.tasks.get(name).is_some_and(|task| task.stage.sandbox().is_some())
    }

    fn end_task(&mut self, plan: &Plan, name: &str, now: Timestamp, todo: &mut Vec<Action>) {
        let reason = match &self.end {
            Some(End::Failed { task }) if task != name => Some(("Sibling Task Failed", format!("task {task} failed"))),
            Some(End::LeaderDead) => Some(("Leader Task Dead", "the leader of its group has ended".to_owned())),
            _ => None,
        };
        let Some(task) = self.tasks.get_mut(name) else { return };
        let asked = matches!(&task.stage, Stage::Stopping { why: Why::Killed, .. })
            || matches!(&task.stage, Stage::Draining { why: Why::Killed, .. }) && !self.end.hurries();
        if asked || task.stage == Stage::Dead {
            return;
        }
        if let Some((kind, message)) = reason {
            task.note(now, kind, message);
        }
        match task.stage.clone() {
            Stage::Preparing => {
                todo.push(Action::GiveUp { task: name.to_owned() });
                (task.stage, task.finished) = (Stage::Dead, Some(now));
            }
            Stage::Waiting | Stage::Backoff { .. } | Stage::Dead => {
                (task.stage, task.finished) = (Stage::Dead, Some(now));
            }
            Stage::Starting { sandbox } => {
                todo.push(Action::Kill { sandbox: sandbox.clone() });
                task.stage = Stage::Stopping { sandbox, why: Why::Killed };
            }
            Stage::Stopping { sandbox, .. } => task.stage = Stage::Stopping { sandbox, why: Why::Killed },
            Stage::Running { .. } | Stage::Draining { .. } => self.ask(plan, name, Why::Killed, now, todo),
        }
    }

    /// Withdraws a task's services, and asks it to stop, at once or after its delay.
    fn ask(&mut self, plan: &Plan, name: &str, why: Why, now: Timestamp, todo: &mut Vec<Action>) {
        let delay = match (plan.tasks.get(name), self.end.hurries() || self.fenced) {
            (Some(wanted), false) if why != Why::Unhealthy => wanted.shutdown_delay,
            _ => Duration::ZERO,
        };
        let Some(task) = self.tasks.get_mut(name) else { return };
        let Some(sandbox) = task.stage.sandbox().cloned() else { return };
        if !delay.is_zero() {
            task.note(now, "Waiting for shutdown delay", format!("{} before it is asked to stop", span(delay)));
        }
        task.stage = Stage::Draining { sandbox, until: now.plus(delay), why };
        self.due(plan, now, todo);
    }

    /// Asks those whose delay is over.
    fn due(&mut self, plan: &Plan, now: Timestamp, todo: &mut Vec<Action>) {
        for (name, task) in &mut self.tasks {
            let Stage::Draining { sandbox, until, why } = task.stage.clone() else { continue };
            if until > now {
                continue;
            }
            let stop = if self.fenced {
                Action::Kill { sandbox: sandbox.clone() }
            } else {
                self.end.stop_of(plan.tasks.get(name), &sandbox)
            };
            if let Action::Stop { how, .. } = &stop {
                let message = format!("signal {}, killed after {}", how.signal.number(), span(how.grace));
                task.note(now, "Killing", message);
            }
            todo.push(stop);
            task.stage = Stage::Stopping { sandbox, why };
        }
    }

    fn describe(&mut self, why: String) {
        if self.end.is_none() {
            self.description = why;
        }
    }
}

/// How tasks are stopped for a reason.
trait Stops {
    /// What stops one.
    fn stop_of(&self, task: Option<&TaskPlan>, sandbox: &SandboxId) -> Action;
    /// Nothing waits for its delay.
    fn hurries(&self) -> bool;
}

impl Stops for Option<End> {
    fn stop_of(&self, task: Option<&TaskPlan>, sandbox: &SandboxId) -> Action {
        match (self, task) {
            (Some(End::Replaced), _) | (_, None) => Action::Kill { sandbox: sandbox.clone() },
            (_, Some(task)) => Action::Stop {
                sandbox: sandbox.clone(),
                how: StopSpec { signal: task.kill_signal, grace: task.kill_timeout },
            },
        }
    }

    fn hurries(&self) -> bool {
        matches!(self, Some(End::Stopped { no_delay: true, .. } | End::Replaced | End::DiskFull))
    }
}

fn terminated(exit: &Exit, note: &str) -> String {
    let mut text = format!("exit code {}", exit.code);
    if let Some(signal) = exit.signal {
        text.push_str(&format!(", signal {signal}"));
    }
    if exit.oom_killed {
        text.push_str(", killed for memory");
    }
    if !note.is_empty() {
        text.push_str(": ");
        text.push_str(note);
    }
    text
}

/// A span for people.
fn span(span: Duration) -> String {
    if span.subsec_millis() == 0 { format!("{}s", span.as_secs()) } else { format!("{:.1}s", span.as_secs_f64()) }
}
