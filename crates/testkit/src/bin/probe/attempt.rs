//! Attempts at what a sandbox must refuse. Arguments are chosen so that even a success would change nothing.

#![expect(unsafe_code, reason = "raw system calls, as an attacker would make them")]

use std::ffi::CString;
use std::io;

use anyhow::{Context, bail};
use libc::{c_long, syscall};

use crate::{escape, network};

/// Raw calls by name. `PATH` stands for the argument given on the command line.
const CALLS: [(&str, c_long, [Arg; 5]); 36] = {
    use Arg::{Null, Num, Path};
    [
        ("mount", libc::SYS_mount, [Path, Path, Null, Num(libc::MS_BIND as i64), Null]),
        ("remount-rw", libc::SYS_mount, [Null, Path, Null, Num((libc::MS_REMOUNT | libc::MS_BIND) as i64), Null]),
        ("umount", libc::SYS_umount2, [Path, Num(libc::MNT_DETACH as i64), Null, Null, Null]),
        ("chroot", libc::SYS_chroot, [Path, Null, Null, Null, Null]),
        ("pivot-root", libc::SYS_pivot_root, [Path, Path, Null, Null, Null]),
        ("unshare-user", libc::SYS_unshare, [Num(libc::CLONE_NEWUSER as i64), Null, Null, Null, Null]),
        ("unshare-mount", libc::SYS_unshare, [Num(libc::CLONE_NEWNS as i64), Null, Null, Null, Null]),
        ("unshare-net", libc::SYS_unshare, [Num(libc::CLONE_NEWNET as i64), Null, Null, Null, Null]),
        ("unshare-pid", libc::SYS_unshare, [Num(libc::CLONE_NEWPID as i64), Null, Null, Null, Null]),
        ("unshare-cgroup", libc::SYS_unshare, [Num(libc::CLONE_NEWCGROUP as i64), Null, Null, Null, Null]),
        ("fsopen", libc::SYS_fsopen, [Path, Num(0), Null, Null, Null]),
        ("finit-module", libc::SYS_finit_module, [Num(-1), Path, Num(0), Null, Null]),
        ("kexec-file", libc::SYS_kexec_file_load, [Num(-1), Num(-1), Num(0), Null, Num(0)]),
        ("clock-settime", libc::SYS_clock_settime, [Num(0), Null, Null, Null, Null]),
        ("swapoff", libc::SYS_swapoff, [Path, Null, Null, Null, Null]),
        ("acct", libc::SYS_acct, [Path, Null, Null, Null, Null]),
        ("quotactl", libc::SYS_quotactl, [Num(0), Path, Num(0), Null, Null]),
        ("dmesg", libc::SYS_syslog, [Num(10), Null, Num(0), Null, Null]),
        ("iopl", libc::SYS_iopl, [Num(3), Null, Null, Null, Null]),
        ("request-key", libc::SYS_request_key, [Path, Path, Null, Num(0), Null]),
        ("fanotify", libc::SYS_fanotify_init, [Num(0), Num(0), Null, Null, Null]),
        ("vhangup", libc::SYS_vhangup, [Null, Null, Null, Null, Null]),
        ("init-module", libc::SYS_init_module, [Null, Num(0), Null, Null, Null]),
        ("delete-module", libc::SYS_delete_module, [Path, Num(0), Null, Null, Null]),
        ("kexec", libc::SYS_kexec_load, [Num(0), Num(1 << 30), Null, Num(0), Null]),
        // The last number is no command, so even root only gets EINVAL.
        ("reboot", libc::SYS_reboot, [Num(0xfee1_dead), Num(672_274_793), Num(0x1234_5678), Null, Null]),
        ("set-time", libc::SYS_settimeofday, [Null, Null, Null, Null, Null]),
        // Too long, so even root only gets EINVAL.
        ("set-hostname", libc::SYS_sethostname, [Path, Num(4096), Null, Null, Null]),
        ("bpf", libc::SYS_bpf, [Num(0), Null, Num(0), Null, Null]),
        ("perf", libc::SYS_perf_event_open, [Null, Num(0), Num(-1), Num(-1), Num(0)]),
        ("add-key", libc::SYS_add_key, [Path, Path, Null, Num(0), Num(-3)]),
        ("keyctl", libc::SYS_keyctl, [Num(0), Num(-3), Num(0), Null, Null]),
        ("io-uring", libc::SYS_io_uring_setup, [Num(1), Null, Null, Null, Null]),
        ("userfaultfd", libc::SYS_userfaultfd, [Num(1), Null, Null, Null, Null]),
        ("swapon", libc::SYS_swapon, [Path, Num(0), Null, Null, Null]),
        ("open-by-handle", libc::SYS_open_by_handle_at, [Num(-1), Null, Num(0), Null, Null]),
    ]
};

/// Attempts that need more than one call or a number.
const OTHERS: [&str; 8] = ["open-read", "open-write", "mknod-disk", "ptrace", "kill", "link", "exec", "tiocsti"];

#[derive(Clone, Copy)]
enum Arg {
    Null,
    Num(i64),
    Path,
}

/// Names `probe try` knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    CALLS.iter().map(|(name, ..)| *name).chain(OTHERS).chain(escape::NAMES).chain(network::NAMES)
}

/// Makes the attempt and says how it ended.
pub fn attempt(call: &str, argument: Option<&str>) -> anyhow::Result<String> {
    let text = argument.unwrap_or("/");
    let path = CString::new(text).context("the argument holds a NUL")?;
    if let Some((_, number, args)) = CALLS.iter().find(|(name, ..)| *name == call) {
        let [a, b, c, d, e] = args.map(|arg| match arg {
            Arg::Null => 0,
            Arg::Num(n) => n,
            Arg::Path => path.as_ptr() as i64,
        });
        // SAFETY: pointers are null or a NUL-terminated string that lives through the call; none of these calls writes to them.
        return Ok(result(unsafe { syscall(*number, a, b, c, d, e) }));
    }
    Ok(match call {
        "open-read" => outcome(std::fs::File::open(text)),
        "open-write" => outcome(std::fs::File::options().write(true).open(text)),
        "link" => outcome(std::fs::hard_link(text, "/tmp/probe-link")),
        "exec" => outcome(std::process::Command::new(text).status()),
        "mknod-disk" => mknod_disk(text)?,
        "ptrace" => {
            let pid: i64 = text.parse().context("ptrace needs a pid")?;
            // SAFETY: PTRACE_ATTACH takes a pid and two ignored values.
            result(unsafe { syscall(libc::SYS_ptrace, i64::from(libc::PTRACE_ATTACH), pid, 0, 0) })
        }
        "kill" => {
            let pid: i64 = text.parse().context("kill needs a pid")?;
            // SAFETY: no pointers; signal 0 only asks for permission.
            result(unsafe { syscall(libc::SYS_kill, pid, 0) })
        }
        "tiocsti" => {
            let key = b'x';
            // SAFETY: TIOCSTI reads one byte, which lives through the call.
            result(unsafe { syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, &raw const key) })
        }
        _ if escape::NAMES.contains(&call) => escape::attempt(call, text)?,
        _ if network::NAMES.contains(&call) => network::attempt(call, text)?,
        _ => bail!("no such call: {call}; `probe try list` names them"),
    })
}

/// Makes a node for a disk of the host (`<major>:<minor>`) and opens it; making it may succeed, opening must not.
fn mknod_disk(device: &str) -> anyhow::Result<String> {
    let (major, minor) = device.split_once(':').context("mknod-disk needs <major>:<minor>")?;
    let device = libc::makedev(major.parse()?, minor.parse()?);
    let path = CString::new("/tmp/probe-disk")?;
    let mode = libc::S_IFBLK | 0o600;
    // SAFETY: the path is NUL-terminated and lives through the call.
    let made = unsafe { libc::mknod(path.as_ptr(), mode, device) };
    let answer = if made != 0 { result(-1) } else { outcome(std::fs::File::open("/tmp/probe-disk")) };
    let _ = std::fs::remove_file("/tmp/probe-disk");
    Ok(answer)
}

fn result(returned: c_long) -> String {
    if returned < 0 { errno_name(&io::Error::last_os_error()) } else { "ok".to_owned() }
}

/// `ok` or the name of the errno.
pub fn outcome<T>(done: io::Result<T>) -> String {
    done.map_or_else(|error| errno_name(&error), |_| "ok".to_owned())
}

/// `EPERM` and friends; a number where no test has asked for the name yet.
pub fn errno_name(error: &io::Error) -> String {
    const NAMES: [(i32, &str); 26] = [
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::EFBIG, "EFBIG"),
        (libc::ENXIO, "ENXIO"),
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EIO, "EIO"),
        (libc::ENOEXEC, "ENOEXEC"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EBUSY, "EBUSY"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EISDIR, "EISDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    ];
    let Some(code) = error.raw_os_error() else { return error.to_string() };
    NAMES
        .iter()
        .find(|(number, _)| *number == code)
        .map_or_else(|| format!("errno {code}"), |(_, name)| (*name).to_owned())
}
