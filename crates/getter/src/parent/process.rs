//! The child as a process: started with nothing of the daemon's, ended with everything it started.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::config::GetterConfig;
use crate::error::FetchErrorKind;
use crate::wire::{Order, Report, read_frame, send_order};

/// Where the child finds git, and git its parts.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How long what the child started may take to be gone after its kill.
const GONE: Duration = Duration::from_secs(10);

/// Says to a running fetch that it shall end.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    child: Option<Pid>,
    reason: Option<(FetchErrorKind, String)>,
}

impl Stop {
    /// Ends the child, if it runs, and whatever would come after it.
    pub(super) fn now(&self, kind: FetchErrorKind, why: String) {
        // Nothing panics while it is held.
        let Ok(mut state) = self.0.lock() else { return };
        state.reason.get_or_insert((kind, why));
        if let Some(pid) = state.child {
            kill(pid);
        }
    }

    /// Why it shall end.
    pub(super) fn reason(&self) -> Option<(FetchErrorKind, String)> {
        self.0.lock().ok()?.reason.clone()
    }

    /// Says so when dropped.
    pub(super) fn on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }
}

/// See [`Stop::on_drop`].
#[derive(Debug)]
pub(super) struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.now(FetchErrorKind::Cancelled, "nobody waits for it any more".to_owned());
    }
}

/// The process and its group: before its first step the child is in no group of its own.
fn kill(pid: Pid) {
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let _ = rustix::process::kill_process(pid, Signal::KILL);
}

/// Runs the child to its end, and returns its last word.
pub(super) fn run(
    config: &GetterConfig,
    order: &Order,
    descriptors: &[BorrowedFd<'_>],
    stop: &Stop,
    progress: impl Fn(u64, Option<u64>),
) -> io::Result<Option<Report>> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = {
        let Ok(mut state) = stop.0.lock() else { return Ok(None) };
        if state.reason.is_some() {
            return Ok(None);
        }
        let child = start(config, theirs)?;
        state.child = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
        child
    };
    let said = send_order(&ours, order, descriptors).and_then(|()| listen(&ours, progress));
    end(&mut child, stop)?;
    said
}

fn start(config: &GetterConfig, socket: UnixStream) -> io::Result<Child> {
    let mut command = Command::new(&config.program);
    command.args(&config.program_args).env_clear().current_dir("/");
    command.env("PATH", PATH).env("HOME", "/tmp/fetch").env("TMPDIR", "/tmp/fetch");
    for name in &config.environment {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.stdin(OwnedFd::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()
}

/// Reads until the child has said its last word or is gone.
fn listen(mut socket: &UnixStream, progress: impl Fn(u64, Option<u64>)) -> io::Result<Option<Report>> {
    loop {
        match read_frame(&mut socket)? {
            Some(Report::Progress { bytes, total }) => progress(bytes, total),
            last => return Ok(last),
        }
    }
}

/// Ends whatever still runs, and waits until it is gone: from then on nobody else writes to the staging directory.
fn end(child: &mut Child, stop: &Stop) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)) else { return Ok(()) };
    // It has said what it had to say.
    kill(pid);
    rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    // Once more: the first may have come before it had a group, and now nothing in the group can be missed.
    kill(pid);
    if let Ok(mut state) = stop.0.lock() {
        state.child = None;
    }
    child.wait()?;
    let since = Instant::now();
    let step = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    while rustix::process::test_kill_process_group(pid).is_ok() {
        if since.elapsed() > GONE {
            return Err(io::Error::other("what the fetching child started does not end"));
        }
        // Orphans are nobody's here to wait for.
        rustix::event::poll(&mut [], Some(&step))?;
    }
    Ok(())
}
