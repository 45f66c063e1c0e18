//! The small process over each exec: it makes "kill everything this exec started" certain.
//!
//! It is a fork of the agent, in the same sandbox, and a subreaper: whatever a descendant does (fork twice, change
//! session), when its parent dies it becomes a child of this process, and killing direct children round after round
//! reaches it. It never does so on its own: the agent says when, or closes the socket by dying.
//!
//! Over the socket, to the agent: records of twelve bytes (tag and two numbers). From the agent: single bytes, a signal
//! number for the lead process's group, or [`RELEASE`], or [`KILL`]; its end means the same as [`KILL`] and then the end.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use super::child::{REPORT_LEN, Stdio, become_program, read_report};
use super::procfs;
use super::program::{Program, Step};
use crate::sys::{ExitGuard, Fork, Target, close_all_but, exit_now, kill, signal_fd};

/// Leave everything that still runs alone and end.
pub const RELEASE: u8 = 0;
/// Kill everything that still runs.
pub const KILL: u8 = 255;

/// Length of a record.
pub const RECORD_LEN: usize = 12;

/// What the supervisor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// The program runs under this id.
    Started(i32),
    /// It could not be started: step and errno.
    Failed(Step, i32),
    /// It ended: exit code, or minus the signal.
    Ended(i32),
    /// Everything it started was killed, as ordered, and nothing is left.
    Killed,
}

impl Record {
    /// As bytes.
    fn encode(self) -> [u8; RECORD_LEN] {
        let (tag, first, second) = match self {
            Self::Started(pid) => (1, pid, 0),
            Self::Failed(step, errno) => (2, step.number(), errno),
            Self::Ended(status) => (3, status, 0),
            Self::Killed => (4, 0, 0),
        };
        let mut bytes = [0; RECORD_LEN];
        for (field, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip([tag, first, second]) {
            *field = i32::to_ne_bytes(value);
        }
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: [u8; RECORD_LEN]) -> Option<Self> {
        let (fields, _) = bytes.as_chunks::<4>();
        match fields {
            [tag, first, second] => {
                let [tag, first, second] = [tag, first, second].map(|field| i32::from_ne_bytes(*field));
                match tag {
                    1 => Some(Self::Started(first)),
                    2 => Some(Self::Failed(Step::from_number(first), second)),
                    3 => Some(Self::Ended(first)),
                    4 => Some(Self::Killed),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// Runs the program and watches over it. Called in a fork of the agent.
pub fn supervise(control: BorrowedFd<'_>, program: &Program, stdio: Stdio<'_>) -> ! {
    let _guard = ExitGuard;
    let supervisor = match begin(control, program, stdio) {
        Ok(supervisor) => supervisor,
        Err((step, errno)) => {
            report(control, Record::Failed(step, errno));
            exit_now(0);
        }
    };
    supervisor.run()
}

struct Supervisor<'a> {
    control: BorrowedFd<'a>,
    child_signals: OwnedFd,
    /// The program itself, until it is reaped.
    lead: Option<Pid>,
}

fn begin<'a>(control: BorrowedFd<'a>, program: &Program, stdio: Stdio<'_>) -> Result<Supervisor<'a>, (Step, i32)> {
    let prepare = |e: Errno| (Step::Prepare, e.raw_os_error());
    let [a, b, c] = stdio.fds.map(|fd| fd.as_raw_fd());
    let mut keep = vec![control.as_raw_fd(), a, b, c];
    keep.extend(program.confinement.group.as_ref().map(AsRawFd::as_raw_fd));
    close_all_but(&keep).map_err(|e| (Step::Prepare, e.raw_os_error().unwrap_or(libc::EIO)))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(prepare)?;
    let child_signals = signal_fd(libc::SIGCHLD).map_err(|e| (Step::Prepare, e.raw_os_error().unwrap_or(libc::EIO)))?;
    let (reported, reporter) = pipe_with(PipeFlags::CLOEXEC).map_err(prepare)?;
    let lead = match program.confinement.fork() {
        Ok(Fork::Child) => become_program(program, stdio, reporter.as_fd()),
        Ok(Fork::Parent(pid)) => pid,
        Err(error) => return Err((Step::Fork, error.raw_os_error().unwrap_or(libc::EAGAIN))),
    };
    drop(reporter);
    // Only the program may hold its own output, or nobody would ever see the end of it.
    close_all_but(&[control.as_raw_fd(), child_signals.as_raw_fd(), reported.as_raw_fd()])
        .map_err(|e| (Step::Prepare, e.raw_os_error().unwrap_or(libc::EIO)))?;
    let mut bytes = [0; REPORT_LEN];
    let length = loop {
        match read(&reported, &mut bytes) {
            Err(Errno::INTR) => {}
            other => break other.unwrap_or(0),
        }
    };
    drop(reported);
    if let Some((step, errno)) = bytes.get(..length).and_then(read_report) {
        return Err((step, errno));
    }
    report(control, Record::Started(lead.as_raw_pid()));
    Ok(Supervisor { control, child_signals, lead: Some(lead) })
}

impl Supervisor<'_> {
    fn run(mut self) -> ! {
        loop {
            let ready = self.wait(None);
            self.reap();
            if ready {
                self.obey();
            }
        }
    }

    /// Waits for a child to end or the agent to speak; true for the latter.
    fn wait(&self, at_most: Option<&Timespec>) -> bool {
        let mut fds = [PollFd::new(&self.control, PollFlags::IN), PollFd::new(&self.child_signals, PollFlags::IN)];
        if poll(&mut fds, at_most).is_err() {
            return false;
        }
        let [control, signals] = fds.map(|fd| !fd.revents().is_empty());
        if signals {
            // Emptied, or it would stay readable; what it says is learnt by waiting for children.
            let mut infos = [0_u8; 1024];
            let _ = read(&self.child_signals, &mut infos);
        }
        control
    }

    /// Reaps what has ended, and tells of the lead. False if no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if self.lead == Some(pid) => {
                    self.lead = None;
                    report(self.control, Record::Ended(encode_status(status)));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn obey(&mut self) {
        let mut orders = [0_u8; 64];
        let length = match read(self.control, &mut orders) {
            Err(Errno::INTR | Errno::AGAIN) => return,
            other => other.unwrap_or(0),
        };
        if length == 0 {
            self.kill_all();
            exit_now(0);
        }
        for order in orders.into_iter().take(length) {
            match (order, self.lead) {
                (RELEASE, _) => exit_now(0),
                (KILL, _) => {
                    self.kill_all();
                    report(self.control, Record::Killed);
                }
                // The lead leads its session, so its id is the group's; it is not reaped, so it is its own.
                (number, Some(lead)) => drop(kill(Target::Group(lead), i32::from(number))),
                (_, None) => {}
            }
        }
    }

    /// Ends only when no child is left: this process then has no descendants.
    fn kill_all(&mut self) {
        /// A child may have been born without one having died.
        const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        while self.reap() {
            for pid in procfs::children().into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            let children_only = &mut [PollFd::new(&self.child_signals, PollFlags::IN)];
            let _ = poll(children_only, Some(&AGAIN));
            let mut infos = [0_u8; 1024];
            let _ = read(&self.child_signals, &mut infos);
        }
    }
}

fn encode_status(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => -signal,
        (None, None) => 0,
    }
}

/// The agent may have died; then nobody needs to know.
fn report(control: BorrowedFd<'_>, record: Record) {
    let bytes = record.encode();
    while let Err(Errno::INTR) = write(control, &bytes) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        for record in [
            Record::Started(77),
            Record::Failed(Step::Execute, libc::ENOENT),
            Record::Ended(3),
            Record::Ended(-9),
            Record::Killed,
        ] {
            assert_eq!(Record::decode(record.encode()), Some(record));
        }
        assert_eq!(Record::decode([9; RECORD_LEN]), None);
    }
}
