//! What a forked child does until it is the program it was forked for.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid, set_dumpable_behavior, setrlimit, setsid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::program::{Confinement, Program, Step};
use super::user::User;
use crate::sys::{ExitGuard, close_on_exec_from, execve, exit_now, reset_signals, take_stdio};

/// Size of a report: step and errno.
pub const REPORT_LEN: usize = 8;

/// Standard input, output and error of a program.
#[derive(Debug, Clone, Copy)]
pub struct Stdio<'a> {
    /// All above 2.
    pub fds: [BorrowedFd<'a>; 3],
    /// Standard input is the terminal that controls its session.
    pub terminal: bool,
}

/// Becomes the program, or writes step and errno to `report` (which exec closes) and ends.
pub fn become_program(program: &Program, stdio: Stdio<'_>, report: BorrowedFd<'_>) -> ! {
    let _guard = ExitGuard;
    let (step, errno) = match attempt(program, stdio) {
        Ok(never) => match never {},
        Err(failed) => failed,
    };
    let mut bytes = [0; REPORT_LEN];
    let (first, second) = bytes.split_at_mut(REPORT_LEN / 2);
    first.copy_from_slice(&step.number().to_ne_bytes());
    second.copy_from_slice(&errno.raw_os_error().to_ne_bytes());
    let _ = rustix::io::write(report, &bytes);
    exit_now(i32::from(crate::OURS))
}

/// Reads back what [`become_program`] wrote; `None` if it wrote nothing, because exec closed the pipe.
pub fn read_report(bytes: &[u8]) -> Option<(Step, i32)> {
    let (step, errno) = bytes.split_at_checked(REPORT_LEN / 2)?;
    let step = i32::from_ne_bytes(step.try_into().ok()?);
    let errno = i32::from_ne_bytes(errno.try_into().ok()?);
    Some((Step::from_number(step), errno))
}

/// Where it failed.
pub type Failed = (Step, Errno);

fn attempt(program: &Program, stdio: Stdio<'_>) -> Result<std::convert::Infallible, Failed> {
    prepare(stdio).map_err(|e| (Step::Prepare, e))?;
    confine_as(&program.confinement, &program.user, &program.cwd)?;
    let error = execve(&program.path, &program.argv, &program.envp);
    Err((Step::Execute, Errno::from_io_error(&error).unwrap_or(Errno::INVAL)))
}

/// Takes on a user and everything that confines programs here. Only for a forked child, which cannot go back.
pub fn confine_as(confinement: &Confinement, user: &User, cwd: &CStr) -> Result<(), Failed> {
    set_oom_score(confinement.oom_score_adj).map_err(|e| (Step::OomScore, e))?;
    limit(confinement).map_err(|e| (Step::Limits, e))?;
    let keeps_capabilities = confinement.capabilities.is_some();
    change_user(user, keeps_capabilities).map_err(|e| (Step::User, e))?;
    rustix::process::chdir(cwd).map_err(|e| (Step::WorkingDirectory, e))?;
    if confinement.no_new_privs {
        set_no_new_privs(true).map_err(|e| (Step::NoNewPrivs, e))?;
    } else {
        // Without it the kernel wants CAP_SYS_ADMIN for a filter, so the filter comes before the capabilities go.
        apply_seccomp(confinement, keeps_capabilities)?;
    }
    if let Some(mask) = confinement.capabilities {
        confine(mask, user.uid).map_err(|e| (Step::Capabilities, e))?;
    }
    if confinement.no_new_privs {
        apply_seccomp(confinement, false)?;
    }
    Ok(())
}

/// A session of its own, no inherited signal state, no inherited descriptors.
fn prepare(stdio: Stdio<'_>) -> Result<(), Errno> {
    setsid()?;
    reset_signals();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    take_stdio(stdio.fds).map_err(|e| errno(&e))?;
    if stdio.terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    close_on_exec_from(3).map_err(|e| errno(&e))
}

/// The agent may be protected from the kernel's choice of a victim; its children must not be.
fn set_oom_score(wanted: u16) -> Result<(), Errno> {
    const PATH: &str = "/proc/self/oom_score_adj";
    let score = std::fs::read_to_string(PATH).map_err(|e| errno(&e))?;
    if wanted == 0 && !score.trim_start().starts_with('-') {
        return Ok(());
    }
    // A process that is not dumpable does not own its files in /proc. Nothing secret is at stake for the moment this
    // lasts: attaching to this process would need every capability it has.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let written = std::fs::write(PATH, wanted.to_string()).map_err(|e| errno(&e));
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    written
}

fn limit(confinement: &Confinement) -> Result<(), Errno> {
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Nofile, both(confinement.nofile))?;
    if confinement.sandboxed {
        setrlimit(Resource::Core, both(0))?;
    }
    Ok(())
}

fn change_user(user: &User, keep_capabilities: bool) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let unprivileged = !rustix::process::geteuid().is_root();
    if unprivileged && rustix::process::geteuid() == uid && rustix::process::getegid() == gid {
        return Ok(());
    }
    if keep_capabilities {
        set_keep_capabilities(true)?;
    }
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// All five sets (the bounding set was cut when the agent began, for itself and all its children).
fn confine(mask: u64, uid: u32) -> Result<(), Errno> {
    let set = CapabilitySet::from_bits_retain(mask);
    set_keep_capabilities(false)?;
    set_capabilities(None, CapabilitySets { effective: set, permitted: set, inheritable: set })?;
    clear_ambient_capability_set()?;
    if uid != 0 {
        // An unprivileged user keeps over an exec only what is ambient.
        for capability in set.iter() {
            configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

fn apply_seccomp(confinement: &Confinement, regain: bool) -> Result<(), Failed> {
    if regain && !confinement.seccomp.is_empty() {
        // Changing the user emptied the effective set.
        let sets = rustix::thread::capabilities(None).map_err(|e| (Step::Seccomp, e))?;
        set_capabilities(None, CapabilitySets { effective: sets.permitted, ..sets }).map_err(|e| (Step::Seccomp, e))?;
    }
    for filter in &confinement.seccomp {
        filter.apply().map_err(|e| (Step::Seccomp, errno(&e)))?;
    }
    Ok(())
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Marker for values that must outlive the fork; keeps descriptors borrowed rather than dropped in the child.
pub fn borrow3(fds: &[std::os::fd::OwnedFd; 3]) -> [BorrowedFd<'_>; 3] {
    let [a, b, c] = fds;
    [a.as_fd(), b.as_fd(), c.as_fd()]
}
