//! `init`: the main program of a jail. It starts the services that are enabled, in order, starts those again that went
//! down, runs the program of an image besides, and stops everything in reverse when it is told to.
//!
//! Everything happens in one loop in one thread, one script at a time. It sleeps until a child ends, a signal arrives or
//! something is due.

mod keep;
mod run;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::options::text;
use crate::service::{self, Kind, Service};
use crate::sys::{self, Event, Signals};
use crate::{Failure, Outcome, place};

use keep::{Kept, Program};
use run::Runner;

/// How long the script of one service may take to start it before the next one is started.
const START_MAX: Duration = Duration::from_secs(90);
/// How long a script may take to say how its service is.
const STATUS_MAX: Duration = Duration::from_secs(20);
/// How long everything together may take to stop, unless `--stop-timeout` says something else.
const STOP_MAX: Duration = Duration::from_secs(30);

/// What was asked.
#[derive(Debug)]
struct Asked {
    /// Services looked after even if somebody else started them.
    watch: Vec<String>,
    stop_max: Duration,
    program: Vec<OsString>,
}

impl Asked {
    fn parse(arguments: &[OsString]) -> Result<Self, Failure> {
        let usage = |e: String| Failure::new(64, e);
        let mut asked = Self { watch: Vec::new(), stop_max: STOP_MAX, program: Vec::new() };
        if let Ok(list) = std::env::var("MOAT_WATCH") {
            asked.add_watched(&list)?;
        }
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let value = |words: &mut std::slice::Iter<'_, OsString>| {
                words
                    .next()
                    .ok_or_else(|| usage(format!("{} needs a value", word.display())))
                    .and_then(|v| text(v).map_err(usage))
            };
            match word.to_str() {
                Some("--") => {
                    asked.program = words.cloned().collect();
                    break;
                }
                Some("--watch") => asked.add_watched(&value(&mut words)?)?,
                Some("--stop-timeout") => {
                    let seconds = value(&mut words)?;
                    let seconds =
                        seconds.parse().map_err(|_| usage(format!("--stop-timeout {seconds}: is no number")))?;
                    asked.stop_max = Duration::from_secs(seconds);
                }
                _ => return Err(usage(format!("{}: is not known; a program comes behind --", word.display()))),
            }
        }
        Ok(asked)
    }

    fn add_watched(&mut self, list: &str) -> Result<(), Failure> {
        for name in list.split(',').filter(|name| !name.is_empty()) {
            if name.contains('/') || name.starts_with('.') {
                return Err(Failure::new(64, format!("--watch {name}: is no name of a service")));
            }
            self.watch.push(name.to_owned());
        }
        Ok(())
    }
}

/// A line for the console.
fn say(text: &str) {
    use std::io::Write as _;
    // A console that nobody reads is no reason to end.
    let _ = writeln!(std::io::stdout(), "init: {text}");
}

/// `init [--watch SERVICE,...] [--stop-timeout SECONDS] [-- PROGRAM ARG...]`
pub fn main(arguments: &[OsString]) -> Outcome {
    let asked = Asked::parse(arguments)?;
    let signals = Signals::take(&[libc::SIGTERM, libc::SIGINT, libc::SIGPWR, libc::SIGHUP, libc::SIGCHLD]);
    let signals = signals.map_err(|e| format!("signals: {e}"))?;
    if let Err(e) = sys::adopt_orphans() {
        say(&format!("the end of services is seen late: {e}"));
    }
    furnish();
    let mut init = Init { runner: Runner::new(signals), kept: Vec::new(), program: None, asked };
    init.start_all(false);
    if !init.runner.told_to_stop() {
        init.program = Program::new(&init.asked.program);
        say("up");
    }
    while !init.runner.told_to_stop() {
        init.turn().map_err(|e| format!("wait: {e}"))?;
    }
    init.stop_all();
    let _ = fs::remove_file(place::INIT_PID);
    Ok(0)
}

/// What services expect to find. A jail begins without the marks of its last life.
fn furnish() {
    let _ = fs::remove_dir_all(place::STOPPED);
    place::furnish();
    // Anybody's service may write its pid file there.
    if let Ok(found) = fs::metadata("/run/moat") {
        let mut mode = found.permissions();
        mode.set_mode(0o755);
        let _ = fs::set_permissions("/run/moat", mode);
    }
    service::prepare_openrc();
    if let Err(e) = fs::write(place::INIT_PID, format!("{}\n", std::process::id())) {
        say(&format!("{}: {e}", place::INIT_PID));
    }
}

/// The jail's services and its program.
struct Init {
    runner: Runner,
    kept: Vec<Kept>,
    program: Option<Program>,
    asked: Asked,
}

impl Init {
    /// Starts what is enabled and not started yet, in order; `later`, somebody else may have started it.
    fn start_all(&mut self, later: bool) {
        let (services, complaints) = service::all();
        complaints.iter().for_each(|complaint| say(complaint));
        let known = service::configuration();
        for service in services {
            if self.runner.told_to_stop() {
                return;
            }
            let watched = self.asked.watch.contains(&service.name);
            let have = self.kept.iter().any(|kept| kept.service.name == service.name);
            if have || (!watched && !service.is_enabled(&known)) {
                continue;
            }
            let mut kept = Kept::new(service, watched);
            if !(later && kept.adopt(&mut self.runner)) {
                kept.start(&mut self.runner);
            }
            self.kept.push(kept);
        }
        for name in self.asked.watch.iter().filter(|name| !self.kept.iter().any(|kept| kept.service.name == **name)) {
            say(&format!("{name}: is to be watched, but has no script"));
        }
    }

    /// Waits until something happens, and does what is due then.
    fn turn(&mut self) -> std::io::Result<()> {
        let due = self.kept.iter().filter_map(Kept::due).chain(self.program.as_ref().and_then(Program::due)).min();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        match self.runner.wait(left)? {
            Event::Signal(libc::SIGHUP) => self.reload(),
            Event::Signal(libc::SIGCHLD) => {
                let ended = self.runner.take_ended();
                if let Some(program) = &mut self.program {
                    program.note(&ended);
                }
                // Scripts' own ends are taken by who waits for them; whatever else ends may have been part of a service.
                if !ended.is_empty() {
                    self.kept.iter_mut().for_each(Kept::look_soon);
                }
            }
            _ => {}
        }
        for kept in &mut self.kept {
            if self.runner.told_to_stop() {
                break;
            }
            kept.turn(&mut self.runner);
        }
        if let Some(program) = self.program.as_mut().filter(|_| !self.runner.told_to_stop()) {
            program.turn();
        }
        Ok(())
    }

    /// Services that were enabled meanwhile are started; those that were disabled stay as they are and are left alone.
    fn reload(&mut self) {
        say("reading the configuration again");
        let known = service::configuration();
        self.kept.retain(|kept| kept.watched || kept.service.is_enabled(&known));
        self.start_all(true);
    }

    /// Stops the program, then everything that runs or is enabled by now, last first.
    fn stop_all(&mut self) {
        let until = Instant::now() + self.asked.stop_max;
        say("stopping");
        if let Some(program) = self.program.take() {
            program.stop(&mut self.runner, until);
        }
        let known = service::configuration();
        for service in service::all().0.iter().rev() {
            let have = self.kept.iter().any(|kept| kept.service.name == service.name);
            if Instant::now() < until && (have || service.is_enabled(&known)) {
                self.stop(service, until);
            }
        }
        self.runner.end_children(until);
        say("stopped");
    }

    fn stop(&mut self, service: &Service, until: Instant) {
        if service.kind == Kind::Rc || self.kept.iter().any(|kept| kept.service == *service) {
            say(&format!("stopping {}", service.name));
        }
        // Quietly, for one that does not run any more has nothing to say.
        if self.runner.run_to_the_end(service, "quietonestop", until).is_none() {
            say(&format!("{}: did not stop in time", service.name));
        }
    }
}

/// Whether somebody stopped the service and meant it.
fn is_stopped(service: &Service) -> bool {
    Path::new(place::STOPPED).join(&service.name).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked() {
        let parse = |words: &[&str]| Asked::parse(&words.iter().map(OsString::from).collect::<Vec<_>>());
        let asked = parse(&["--watch", "a,b", "--stop-timeout", "5", "--", "prog", "--watch"]).unwrap();
        assert_eq!((asked.watch.join(" "), asked.stop_max.as_secs(), asked.program.len()), ("a b".to_owned(), 5, 2));
        for bad in [&["x"][..], &["--watch"], &["--watch", "../x"], &["--stop-timeout", "x"]] {
            assert_eq!(parse(bad).unwrap_err().status, 64, "{bad:?}");
        }
    }
}
