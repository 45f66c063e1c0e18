//! The actor of one allocation: it alone writes its record, and has done what the life says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use moat_model::SandboxId;
use moat_model::job::allocation::{CheckResult, PortMapping};
use moat_model::job::{AllocStatus, Desired, TaskPhase};
use moat_model::lifecycle::PauseTo;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::checks::{self, Counter, Planned};
use super::front::{AllocView, Assignment, RestartWanted};
use super::ground::Ground;
use super::health::{Rules, Seen};
use super::life::{Action, Event, Life, Plan, Role, Stage};
use super::prepare::Rendered;
use super::record::Record;
use super::{Shared, work};
use crate::clock;
use crate::error::Result;

/// A wait before a refused write is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often the bytes of an allocation that runs are counted.
const DISK_EVERY: Duration = Duration::from_secs(10);
/// Longest sleep: a clock that was set is noticed by then.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// What work has to tell; senders wait, and the actor always reads.
const NEWS_MAX: usize = 64;

/// Told when something is written down and under way.
pub(super) type Done = oneshot::Sender<Result<()>>;

/// What can be asked of an allocation.
#[derive(Debug)]
pub(super) enum Command {
    Assign {
        assignment: Assignment,
        done: Done,
    },
    Stop {
        no_delay: bool,
        done: Done,
    },
    Fence {
        done: Done,
    },
    /// What is wanted of it after a fence; `None`: nothing.
    Confirm {
        wanted: Option<Assignment>,
        done: Done,
    },
    Restart {
        which: RestartWanted,
        done: Done,
    },
    Health {
        healthy: bool,
        done: Done,
    },
    /// The node stops: what runs is about to be ended, and nothing is begun any more.
    Depart {
        done: Done,
    },
    Note {
        task: String,
        kind: &'static str,
        message: String,
    },
}

/// What work has to tell.
#[derive(Debug)]
pub(super) enum News {
    Life(Event),
    SetUp(BTreeMap<String, PortMapping>),
    Fetched(Vec<String>),
    Prepared {
        task: String,
        rendered: Rendered,
    },
    Checked {
        planned: Box<Planned>,
        sandbox: SandboxId,
        result: CheckResult,
    },
    /// Bytes on disk; none if they could not be counted.
    Disk(Option<u64>),
}

pub(super) struct Actor {
    shared: Arc<Shared>,
    record: Record,
    plan: Plan,
    commands: mpsc::Receiver<Command>,
    tell: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    /// Preparations under way, by task.
    preparing: HashMap<String, AbortHandle>,
    /// What was rendered for the next start of a task, or its last.
    rendered: HashMap<String, Rendered>,
    /// Checks and templates watched while a task runs.
    watching: HashMap<String, Vec<AbortHandle>>,
    checks: Vec<Planned>,
    counters: HashMap<String, Counter>,
    counted: tokio::time::Instant,
    /// Under way: a slow disk is not counted twice at once.
    counting: bool,
}

impl Actor {
    pub(super) fn new(shared: Arc<Shared>, record: Record, commands: mpsc::Receiver<Command>) -> Self {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let plan = shared.plan_of(&record);
        let group = record.job.group(&record.allocation.group);
        let checks = group.map(checks::planned).unwrap_or_default();
        Self {
            shared,
            record,
            plan,
            commands,
            tell,
            news,
            preparing: HashMap::new(),
            rendered: HashMap::new(),
            watching: HashMap::new(),
            checks,
            counters: HashMap::new(),
            counted: tokio::time::Instant::now(),
            counting: false,
        }
    }

    /// Runs until the daemon lets go of it, or it is forgotten.
    pub(super) async fn run(mut self) {
        if self.record.life.fenced {
            let go_on = if self.shared.is_fenced() { self.freeze().await } else { self.go_on().await };
            if !go_on {
                return;
            }
        }
        let todo = self.record.life.resume(&self.plan, clock::now());
        let running: Vec<(String, SandboxId)> =
            self.record.life.sandboxes().map(|(task, sandbox)| (task.clone(), sandbox.clone())).collect();
        for (task, sandbox) in running {
            if matches!(self.record.life.tasks.get(&task).map(|t| &t.stage), Some(Stage::Running { .. })) {
                self.watch(&task, &sandbox);
            }
        }
        if !self.commit(todo).await {
            return;
        }
        let detached = self.shared.detached.clone();
        loop {
            let sleep = self.sleep();
            let go_on = tokio::select! {
                biased;
                () = detached.cancelled() => false,
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => false,
                },
                Some(news) = self.news.recv() => self.hear(news).await,
                () = tokio::time::sleep(sleep) => {
                    self.count_disk();
                    self.step(Event::Tick).await
                }
            };
            if !go_on {
                break;
            }
        }
        let running = self.watching.drain().flat_map(|(_, handles)| handles);
        running.chain(self.preparing.drain().map(|(_, handle)| handle)).for_each(|handle| handle.abort());
    }

    fn sleep(&self) -> Duration {
        let now = clock::now();
        // Only asked, on a copy: what it decides is written down and told by a step.
        let health = self.judged().and_then(|(rules, seen)| self.record.health.clone().look(&rules, seen, now));
        let due = [self.record.life.wake(&self.plan), health].into_iter().flatten().min();
        let timer = due.map_or(SLEEP_MAX, |at| at.since(now));
        let disk =
            if self.runs() && !self.counting { DISK_EVERY.saturating_sub(self.counted.elapsed()) } else { SLEEP_MAX };
        // Never a busy loop, whatever the clock does.
        timer.min(disk).min(SLEEP_MAX).max(Duration::from_millis(1))
    }

    // --- what is asked

    async fn command(&mut self, command: Command) -> bool {
        let (done, go_on) = match command {
            Command::Assign { assignment, done } => (done, self.assign(assignment).await),
            Command::Stop { no_delay, done } => (done, self.step(Event::Stop { no_delay }).await),
            Command::Fence { done } => {
                let go_on = self.fence().await;
                (done, go_on)
            }
            Command::Confirm { wanted, done } => (done, self.confirm(wanted).await),
            Command::Restart { which, done } => (done, self.restart(which).await),
            Command::Health { healthy, done } => {
                self.record.health.healthy = Some(healthy);
                (done, self.commit(Vec::new()).await)
            }
            Command::Depart { done } => {
                self.record.life.depart(clock::now());
                if self.commit(Vec::new()).await {
                    let _ = done.send(Ok(()));
                }
                return false;
            }
            Command::Note { task, kind, message } => return self.step(Event::Note { task, kind, message }).await,
        };
        if go_on {
            let _ = done.send(Ok(()));
        }
        go_on
    }

    async fn assign(&mut self, assignment: Assignment) -> bool {
        let Assignment { allocation, job } = assignment;
        if allocation.generation <= self.record.allocation.generation {
            return true;
        }
        if job.as_ref() != &self.record.job {
            // What is destructive makes another allocation: here only numbers, services and checks change.
            self.record.job = job.as_ref().clone();
            self.record.health = Default::default();
            self.plan = self.shared.plan_of(&self.record);
            let group = self.record.job.group(&allocation.group);
            self.checks = group.map(checks::planned).unwrap_or_default();
            self.record.checks.clear();
            let running: Vec<(String, SandboxId)> =
                self.record.life.sandboxes().map(|(task, sandbox)| (task.clone(), sandbox.clone())).collect();
            for (task, sandbox) in running {
                self.unwatch(&task);
                self.watch(&task, &sandbox);
            }
        }
        let (stop, no_delay) = (allocation.desired != Desired::Run, allocation.no_shutdown_delay);
        self.record.allocation = allocation;
        if stop { self.step(Event::Stop { no_delay }).await } else { self.commit(Vec::new()).await }
    }

    async fn restart(&mut self, which: RestartWanted) -> bool {
        let names: Vec<String> = match &which {
            RestartWanted::Task(name) => vec![name.clone()],
            RestartWanted::Running | RestartWanted::All => self.plan.tasks.keys().cloned().collect(),
        };
        let dead = which == RestartWanted::All;
        for task in names {
            let poststop = self.plan.tasks.get(&task).is_some_and(|plan| plan.role == Role::Poststop);
            let message = "a restart was asked for".to_owned();
            if !poststop && !self.step(Event::Restart { task, dead, message }).await {
                return false;
            }
        }
        true
    }

    fn may_be_replaced(&self) -> bool {
        self.record.may_be_replaced()
    }

    async fn fence(&mut self) -> bool {
        if !self.may_be_replaced() || self.record.life.is_over() {
            return true;
        }
        if !self.step(Event::Fence).await {
            return false;
        }
        self.freeze().await
    }

    /// Freezes what runs; what cannot be frozen is ended, and starts again when it may.
    async fn freeze(&mut self) -> bool {
        let sandboxes: Vec<(String, SandboxId)> =
            self.record.life.sandboxes().map(|(task, sandbox)| (task.clone(), sandbox.clone())).collect();
        for (task, sandbox) in sandboxes {
            let engine = &self.shared.base.engine;
            let Err(error) = engine.pause(&sandbox, PauseTo::Memory).await else { continue };
            if engine.get(&sandbox).is_none_or(|view| view.phase.is_terminal()) {
                continue;
            }
            tracing::warn!(alloc = %self.record.allocation.id, task, error = %error.chain(), "cannot be frozen: stopped");
            let message = "the node is cut off, and it cannot be frozen".to_owned();
            if !self.step(Event::Restart { task, dead: false, message }).await {
                return false;
            }
            // Whatever phase it is in, starting and stopping too: it must not run now.
            if let Err(error) = self.shared.base.engine.kill(&sandbox).await {
                tracing::warn!(%sandbox, error = %error.chain(), "kill behind the fence");
            }
        }
        true
    }

    async fn confirm(&mut self, wanted: Option<Assignment>) -> bool {
        if self.record.life.is_over() {
            return match wanted {
                Some(assignment) => self.assign(assignment).await,
                None => true,
            };
        }
        let Some(assignment) = wanted else { return self.step(Event::Replaced).await };
        let stop = assignment.allocation.desired != Desired::Run;
        // One that is to stop is ended while it stands still: its successor may run already.
        if !self.assign(assignment).await {
            return false;
        }
        if stop {
            // What is to run after all others, runs.
            return self.step(Event::GoOn).await;
        }
        if self.record.life.fenced { self.go_on().await } else { true }
    }

    /// Thaws what was frozen.
    async fn go_on(&mut self) -> bool {
        for (_, sandbox) in self.record.life.sandboxes() {
            if let Err(error) = self.shared.base.engine.resume(sandbox).await {
                tracing::debug!(%sandbox, error = %error.chain(), "not thawed");
            }
        }
        self.step(Event::GoOn).await
    }

    // --- what happened

    async fn hear(&mut self, news: News) -> bool {
        match news {
            News::Life(event) => self.step(event).await,
            // It ended meanwhile, and what it had then is free already.
            News::SetUp(_) if self.record.life.is_over() => {
                self.shared.over(&self.record);
                true
            }
            News::SetUp(ports) => {
                self.record.ports = ports;
                self.step(Event::SetUp).await
            }
            News::Fetched(arrived) => {
                self.record.fetched.extend(arrived);
                self.commit(Vec::new()).await
            }
            News::Prepared { task, rendered } => {
                self.rendered.insert(task.clone(), rendered);
                self.preparing.remove(&task);
                self.step(Event::Prepared { task, sandbox: super::new_sandbox_id() }).await
            }
            News::Checked { planned, sandbox, result } => self.checked(&planned, &sandbox, result).await,
            News::Disk(bytes) => {
                self.counting = false;
                let Some(bytes) = bytes else { return true };
                let group = self.record.job.group(&self.record.allocation.group);
                let max = group.map_or(u64::MAX, |group| u64::from(group.ephemeral_disk.size_mb) << 20);
                if bytes <= max {
                    return true;
                }
                self.step(Event::DiskFull(format!("{bytes} bytes on disk; ephemeral_disk allows {max}"))).await
            }
        }
    }

    async fn checked(&mut self, planned: &Planned, sandbox: &SandboxId, result: CheckResult) -> bool {
        let Some(task) = self.record.life.tasks.get(&planned.task) else { return true };
        let (Stage::Running { sandbox: now_in }, Some(started)) = (&task.stage, task.started) else { return true };
        if now_in != sandbox {
            return true;
        }
        let passed = result.status == "success";
        let restart =
            self.counters.entry(planned.name.clone()).or_default().take(&planned.check, passed, started, result.at);
        // Told when it changes, not each time it is looked.
        let before = self.record.checks.insert(planned.name.clone(), result.clone());
        let same = before.is_some_and(|b| (b.status, b.output) == (result.status.clone(), result.output.clone()));
        if restart {
            let message = format!("check {} failed too often: {}", planned.name, result.output);
            return self.step(Event::Unhealthy { task: planned.task.clone(), message }).await;
        }
        same || self.commit(Vec::new()).await
    }

    // --- doing

    /// One event: written down, told, then done. `false`: the daemon lets go.
    async fn step(&mut self, event: Event) -> bool {
        let (before, health) = (self.record.life.clone(), self.record.health);
        let todo = self.record.life.step(&self.plan, event, clock::now(), rand::random());
        self.look_at_health();
        if todo.is_empty() && before == self.record.life && health == self.record.health {
            return true;
        }
        self.after(&before);
        self.commit(todo).await
    }

    /// Watches what runs now, and what does not no longer.
    fn after(&mut self, before: &Life) {
        let phase = |life: &Life, task: &str| match life.tasks.get(task).map(|task| &task.stage) {
            Some(Stage::Running { sandbox }) => Some(sandbox.clone()),
            _ => None,
        };
        let names: Vec<String> = self.record.life.tasks.keys().cloned().collect();
        for task in names {
            match (phase(before, &task), phase(&self.record.life, &task)) {
                (was, Some(now)) if was.as_ref() != Some(&now) => self.watch(&task, &now),
                (Some(_), None) => self.unwatch(&task),
                _ => {}
            }
        }
        if self.record.life.is_over() && !before.is_over() {
            self.shared.over(&self.record);
        }
    }

    fn watch(&mut self, task: &str, sandbox: &SandboxId) {
        let mut handles = Vec::new();
        for planned in self.checks.iter().filter(|planned| planned.task == task) {
            self.counters.remove(&planned.name);
            let pending = CheckResult { status: "pending".to_owned(), output: String::new(), at: clock::now() };
            self.record.checks.insert(planned.name.clone(), pending);
            let (ground, tell, planned, sandbox) = (self.ground(), self.tell.clone(), planned.clone(), sandbox.clone());
            handles.push(self.spawn(work::check(ground, planned, sandbox, tell)));
        }
        let templates = self.record.job.group(&self.record.allocation.group).and_then(|g| g.task(task));
        if templates.is_some_and(|task| task.templates.iter().any(|template| !template.once)) {
            let (ground, tell, task, sandbox) = (self.ground(), self.tell.clone(), task.to_owned(), sandbox.clone());
            // What a daemon before this one rendered is not known any more: compared is with what comes out now.
            let last = self.rendered.get(&task).cloned();
            handles.push(self.spawn(work::follow_templates(ground, task, sandbox, last, tell)));
        }
        self.watching.insert(task.to_owned(), handles);
    }

    fn unwatch(&mut self, task: &str) {
        for handle in self.watching.remove(task).into_iter().flatten() {
            handle.abort();
        }
    }

    /// Writes the record, tells it, then does what is to be done.
    async fn commit(&mut self, todo: Vec<Action>) -> bool {
        self.look_at_health();
        self.record.modified = clock::now();
        let detached = self.shared.detached.clone();
        while let Err(error) = self.shared.store.write(&self.record) {
            tracing::error!(alloc = %self.record.allocation.id, error = %error.chain(), "record not written; trying again");
            tokio::select! {
                () = detached.cancelled() => return false,
                () = tokio::time::sleep(RETRY_DELAY) => {}
            }
        }
        self.shared.publish(view(&self.record, &self.shared));
        for action in todo {
            self.act(action);
        }
        true
    }

    fn act(&mut self, action: Action) {
        let (ground, tell) = (self.ground(), self.tell.clone());
        let engine = self.shared.base.engine.clone();
        match action {
            Action::SetUp => drop(self.spawn(work::set_up(ground, tell))),
            Action::Prepare { task } => {
                let handle = self.spawn(work::prepare(ground, task.clone(), tell));
                if let Some(old) = self.preparing.insert(task, handle) {
                    old.abort();
                }
            }
            Action::GiveUp { task } => {
                if let Some(handle) = self.preparing.remove(&task) {
                    handle.abort();
                }
            }
            Action::Create { task, sandbox } => {
                let env = self.rendered.get(&task).map(|rendered| rendered.env.clone()).unwrap_or_default();
                drop(self.spawn(work::create(ground, task, sandbox, env, tell)));
            }
            Action::Follow { task, sandbox } => drop(self.spawn(work::follow(ground, task, sandbox, true, tell))),
            Action::Stop { sandbox, how } => drop(self.spawn(async move {
                if let Err(error) = engine.stop(&sandbox, Some(how)).await {
                    tracing::debug!(%sandbox, error = %error.chain(), "stop");
                }
            })),
            Action::Kill { sandbox } => drop(self.spawn(async move {
                if let Err(error) = engine.kill(&sandbox).await {
                    tracing::debug!(%sandbox, error = %error.chain(), "kill");
                }
            })),
            Action::Forget { sandbox } => drop(self.spawn(work::forget(Arc::clone(&self.shared), sandbox))),
        }
    }

    fn count_disk(&mut self) {
        if self.counting || !self.runs() || self.counted.elapsed() < DISK_EVERY {
            return;
        }
        self.counting = true;
        self.counted = tokio::time::Instant::now();
        drop(self.spawn(work::count_disk(self.ground(), self.tell.clone())));
    }

    fn runs(&self) -> bool {
        self.record.life.tasks.values().any(|task| task.phase() == TaskPhase::Running)
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let detached = self.shared.detached.clone();
        let work = async move {
            let _ = detached.run_until_cancelled(work).await;
        };
        self.shared.tasks.spawn(work).abort_handle()
    }

    fn ground(&self) -> Ground {
        Ground {
            shared: Arc::clone(&self.shared),
            allocation: Arc::new(self.record.allocation.clone()),
            job: Arc::new(self.record.job.clone()),
            ports: Arc::new(self.record.ports.clone()),
            fetched: Arc::new(self.record.fetched.clone()),
        }
    }

    fn look_at_health(&mut self) {
        if let Some((rules, seen)) = self.judged() {
            self.record.health.look(&rules, seen, clock::now());
        }
    }

    /// By what its health is judged, and what is seen of it; nothing while it is ended or fenced.
    fn judged(&self) -> Option<(Rules, Seen)> {
        let group = self.record.job.group(&self.record.allocation.group)?;
        let rules = match (&group.update, &group.migrate) {
            (Some(update), _) => Rules {
                by: update.health_check,
                min_healthy_time: update.min_healthy_time,
                healthy_deadline: update.healthy_deadline,
            },
            (None, Some(migrate)) => Rules {
                by: migrate.health_check,
                min_healthy_time: migrate.min_healthy_time,
                healthy_deadline: migrate.healthy_deadline,
            },
            (None, None) => return None,
        };
        let life = &self.record.life;
        if life.fenced || life.end.is_some() && !life.tasks.values().any(|task| task.failed) {
            return None;
        }
        let well = |(name, plan): (&String, &super::life::TaskPlan)| {
            let Some(task) = life.tasks.get(name) else { return false };
            match plan.role {
                Role::Main | Role::PrestartSidecar | Role::PoststartSidecar => {
                    matches!(task.stage, Stage::Running { .. }) || !plan.on_success && task.stage == Stage::Dead
                }
                Role::Prestart => task.stage == Stage::Dead,
                Role::Poststart => task.ran,
                Role::Poststop => true,
            }
        };
        let counting = self.checks.iter().filter(|planned| !planned.check.ignored_on_update);
        let passes = |planned: &Planned| self.record.checks.get(&planned.name).is_some_and(|r| r.status == "success");
        let seen = Seen {
            tasks_well: self.plan.tasks.iter().all(well),
            checks_pass: counting.into_iter().all(passes),
            failed: life.tasks.values().any(|task| task.failed),
        };
        Some((rules, seen))
    }
}

/// A record as others see it.
pub(super) fn view(record: &Record, shared: &Shared) -> AllocView {
    let life = &record.life;
    let status = AllocStatus {
        id: record.allocation.id.clone(),
        node: shared.base.node.clone(),
        generation: record.allocation.generation,
        client: life.client(),
        description: life.description.clone(),
        tasks: life.tasks.iter().map(|(name, task)| (name.clone(), task.status())).collect(),
        healthy: record.health.healthy,
        ports: record.ports.clone(),
        checks: record.checks.clone(),
        modified: record.modified,
    };
    AllocView { assignment: record.assignment(), status }
}
