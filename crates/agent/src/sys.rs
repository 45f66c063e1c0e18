//! The few system calls that need `unsafe`, each behind a safe function.
//!
//! Everything here relies on one fact: the launcher and the agent never start a second thread.

#![expect(unsafe_code, reason = "fork, exec, signal dispositions and seccomp have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::process::Pid;

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the id of the new.
    Parent(Pid),
}

/// Forks this process.
///
/// Sound only because the launcher and the agent never start a second thread: the child may then run ordinary code.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the process is single-threaded, so no lock is held by a thread that does not exist in the child.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Fork::Parent).ok_or_else(io::Error::last_os_error),
    }
}

/// Ends this process without running anything registered to run at its end: what a forked child must use.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Ends the process if it goes out of scope: a forked child must never unwind into code of its parent.
#[derive(Debug)]
pub struct ExitGuard;

impl Drop for ExitGuard {
    fn drop(&mut self) {
        exit_now(i32::from(crate::OURS));
    }
}

/// Gives every signal its default action and blocks none, as a new program expects.
pub fn reset_signals() {
    // A kernel sigaction of zeros: default action, no flags, empty mask. Asked of the kernel itself, because glibc hides
    // the two signals it uses, and whoever started the daemon may have left them ignored.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        let old = std::ptr::null_mut::<u64>();
        // SAFETY: the structure is as long as the kernel's on every 64-bit Linux and lives for the call, which fails
        // harmlessly for KILL and STOP.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, 8) };
    }
    // SAFETY: the set is initialised by sigemptyset before it is used, and lives for the call.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Has writing to a closed socket fail, not kill: for a forked child that is no program.
pub fn ignore_broken_pipes() {
    // SAFETY: takes no pointers but the constant that means to ignore.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Blocks a signal and returns a descriptor that becomes readable when one is pending.
pub fn signal_fd(signal: i32) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is used and lives for the calls; signalfd returns a
    // descriptor nobody else owns.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::signal(signal, libc::SIG_DFL);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Puts copies of three descriptors at 0, 1 and 2. They must all lie above.
pub fn take_stdio(stdio: [BorrowedFd<'_>; 3]) -> io::Result<()> {
    for (target, source) in (0..).zip(stdio) {
        // SAFETY: dup2 takes no pointers; 0 to 2 are /dev/null in this process and owned by nobody.
        if unsafe { libc::dup2(source.as_raw_fd(), target) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What to do with descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    Close,
    CloseOnExec,
}

fn close_range(first: RawFd, last: libc::c_uint, what: Range) -> io::Result<()> {
    let flags = if what == Range::Close { 0 } else { libc::CLOSE_RANGE_CLOEXEC };
    // SAFETY: takes no pointers. Closed descriptors belong to values this forked child never uses or drops.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Marks everything above standard error to be closed by exec.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    close_range(first, libc::c_uint::MAX, Range::CloseOnExec)
}

/// Closes everything above standard error but these. Only for a forked child that never returns.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd.unsigned_abs() - 1, Range::Close)?;
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX, Range::Close)
}

/// Replaces this process. Returns only if that failed.
pub fn execve(path: &CStr, argv: &[CString], envp: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both arrays end with null, and they and the strings they point to live until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// One compiled seccomp filter.
#[derive(Debug, Clone)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// From an array of `sock_filter` in this machine's byte order.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (instructions, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || instructions.is_empty() || instructions.len() > usize::from(u16::MAX) {
            return None;
        }
        let decode = |&[a, b, jt, jf, k0, k1, k2, k3]: &[u8; 8]| libc::sock_filter {
            code: u16::from_ne_bytes([a, b]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        };
        Some(Self(instructions.iter().map(decode).collect()))
    }

    /// Puts it on this process and its children, for good.
    pub fn apply(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: the program points to `len` instructions that live until the call returns; the kernel only reads them.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Clock ticks per second, the unit of CPU times in `/proc`.
pub fn clock_ticks() -> u64 {
    // SAFETY: takes no pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1)
}

/// Bytes of a page, the unit of memory in `/proc`.
pub fn page_size() -> u64 {
    // SAFETY: takes no pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Sends a signal to every process this one can see but itself: only as the first process of a pid namespace. Fails if
/// there is none.
pub fn signal_everything(signal: i32) -> io::Result<()> {
    if std::process::id() != 1 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // SAFETY: takes no pointers; -1 means everything but this process, and the check above keeps it to a namespace.
    if unsafe { libc::kill(-1, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Time since the machine was started, time asleep included.
pub fn since_boot() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives for the call, which only writes it; it fails for no clock that exists.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// One process.
    Process(Pid),
    /// A process group, by the id of its leader.
    Group(Pid),
}

/// Sends any signal, real-time ones included.
pub fn kill(target: Target, signal: i32) -> io::Result<()> {
    let id = match target {
        Target::Process(pid) => pid.as_raw_pid(),
        Target::Group(pid) => -pid.as_raw_pid(),
    };
    // SAFETY: takes no pointers; a Pid is never 0 or negative, so this reaches one process or one group.
    if unsafe { libc::kill(id, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the clock that tells the time of day, in nanoseconds since 1970.
pub fn set_clock(unix_nanos: i64) -> io::Result<()> {
    const SECOND: i64 = 1_000_000_000;
    let time = libc::timespec { tv_sec: unix_nanos.div_euclid(SECOND), tv_nsec: unix_nanos.rem_euclid(SECOND) };
    // SAFETY: the structure lives for the call, which only reads it.
    if unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Most bytes that are credited at once.
const ENTROPY_MAX: usize = 256;

/// `struct rand_pool_info` of linux/random.h, with room for the bytes.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    length: libc::c_int,
    bytes: [u8; ENTROPY_MAX],
}

/// Gives the kernel's random number generator bytes nobody else has, and makes it begin anew from them. `random` is
/// `/dev/random`.
pub fn reseed(random: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // linux/random.h: _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
    const ADD_ENTROPY: libc::c_ulong = 0x4008_5203;
    const RESEED: libc::c_ulong = 0x5207;
    let mut info = RandPoolInfo { entropy_bits: 0, length: 0, bytes: [0; ENTROPY_MAX] };
    let length = i32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    info.bytes.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    (info.entropy_bits, info.length) = (length * 8, length);
    // SAFETY: the structure has the length the kernel reads by its second field, and lives for the call; the other request
    // takes no argument.
    unsafe {
        if libc::ioctl(random.as_raw_fd(), ADD_ENTROPY as _, &raw const info) != 0
            || libc::ioctl(random.as_raw_fd(), RESEED as _) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Listens on a port of the machine's vsock device, without blocking.
pub fn listen_vsock(port: u32) -> io::Result<OwnedFd> {
    /// Connections that wait: the daemon opens one at a time.
    const BACKLOG: libc::c_int = 8;
    // SAFETY: all-zero is a valid value of this plain structure; it lives for the call and its length goes with it. The
    // descriptor is new and nobody else has it.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let fd = libc::socket(libc::AF_VSOCK, kind, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_vm = std::mem::zeroed();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_port = port;
        address.svm_cid = libc::VMADDR_CID_ANY;
        let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
        if libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) != 0
            || libc::listen(fd.as_raw_fd(), BACKLOG) != 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(fd)
    }
}
