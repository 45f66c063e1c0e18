//! The table: which system calls, on which conditions, opened by what.
//!
//! Numbers are libc's. Calls younger than the libc crate have their number here; from 424 on it is the same everywhere.

/// A system call by name and number.
pub(super) type Call = (&'static str, i64);

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Allowed whatever the arguments, on every architecture.
pub(super) const ALLOWED: &[Call] = &const {
    // One list for the reader, joined from libc's and the young ones.
    let libc: &[Call] = ALLOWED_BY_LIBC;
    let mut all = [("", 0); ALLOWED_BY_LIBC.len() + ALLOWED_YOUNG.len()];
    let mut at = 0;
    while at < all.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            all[at] = if at < libc.len() { libc[at] } else { ALLOWED_YOUNG[at - libc.len()] };
        }
        at += 1;
    }
    all
};

const ALLOWED_BY_LIBC: &[Call] = calls! {
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_adjtime SYS_clock_getres
    SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range SYS_dup SYS_dup3
    SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit
    SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2
    SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr
    SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv SYS_get_robust_list SYS_getcpu SYS_getcwd
    SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid
    SYS_getppid SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid
    SYS_getsockname SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch
    SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit
    SYS_ioprio_get SYS_ioprio_set SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self
    SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise
    SYS_membarrier SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
    SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap
    SYS_mseal SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap
    SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2
    SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_prlimit64
    SYS_process_mrelease SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv
    SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat SYS_renameat2
    SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn
    SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_getaffinity SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval
    SYS_sched_setaffinity SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl
    SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list
    SYS_set_tid_address SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority
    SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr
    SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair SYS_splice
    SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill
    SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create
    SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat
    SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev
};

const ALLOWED_YOUNG: &[Call] = &[
    ("SYS_cachestat", 451),
    ("SYS_map_shadow_stack", 453),
    ("SYS_futex_wake", 454),
    ("SYS_futex_wait", 455),
    ("SYS_futex_requeue", 456),
    ("SYS_statmount", 457),
    ("SYS_listmount", 458),
    ("SYS_setxattrat", 463),
    ("SYS_getxattrat", 464),
    ("SYS_listxattrat", 465),
    ("SYS_removexattrat", 466),
];

/// Highest number that was decided upon. Whatever is above does not exist for a sandbox.
pub(super) const LAST_KNOWN: u32 = 469;

/// Calls that only the oldest architecture has; newer ones do the same through those above.
#[cfg(target_arch = "x86_64")]
pub(super) const ALLOWED_LEGACY: &[Call] = calls! {
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_wait SYS_eventfd
    SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod
    SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_signalfd SYS_stat
    SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
};
/// Calls that only the oldest architecture has.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const ALLOWED_LEGACY: &[Call] = &[];

/// What a capability opens.
pub(super) struct Opened {
    pub capability: &'static str,
    pub calls: &'static [Call],
}

/// Calls closed until their capability is granted. Those whose capability the kernel only honours in the first user
/// namespace (modules, raw I/O, clock, kexec, reboot, swap, accounting, file handles, bpf, perf) are in no list: granting
/// it opens nothing.
pub(super) const OPENED: &[Opened] = &[
    Opened { capability: "sys_chroot", calls: calls! { SYS_chroot } },
    Opened {
        capability: "sys_admin",
        calls: calls! {
            SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_mount SYS_mount_setattr SYS_move_mount SYS_open_tree
            SYS_pivot_root SYS_setdomainname SYS_sethostname SYS_setns SYS_umount2 SYS_unshare
        },
    },
    Opened {
        capability: "sys_ptrace",
        calls: calls! {
            SYS_kcmp SYS_pidfd_getfd SYS_process_madvise SYS_process_vm_readv SYS_process_vm_writev SYS_ptrace
        },
    },
    Opened {
        capability: "sys_nice",
        calls: calls! { SYS_get_mempolicy SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node },
    },
    Opened { capability: "sys_tty_config", calls: calls! { SYS_vhangup } },
];

/// A call that is allowed with some arguments only.
pub(super) struct Conditional {
    pub call: Call,
    pub arguments: Arguments,
    /// With this capability any arguments will do.
    pub lifted_by: Option<&'static str>,
    /// Why, for the document.
    #[cfg_attr(not(test), expect(dead_code, reason = "read where docs/seccomp.md is generated"))]
    pub why: &'static str,
}

/// Which arguments are allowed. `at` counts from 0.
pub(super) enum Arguments {
    OneOf {
        at: u8,
        values: &'static [u32],
    },
    NoneOf {
        at: u8,
        values: &'static [u32],
    },
    WithoutBits {
        at: u8,
        mask: u32,
    },
    /// The families of [`FAMILIES`].
    Sockets,
}

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME cannot be asked of `clone`.
const CLONE_NEW: u32 = 0x7E02_0000;

/// Calls allowed with some arguments only.
pub(super) const CONDITIONAL: &[Conditional] = &[
    Conditional {
        call: ("SYS_clone", libc::SYS_clone),
        arguments: Arguments::WithoutBits { at: 0, mask: CLONE_NEW },
        lifted_by: Some("sys_admin"),
        why: "no new namespaces: a user namespace would give every capability back",
    },
    Conditional {
        call: ("SYS_ioctl", libc::SYS_ioctl),
        arguments: Arguments::NoneOf {
            at: 1,
            values: &[libc::TIOCSTI as u32, 0x541C /* TIOCLINUX */, libc::TIOCSETD as u32],
        },
        lifted_by: None,
        why: "no typing into a terminal for somebody else (TIOCSTI, TIOCLINUX), no loading of line disciplines (TIOCSETD)",
    },
    Conditional {
        call: ("SYS_personality", libc::SYS_personality),
        // PER_LINUX, PER_LINUX32, UNAME26 with either, and the question for the current one.
        arguments: Arguments::OneOf { at: 0, values: &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] },
        lifted_by: None,
        why: "no turning off of address randomisation, no other systems' behaviour",
    },
    Conditional {
        call: ("SYS_socket", libc::SYS_socket),
        arguments: Arguments::Sockets,
        lifted_by: None,
        why: "only families a program in a network namespace can use; the rest (vsock, alg, rds, tipc, can, ...) is kernel code \
              nobody else keeps from it, and vsock is not bound to a namespace",
    },
];

/// A socket family, and the only protocol allowed in it.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    pub family: (&'static str, u32),
    pub protocol: Option<(&'static str, u32)>,
}

const fn family(name: &'static str, number: i32) -> Condition {
    Condition { family: (name, number as u32), protocol: None }
}

const fn netlink(name: &'static str, number: i32) -> Condition {
    Condition { family: ("AF_NETLINK", libc::AF_NETLINK as u32), protocol: Some((name, number as u32)) }
}

/// Socket families anybody may use.
pub(super) const FAMILIES: &[Condition] = &[
    family("AF_UNIX", libc::AF_UNIX),
    family("AF_INET", libc::AF_INET),
    family("AF_INET6", libc::AF_INET6),
    netlink("NETLINK_ROUTE", libc::NETLINK_ROUTE),
    netlink("NETLINK_SOCK_DIAG", libc::NETLINK_SOCK_DIAG),
    netlink("NETLINK_AUDIT", libc::NETLINK_AUDIT),
    netlink("NETLINK_KOBJECT_UEVENT", libc::NETLINK_KOBJECT_UEVENT),
];

/// Socket families a capability opens.
pub(super) const FAMILIES_OPENED: &[(&str, Condition)] = &[
    ("net_raw", family("AF_PACKET", libc::AF_PACKET)),
    ("net_admin", netlink("NETLINK_GENERIC", libc::NETLINK_GENERIC)),
    ("net_admin", netlink("NETLINK_NETFILTER", libc::NETLINK_NETFILTER)),
];

/// Answers "no such call".
pub(super) const CLONE3: Call = ("SYS_clone3", libc::SYS_clone3);
