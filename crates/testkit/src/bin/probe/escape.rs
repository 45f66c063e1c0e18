//! Attempts that take more than one step: ways out that have worked somewhere, once.
//!
//! Every one answers `ok` if it succeeded, which is what a test must never see, or the name of the errno of the step that
//! was refused.

#![expect(unsafe_code, reason = "raw system calls, as an attacker would make them")]

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::os::unix::net::UnixStream;

use anyhow::{Context, bail};
use libc::{c_int, c_long, syscall};

use crate::attempt::{errno_name, outcome};

/// Names [`attempt`] knows.
pub const NAMES: [&str; 28] = [
    "abstract-connect",
    "adjtimex",
    "capset-all",
    "chroot-breakout",
    "clone-flags",
    "clone3-user",
    "grow",
    "kill-hard",
    "list",
    "open-tree",
    "personality",
    "pidfd-getfd",
    "proc-fd",
    "process-vm-readv",
    "read-bytes",
    "setgid",
    "setgroups",
    "setns",
    "setrlimit-nofile",
    "setuid",
    "shm-attach",
    "signal-all",
    "socket",
    "symlink-read",
    "syscall",
    "tty-inject",
    "uid-map",
    "write-text",
];

/// Makes the attempt. `argument` is what the name asks for: a path, a pid, a number, `a,b,c`.
pub fn attempt(call: &str, argument: &str) -> anyhow::Result<String> {
    Ok(match call {
        "abstract-connect" => abstract_connect(argument),
        "adjtimex" => adjtimex(),
        "capset-all" => capset_all(),
        "chroot-breakout" => return chroot_breakout(argument),
        "clone-flags" => clone_flags(number(argument)?),
        "clone3-user" => clone3_user(),
        "grow" => {
            let (path, bytes) = argument.split_once('=').context("grow needs <path>=<bytes>")?;
            grow(path, bytes.parse()?)
        }
        "kill-hard" => called(libc::SYS_kill, &[number(argument)?, i64::from(libc::SIGKILL)]),
        "list" => outcome(fs::read_dir(argument)),
        "open-tree" => open_tree(argument)?,
        "personality" => called(libc::SYS_personality, &[number(argument)?]),
        "pidfd-getfd" => pidfd_getfd(number(argument)?),
        "proc-fd" => proc_fd(argument),
        "process-vm-readv" => process_vm_readv(number(argument)?),
        "read-bytes" => read_bytes(argument),
        "setgid" => called(libc::SYS_setgid, &[number(argument)?]),
        "setgroups" => called(libc::SYS_setgroups, &[0, 0]),
        "setns" => setns(argument),
        "setrlimit-nofile" => setrlimit_nofile(number(argument)?),
        "setuid" => called(libc::SYS_setuid, &[number(argument)?]),
        "shm-attach" => called(libc::SYS_shmget, &[number(argument)?, 1, 0]),
        "signal-all" => called(libc::SYS_kill, &[-1, i64::from(libc::SIGCONT)]),
        "socket" => socket(argument)?,
        "symlink-read" => symlink_read(argument),
        "syscall" => raw(argument)?,
        "tty-inject" => tty_inject(),
        "uid-map" => write_text("/proc/self/uid_map", "0 0 1"),
        "write-text" => {
            let (path, text) = argument.split_once('=').context("write-text needs <path>=<text>")?;
            write_text(path, text)
        }
        _ => bail!("no such call: {call}"),
    })
}

/// Decimal or 0x hexadecimal, as 64 bits.
fn number(text: &str) -> anyhow::Result<i64> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(u64::cast_signed),
        None => text.parse(),
    };
    parsed.with_context(|| format!("{text:?} is not a number"))
}

fn called(number: c_long, args: &[i64]) -> String {
    let at = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: every caller passes numbers, null pointers, or pointers to values that live through the call.
    let returned = unsafe { syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if returned < 0 { errno_name(&io::Error::last_os_error()) } else { "ok".to_owned() }
}

fn errno() -> String {
    errno_name(&io::Error::last_os_error())
}

/// `<number>,<arg>,…`: any call there is.
fn raw(argument: &str) -> anyhow::Result<String> {
    let numbers: Vec<i64> = argument.split(',').map(number).collect::<Result<_, _>>()?;
    let (call, args) = numbers.split_first().context("syscall needs a number")?;
    Ok(called(*call, args))
}

fn clone_flags(flags: i64) -> String {
    // SAFETY: like fork; the child only ends.
    match unsafe { syscall(libc::SYS_clone, flags | i64::from(libc::SIGCHLD), 0, 0, 0, 0) } {
        -1 => errno(),
        // SAFETY: ends the copy without running anything of the parent's.
        0 => unsafe { libc::_exit(0) },
        child => reap(child),
    }
}

fn clone3_user() -> String {
    let mut args = [0u64; 11];
    let [flags, _, _, _, signal, ..] = &mut args;
    *flags = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
    *signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: `args` is a clone_args of its full length; no stack is given, so the child is like fork's.
    match unsafe { syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) } {
        -1 => errno(),
        // SAFETY: ends the copy without running anything of the parent's.
        0 => unsafe { libc::_exit(0) },
        child => reap(child),
    }
}

fn reap(child: c_long) -> String {
    // SAFETY: waits for a child of ours; the status is not asked for.
    unsafe { libc::waitpid(c_int::try_from(child).unwrap_or(-1), std::ptr::null_mut(), 0) };
    "ok".to_owned()
}

fn setns(path: &str) -> String {
    match fs::File::open(path) {
        Ok(file) => called(libc::SYS_setns, &[i64::from(file.as_raw_fd()), 0]),
        Err(error) => errno_name(&error),
    }
}

/// The classic: keep a descriptor of a directory outside, change the root below it, walk up from the descriptor.
///
/// The argument is a path that exists on the host only. `inside`: the steps went through, and led nowhere.
fn chroot_breakout(canary: &str) -> anyhow::Result<String> {
    let top = fs::metadata("/").context("look at the root")?;
    fs::create_dir_all("/tmp/breakout").context("make a directory")?;
    let outside = fs::File::open("/").context("open the root")?;
    let answer = called(libc::SYS_chroot, &[CString::new("/tmp/breakout")?.as_ptr() as i64]);
    if answer != "ok" {
        return Ok(answer);
    }
    let answer = called(libc::SYS_fchdir, &[i64::from(outside.as_raw_fd())]);
    if answer != "ok" {
        return Ok(answer);
    }
    for _ in 0..64 {
        std::env::set_current_dir("..").context("walk up")?;
    }
    let answer = called(libc::SYS_chroot, &[CString::new(".")?.as_ptr() as i64]);
    if answer != "ok" {
        return Ok(answer);
    }
    let reached = fs::metadata("/").context("look at the root reached")?;
    let same = (reached.dev(), reached.ino()) == (top.dev(), top.ino());
    Ok(if same && fs::symlink_metadata(canary).is_err() { "inside" } else { "ok" }.to_owned())
}

/// Takes a detached copy of a mount, which a change of its flags would not reach.
fn open_tree(path: &str) -> anyhow::Result<String> {
    const OPEN_TREE_CLONE: i64 = 1;
    let path = CString::new(path)?;
    Ok(called(libc::SYS_open_tree, &[i64::from(libc::AT_FDCWD), path.as_ptr() as i64, OPEN_TREE_CLONE]))
}

fn pidfd_getfd(pid: i64) -> String {
    // SAFETY: numbers only.
    let pidfd = unsafe { syscall(libc::SYS_pidfd_open, pid, 0) };
    if pidfd < 0 {
        return errno();
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else has it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(c_int::try_from(pidfd).unwrap_or(-1)) };
    called(libc::SYS_pidfd_getfd, &[i64::from(pidfd.as_raw_fd()), 0, 0])
}

/// Opens what another process has open, or says why it cannot even be listed.
fn proc_fd(pid: &str) -> String {
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(error) => errno_name(&error),
        Ok(entries) => entries
            .filter_map(Result::ok)
            .map(|entry| outcome(fs::File::open(entry.path())))
            .max_by_key(|answer| answer == "ok")
            .unwrap_or_else(|| "empty".to_owned()),
    }
}

fn process_vm_readv(pid: i64) -> String {
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x40_0000), iov_len: 1 };
    called(libc::SYS_process_vm_readv, &[pid, &raw const local as i64, 1, &raw const remote as i64, 1, 0])
}

/// `empty` if nothing is in it: a masked file.
fn read_bytes(path: &str) -> String {
    let mut byte = [0];
    match fs::File::open(path).and_then(|mut file| file.read(&mut byte)) {
        Ok(0) => "empty".to_owned(),
        other => outcome(other),
    }
}

fn write_text(path: &str, text: &str) -> String {
    outcome(fs::File::options().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes())))
}

/// Writes the last byte of a file that long. The signal that comes with a limit is not for us.
fn grow(path: &str, bytes: u64) -> String {
    // SAFETY: takes no pointers but the constant that means to ignore.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let file = fs::File::options().create(true).truncate(false).write(true).open(path);
    outcome(file.and_then(|file| file.write_all_at(b"x", bytes - 1)))
}

/// Follows a link we make: a reader outside that trusts paths would be led astray; we must not be.
fn symlink_read(target: &str) -> String {
    let link = "/tmp/probe-symlink";
    let _ = fs::remove_file(link);
    outcome(std::os::unix::fs::symlink(target, link).and_then(|()| fs::File::open(link)))
}

fn abstract_connect(name: &str) -> String {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name);
    outcome(address.and_then(|address| UnixStream::connect_addr(&address)))
}

/// `<family>,<type>,<protocol>`.
fn socket(argument: &str) -> anyhow::Result<String> {
    let numbers: Vec<i64> = argument.split(',').map(number).collect::<Result<_, _>>()?;
    Ok(called(libc::SYS_socket, &numbers))
}

/// Every capability in every set.
fn capset_all() -> String {
    let header: [u32; 2] = [0x2008_0522, 0];
    let data: [u32; 6] = [u32::MAX; 6];
    called(libc::SYS_capset, &[header.as_ptr() as i64, data.as_ptr() as i64])
}

fn setrlimit_nofile(wanted: i64) -> String {
    let limit = [wanted, wanted];
    called(libc::SYS_prlimit64, &[0, i64::from(libc::RLIMIT_NOFILE.cast_signed()), limit.as_ptr() as i64, 0])
}

/// Moves the clock by nothing, which still needs the right to.
fn adjtimex() -> String {
    // SAFETY: all-zero is a valid timex.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET;
    called(libc::SYS_adjtimex, &[&raw mut change as i64])
}

/// Types a character into a terminal of our own making, as if its user had.
fn tty_inject() -> String {
    let terminal = match fs::File::options().read(true).write(true).open("/dev/ptmx") {
        Ok(file) => file,
        Err(error) => return format!("ptmx {}", errno_name(&error)),
    };
    let key = b'x';
    // The upper half set: a filter that compares 64 bits lets this through, the kernel does not look at it.
    let request = (0xdead_beef_u64 << 32 | libc::TIOCSTI).cast_signed();
    called(libc::SYS_ioctl, &[i64::from(terminal.as_raw_fd()), request, &raw const key as i64])
}
