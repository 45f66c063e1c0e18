use std::collections::BTreeMap;

use moat_model::job::{ClientStatus, Restart, RestartMode};
use moat_model::spec::Signal;
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn task(role: Role) -> TaskPlan {
    TaskPlan {
        role,
        leader: false,
        restart: Restart {
            attempts: 2,
            interval: Duration::from_secs(60),
            delay: Duration::from_secs(4),
            mode: RestartMode::Fail,
        },
        on_success: false,
        shutdown_delay: Duration::ZERO,
        kill_signal: Signal::INT,
        kill_timeout: Duration::from_secs(5),
    }
}

fn plan(tasks: Vec<(&str, TaskPlan)>) -> Plan {
    let tasks = tasks.into_iter().map(|(name, plan)| (name.to_owned(), plan)).collect();
    Plan { shutdown_delay: Duration::ZERO, max_run: None, tasks }
}

/// A node on which everything that is asked for happens at once, except that programs end when the test says.
struct Bench {
    plan: Plan,
    life: Life,
    now: Timestamp,
    started: Vec<String>,
    asked: Vec<Action>,
    next: u8,
}

impl Bench {
    fn new(plan: Plan) -> Self {
        let life = Life::new(&plan, NOW, false);
        let mut bench = Self { plan, life, now: NOW, started: Vec::new(), asked: Vec::new(), next: 0 };
        bench.tell(Event::SetUp);
        bench
    }

    fn tell(&mut self, event: Event) {
        let todo = self.life.step(&self.plan, event, self.now, 0);
        self.act(todo);
    }

    fn act(&mut self, todo: Vec<Action>) {
        for action in todo {
            self.asked.push(action.clone());
            match action {
                Action::Prepare { task } => {
                    self.next += 1;
                    let sandbox = SandboxId::from_parts(self.now, [self.next; 10]);
                    self.tell(Event::Prepared { task, sandbox });
                }
                Action::Create { task, sandbox } => {
                    self.started.push(task.clone());
                    let at = self.now;
                    self.tell(Event::Started { task, sandbox, at });
                }
                Action::Kill { sandbox } | Action::Stop { sandbox, .. } => {
                    let owner = self.life.sandboxes().find(|(_, s)| **s == sandbox).map(|(task, _)| task.clone());
                    if let Some(task) = owner {
                        self.exit_in(&task, sandbox, 130);
                    }
                }
                _ => {}
            }
        }
    }

    fn exit_in(&mut self, task: &str, sandbox: SandboxId, code: i32) {
        let exit = Exit::code(code);
        self.tell(Event::Exited { task: task.to_owned(), sandbox, exit, note: String::new() });
    }

    fn exit(&mut self, task: &str, code: i32) {
        let sandbox = self.life.tasks[task].stage.sandbox().expect("it runs").clone();
        self.exit_in(task, sandbox, code);
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
        self.tell(Event::Tick);
    }

    fn runs(&self, task: &str) -> bool {
        matches!(self.life.tasks[task].stage, Stage::Running { .. })
    }

    fn kinds(&self, task: &str) -> Vec<&str> {
        self.life.tasks[task].events.iter().map(|event| event.kind.as_str()).collect()
    }
}

fn service(role: Role) -> TaskPlan {
    TaskPlan { on_success: true, ..task(role) }
}

fn all_hooks(main: TaskPlan) -> Plan {
    plan(vec![
        ("init", task(Role::Prestart)),
        ("proxy", service(Role::PrestartSidecar)),
        ("main", main),
        ("hello", task(Role::Poststart)),
        ("metrics", service(Role::PoststartSidecar)),
        ("clean", task(Role::Poststop)),
    ])
}

#[test]
fn j03_hooks_run_in_their_order_in_a_batch_job() {
    let mut bench = Bench::new(all_hooks(task(Role::Main)));
    assert_eq!(bench.started, ["init", "proxy"]);
    bench.exit("init", 0);
    assert_eq!(bench.started, ["init", "proxy", "main", "hello", "metrics"]);
    bench.exit("hello", 0);
    assert!(bench.runs("proxy") && bench.runs("metrics"));
    bench.exit("main", 0);
    assert!(!bench.runs("proxy") && !bench.runs("metrics"), "sidecars serve the main tasks to their end");
    assert_eq!(bench.started.last().unwrap(), "clean");
    assert_eq!(bench.life.client(), ClientStatus::Running);
    bench.exit("clean", 0);
    assert!(bench.life.is_over());
    assert_eq!(bench.life.client(), ClientStatus::Complete);
}

#[test]
fn j03_a_service_that_is_stopped_still_cleans_up() {
    let mut bench = Bench::new(all_hooks(service(Role::Main)));
    bench.exit("init", 0);
    bench.exit("main", 0);
    assert!(bench.started.iter().all(|task| task != "clean"), "a service is started again");
    bench.pass(10);
    assert!(bench.runs("main"));
    assert_eq!(bench.life.tasks["main"].restarts, 1);
    bench.tell(Event::Stop { no_delay: false });
    assert_eq!(bench.started.last().unwrap(), "clean");
    bench.exit("clean", 0);
    assert_eq!(bench.life.client(), ClientStatus::Complete);
    assert!(bench.life.tasks.values().all(|task| !task.failed));
}

#[test]
fn j03_a_failed_prestart_task_fails_the_allocation_and_nothing_else_starts() {
    let mut bench = Bench::new(all_hooks(task(Role::Main)));
    for _ in 0..2 {
        bench.exit("init", 1);
        bench.pass(10);
    }
    bench.exit("init", 1);
    assert!(!bench.started.contains(&"main".to_owned()));
    assert!(bench.kinds("proxy").contains(&"Sibling Task Failed"));
    assert!(bench.kinds("init").contains(&"Not Restarting"));
    bench.exit("clean", 0);
    assert_eq!(bench.life.client(), ClientStatus::Failed);
}

#[test]
fn j01_restarts_wait_are_counted_and_are_used_up() {
    let mut bench = Bench::new(plan(vec![("main", service(Role::Main))]));
    for restarts in 1..=2 {
        bench.exit("main", 7);
        assert_eq!(bench.life.client(), ClientStatus::Pending);
        bench.pass(3);
        assert!(!bench.runs("main"), "it waits for 4 s");
        bench.pass(2);
        assert!(bench.runs("main"));
        assert_eq!(bench.life.tasks["main"].restarts, restarts);
    }
    bench.exit("main", 7);
    assert_eq!(bench.life.client(), ClientStatus::Failed);
    assert_eq!(bench.life.tasks["main"].exit, Some(Exit::code(7)));
}

#[test]
fn a_restart_that_was_asked_for_is_at_once_and_counts_for_nothing() {
    let mut bench = Bench::new(plan(vec![("main", service(Role::Main))]));
    for _ in 0..5 {
        bench.tell(Event::Restart { task: "main".to_owned(), dead: false, message: String::new() });
        assert!(bench.runs("main"));
    }
    assert_eq!(bench.life.tasks["main"].restarts, 5);
    assert_eq!(bench.life.tasks["main"].history, restart::History::default());
}

#[test]
fn the_end_of_the_leader_ends_its_siblings() {
    let leader = TaskPlan { leader: true, ..task(Role::Main) };
    let mut bench = Bench::new(plan(vec![("lead", leader), ("other", service(Role::Main))]));
    bench.exit("lead", 0);
    assert!(bench.kinds("other").contains(&"Leader Task Dead"));
    assert_eq!(bench.life.client(), ClientStatus::Complete);
}

#[test]
fn j10_a_stop_waits_for_the_group_and_then_for_the_task_unless_it_is_hurried() {
    let slow = TaskPlan { shutdown_delay: Duration::from_secs(7), ..service(Role::Main) };
    let mut all = plan(vec![("main", slow)]);
    all.shutdown_delay = Duration::from_secs(5);
    let mut bench = Bench::new(all.clone());
    bench.tell(Event::Stop { no_delay: false });
    assert!(bench.runs("main"));
    bench.pass(5);
    assert!(bench.life.tasks["main"].status().withdrawn, "withdrawn, and not asked yet");
    assert!(!bench.life.is_over());
    assert_eq!(bench.life.wake(&bench.plan), Some(NOW.plus(Duration::from_secs(12))));
    bench.pass(7);
    assert!(bench.life.is_over());

    let mut bench = Bench::new(all.clone());
    bench.tell(Event::Stop { no_delay: false });
    bench.pass(1);
    bench.tell(Event::Stop { no_delay: true });
    assert!(bench.life.is_over(), "the second asked without delay");

    let mut bench = Bench::new(all);
    bench.tell(Event::Stop { no_delay: true });
    assert!(bench.life.is_over());
    let how = StopSpec { signal: Signal::INT, grace: Duration::from_secs(5) };
    assert!(bench.asked.iter().any(|action| matches!(action, Action::Stop { how: asked, .. } if *asked == how)));
}

#[test]
fn max_run_duration_ends_it_without_failure() {
    let mut all = plan(vec![("main", task(Role::Main))]);
    all.max_run = Some(Duration::from_secs(30));
    let mut bench = Bench::new(all);
    bench.pass(29);
    assert!(bench.runs("main"));
    bench.pass(1);
    assert_eq!(bench.life.client(), ClientStatus::Complete);
    assert!(bench.life.description.contains("max_run_duration"));
}

#[test]
fn behind_the_fence_nothing_starts_and_what_was_replaced_is_killed() {
    let mut bench = Bench::new(plan(vec![("main", service(Role::Main))]));
    bench.tell(Event::Fence);
    bench.exit("main", 1);
    bench.pass(100);
    assert_eq!(bench.started, ["main"]);
    bench.tell(Event::GoOn);
    assert_eq!(bench.started, ["main", "main"]);
    bench.tell(Event::Fence);
    bench.tell(Event::Replaced);
    assert!(matches!(bench.asked[bench.asked.len() - 2], Action::Kill { .. }), "{:?}", bench.asked);
    assert!(bench.life.is_over());
}

#[test]
fn a_check_that_fails_for_too_long_counts_as_a_failure() {
    let mut bench = Bench::new(plan(vec![("main", service(Role::Main))]));
    for _ in 0..2 {
        bench.tell(Event::Unhealthy { task: "main".to_owned(), message: "x".to_owned() });
        bench.pass(5);
    }
    bench.tell(Event::Unhealthy { task: "main".to_owned(), message: "x".to_owned() });
    assert_eq!(bench.life.client(), ClientStatus::Failed);
}

fn any_event() -> impl Strategy<Value = (u8, u8, u64)> {
    (0u8..12, 0u8..6, 0u64..20)
}

proptest! {
    /// Whatever happens in whatever order, also with a daemon's death at any point: a task has one sandbox at most, each
    /// sandbox is created once, an end is for good, and a stop always comes to it.
    #[test]
    fn nothing_is_doubled_and_every_stop_ends(events in proptest::collection::vec(any_event(), 0..60)) {
        let names = ["init", "proxy", "main", "hello", "metrics", "clean"];
        let mut bench = Bench::new(all_hooks(service(Role::Main)));
        let mut over = false;
        for (what, which, seconds) in events {
            let task = names[usize::from(which)].to_owned();
            let sandbox = bench.life.tasks[&task].stage.sandbox().cloned();
            match (what, sandbox) {
                (0..=2, Some(sandbox)) => bench.exit_in(&task, sandbox, i32::from(what)),
                (3, _) => bench.tell(Event::Restart { task, dead: seconds > 10, message: String::new() }),
                (4, _) => bench.tell(Event::Unhealthy { task, message: String::new() }),
                (5, _) => bench.tell(Event::Fence),
                (6, _) => bench.tell(Event::GoOn),
                (7, Some(sandbox)) => bench.tell(Event::Vanished { task, sandbox }),
                (8, _) => {
                    // The daemon dies: what was written is all there is.
                    let text = serde_json::to_string(&bench.life).unwrap();
                    bench.life = serde_json::from_str(&text).unwrap();
                    let todo = bench.life.resume(&bench.plan, bench.now);
                    bench.act(todo);
                }
                (9, _) if seconds > 15 => bench.tell(Event::Stop { no_delay: false }),
                _ => bench.pass(seconds),
            }
            let mut seen: BTreeMap<&SandboxId, &String> = BTreeMap::new();
            for (task, sandbox) in bench.life.sandboxes() {
                prop_assert!(seen.insert(sandbox, task).is_none());
            }
            prop_assert!(!over || bench.life.is_over());
            over = bench.life.is_over() && bench.life.end.is_some();
        }
        let created: Vec<_> = bench.asked.iter().filter_map(|action| match action {
            Action::Create { sandbox, .. } => Some(sandbox.clone()),
            _ => None,
        }).collect();
        let mut once = created.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), created.len());
        bench.tell(Event::GoOn);
        bench.tell(Event::Stop { no_delay: true });
        for _ in 0..20 {
            if let Some(sandbox) = bench.life.tasks["clean"].stage.sandbox().cloned() {
                bench.exit_in("clean", sandbox, 0);
            }
            bench.pass(60);
        }
        prop_assert!(bench.life.is_over(), "{:?}", bench.life);
    }
}
