//! The few system calls that need `unsafe`, each behind a safe function. No process of this program has a second thread.

#![expect(unsafe_code, reason = "fork, signals, ids, waiting and locks have no safe wrappers in std")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// This signal arrived.
    Signal(i32),
    /// This descriptor can be read, or its other end is gone.
    Readable(RawFd),
    /// The time is over.
    Timeout,
}

/// Signals that are waited for instead of interrupting.
#[derive(Debug)]
pub struct Signals {
    file: OwnedFd,
}

impl Signals {
    /// From now on these are waited for. Programs started later inherit that they are blocked: see [`unblock_in`].
    pub fn take(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: the set is made here, lives for the calls, and sigemptyset makes all of it valid.
        let fd = unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))?;
            check(libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?
        };
        // SAFETY: the kernel has just given out this descriptor, and nobody else knows of it.
        Ok(Self { file: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Waits for one of the signals, for something to read on `others`, or for the end of the time; signals first.
    pub fn wait(&self, timeout: Option<Duration>, others: &[RawFd]) -> io::Result<Event> {
        let mut polled = vec![readable(self.file.as_raw_fd())];
        polled.extend(others.iter().map(|fd| readable(*fd)));
        if !poll(&mut polled, timeout)? {
            return Ok(Event::Timeout);
        }
        if let Some(signal) = self.read()? {
            return Ok(Event::Signal(signal));
        }
        let ready = polled.iter().skip(1).find(|entry| entry.revents != 0);
        Ok(ready.map_or(Event::Timeout, |entry| Event::Readable(entry.fd)))
    }

    fn read(&self) -> io::Result<Option<i32>> {
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the structure is plain numbers, for which zeros are valid, and as long as the kernel is told.
        let (got, info) = unsafe {
            let mut info = std::mem::zeroed::<libc::signalfd_siginfo>();
            (libc::read(self.file.as_raw_fd(), (&raw mut info).cast(), size), info)
        };
        match got {
            n if n == size as isize => Ok(i32::try_from(info.ssi_signo).ok()),
            n if n < 0 && io::Error::last_os_error().kind() != io::ErrorKind::WouldBlock => {
                Err(io::Error::last_os_error())
            }
            _ => Ok(None),
        }
    }
}

/// This process ends quietly when nobody reads what it writes, as programs of a pipeline do. Rust's begin otherwise.
pub fn end_with_reader() {
    // SAFETY: sets the default action, so no handler of ours is ever called.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Has the program begin without blocked signals, as programs expect.
pub fn unblock_in(command: &mut Command) {
    // SAFETY: between fork and exec only two calls are made that are safe there, on a set that lives in this frame.
    unsafe {
        command.pre_exec(|| {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut set);
            check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut())).map(drop)
        });
    }
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// Whether something happened before the time was over.
fn poll(entries: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<bool> {
    let until = timeout.map(|time| Instant::now() + time);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // One more, for a remainder of less than a millisecond would otherwise spin.
        let millis = left.map_or(-1, |left| i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX));
        // SAFETY: the pointer and the length are those of a slice that lives for the call.
        let ready = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, millis) };
        match check(ready) {
            Ok(0) if until.is_some_and(|until| Instant::now() < until) => {}
            Ok(ready) => return Ok(ready > 0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Lets time pass.
pub fn pause(time: Duration) {
    // Without entries poll cannot fail but by a signal, after which it goes on.
    let _ = poll(&mut [], Some(time));
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks: nothing in the child, the child's number in the parent.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the process has one thread, so no lock is held by one that does not exist in the child.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Makes a descriptor of this process another one for `to`.
pub fn point(fd: RawFd, to: &File) -> io::Result<()> {
    // SAFETY: takes numbers only; the callers name standard input and outputs, which nobody owns.
    check(unsafe { libc::dup2(to.as_raw_fd(), fd) }).map(drop)
}

/// Makes a named pipe that everybody may write into and its owner reads.
pub fn make_pipe(path: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: the string ends with zero and lives for the calls.
    unsafe {
        check(libc::mkfifo(path.as_ptr(), 0o600))?;
        // Explicitly, for the umask.
        check(libc::chmod(path.as_ptr(), 0o622)).map(drop)
    }
}

/// Ends this process at once, as a forked child should.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(status) }
}

/// Makes this process the first of a new session.
pub fn new_session() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Orphans below this process become its children.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Sets the short name of this process, as lists of processes show it.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the kernel copies up to 16 bytes of a string that ends with zero and lives for the call.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// A child that ended, and how: any of them, or none at the moment.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the pointer is to a number that lives for the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// The exit status a shell would give for the end of a process.
pub fn exit_status(status: i32) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// Sends a signal to one process.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Whose rights this process has.
pub fn user() -> u32 {
    // SAFETY: cannot fail and takes no pointers.
    unsafe { libc::geteuid() }
}

/// Gives up the rights of this process for those of somebody else.
pub fn become_user(uid: Option<u32>, gid: Option<u32>, groups: Option<&[u32]>) -> io::Result<()> {
    if let Some(groups) = groups {
        // SAFETY: pointer and length are those of a slice that lives for the call.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })?;
    }
    if let Some(gid) = gid {
        // SAFETY: takes no pointers.
        check(unsafe { libc::setgid(gid) })?;
    }
    if let Some(uid) = uid {
        // SAFETY: takes no pointers.
        check(unsafe { libc::setuid(uid) })?;
    }
    Ok(())
}

/// Changes how nice this process is to others, relative to what it was.
pub fn add_nice(by: i32) -> io::Result<()> {
    // SAFETY: these take no pointers. -1 is an answer as well as a failure, so errno decides; it is this thread's own.
    unsafe {
        *libc::__errno_location() = 0;
        if libc::nice(by) == -1 && *libc::__errno_location() != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Waits until a process is gone, or for the end of the time: whether it is gone.
pub fn wait_gone(pid: i32, timeout: Option<Duration>) -> io::Result<bool> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        let e = io::Error::last_os_error();
        return if e.raw_os_error() == Some(libc::ESRCH) { Ok(true) } else { Err(e) };
    }
    // SAFETY: the kernel has just given out this descriptor, and nobody else knows of it.
    let file = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    poll(&mut [readable(file.as_raw_fd())], timeout)
}

/// Takes the lock that other programs take by fcntl(2) on the same file: whether nobody else has it.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: the structure is plain numbers, for which zeros are valid, and lives for the call.
    let result = unsafe {
        let mut lock = std::mem::zeroed::<libc::flock>();
        lock.l_type = libc::F_WRLCK as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock)
    };
    match check(result) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EACCES | libc::EAGAIN)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether there is something to read, or an end, at this moment.
pub fn is_readable(fd: RawFd) -> bool {
    poll(&mut [readable(fd)], Some(Duration::ZERO)).unwrap_or(false)
}
