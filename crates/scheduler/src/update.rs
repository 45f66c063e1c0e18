//! Whether an instance of an older version can be given the newer one as it runs (J07, A20's table).

use moat_model::job::{Affinity, Constraint, Disconnect, Job, LogLimits, Restart, RestartMode, Task, TaskGroup};
use moat_model::spec::StopSpec;
use std::time::Duration;

/// Whether an instance of `old` has to be replaced to be one of `new`. Everything that is not known to be changed in
/// place counts, so that a value that is added to the model later is never overlooked.
pub fn is_destructive(old: &Job, new: &Job, group: &str) -> bool {
    let (Some(before), Some(after)) = (old.group(group), new.group(group)) else { return true };
    // These are in the environment of every task.
    if old.meta != new.meta || old.name != new.name || old.region != new.region || old.payload != new.payload {
        return true;
    }
    work(before) != work(after)
}

/// The same for one task.
pub fn is_task_destructive(old: &Task, new: &Task) -> bool {
    let work = |task: &Task| {
        let mut work = task.clone();
        task_work(&mut work);
        work
    };
    work(old) != work(new)
}

/// The group without what changes in place.
fn work(group: &TaskGroup) -> TaskGroup {
    let mut work = group.clone();
    work.count = 0;
    no_wishes(&mut work.constraints, &mut work.affinities);
    work.spreads = Vec::new();
    work.restart = NO_RESTART;
    work.reschedule = None;
    work.update = None;
    work.migrate = None;
    work.disconnect = Disconnect::default();
    work.services = Vec::new();
    work.shutdown_delay = Duration::ZERO;
    work.max_run_duration = None;
    work.tasks.iter_mut().for_each(task_work);
    work
}

fn task_work(task: &mut Task) {
    no_wishes(&mut task.constraints, &mut task.affinities);
    task.restart = None;
    task.kill_signal = StopSpec::default().signal;
    task.kill_timeout = Duration::ZERO;
    task.shutdown_delay = Duration::ZERO;
    task.services = Vec::new();
    task.logs = LogLimits { disabled: task.logs.disabled, ..LogLimits::default() };
}

fn no_wishes(constraints: &mut Vec<Constraint>, affinities: &mut Vec<Affinity>) {
    constraints.clear();
    affinities.clear();
}

const NO_RESTART: Restart =
    Restart { attempts: 0, interval: Duration::ZERO, delay: Duration::ZERO, mode: RestartMode::Fail };
