//! Running scripts and seeing children end, in a process that has other things to listen to.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::say;
use crate::place;
use crate::service::Service;
use crate::sys::{self, Event, Signals};

/// How long orphans get to end after they were asked to.
const ORPHANS_MAX: Duration = Duration::from_secs(3);

/// Where children and signals come in.
#[derive(Debug)]
pub struct Runner {
    signals: Signals,
    /// What programs that outlived their callers say.
    console: Option<File>,
    stop: bool,
    /// A wish to read the configuration again that came while a script ran.
    reload: bool,
    /// Children that ended and nobody has asked for.
    ended: Vec<(i32, i32)>,
    /// Some of them ended while a script ran.
    missed: bool,
}

impl Runner {
    /// With these signals, and nothing seen yet.
    pub fn new(signals: Signals) -> Self {
        let console = open_console().map_err(|e| say(&format!("{}: {e}", place::CONSOLE))).ok();
        Self { signals, console, stop: false, reload: false, ended: Vec::new(), missed: false }
    }

    /// Whether the jail is to go down.
    pub fn told_to_stop(&self) -> bool {
        self.stop
    }

    /// Waits for something to do, at most this long.
    pub fn wait(&mut self, left: Option<Duration>) -> io::Result<Event> {
        if std::mem::take(&mut self.reload) {
            return Ok(Event::Signal(libc::SIGHUP));
        }
        if std::mem::take(&mut self.missed) {
            return Ok(Event::Signal(libc::SIGCHLD));
        }
        let event = self.listen(left)?;
        match event {
            Event::Signal(libc::SIGCHLD) => self.reap(),
            Event::Signal(libc::SIGHUP) => {}
            Event::Signal(_) => self.stop = true,
            _ => {}
        }
        Ok(event)
    }

    /// Waits for a signal or the end of the time, passing on what comes in for the console.
    fn listen(&mut self, left: Option<Duration>) -> io::Result<Event> {
        let fds: Vec<i32> = self.console.iter().map(|console| console.as_raw_fd()).collect();
        let event = self.signals.wait(left, &fds)?;
        if let (Event::Readable(_), Some(console)) = (event, &mut self.console) {
            let mut buffer = [0_u8; 16 * 1024];
            // It is told that something is there, and a console that cannot be written is no reason to end.
            let got = console.read(&mut buffer).unwrap_or_default();
            let _ = io::stdout().write_all(buffer.get(..got).unwrap_or_default()).and_then(|()| io::stdout().flush());
        }
        Ok(event)
    }

    fn reap(&mut self) {
        while let Some(ended) = sys::reap() {
            self.ended.push(ended);
        }
    }

    /// Children that ended since the last call.
    pub fn take_ended(&mut self) -> Vec<(i32, i32)> {
        std::mem::take(&mut self.ended)
    }

    /// Runs a script: its exit status, or nothing if it took too long or the jail is to go down; it is left alone then.
    pub fn run(&mut self, service: &Service, action: &str, quiet: bool, most: Duration) -> Option<i32> {
        self.wait_for(service, action, quiet, Instant::now() + most, true)
    }

    /// The same while the jail goes down.
    pub fn run_to_the_end(&mut self, service: &Service, action: &str, until: Instant) -> Option<i32> {
        self.wait_for(service, action, false, until, false)
    }

    fn wait_for(&mut self, service: &Service, action: &str, quiet: bool, until: Instant, heed: bool) -> Option<i32> {
        let mut command = service.command(action);
        command.stdin(Stdio::null()).env(place::ON_CONSOLE, "1");
        sys::unblock_in(&mut command);
        if quiet {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = match command.spawn() {
            Ok(child) => i32::try_from(child.id()).unwrap_or_default(),
            Err(e) => {
                say(&format!("{}: {e}", service.path.display()));
                return Some(126);
            }
        };
        loop {
            if let Some(at) = self.ended.iter().position(|(pid, _)| *pid == child) {
                let (_, status) = self.ended.remove(at);
                self.missed |= !self.ended.is_empty();
                return Some(sys::exit_status(status));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || (heed && self.stop) {
                self.missed |= !self.ended.is_empty();
                if quiet {
                    // Nobody needs the answer any more.
                    let _ = sys::kill(child, libc::SIGKILL);
                }
                return None;
            }
            match self.listen(Some(left)) {
                Ok(Event::Signal(libc::SIGCHLD)) => self.reap(),
                Ok(Event::Signal(libc::SIGHUP)) => self.reload = true,
                Ok(Event::Signal(_)) => self.stop = true,
                _ => {}
            }
        }
    }

    /// Asks all children to end, orphans of services among them, and waits for them a little.
    pub fn end_children(&mut self, until: Instant) {
        let until = until.min(Instant::now() + ORPHANS_MAX);
        for child in children() {
            // It may have ended this moment.
            let _ = sys::kill(child, libc::SIGTERM);
        }
        while !children().is_empty() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            if let Ok(Event::Signal(libc::SIGCHLD)) = self.listen(Some(left)) {
                self.reap();
            }
        }
    }

    /// Waits until this child has ended, or for the end of the time: whether it has ended.
    pub fn wait_child(&mut self, child: i32, until: Instant) -> bool {
        loop {
            if self.ended.iter().any(|(pid, _)| *pid == child) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if let Ok(Event::Signal(libc::SIGCHLD)) = self.listen(Some(left)) {
                self.reap();
            }
        }
    }
}

/// The pipe for the console, opened for both so that it never ends.
fn open_console() -> io::Result<File> {
    let path = Path::new(place::CONSOLE);
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    sys::make_pipe(&CString::new(place::CONSOLE)?)?;
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The children of this process.
fn children() -> Vec<i32> {
    let own = std::process::id();
    // One thread, so all children are its.
    let list = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
