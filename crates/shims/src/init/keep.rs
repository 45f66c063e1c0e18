//! Keeping services and the program of an image up.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Runner, START_MAX, STATUS_MAX, is_stopped, say};
use crate::service::Service;
use crate::sys;

/// After something ended: long enough for whoever restarts it to have done so.
const SOON: Duration = Duration::from_millis(300);
/// Not more often, however many children end: some services have new ones all the time.
const SELDOM: Duration = Duration::from_secs(2);
/// How often a service is looked at that ends without our seeing it, which is rare: its processes become our children.
const OFTEN: Duration = Duration::from_secs(60);
/// How often one whose end is not seen: somebody else started it.
const OFTEN_OTHERS: Duration = Duration::from_secs(10);
/// The first wait before a service is started again; the next ones are twice as long each.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Up for so long, a service is well again.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// How long to wait before the next start, growing until something stays up.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    up_since: Instant,
}

impl Backoff {
    fn new() -> Self {
        Self { next: BACKOFF_FIRST, up_since: Instant::now() }
    }

    fn started(&mut self) {
        self.up_since = Instant::now();
    }

    fn wait(&mut self) -> Duration {
        if self.up_since.elapsed() >= WELL_AFTER {
            self.next = BACKOFF_FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(BACKOFF_MAX);
        wait
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was seen up.
    Up,
    /// It never said that it was up: nothing can be said about it.
    Silent,
    /// It is started again when its time comes.
    Down,
}

/// A service that is kept up.
#[derive(Debug)]
pub struct Kept {
    /// Which.
    pub service: Service,
    /// Kept up whoever started it.
    pub watched: bool,
    /// Somebody else started it.
    foreign: bool,
    state: State,
    backoff: Backoff,
    /// When it is looked at or started next.
    next: Instant,
    /// When it was looked at last.
    looked: Instant,
}

impl Kept {
    /// Not started yet.
    pub fn new(service: Service, watched: bool) -> Self {
        Self {
            service,
            watched,
            foreign: false,
            state: State::Down,
            backoff: Backoff::new(),
            next: Instant::now(),
            looked: Instant::now(),
        }
    }

    /// When there is something to do. Nothing can be done about one that says nothing of itself.
    pub fn due(&self) -> Option<Instant> {
        (self.state != State::Silent).then_some(self.next)
    }

    /// Something ended: perhaps it was this.
    pub fn look_soon(&mut self) {
        if self.state == State::Up {
            self.next = self.next.min((Instant::now() + SOON).max(self.looked + SELDOM));
        }
    }

    fn interval(&self) -> Duration {
        if self.watched || self.foreign { OFTEN_OTHERS } else { OFTEN }
    }

    /// Takes it as it is, if it is up, or was stopped by somebody who meant it.
    pub fn adopt(&mut self, runner: &mut Runner) -> bool {
        if is_stopped(&self.service) || self.is_up(runner) {
            self.state = State::Up;
            self.foreign = true;
            self.backoff.started();
            self.next = Instant::now() + self.interval();
            return true;
        }
        false
    }

    /// Starts it, and sees whether it says that it is up.
    pub fn start(&mut self, runner: &mut Runner) {
        let name = self.service.name.clone();
        say(&format!("starting {name}"));
        // Watched ones may not be enabled.
        let action = if self.watched { "onestart" } else { "start" };
        let status = runner.run(&self.service, action, false, START_MAX);
        self.backoff.started();
        self.foreign = false;
        self.next = Instant::now() + self.interval();
        if runner.told_to_stop() {
            return;
        }
        match status {
            None => say(&format!("{name}: its script runs on; the next is started")),
            Some(0) => {}
            Some(code) => say(&format!("{name}: its script ended with {code}")),
        }
        if self.is_up(runner) {
            self.state = State::Up;
        } else if self.watched || self.state == State::Up || status.is_some_and(|code| code != 0) {
            self.fall(runner);
        } else {
            self.state = State::Silent;
        }
    }

    fn is_up(&mut self, runner: &mut Runner) -> bool {
        self.looked = Instant::now();
        // A jail that goes down is not the time to start anything.
        !runner.told_to_stop() && runner.run(&self.service, "onestatus", true, STATUS_MAX).is_none_or(|code| code == 0)
    }

    /// It is down: the next start is due after a while.
    fn fall(&mut self, runner: &Runner) {
        if runner.told_to_stop() {
            return;
        }
        let wait = self.backoff.wait();
        say(&format!("{}: is down, is started again in {} s", self.service.name, wait.as_secs()));
        self.state = State::Down;
        self.next = Instant::now() + wait;
    }

    /// Looks after it, if it is due.
    pub fn turn(&mut self, runner: &mut Runner) {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let interval = self.interval();
        if is_stopped(&self.service) {
            self.next = Instant::now() + interval;
            return;
        }
        if self.is_up(runner) {
            // Perhaps somebody else started it.
            self.state = State::Up;
            self.next = Instant::now() + interval;
        } else if runner.told_to_stop() || is_stopped(&self.service) {
            self.next = Instant::now() + interval;
        } else if self.state == State::Up {
            self.fall(runner);
        } else {
            // What failed to start once may be silent about being up; it is tried again all the same.
            self.start(runner);
            if self.state == State::Silent {
                self.next = Instant::now() + interval;
            }
        }
    }
}

/// The program of an image.
#[derive(Debug)]
pub struct Program {
    words: Vec<OsString>,
    pid: Option<i32>,
    backoff: Backoff,
    next: Instant,
}

impl Program {
    /// Started, if there is one.
    pub fn new(words: &[OsString]) -> Option<Self> {
        if words.is_empty() {
            return None;
        }
        let mut program = Self { words: words.to_vec(), pid: None, backoff: Backoff::new(), next: Instant::now() };
        program.turn();
        Some(program)
    }

    /// When it is started next, if it does not run.
    pub fn due(&self) -> Option<Instant> {
        self.pid.is_none().then_some(self.next)
    }

    /// Looks whether it is among those that ended.
    pub fn note(&mut self, ended: &[(i32, i32)]) {
        let found = ended.iter().find(|(pid, _)| Some(*pid) == self.pid);
        if let Some((_, status)) = found {
            self.pid = None;
            let wait = self.backoff.wait();
            self.next = Instant::now() + wait;
            say(&format!(
                "the program ended with {}, is started again in {} s",
                sys::exit_status(*status),
                wait.as_secs()
            ));
        }
    }

    /// Starts it, if it is due.
    pub fn turn(&mut self) {
        let Some((program, rest)) = self.words.split_first() else { return };
        if self.due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.backoff.started();
        let mut command = Command::new(program);
        command.args(rest).stdin(Stdio::null());
        sys::unblock_in(&mut command);
        match command.spawn() {
            Ok(child) => self.pid = i32::try_from(child.id()).ok(),
            Err(e) => {
                let wait = self.backoff.wait();
                self.next = Instant::now() + wait;
                say(&format!("{}: {e}, is tried again in {} s", program.display(), wait.as_secs()));
            }
        }
    }

    /// Stops it: asks, waits for at most half of the time that is left, then ends it.
    pub fn stop(self, runner: &mut Runner, until: Instant) {
        let Some(pid) = self.pid else { return };
        // It may have ended this moment.
        let _ = sys::kill(pid, libc::SIGTERM);
        let patience = until.saturating_duration_since(Instant::now()) / 2;
        if !runner.wait_child(pid, Instant::now() + patience) {
            say("the program did not end in time");
            let _ = sys::kill(pid, libc::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        let mut backoff = Backoff::new();
        let waits: Vec<u64> = (0..8).map(|_| backoff.wait().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
